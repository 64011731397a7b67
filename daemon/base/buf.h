/* A growing byte buffer, always NUL-terminated behind its n bytes. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>

#include "base/base.h"

struct buf {
    char *data; /* NULL while empty */
    size_t n;
    size_t cap;
};

void buf_done(struct buf *buf);
void buf_clear(struct buf *buf); /* keeps the memory */
void buf_reserve(struct buf *buf, size_t more);
void buf_add(struct buf *buf, const void *data, size_t n);
void buf_add_str(struct buf *buf, const char *s);
void buf_printf(struct buf *buf, const char *fmt, ...) PRINTF_FMT(2, 3);

#endif
