/* See rig.h. */
#include "tests/test.h"

#include "tests/mixing/rig.h"
#include "tests/prompt_form.h"

#include <string.h>

#include "adapters/store.h"
#include "base/base.h"
#include "base/clock.h"
#include "base/mem.h"

#define RIG_RANKS  1024
#define RIG_EVENTS 2048

#define RIG_COPY_NS 20000 /* between looks at a copy that is under way */

static void check(int rc, const struct err *err)
{
    if (rc) {
        fail_msg("%s: %s", err_name(rc), err->text);
    }
}

static void rig_notify(void *arg)
{
    (void)arg;
}

static void rig_lost(void *arg, const struct err *err)
{
    (void)arg;
    fail_msg("device lost: %s", err->text);
}

static void rig_link_send(void *arg, const struct rank_cmd *cmd)
{
    struct rig *rig = arg;
    if (cmd->type == RANK_SET_VERSION) {
        rig->model.kern->set_version(rig->model.dev, cmd->version, cmd->block_dev);
        return;
    }
    ASSERT_CMP(rig->unread_n, <=, rig->model.kern->step_ahead);
    ASSERT_CMP(rig->unread_n, <, RIG_STEPS);
    rig->unread[rig->unread_n++] = (struct rig_unread){cmd->batch->step, cmd->tokens};
    walk_submit(&rig->walk, cmd->batch);
    rig->mixed_n += cmd->batch->seg_n > 1;
}

static bool rig_link_receive(void *arg, struct rank_result *out)
{
    struct rig *rig = arg;
    /* As late as may be: a step that another may run beside is read every third time only. */
    bool is_full = rig->unread_n > rig->model.kern->step_ahead;
    if (rig->unread_n == 0 || (!is_full && ++rig->look_n % 3 != 0)) {
        return false;
    }
    out->step = rig->unread[0].step;
    out->code = walk_read(&rig->walk, rig->unread[0].tokens, true);
    out->saturated_n = rig->model.kern->saturated_n(rig->model.dev);
    rig->ahead_n += rig->unread_n > 1;
    rig->unread_n--;
    memmove(&rig->unread[0], &rig->unread[1], rig->unread_n * sizeof rig->unread[0]);
    return true;
}

bool rig_open(struct rig *rig, const struct files *files, const struct rig_path *path,
              enum dtype held, uint32_t thread_n)
{
    struct err err = {0};
    struct model *model = &rig->model;
    memset(rig, 0, sizeof *rig);
    check(model_desc_read(files->model, &model->desc, &err), &err);
    model->kern = path->kern;
    model->held = held;
    struct kern_open open = {
        .isa = path->isa,
        .is_stand_in = path->is_stand_in,
        .thread_n = thread_n,
        .held = held,
        .row_max = RIG_ROWS,
        .slot_max = RIG_SLOTS,
        .version_max = LIMIT_VERSIONS,
        .rank_max = RIG_RANKS,
        .seq_page_max = RIG_CONTEXT / LIMIT_KV_PAGE,
    };
    struct kern_kv kv = {model->desc.kv_layer_n, RIG_PAGES, model->desc.kv_head_n,
                         model->desc.head_dim, model->desc.head_n};
    model_kern_limits(&model->desc, &open);
    if (model->kern->open(&open, &model->dev, &err)) {
        model_desc_done(&model->desc);
        return false;
    }
    check(model->kern->kv_open(model->dev, &kv, &err), &err);
    struct kern_state state = model_state(&model->desc, RIG_SLOTS);
    float *states = NULL;
    if (state.layer_n > 0) {
        check(model->kern->state_open(model->dev, &state, &states, &err), &err);
    }
    check(model_load(model, files->model, &err), &err);
    assert_true(prompt_form_is_asked(model->kern, model->dev));
    check(walk_init(&rig->walk, model, RIG_ROWS, RIG_SLOTS, RIG_ROWS, &err), &err);
    check(walk_capture(&rig->walk, &err), &err);
    rig->pool_bytes = 4u << 20;
    check(model->kern->reserve(model->dev, rig->pool_bytes, &rig->pool, &err), &err);
    struct store_config store = {
        .root = files->adapters, .desc = &model->desc, .kern = model->kern, .held = held};
    check(store_open(&store, &rig->store, &err), &err);
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_init(&rig->ports.inbox[i], sizeof(struct msg), 64);
    }
    ring_init(&rig->ports.events, sizeof(struct event), RIG_EVENTS);
    ring_init(&rig->ports.jobs, sizeof(struct job *), 16);
    wake_init(&rig->ports.engine_wake);
    wake_init(&rig->ports.egress_wake);
    rig->ports.notify_loop = rig_notify;
    return true;
}

void rig_close(struct rig *rig)
{
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_done(&rig->ports.inbox[i]);
    }
    ring_done(&rig->ports.events);
    ring_done(&rig->ports.jobs);
    store_close(rig->store);
    rig->model.kern->close(rig->model.dev);
    model_done(&rig->model);
}

void rig_core_start(struct rig *rig, const struct sched_config *sched, size_t pool_bytes)
{
    struct err err = {0};
    struct core_config config = {
        .ports = &rig->ports,
        .link = {rig_link_send, rig_link_receive, rig},
        .registry = {.kern = rig->model.kern,
                     .dev = rig->model.dev,
                     .pool = rig->pool,
                     .pool_bytes = pool_bytes,
                     .store = rig->store,
                     .copy_bytes_max = 50000,
                     .rank_max = RIG_RANKS},
        .sched = *sched,
        .step_ahead = rig->model.kern->step_ahead,
        .context_max = RIG_CONTEXT,
        .fingerprint = rig->model.fingerprint,
        .on_device_lost = rig_lost,
    };
    assert_true(pool_bytes <= rig->pool_bytes);
    check(core_new(&config, &rig->core, &err), &err);
}

void rig_core_stop(struct rig *rig)
{
    struct event event;
    uint32_t turn_n = 0;
    rig_send(rig, MSG_QUIT, 0, NULL);
    while (!rig->turn.is_done) {
        rig_turn(rig);
        assert_false(rig_event(rig, &event));
        assert_true(++turn_n < 10000);
    }
    const struct sched *s = core_sched(rig->core);
    sched_check(s);
    assert_int_equal(sched_live_n(s), 0);
    assert_int_equal(s->pages.free_n, s->config.page_n);
    assert_int_equal(registry_pin_n(core_registry(rig->core)), 0);
    core_free(rig->core);
    rig->core = NULL;
    rig->turn = (struct core_turn){0};
}

void rig_send(struct rig *rig, enum msg_type type, uint64_t key, void *ptr)
{
    struct msg msg = {type, key, ptr};
    assert_true(ring_push(&rig->ports.inbox[INBOX_CQ], &msg));
}

void rig_turn(struct rig *rig)
{
    struct job *job;
    while (ring_pop(&rig->ports.jobs, &job)) {
        struct msg msg = {MSG_JOB_DONE, 0, job};
        job->run(job);
        assert_true(ring_push(&rig->ports.inbox[INBOX_LOOP], &msg));
    }
    rig->now_ns += CLOCK_NS_PER_MS;
    core_turn(rig->core, rig->now_ns, &rig->turn);
    if (registry_is_copying(core_registry(rig->core))) {
        clock_pause_ns(RIG_COPY_NS); /* a real device is at it */
    }
}

bool rig_event(struct rig *rig, struct event *out)
{
    while (ring_pop(&rig->ports.events, out)) {
        if (out->type != EVENT_STEP_END) {
            return true;
        }
    }
    return false;
}
