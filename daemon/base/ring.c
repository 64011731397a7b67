/* Indices run freely and wrap; a slot is index & mask. Release and acquire on the two indices
 * are the only synchronisation between producer and consumer. */
#include "base/ring.h"

#include <string.h>

#include "base/base.h"
#include "base/mem.h"

void ring_init(struct ring *ring, size_t record_bytes, uint32_t slot_n)
{
    ASSERT(slot_n > 0 && (slot_n & (slot_n - 1)) == 0);
    memset(ring, 0, sizeof *ring);
    ring->records = mem_zalloc_n(slot_n, record_bytes);
    ring->record_bytes = (uint32_t)record_bytes;
    ring->mask = slot_n - 1;
}

void ring_done(struct ring *ring)
{
    mem_free(ring->records);
    ring->records = NULL;
}

bool ring_push(struct ring *ring, const void *record)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (tail - head > ring->mask) {
        return false;
    }
    memcpy(ring->records + (size_t)(tail & ring->mask) * ring->record_bytes, record,
           ring->record_bytes);
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return true;
}

bool ring_pop(struct ring *ring, void *out_record)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (tail == head) {
        return false;
    }
    memcpy(out_record, ring->records + (size_t)(head & ring->mask) * ring->record_bytes,
           ring->record_bytes);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return true;
}

uint32_t ring_n(const struct ring *ring)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    return tail - head;
}

uint32_t ring_free_n(const struct ring *ring)
{
    return ring->mask + 1 - ring_n(ring);
}

void ring_flag_raise(struct ring_flag *flag)
{
    atomic_store_explicit(&flag->raised, 1, memory_order_release);
}

bool ring_flag_is_raised(const struct ring_flag *flag)
{
    return atomic_load_explicit(&flag->raised, memory_order_acquire) != 0;
}

void ring_number_set(struct ring_number *number, uint64_t n)
{
    atomic_store_explicit(&number->n, n, memory_order_release);
}

uint64_t ring_number_get(const struct ring_number *number)
{
    return atomic_load_explicit(&number->n, memory_order_acquire);
}
