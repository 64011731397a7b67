/* The engine: sequences, adapters and the device, behind rings. For main.
 *
 * Order of the start (main thread; nothing here is called by another thread):
 *     model_desc_read, engine_plan            sizes; print plan.lines, refuse when it fails
 *     kern->open(&plan.open), model_load      the device and its weights
 *     store_open, store_scan                  the adapters' folders
 *     engine_new, engine_start                kv_open, workspace and pool are taken here
 *     server ready                            requests may have been pushed before; they wait
 * Order of the end: the server drains (MSG_DRAIN, EVENT_DRAINED), its threads stop, engine_stop,
 * engine_free, store_close, kern->close.
 *
 * ports->events needs engine_event_slots(plan) records, ports->jobs room for LIMIT_ADAPTER_JOBS;
 * with fewer jobs loads only wait for one another. notify_loop is set before engine_start. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "engine/plan.h"
#include "sched/ports.h"

/* The process's exit status when a device was lost: start it again, it does not heal. */
#define ENGINE_EXIT_DEVICE_LOST 70

struct engine;
struct store;

struct engine_config {
    struct ports *ports;            /* borrowed until engine_free */
    const struct model *model;      /* loaded, its device open with plan->open; borrowed */
    const struct store *store;      /* borrowed */
    const struct engine_plan *plan; /* copied */
    const char (*names)[LIMIT_ADAPTER_NAME_BYTES]; /* adapters found at the start */
    uint32_t name_n;
    /* A step has failed: every request ends with ERR_DEVICE_FAILURE, and so does every new one.
     * Called once, on the engine thread, before those events; must not block or allocate. main
     * remembers it, starts its drain, and exits with ENGINE_EXIT_DEVICE_LOST. */
    void (*on_device_lost)(void *arg, const struct err *err);
    void *on_device_lost_arg;
};

/* Takes all memory. NO_MEMORY, or what the device says. */
int engine_new(const struct engine_config *config, struct engine **out, struct err *err);

/* Starts the engine thread and the rank thread. */
void engine_start(struct engine *engine);

/* Ends both threads once nothing is left to run; does not cancel. The loop thread must have ended
 * (after EVENT_DRAINED no job is sent to it): the caller becomes the producer of INBOX_LOOP, and
 * runs what jobs there still are. Events that nobody takes must fit the ring. */
void engine_stop(struct engine *engine);

/* After engine_stop, or when it was never started. NULL is allowed. */
void engine_free(struct engine *engine);

#endif
