/* Chunks of at least one page, newest first; a chunk is never given back before the arena is. */
#include "base/arena.h"

#include <string.h>

#include "base/base.h"
#include "base/mem.h"

#define ARENA_ALIGN       16
#define ARENA_CHUNK_BYTES 4096

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    size_t cap;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

void arena_done(struct arena *arena)
{
    struct arena_chunk *chunk = arena->chunks;
    while (chunk) {
        struct arena_chunk *next = chunk->next;
        mem_free(chunk);
        chunk = next;
    }
    *arena = (struct arena){0};
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    size_t need = ROUND_UP(MAX(bytes, 1), ARENA_ALIGN);
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->cap - chunk->used < need) {
        size_t cap = MAX(need, ARENA_CHUNK_BYTES);
        chunk = mem_alloc(sizeof *chunk + cap);
        chunk->used = 0;
        chunk->cap = cap;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    void *p = chunk->data + chunk->used;
    chunk->used += need;
    arena->bytes += need;
    memset(p, 0, need);
    return p;
}

void *arena_memdup(struct arena *arena, const void *data, size_t bytes)
{
    void *p = arena_alloc(arena, bytes);
    if (bytes > 0) {
        memcpy(p, data, bytes);
    }
    return p;
}

char *arena_strndup(struct arena *arena, const char *s, size_t n)
{
    char *p = arena_alloc(arena, n + 1);
    if (n > 0) {
        memcpy(p, s, n);
    }
    return p;
}

char *arena_strdup(struct arena *arena, const char *s)
{
    return arena_strndup(arena, s, strlen(s));
}
