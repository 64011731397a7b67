/* Growth by doubling; the terminating NUL is always there. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void buf_done(struct buf *buf)
{
    mem_free(buf->data);
    *buf = (struct buf){0};
}

void buf_clear(struct buf *buf)
{
    buf->n = 0;
    if (buf->data) {
        buf->data[0] = '\0';
    }
}

void buf_reserve(struct buf *buf, size_t more)
{
    size_t need = buf->n + more + 1;
    if (need > buf->cap) {
        buf->cap = MAX(need, MAX(buf->cap * 2, 64));
        buf->data = mem_realloc(buf->data, buf->cap);
    }
}

void buf_add(struct buf *buf, const void *data, size_t n)
{
    buf_reserve(buf, n);
    if (n > 0) {
        memcpy(buf->data + buf->n, data, n);
    }
    buf->n += n;
    buf->data[buf->n] = '\0';
}

void buf_add_str(struct buf *buf, const char *s)
{
    buf_add(buf, s, strlen(s));
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    ASSERT(n >= 0);
    buf_reserve(buf, (size_t)n);
    va_start(args, fmt);
    vsnprintf(buf->data + buf->n, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->n += (size_t)n;
}
