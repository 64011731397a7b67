/* The registry: name -> version, pins, and who is in device memory. Owned by the engine thread;
 * does no I/O, never blocks, takes the time as an argument, so the simulation drives it as it is.
 *
 * Loads are prepared elsewhere: the registry hands out prepare_jobs through `submit` and takes them
 * back with registry_job_done. A prepared version is handed to the device in bounded pieces by
 * registry_progress (between which sequences keep running); when all has arrived there, the name's
 * pointer flips.
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
    /* kern->reserve_host's memory for prepared versions, [room_n][room_bytes]; NULL = none. Who
     * does not fit, or finds no free room, lies in memory of its own and takes longer. */
    char *rooms;
    size_t room_bytes; /* a multiple of EFFECT_ALIGN */
    uint32_t room_n;
    /* Sends a job to the workers; false when no job can be taken now (tried again later). */
    bool (*submit)(void *arg, struct prepare_job *job);
    void *arg;
    size_t copy_bytes_max; /* bytes that one registry_progress call may copy */
    uint32_t rank_max;     /* kern_open's: sum of ranks a row may meet in one linear group; 0 = any
                            */
};

/* All memory is taken here; nothing is allocated later. The kern must be open for LIMIT_VERSIONS
 * version slots. */
int registry_new(const struct registry_config *config, struct registry **out, struct err *err);

/* Not the sealed engine thread; no job may be out. Ops that were not answered stay the asker's. */
void registry_free(struct registry *registry);

/* Makes a name known (start-up scan). */
int registry_add(struct registry *registry, const char *name, struct err *err);

/* A request's hold on its adapters. Zero-initialise; `version` and `n` are for reading while it is
 * held, the rest is the registry's. */
struct lease {
    uint32_t version[LIMIT_REQUEST_ADAPTERS]; /* version slots, in the order wanted */
    bool has_rows[LIMIT_REQUEST_ADAPTERS];    /* of each: it changes rows */
    bool has_scales[LIMIT_REQUEST_ADAPTERS];  /* ... by scale effects, too */
    uint32_t state; /* the one among them that has states; LIMIT_REQUEST_ADAPTERS = none */
    uint32_t n;
    bool is_held;
    uint32_t waiter; /* index + 1 among those who wait, 0 = not waiting */
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
 * ERR_ADAPTER_LOADING: not yet; what is missing is being loaded; call again, with the same want,
 * after registry_progress reported a change. Anything else is final, the lease is zeroed and
 * out->err says why. With fail_if_cold ERR_ADAPTER_LOADING is final too, and nothing was started.
 *
 * A request gets the error of the load it waited for. Only current versions are handed out: a
 * revision that is not the current one is refused. Waiters are served so that nobody starves:
 * versions that an older waiter needs are not evicted for younger ones, and when somebody waits for
 * memory, only LIMIT_ADAPTER_OVERTAKES younger requests are let past. */
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

/* A job that was submitted has run. */
void registry_job_done(struct registry *registry, struct prepare_job *job, int64_t now_ns);

/* Hands at most copy_bytes_max to the device, takes what has arrived there, evicts, retries what
 * could not be submitted. Returns true when leases that wait should be tried again. *out_busy: call
 * again soon. */
bool registry_progress(struct registry *registry, int64_t now_ns, bool *out_busy);

/* A version is on its way to the device: look again, though progress said that it was not busy. */
bool registry_is_copying(const struct registry *registry);

/* Version slots whose block changed since the last call: apply with kern->set_version before the
 * next step. Returns false when there are no more. */
bool registry_next_change(struct registry *registry, uint32_t *out_version,
                          const void **out_block_dev);

/* Jobs handed out and not yet back: the daemon may end when there are none. */
uint32_t registry_job_n(const struct registry *registry);

/* For tests and statistics. */
size_t registry_pool_used(const struct registry *registry);
uint32_t registry_pin_n(const struct registry *registry);

#endif
