/* Two threads round a core: the engine thread turns it and sleeps, the rank thread computes. */
#include "engine/engine.h"

#include <time.h>

#include "adapters/store.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/core.h"
#include "engine/rank.h"
#include "kernels/effect.h"
#include "sched/request.h"

/* Of an adapter on its way to the device: some tenths of a millisecond between looks at the rank.
 */
#define ENGINE_COPY_BYTES (1u << 20)

#define ENGINE_STOP_NS CLOCK_NS_PER_MS /* between looks for jobs while it stops */

struct engine {
    struct ports *ports;
    struct core *core;
    struct rank rank;
    bool has_rank;
    struct thread thread;
    bool is_started;
    struct ring_flag is_done;
};

static int engine_open(struct engine *engine, const struct engine_config *config, struct err *err)
{
    const struct engine_plan *plan = config->plan;
    const struct model *model = config->model;
    struct core_config core = {
        .ports = config->ports,
        .registry = {.kern = model->kern,
                     .dev = model->dev,
                     .pool_bytes = MAX(plan->pool_bytes, EFFECT_ALIGN),
                     .store = config->store,
                     .copy_bytes_max = ENGINE_COPY_BYTES,
                     .rank_max = plan->open.rank_max},
        .sched = plan->sched,
        .step_ahead = plan->step_ahead,
        .context_max = plan->context_max,
        .fingerprint = model->fingerprint,
        .on_device_lost = config->on_device_lost,
        .on_device_lost_arg = config->on_device_lost_arg,
    };
    struct batch_limits limits;
    core_batch_limits(&plan->sched, &limits);
    float *states = NULL;
    int rc = model->kern->kv_open(model->dev, &plan->kv, err);
    if (rc == 0 && plan->state.layer_n > 0) {
        rc = model->kern->state_open(model->dev, &plan->state, &states, err);
    }
    if (rc) {
        return rc;
    }
    rc = rank_init(&engine->rank, model, &limits, &config->ports->engine_wake, err);
    engine->has_rank = rc == 0;
    if (rc) {
        return rc;
    }
    rc = model->kern->reserve(model->dev, core.registry.pool_bytes, &core.registry.pool, err);
    if (rc) {
        return rc;
    }
    if (plan->room_bytes > 0) {
        core.registry.rooms = model->kern->reserve_host(model->dev, PLAN_ROOMS * plan->room_bytes);
        core.registry.room_bytes = plan->room_bytes;
        core.registry.room_n = PLAN_ROOMS;
    }
    core.link = rank_link(&engine->rank);
    rc = core_new(&core, &engine->core, err);
    for (uint32_t i = 0; rc == 0 && i < config->name_n; i++) {
        rc = registry_add(core_registry(engine->core), config->names[i], err);
    }
    return rc;
}

int engine_new(const struct engine_config *config, struct engine **out, struct err *err)
{
    struct engine *engine = mem_zalloc(sizeof *engine);
    engine->ports = config->ports;
    int rc = engine_open(engine, config, err);
    if (rc) {
        engine_free(engine);
        return rc;
    }
    *out = engine;
    return 0;
}

void engine_free(struct engine *engine)
{
    if (!engine) {
        return;
    }
    ASSERT(!engine->is_started);
    core_free(engine->core);
    if (engine->has_rank) {
        rank_done(&engine->rank);
    }
    mem_free(engine);
}

static void engine_main(void *arg)
{
    struct engine *engine = arg;
    struct wake *wake = &engine->ports->engine_wake;
    struct core_turn turn = {0};
    mem_seal();
    while (!turn.is_done) {
        uint32_t ticket = wake_ticket(wake);
        int64_t now_ns = clock_now_ns();
        core_turn(engine->core, now_ns, &turn);
        if (!turn.is_busy && !turn.is_done) {
            wake_wait(wake, ticket,
                      turn.wake_ns == CLOCK_NEVER ? -1 : MAX(turn.wake_ns - now_ns, 0));
        }
    }
    ring_flag_raise(&engine->is_done);
}

void engine_start(struct engine *engine)
{
    engine->is_started = true;
    rank_start(&engine->rank);
    thread_start(&engine->thread, THREAD_ENGINE, "graft-engine", engine_main, engine);
}

static void engine_send(struct engine *engine, const struct msg *msg)
{
    const struct timespec pause = {.tv_nsec = ENGINE_STOP_NS};
    while (!ring_push(&engine->ports->inbox[INBOX_LOOP], msg)) {
        nanosleep(&pause, NULL);
    }
    wake_signal(&engine->ports->engine_wake);
}

void engine_stop(struct engine *engine)
{
    const struct timespec pause = {.tv_nsec = ENGINE_STOP_NS};
    engine_send(engine, &(struct msg){.type = MSG_QUIT});
    while (!ring_flag_is_raised(&engine->is_done)) {
        struct job *job;
        if (ring_pop(&engine->ports->jobs, &job)) {
            job->run(job);
            engine_send(engine, &(struct msg){.type = MSG_JOB_DONE, .ptr = job});
        } else {
            nanosleep(&pause, NULL);
        }
    }
    thread_join(&engine->thread);
    rank_stop(&engine->rank);
    engine->is_started = false;
}
