/* First fit over an address-ordered list. Two neighbours are never both holes. */
#include "adapters/pool.h"

#include "base/base.h"
#include "base/mem.h"
#include "kernels/effect.h"

static uint32_t node_pop(struct pool *pool)
{
    uint32_t i = pool->free_node;
    ASSERT(i != POOL_NONE);
    pool->free_node = pool->nodes[i].next;
    return i;
}

static void node_push(struct pool *pool, uint32_t i)
{
    pool->nodes[i].next = pool->free_node;
    pool->free_node = i;
}

void pool_init(struct pool *pool, size_t bytes, uint32_t block_max)
{
    uint32_t node_n = 2 * block_max + 1; /* the blocks, and a hole before, between and behind */
    *pool = (struct pool){.first = POOL_NONE, .free_node = POOL_NONE, .block_max = block_max};
    pool->bytes = bytes / EFFECT_ALIGN * EFFECT_ALIGN;
    pool->nodes = mem_zalloc_n(node_n, sizeof *pool->nodes);
    for (uint32_t i = node_n; i > 0; i--) {
        node_push(pool, i - 1);
    }
    if (pool->bytes > 0) {
        pool->first = node_pop(pool);
        pool->nodes[pool->first] = (struct pool_node){
            .bytes = pool->bytes, .prev = POOL_NONE, .next = POOL_NONE, .owner = POOL_NONE};
    }
}

void pool_done(struct pool *pool)
{
    mem_free(pool->nodes);
    *pool = (struct pool){0};
}

uint32_t pool_alloc(struct pool *pool, size_t bytes, uint32_t owner)
{
    ASSERT(bytes > 0 && bytes % EFFECT_ALIGN == 0 && owner != POOL_NONE);
    if (pool->block_n == pool->block_max) {
        return POOL_NONE;
    }
    uint32_t i = pool->first;
    while (i != POOL_NONE && (pool->nodes[i].owner != POOL_NONE || pool->nodes[i].bytes < bytes)) {
        i = pool->nodes[i].next;
    }
    if (i == POOL_NONE) {
        return POOL_NONE;
    }
    struct pool_node *node = &pool->nodes[i];
    if (node->bytes > bytes) {
        uint32_t rest = node_pop(pool);
        pool->nodes[rest] = (struct pool_node){.at = node->at + bytes,
                                               .bytes = node->bytes - bytes,
                                               .prev = i,
                                               .next = node->next,
                                               .owner = POOL_NONE};
        if (node->next != POOL_NONE) {
            pool->nodes[node->next].prev = rest;
        }
        node->next = rest;
        node->bytes = bytes;
    }
    node->owner = owner;
    pool->used += bytes;
    pool->block_n++;
    return i;
}

/* Node i swallows its successor. */
static void join_next(struct pool *pool, uint32_t i)
{
    struct pool_node *node = &pool->nodes[i];
    uint32_t gone = node->next;
    node->bytes += pool->nodes[gone].bytes;
    node->next = pool->nodes[gone].next;
    if (node->next != POOL_NONE) {
        pool->nodes[node->next].prev = i;
    }
    node_push(pool, gone);
}

void pool_free(struct pool *pool, uint32_t i)
{
    struct pool_node *node = &pool->nodes[i];
    ASSERT(node->owner != POOL_NONE);
    node->owner = POOL_NONE;
    pool->used -= node->bytes;
    pool->block_n--;
    if (node->next != POOL_NONE && pool->nodes[node->next].owner == POOL_NONE) {
        join_next(pool, i);
    }
    if (node->prev != POOL_NONE && pool->nodes[node->prev].owner == POOL_NONE) {
        join_next(pool, node->prev);
    }
}

bool pool_would_fit(const struct pool *pool, size_t bytes,
                    bool (*is_removable)(void *arg, uint32_t owner), void *arg)
{
    size_t run = 0;
    bool is_slot_free = pool->block_n < pool->block_max;
    bool is_run_enough = false;
    for (uint32_t i = pool->first; i != POOL_NONE; i = pool->nodes[i].next) {
        const struct pool_node *node = &pool->nodes[i];
        bool is_hole = node->owner == POOL_NONE;
        bool is_going = !is_hole && is_removable(arg, node->owner);
        run = is_hole || is_going ? run + node->bytes : 0;
        is_run_enough = is_run_enough || run >= bytes;
        is_slot_free = is_slot_free || is_going;
    }
    return is_run_enough && is_slot_free;
}
