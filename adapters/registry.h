/* The registry: name -> version, pins, and who is in device memory. Owned by the engine thread;
 * does no I/O, never blocks, takes the time as an argument, so the simulation drives it as it is.
 *
 * Loads are prepared elsewhere: the registry hands out prepare_jobs through `submit` and takes them
 * back with registry_job_done. A prepared version is copied into the device pool in bounded pieces
 * by registry_progress (between which sequences keep running), then the name's pointer flips.
 * Sequences hold leases: a pinned version stays where it is until its last lease is released, also
 * when its name has moved on (RETIRING). Eviction is by bytes: least recently used versions without
 * pins make room; there is no slot count to run out of. One adapter's load never stops other
 * sequences. */
#ifndef ADAPTERS_REGISTRY_H
#define ADAPTERS_REGISTRY_H

#include "adapters/adapter.h"
#include "adapters/store.h"

struct registry;
struct kern_dev;

struct registry_config {
    const struct kern *kern;
    struct kern_dev *dev;
    void *pool; /* device memory, aligned to EFFECT_ALIGN */
    size_t pool_bytes;
    const struct store *store;
    /* Sends a job to the workers; false when no job can be taken now (tried again later). */
    bool (*submit)(void *arg, struct prepare_job *job);
    void *arg;
    size_t copy_bytes_max; /* bytes that one registry_progress call may copy */
};

/* All memory is taken here; nothing is allocated later. */
int registry_new(const struct registry_config *config, struct registry **out, struct err *err);
void registry_free(struct registry *registry);

/* Makes a name known (start-up scan). */
int registry_add(struct registry *registry, const char *name, struct err *err);

/* A request's hold on its adapters. Zero-initialise. While it waits it remembers which load attempt
 * it waits for, so that it gets that attempt's error. */
struct lease {
    uint32_t version[LIMIT_REQUEST_ADAPTERS]; /* version slots once held */
    uint64_t attempt[LIMIT_REQUEST_ADAPTERS]; /* 0 = none */
    uint64_t waiter; /* arrival number among waiters, 0 = not waiting yet */
    uint32_t n;
    bool is_held;
};

/* What a request wants, in terms of this room. */
struct lease_want {
    uint32_t n;
    const char *names[LIMIT_REQUEST_ADAPTERS];
    const char *revisions[LIMIT_REQUEST_ADAPTERS]; /* hash prefixes; "" = current */
    bool fail_if_cold;
};

struct lease_answer {
    char revisions[LIMIT_REQUEST_ADAPTERS][SHA256_HEX_BYTES]; /* when held */
    struct err err;                                           /* when failed for good */
};

/* Tries to pin every adapter wanted, all or none. 0: held, out->revisions are filled.
 * ERR_ADAPTER_LOADING: not yet; call again after registry_progress reported a change (with
 * fail_if_cold it is final). Anything else is final; out->err says why. */
int registry_acquire(struct registry *registry, const struct lease_want *want, struct lease *lease,
                     int64_t now_ns, struct lease_answer *out);

/* Gives the pins back, or stops waiting. The lease is zeroed. */
void registry_release(struct registry *registry, struct lease *lease, int64_t now_ns);

/* Takes a question over; it is answered through registry_answered, maybe at once. */
void registry_ask(struct registry *registry, struct adapter_op *op, int64_t now_ns);

/* Forgets a waiting load's op (its client is gone): it is answered with ERR_CANCELLED. */
void registry_cancel(struct registry *registry, uint64_t op_key);

/* Next answered op, or NULL. */
struct adapter_op *registry_answered(struct registry *registry);

void registry_job_done(struct registry *registry, struct prepare_job *job, int64_t now_ns);

/* Copies at most copy_bytes_max towards the device, evicts, retries what could not be submitted.
 * Returns true when leases that wait should be tried again. *out_busy: call again soon. */
bool registry_progress(struct registry *registry, int64_t now_ns, bool *out_busy);

/* Version slots whose block changed since the last call: apply with kern->set_version before the
 * next step. Returns false when there are no more. */
bool registry_next_change(struct registry *registry, uint32_t *out_version,
                          const void **out_block_dev);

/* For tests and statistics. */
size_t registry_pool_used(const struct registry *registry);
uint32_t registry_pin_n(const struct registry *registry);

#endif
