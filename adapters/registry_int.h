/* The registry's records. Internal to adapters/registry*.c; everything belongs to the engine
 * thread, is taken at registry_new, and refers to other records by index.
 *
 *   entry     a name, its public record, and the load attempt that is under way, if any
 *   placed    a version in the pool (or being copied there), by version slot
 *   load      one of few: a version from the read that prepares it until its host copy is gone
 *   waiter    what a request that cannot start yet wants, in order of arrival
 *
 * A load attempt of an entry: QUEUED (wants a load slot) -> READING (a worker has it) -> STAGED (in
 * host memory, wants room in the pool) -> COPYING -> IDLE. There is at most one per name. */
#ifndef ADAPTERS_REGISTRY_INT_H
#define ADAPTERS_REGISTRY_INT_H

#include "adapters/pool.h"
#include "adapters/registry.h"
#include "kernels/kern.h"

#define NONE UINT32_MAX

/* Priority of what nobody waits for; those who wait have their arrival number. */
#define NOBODY UINT64_MAX

enum load_phase { PHASE_IDLE, PHASE_QUEUED, PHASE_READING, PHASE_STAGED, PHASE_COPYING };

struct entry {
    struct adapter pub;
    bool is_used;
    bool is_again;     /* a LOAD came when the folder was being read: attempt once more */
    bool is_abandoned; /* nobody wants the attempt any more: drop what it brings */
    bool is_failed;    /* the last attempt failed */
    bool is_gone;      /* ... because there is no such folder */
    enum load_phase phase;
    uint32_t current; /* version slot that serves, or NONE */
    uint32_t load;    /* load slot from READING to COPYING */
    uint32_t queue_next;
    uint32_t ref_n;   /* waiters that name it */
    uint32_t op_n;    /* ops that wait for it */
    uint64_t attempt; /* number of the attempt under way, or of the last one */
    uint64_t pass;    /* `priority` is of this planning pass */
    uint64_t priority;
};

struct placed {
    uint32_t entry; /* NONE: the slot is unused */
    uint32_t node;  /* in the pool */
    uint32_t pins;
    bool is_ready;    /* copied completely */
    bool is_retiring; /* not its name's current version any more */
    bool is_idle;     /* ready, current, no pins: in the list of what may be evicted */
    uint32_t idle_prev;
    uint32_t idle_next;
    bool is_changed; /* in the ring of changes */
    uint32_t free_next;
    /* what the public record shows while it is current */
    char revision[SHA256_HEX_BYTES];
    const char *kind;
    bool has_rows;
    bool has_scales;
    bool has_states;
    uint32_t rank_max;
    uint32_t group_rank;
    uint32_t modules_applied;
    uint32_t modules_total;
    float conversion_error;
};

enum load_use {
    LOAD_FREE,
    LOAD_READING,    /* job is out */
    LOAD_STAGED,     /* holds job.version */
    LOAD_COPYING,    /* the same, `version` is its slot */
    LOAD_DUE,        /* its version is to be discarded as soon as a job can be submitted */
    LOAD_DISCARDING, /* job is out */
};

struct load {
    struct prepare_job job;
    enum load_use use;
    uint32_t entry;
    uint32_t version;
    size_t copied;   /* bytes that the device has taken */
    uint64_t ticket; /* of the last of them */
    uint64_t order;  /* of copies */
    bool is_tried;   /* in this planning pass */
};

struct waiter {
    uint64_t arrival; /* 0: the record is unused */
    uint32_t prev;
    uint32_t next;
    uint32_t n;
    uint32_t entry[LIMIT_REQUEST_ADAPTERS];
    uint64_t attempt[LIMIT_REQUEST_ADAPTERS]; /* the attempt it waits for, 0 = none */
    struct err err;                           /* code != 0: it has failed and will be told */
};

struct registry {
    struct registry_config config;
    int64_t unix_offset_ms; /* wall clock minus monotonic clock at the start */

    struct entry *entries; /* [LIMIT_ADAPTERS] */
    uint32_t *sorted;      /* [entry_n] by name */
    uint32_t entry_n;
    uint32_t free_entry;
    uint64_t etag;

    struct placed *placed; /* [LIMIT_VERSIONS] */
    uint32_t free_placed;
    uint32_t idle_head; /* least recently used */
    uint32_t idle_tail;
    uint32_t pin_n;
    uint32_t copying_n;
    uint64_t copy_order;
    bool is_copy_waiting; /* all that is left of copies is to wait for the device */
    struct pool pool;
    uint32_t *changes; /* ring [LIMIT_VERSIONS] */
    uint32_t change_head;
    uint32_t change_n;

    struct load loads[LIMIT_ADAPTER_JOBS];
    uint32_t job_n;      /* jobs out */
    uint32_t queue_head; /* entries in PHASE_QUEUED, oldest first */
    uint32_t queue_tail;

    struct waiter *waiters; /* [LIMIT_QUEUE] */
    uint32_t free_waiter;
    uint32_t waiter_head;
    uint32_t waiter_tail;
    uint64_t arrival; /* last number given to a waiter or an op */

    struct adapter_op *ops; /* those that wait for a load */
    struct adapter_op *answered_head;
    struct adapter_op *answered_tail;

    uint64_t pass;
    uint64_t oldest;  /* arrival number of the oldest that waits for anything; NOBODY = none */
    uint64_t blocked; /* arrival number of the oldest that waits for memory, 0 = nobody */
    uint32_t overtake_n;
    bool is_dirty; /* a planning pass is due */
    bool has_news; /* waiting leases should be tried again */
};

/* registry.c: names */
uint32_t entry_find(const struct registry *r, const char *name);
uint32_t entry_add(struct registry *r, const char *name, struct err *err);
void entry_refresh(struct registry *r, uint32_t entry); /* state, etag */
bool entry_forget_if_gone(struct registry *r, uint32_t entry);
int64_t registry_unix_ms(const struct registry *r, int64_t now_ns);
void op_answer(struct registry *r, struct adapter_op *op);

/* registry_load.c: attempts and jobs */
void attempt_start(struct registry *r, uint32_t entry);
void attempt_join(struct registry *r, uint32_t entry);
void attempt_succeed(struct registry *r, uint32_t entry, bool is_unchanged);
void attempt_fail(struct registry *r, uint32_t entry, const struct err *err);
void attempt_drop(struct registry *r, uint32_t entry);
void load_discard(struct registry *r, struct load *load);
bool loads_discard_due(struct registry *r); /* true: none is left */
void loads_start(struct registry *r);

/* registry_place.c: the pool */
void placed_free(struct registry *r, uint32_t version);
void placed_pin(struct registry *r, uint32_t version);
void placed_unpin(struct registry *r, uint32_t version);
void placed_retire(struct registry *r, uint32_t version);
void placed_flip(struct registry *r, uint32_t version, int64_t now_ns);
uint64_t entry_priority(const struct registry *r, uint32_t entry);
void plan_places(struct registry *r);
void copy_some(struct registry *r, int64_t now_ns);

/* registry_lease.c: waiters */
void waiters_rank(struct registry *r);
void waiters_fail(struct registry *r, uint32_t entry, const struct err *err);
bool overtakes_are_spent(const struct registry *r);

#endif
