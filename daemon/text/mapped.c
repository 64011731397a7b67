/* The map is two arrays beside the text, grown together and only when it is wanted. */
#include "text/mapped.h"

#include "base/mem.h"
#include "text/utf8.h"

void mapped_init(struct mapped *m, bool has_map)
{
    *m = (struct mapped){.has_map = has_map};
}

void mapped_done(struct mapped *m)
{
    buf_done(&m->text);
    mem_free(m->begin);
    mem_free(m->end);
    *m = (struct mapped){0};
}

void mapped_clear(struct mapped *m)
{
    buf_clear(&m->text);
}

static void mapped_reserve(struct mapped *m, size_t more)
{
    size_t need = m->text.n + more;
    if (need > m->map_cap) {
        m->map_cap = MAX(need, m->map_cap * 2);
        m->begin = mem_realloc(m->begin, m->map_cap * sizeof *m->begin);
        m->end = mem_realloc(m->end, m->map_cap * sizeof *m->end);
    }
}

void mapped_add(struct mapped *m, const char *s, size_t n, uint32_t begin, uint32_t end)
{
    if (m->has_map) {
        mapped_reserve(m, n);
        for (size_t i = 0; i < n; i++) {
            m->begin[m->text.n + i] = begin;
            m->end[m->text.n + i] = end;
        }
    }
    buf_add(&m->text, s, n);
}

void mapped_copy(struct mapped *m, const char *s, size_t n, uint32_t begin)
{
    if (!m->has_map) {
        buf_add(&m->text, s, n);
        return;
    }
    for (size_t at = 0; at < n;) {
        size_t char_n;
        utf8_get(s + at, &char_n);
        mapped_add(m, s + at, char_n, begin + (uint32_t)at, begin + (uint32_t)(at + char_n));
        at += char_n;
    }
}
