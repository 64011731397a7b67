/* The plan: what an engine for this model on this machine will take, before anything is taken.
 *
 * Every number is a sum or product of the limits it follows from, named in a table that main
 * prints; what does not fit is refused with the same numbers. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"
#include "base/err.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "sched/sched.h"

/* What main wants; 0 = the default. */
struct plan_want {
    const struct model_desc *desc;
    const struct kern *kern;
    enum dtype held;
    enum kern_isa isa;
    uint32_t thread_n;    /* of the backend's team */
    uint32_t device;      /* kern_open.device */
    uint32_t sequence_n;  /* sequences that run at once */
    uint64_t context_max; /* default: the model's, or what the KV pool can hold */
    uint64_t kv_bytes;    /* default: a quarter of what the weights leave; on a device most of it */
    uint64_t adapter_bytes; /* default: an eighth of it; on a device a fifth */
    uint64_t available;     /* of the backend's memory; default: mem_available() */
};

struct plan_line {
    const char *name; /* "weights" */
    uint64_t bytes;   /* 0: the line is not to be shown */
    bool is_host;     /* beside a device's memory */
};

#define PLAN_LINES 8
#define PLAN_ROOMS 2

struct engine_plan {
    struct sched_config sched;
    uint32_t step_ahead; /* the backend's */
    uint32_t context_max;
    struct kern_kv kv;
    struct kern_state state; /* layer_n 0: the model has no recurrent layers */
    struct kern_open open;   /* complete but for is_stand_in */
    size_t pool_bytes;       /* adapters */
    size_t room_bytes; /* of each of PLAN_ROOMS, for what is on its way to a device; 0 = none */
    uint64_t available;
    struct plan_line lines[PLAN_LINES];
    uint64_t total;          /* of the lines but those that are is_host */
    uint64_t host_total;     /* of those */
    uint64_t host_available; /* where any is */
};

/* May read /proc and ask the device for its size. INVALID_PARAMETER for a wish that cannot be,
 * NO_MEMORY when the sum does not fit; out is filled in that case, so that its table can be
 * printed. */
int engine_plan(const struct plan_want *want, struct engine_plan *out, struct err *err);

/* Records that ports->events must have room for; a power of two. */
uint32_t engine_event_slots(const struct engine_plan *plan);

#endif
