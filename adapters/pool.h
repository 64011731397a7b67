/* Who lies where in the adapter pool: a list of blocks and holes in address order, first fit, holes
 * joined when a block goes. Book-keeping only; the memory itself is the device's. Blocks never
 * move: where holes are too small, the registry evicts or waits.
 *
 * Internal to adapters/. All nodes are taken at pool_init. */
#ifndef ADAPTERS_POOL_H
#define ADAPTERS_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POOL_NONE UINT32_MAX

struct pool_node {
    size_t at;
    size_t bytes;
    uint32_t prev; /* neighbours by address */
    uint32_t next;
    uint32_t owner; /* POOL_NONE: a hole */
};

struct pool {
    struct pool_node *nodes;
    uint32_t first;     /* lowest address; POOL_NONE when the pool has no bytes */
    uint32_t free_node; /* unused nodes, through next */
    uint32_t block_n;
    uint32_t block_max;
    size_t bytes;
    size_t used;
};

/* Allocates. Sizes handed in later must be multiples of EFFECT_ALIGN; bytes is rounded down. */
void pool_init(struct pool *pool, size_t bytes, uint32_t block_max);
void pool_done(struct pool *pool);

/* First hole that is large enough; POOL_NONE when there is none or block_max blocks exist. */
uint32_t pool_alloc(struct pool *pool, size_t bytes, uint32_t owner);
void pool_free(struct pool *pool, uint32_t node);

/* Would pool_alloc succeed if every block whose owner is_removable() were gone? */
bool pool_would_fit(const struct pool *pool, size_t bytes,
                    bool (*is_removable)(void *arg, uint32_t owner), void *arg);

#endif
