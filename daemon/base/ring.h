/* Single-producer single-consumer ring of fixed-size records: the only way threads talk.
 *
 * One thread pushes, one thread pops; which ones is said where a ring is declared. The release
 * store of an index orders everything written before it, so a record may carry pointers whose
 * targets change owner with it. Neither side ever blocks; sleeping is wake.h's business. */
#ifndef BASE_RING_H
#define BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
    unsigned char *records;
    uint32_t record_bytes;
    uint32_t mask;                      /* slots - 1 */
    _Alignas(64) _Atomic uint32_t head; /* next to pop; written by the consumer */
    _Alignas(64) _Atomic uint32_t tail; /* next to push; written by the producer */
};

/* Allocates slot_n (a power of two) records. */
void ring_init(struct ring *ring, size_t record_bytes, uint32_t slot_n);
void ring_done(struct ring *ring);

/* Producer: copies one record in; false when the ring is full. */
bool ring_push(struct ring *ring, const void *record);

/* Consumer: copies the oldest record out; false when the ring is empty. */
bool ring_pop(struct ring *ring, void *out_record);

/* Records in the ring; exact on either side when the other one rests. */
uint32_t ring_n(const struct ring *ring);

/* Producer: records that may still be pushed. */
uint32_t ring_free_n(const struct ring *ring);

/* A flag that any thread may raise and any thread may read, ordered like a ring's index. */
struct ring_flag {
    _Atomic uint32_t raised;
};

void ring_flag_raise(struct ring_flag *flag);
bool ring_flag_is_raised(const struct ring_flag *flag);

/* A number that one thread sets and any thread may read, ordered like a ring's index. */
struct ring_number {
    _Atomic uint64_t n;
};

void ring_number_set(struct ring_number *number, uint64_t n);
uint64_t ring_number_get(const struct ring_number *number);

#endif
