/* The engine as a single-threaded object: no threads, no clock, no sleeping. The engine thread
 * (engine.c) turns it in a loop; the simulation turns it on a virtual clock; both are the same
 * code.
 *
 * A turn takes results from the rank, messages from the inboxes and prepared adapters from the
 * registry, ends what must end, and sends the next steps: as many as the rank takes before it has
 * answered the first. Events go out while there is room: before a step is planned the ring must
 * hold all that it may cause, and nothing else may use that room. Nothing is allocated after
 * core_new. */
#ifndef ENGINE_CORE_H
#define ENGINE_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "adapters/registry.h"
#include "base/err.h"
#include "engine/link.h"
#include "sched/batch.h"
#include "sched/ports.h"
#include "sched/sched.h"

struct core;

struct core_config {
    struct ports *ports; /* borrowed */
    struct link link;
    struct registry_config registry; /* submit and arg are the core's to set */
    struct sched_config sched;
    uint32_t step_ahead;     /* steps sent before the result of one is read; kern->step_ahead */
    uint32_t context_max;    /* no request has more positions */
    const char *fingerprint; /* of the base model; borrowed */
    void (*on_device_lost)(void *arg, const struct err *err); /* once; the engine thread */
    void *on_device_lost_arg;
};

/* What a turn says about the next one. */
struct core_turn {
    bool is_busy;    /* turn again at once */
    bool is_done;    /* asked to quit, and nothing is left */
    int64_t wake_ns; /* turn again at this time, or earlier when the wake is signalled */
};

/* Capacities of the batches that a core builds. */
void core_batch_limits(const struct sched_config *sched, struct batch_limits *out);

/* Plans that may be under way at once. With a backend that runs ahead a plan with generated rows
 * and others is two steps, so that tokens need not wait for prompts. */
#define CORE_PLAN_STEPS 2
uint32_t core_plan_max(uint32_t step_ahead);

/* Events that one plan may cause. */
uint32_t core_plan_events(const struct sched_config *sched);

/* Records that the ring of events must have: those of every plan under way, and as many for what
 * nobody has taken yet. */
uint32_t core_events_min(const struct sched_config *sched, uint32_t step_ahead);

/* Bytes that core_new takes. */
size_t core_bytes(const struct core_config *config);

int core_new(const struct core_config *config, struct core **out, struct err *err);

/* Nothing may be left in it but what never started. */
void core_free(struct core *core);

/* Engine thread (or the one that plays it). Never blocks, never allocates. */
void core_turn(struct core *core, int64_t now_ns, struct core_turn *out);

struct registry *core_registry(struct core *core);
const struct sched *core_sched(const struct core *core);

#endif
