/* Bump allocation for things that die together: free by arena, never field by field.
 *
 * An arena grows by chunks taken through base/mem.h. Not shared between threads. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t bytes;               /* handed out in total */
};

void arena_init(struct arena *arena);
void arena_done(struct arena *arena);

/* Zeroed memory aligned to 16 bytes; never NULL (out of memory aborts); 0 bytes is allowed. */
void *arena_alloc(struct arena *arena, size_t bytes);
void *arena_memdup(struct arena *arena, const void *data, size_t bytes);

/* A copy of n bytes with a NUL behind them. */
char *arena_strndup(struct arena *arena, const char *s, size_t n);
char *arena_strdup(struct arena *arena, const char *s);

#endif
