/* The turn of the engine, and the way of a step: plan, build, send, receive, tell. */
#include "engine/core.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/core_int.h"
#include "kernels/kern.h"

#define CORE_MSG_TURN   64              /* messages taken from one inbox in one turn */
#define CORE_BLOCKED_NS CLOCK_NS_PER_MS /* how soon to look again for room in a full ring */
#define CORE_COPY_NS    50000           /* ... and for an adapter on its way to the device */

void core_batch_limits(const struct sched_config *sched, struct batch_limits *out)
{
    uint32_t bias_max = LIMIT_REQUEST_BIASES /* the request's own */
                        + LIMIT_EOS_TOKENS   /* forbidden by min_tokens */
                        + LIMIT_REQUEST_STOP_TOKENS;
    *out = (struct batch_limits){
        .row_max = sched->row_max,
        .seq_max = sched->slot_n,
        .page_max = sched->page_n, /* no page is in two tables */
        .seg_max = sched->slot_n * LIMIT_REQUEST_ADAPTERS,
        .seg_row_max = sched->row_max * LIMIT_REQUEST_ADAPTERS,
        .sample_max = sched->slot_n,
        .bias_max = sched->slot_n * bias_max,
        /* with a first sample the whole history, all of which was fed into pages */
        .hist_max = sched->page_n * LIMIT_KV_PAGE,
        .score_max = sched->row_max,
        .start_max = sched->slot_n,
    };
}

uint32_t core_plan_max(uint32_t step_ahead)
{
    return step_ahead > 0 ? (step_ahead + 1) / CORE_PLAN_STEPS : 1;
}

uint32_t core_plan_events(const struct sched_config *sched)
{
    return sched->slot_n       /* EVENT_STARTED */
           + sched->row_max    /* EVENT_PROMPT_TOKEN */
           + 2 * sched->slot_n /* EVENT_TOKEN, EVENT_FINISHED */
           + CORE_PLAN_STEPS;  /* EVENT_STEP_END */
}

uint32_t core_events_min(const struct sched_config *sched, uint32_t step_ahead)
{
    return (core_plan_max(step_ahead) + 1) * core_plan_events(sched);
}

static uint32_t core_seq_max(const struct sched_config *sched)
{
    return sched->slot_n + sched->queue_n;
}

static size_t core_result_n(const struct batch_limits *limits)
{
    return (size_t)limits->sample_max + limits->score_max;
}

size_t core_bytes(const struct core_config *config)
{
    const struct sched_config *sched = &config->sched;
    struct batch_limits limits;
    size_t slot_n = sched->slot_n;
    size_t seq_max = core_seq_max(sched);
    core_batch_limits(sched, &limits);
    size_t step = sizeof(struct core_step) + batch_bytes(&limits)       /* one step: batch, */
                  + core_result_n(&limits) * sizeof(struct batch_token) /* results, plan */
                  + slot_n * (sizeof(struct sched_item) + 3 * sizeof(uint32_t));
    return sizeof(struct core) + sched_bytes(sched)                /* scheduler */
           + (config->step_ahead + 1) * step                       /* steps under way */
           + slot_n * sizeof(uint64_t)                             /* sort keys */
           + slot_n * config->context_max * sizeof(uint32_t)       /* generated tokens */
           + seq_max * (sizeof(struct seq) + 2 * sizeof(uint32_t)) /* sequences */
           + seq_max * 4 * sizeof(struct keymap_entry);            /* keys */
}

static bool core_submit(void *arg, struct prepare_job *job)
{
    struct core *core = arg;
    struct ports *ports = core->config.ports;
    struct job *plain = &job->job;
    bool is_loop_there = !core->is_drained; /* it may have ended since it knows */
    bool is_to_be_run = is_loop_there || core->is_quitting;
    if (!is_to_be_run || !ring_push(&ports->jobs, &plain)) {
        core->is_blocked = true;
        return false;
    }
    if (!core->is_quitting) { /* engine_stop looks for itself */
        ports->notify_loop(ports->notify_arg);
    }
    return true;
}

static void core_alloc_step(struct core_step *step, const struct sched_config *sched,
                            const struct batch_limits *limits)
{
    step->plan.items = mem_zalloc_n(sched->slot_n, sizeof *step->plan.items);
    step->plan.started = mem_zalloc_n(sched->slot_n, sizeof *step->plan.started);
    step->plan.preempted = mem_zalloc_n(sched->slot_n, sizeof *step->plan.preempted);
    step->item_score_n = mem_zalloc_n(sched->slot_n, sizeof *step->item_score_n);
    step->batch = mem_zalloc(batch_bytes(limits));
    batch_init(step->batch, limits);
    step->results = mem_zalloc_n(core_result_n(limits), sizeof *step->results);
}

static void core_alloc(struct core *core)
{
    const struct sched_config *sched = &core->config.sched;
    struct batch_limits limits;
    core_batch_limits(sched, &limits);
    core->seq_max = core_seq_max(sched);
    core->sched_memory = mem_alloc(sched_bytes(sched));
    sched_init(&core->sched, sched, core->sched_memory);
    core->steps = mem_zalloc_n(core->config.step_ahead + 1, sizeof *core->steps);
    for (uint32_t i = 0; i <= core->config.step_ahead; i++) {
        core_alloc_step(&core->steps[i], sched, &limits);
    }
    core->sort_keys = mem_zalloc_n(sched->slot_n, sizeof *core->sort_keys);
    core->seqs = mem_zalloc_n(core->seq_max, sizeof *core->seqs);
    core->held_ids = mem_zalloc_n(core->seq_max, sizeof *core->held_ids);
    core->ending_ids = mem_zalloc_n(core->seq_max, sizeof *core->ending_ids);
    keymap_init(&core->keys, core->seq_max);
}

int core_new(const struct core_config *config, struct core **out, struct err *err)
{
    uint32_t events_min = core_events_min(&config->sched, config->step_ahead);
    uint32_t events = config->ports->events.mask + 1;
    if (events < events_min) {
        return err_set(err, ERR_INTERNAL, "the ring of events has %u records, steps need %u",
                       events, events_min);
    }
    struct core *core = mem_zalloc(sizeof *core);
    core->config = *config;
    core->deadline_ns = CLOCK_NEVER;
    core_alloc(core);
    core->tokens_bytes = (size_t)config->sched.slot_n * config->context_max * sizeof *core->tokens;
    void *tokens = NULL;
    int rc = mem_pages_alloc(core->tokens_bytes, &tokens, err);
    core->tokens = tokens;
    core->config.registry.submit = core_submit;
    core->config.registry.arg = core;
    if (rc == 0) {
        rc = registry_new(&core->config.registry, &core->registry, err);
    }
    if (rc) {
        core_free(core);
        return rc;
    }
    *out = core;
    return 0;
}

void core_free(struct core *core)
{
    if (!core) {
        return;
    }
    if (core->registry) {
        registry_free(core->registry);
    }
    mem_pages_free(core->tokens, core->tokens_bytes);
    keymap_done(&core->keys);
    mem_free(core->ending_ids);
    mem_free(core->held_ids);
    mem_free(core->seqs);
    mem_free(core->sort_keys);
    for (uint32_t i = 0; i <= core->config.step_ahead; i++) {
        struct core_step *step = &core->steps[i];
        mem_free(step->results);
        mem_free(step->batch);
        mem_free(step->item_score_n);
        mem_free(step->plan.preempted);
        mem_free(step->plan.started);
        mem_free(step->plan.items);
    }
    mem_free(core->steps);
    mem_free(core->sched_memory);
    mem_free(core);
}

struct registry *core_registry(struct core *core)
{
    return core->registry;
}

const struct sched *core_sched(const struct core *core)
{
    return &core->sched;
}

/* The records that belong to one item of the plan are taken from these two as items go by. */
struct core_results {
    uint64_t step;
    const struct batch_token *sample;
    const struct batch_token *score;
};

/* Fills and sends a token's event; what it says of a request is the caller's. */
static void core_tell_token(struct core *core, struct event *event, int32_t top_logprobs,
                            const struct batch_token *result)
{
    event->token.token = result->token;
    if (top_logprobs >= 0) {
        event->token.logprob = result->logprob;
        event->top_n = MIN(result->top_n, (uint32_t)top_logprobs);
    }
    for (uint32_t i = 0; i < event->top_n; i++) {
        event->top[i] = (struct token_logprob){result->top_tokens[i], result->top_logprobs[i]};
    }
    life_emit(core, event);
}

static bool core_has_token(const uint32_t *tokens, uint32_t n, uint32_t token)
{
    for (uint32_t i = 0; i < n; i++) {
        if (tokens[i] == token) {
            return true;
        }
    }
    return false;
}

/* A sequence's new token: remembered, told, and looked at for an end. */
static void core_take_token(struct core *core, uint32_t id, const struct batch_token *result,
                            uint64_t step)
{
    struct seq *seq = &core->seqs[id];
    struct request *request = seq->request;
    struct event event = {.type = EVENT_TOKEN, .step = step, .request = request};
    ASSERT_CMP(seq->token_n, <, core->sched.seqs[id].generated_n);
    core_tokens(core, core->sched.seqs[id].slot)[seq->token_n++] = result->token;
    seq->last_token_ns = core->now_ns;
    if (seq->token_n == 1) {
        seq->first_token_ns = core->now_ns;
    }
    core_tell_token(core, &event, request->top_logprobs, result);
    if (core_has_token(request->eos_tokens, request->eos_n, result->token)) {
        life_finish(core, id, FINISH_EOS);
    } else if (core_has_token(request->stop_tokens, request->stop_n, result->token)) {
        life_finish(core, id, FINISH_STOP_TOKEN);
    } else if (seq->token_n == request->max_tokens) {
        life_finish(core, id, FINISH_LENGTH);
    }
}

static void core_take_item(struct core *core, const struct core_step *step, uint32_t item_index,
                           struct core_results *at)
{
    const struct sched_item *item = &step->plan.items[item_index];
    struct seq *seq = &core->seqs[item->id];
    struct request *request = seq->request;
    uint32_t score_n = step->item_score_n[item_index];
    const struct batch_token *scores = at->score;
    const struct batch_token *sample = at->sample;
    at->score += score_n;
    at->sample += item->is_sample ? 1 : 0;
    if (!request) {
        return; /* all was told when this step was still ahead */
    }
    request->stats.step_n++;
    if (seq->ending != ENDING_NONE) {
        return; /* cancelled or the like while the step ran: nothing more is told */
    }
    for (uint32_t i = 0; i < score_n; i++) {
        struct event event = {.type = EVENT_PROMPT_TOKEN, .step = at->step, .request = request};
        core_tell_token(core, &event, request->prompt_logprobs, &scores[i]);
    }
    seq->scored_n += score_n;
    if (item->is_sample) {
        core_take_token(core, item->id, sample, at->step);
    }
}

static void core_device_lost(struct core *core, int code, uint64_t step)
{
    struct err err;
    const struct registry_config *device = &core->config.registry;
    const char *why = device->kern->failure(device->dev);
    core->is_lost = true;
    err_set(&err, code, "the device failed in step %llu%s%s", (unsigned long long)step,
            why[0] ? ": " : "", why);
    life_fail_all(core, code, err.text);
    core->config.on_device_lost(core->config.on_device_lost_arg, &err);
}

/* The oldest unread step's result. After a loss there is nothing to take from it, but what it names
 * is free now. */
static void core_take_step(struct core *core, struct core_step *step,
                           const struct rank_result *result)
{
    ASSERT_CMP(result->step, ==, step->batch->step);
    core->step_first = (core->step_first + 1) % (core->config.step_ahead + 1);
    core->step_n--;
    core->plan_n -= step->is_plan_end;
    core->event_reserve -= step->event_reserve;
    sched_read(&core->sched, &step->plan);
    if (core->is_lost) {
        return;
    }
    if (result->code) {
        core_device_lost(core, result->code, result->step);
        return;
    }
    struct core_results at = {result->step, step->results, step->results + step->batch->sample_n};
    for (uint32_t i = 0; i < step->plan.item_n; i++) {
        core_take_item(core, step, i, &at);
    }
}

/* The i-th of those under way, or the i - step_n-th of those to come. */
static struct core_step *core_step_at(const struct core *core, uint32_t i)
{
    return &core->steps[(core->step_first + i) % (core->config.step_ahead + 1)];
}

static void core_receive(struct core *core)
{
    const struct link *link = &core->config.link;
    struct rank_result result;
    while (core->step_n > 0 && link->receive(link->arg, &result)) {
        ring_number_set(&core->config.ports->saturated, result.saturated_n);
        core_take_step(core, core_step_at(core, 0), &result);
    }
}

static void core_msg_key(struct core *core, const struct msg *msg)
{
    uint32_t id;
    if (!keymap_get(&core->keys, msg->key, &id)) {
        if (msg->type == MSG_CANCEL) {
            registry_cancel(core->registry, msg->key);
        }
        return;
    }
    if (msg->type == MSG_CANCEL) {
        life_finish(core, id, FINISH_CANCELLED);
    } else if (msg->type == MSG_STOP) {
        life_finish(core, id, FINISH_STOP_STRING);
    } else {
        life_park(core, id, msg->type == MSG_PARK);
    }
}

static void core_msg_op(struct core *core, struct adapter_op *op)
{
    if (op->type == ADAPTER_OP_LOAD && (core->is_draining || core->is_quitting)) {
        op->out_n = 0;
        err_set(&op->err, ERR_DRAINING, "the server is shutting down");
        life_emit(core, &(struct event){.type = EVENT_ADAPTER_OP, .step = core->step, .op = op});
        return;
    }
    core->op_n++;
    registry_ask(core->registry, op, core->now_ns);
}

static void core_msg(struct core *core, const struct msg *msg)
{
    switch (msg->type) {
    case MSG_REQUEST:
        life_accept(core, msg->ptr);
        break;
    case MSG_CANCEL:
    case MSG_STOP:
    case MSG_PARK:
    case MSG_RESUME:
        core_msg_key(core, msg);
        break;
    case MSG_ADAPTER_OP:
        core_msg_op(core, msg->ptr);
        break;
    case MSG_JOB_DONE:
        registry_job_done(core->registry, CONTAINER_OF(msg->ptr, struct prepare_job, job),
                          core->now_ns);
        break;
    case MSG_DRAIN:
        core->is_draining = true;
        core->is_drain_asked = true;
        break;
    case MSG_CANCEL_ALL:
        life_cancel_all(core);
        break;
    case MSG_QUIT:
        core->is_quitting = true;
        break;
    }
}

/* True when messages may be left. */
static bool core_drain_inboxes(struct core *core)
{
    bool is_more = false;
    for (uint32_t i = 0; i < INBOX_N; i++) {
        struct ring *inbox = &core->config.ports->inbox[i];
        struct msg msg;
        uint32_t n = 0;
        while (n < CORE_MSG_TURN && life_room(core) > 0 && ring_pop(inbox, &msg)) {
            core_msg(core, &msg);
            n++;
        }
        is_more = is_more || ring_n(inbox) > 0;
    }
    core->is_blocked = core->is_blocked || (is_more && life_room(core) == 0);
    return is_more;
}

/* True when the registry wants to go on at once. */
static bool core_turn_registry(struct core *core)
{
    bool is_busy = false;
    if (registry_progress(core->registry, core->now_ns, &is_busy)) {
        life_try_held(core);
        is_busy = true; /* what was tried may have given the registry something to do */
    }
    while (life_room(core) > 0) {
        struct adapter_op *op = registry_answered(core->registry);
        if (!op) {
            return is_busy;
        }
        ASSERT_CMP(core->op_n, >, 0);
        core->op_n--;
        life_emit(core, &(struct event){.type = EVENT_ADAPTER_OP, .step = core->step, .op = op});
    }
    core->is_blocked = true; /* there may be more answers than room */
    return is_busy;
}

/* Pages are dropped only while no unread step names them. A lost device is asked nothing: its steps
 * count as read, and may still run. */
static void core_discard_pages(struct core *core)
{
    const struct registry_config *device = &core->config.registry;
    uint32_t page;
    while (sched_next_freed(&core->sched, &page)) {
        if (!core->is_lost) {
            device->kern->kv_discard(device->dev, page);
        }
    }
}

static void core_send(struct core *core, const struct rank_cmd *cmd)
{
    core->config.link.send(core->config.link.arg, cmd);
}

static void core_send_step(struct core *core, struct core_step *step)
{
    struct rank_cmd change = {.type = RANK_SET_VERSION};
    while (registry_next_change(core->registry, &change.version, &change.block_dev)) {
        core_send(core, &change);
    }
    core->step++;
    build_batch(core, step);
    step->event_reserve = step->batch->score_n + 2 * step->batch->sample_n + 1;
    core->event_reserve += step->event_reserve;
    core->step_n++;
    core_send(core,
              &(struct rank_cmd){.type = RANK_STEP, .batch = step->batch, .tokens = step->results});
}

/* Moves what is not one generated row of a sequence into a plan of its own, for the step after: the
 * tokens of the generated rows are there before the prompts have run. False when the plan has only
 * one sort of rows. */
static bool core_split_plan(struct sched_plan *plan, struct sched_plan *rest)
{
    uint32_t first = 0;
    while (first < plan->item_n && !plan->items[first].is_prompt && plan->items[first].row_n == 1) {
        first++;
    }
    if (first == 0 || first == plan->item_n) {
        return false;
    }
    rest->item_n = plan->item_n - first;
    rest->row_n = plan->row_n - first;
    rest->started_n = 0;
    rest->preempted_n = 0;
    memcpy(rest->items, plan->items + first, rest->item_n * sizeof *rest->items);
    plan->item_n = first;
    plan->row_n = first;
    return true;
}

static void core_send_plan(struct core *core, struct core_step *step)
{
    struct core_step *rest = core_step_at(core, core->step_n + 1);
    bool is_split = core->config.step_ahead > 0 && core_split_plan(&step->plan, &rest->plan);
    step->is_plan_end = !is_split;
    core->plan_n++;
    core_send_step(core, step);
    if (is_split) {
        rest->is_plan_end = true;
        core_send_step(core, rest);
    }
}

/* True when a plan was sent: there may be work for another one. */
static bool core_try_plan(struct core *core)
{
    bool has_work = core->sched.running.n + core->sched.waiting.n > 0;
    if (core->plan_n == core_plan_max(core->config.step_ahead) || core->is_lost || !has_work) {
        return false;
    }
    if (core->is_end_blocked || life_room(core) < core_plan_events(&core->config.sched)) {
        core->is_blocked = true; /* what is marked to end waits for room, too */
        return false;
    }
    struct core_step *step = core_step_at(core, core->step_n);
    sched_step(&core->sched, &step->plan);
    core_discard_pages(core); /* before the plan's rows are written into some of them */
    for (uint32_t i = 0; i < step->plan.preempted_n; i++) {
        struct seq *seq = &core->seqs[step->plan.preempted[i]];
        seq->request->stats.preempt_n++;
        seq->is_counted = false;
    }
    if (step->plan.row_n == 0) {
        return false; /* all that could run is parked, or waits for an unread step */
    }
    for (uint32_t i = 0; i < step->plan.started_n; i++) {
        life_started(core, step->plan.started[i]);
    }
    core_send_plan(core, step);
    return true;
}

/* Nothing runs and nothing is on its way, in this room or to the workers. */
static bool core_is_empty(const struct core *core)
{
    return sched_live_n(&core->sched) == 0 && core->step_n == 0 && core->op_n == 0 &&
           registry_job_n(core->registry) == 0 && !registry_is_copying(core->registry);
}

/* Says that a turn's events are complete, and that a drain is over. */
static void core_end_turn(struct core *core, bool is_busy)
{
    if (core->is_drain_asked && core_is_empty(core) && !is_busy && life_room(core) > 0) {
        core->is_drain_asked = false;
        core->is_drained = true;
        life_emit(core, &(struct event){.type = EVENT_DRAINED, .step = core->step});
    }
    if (core->turn_event_n > 0) {
        life_emit(core, &(struct event){.type = EVENT_STEP_END, .step = core->step});
        core->turn_event_n = 0;
        wake_signal(&core->config.ports->egress_wake);
    }
}

void core_turn(struct core *core, int64_t now_ns, struct core_turn *out)
{
    THREAD_ASSERT(THREAD_ENGINE);
    core->now_ns = now_ns;
    core->is_blocked = false;
    core_receive(core);
    bool is_more = core_drain_inboxes(core);
    life_check_deadlines(core);
    life_end_marked(core); /* before the registry's turn: it may wait for the pins */
    bool is_busy = core_turn_registry(core);
    is_busy = life_end_marked(core) || is_busy;
    bool is_sent = true;
    while (is_sent) {
        is_sent = core_try_plan(core);
    }
    core_discard_pages(core);
    core_end_turn(core, is_busy || is_more);
    out->is_busy = (is_more || is_busy) && !core->is_blocked;
    out->is_done =
        core->is_quitting && core_is_empty(core) && !is_more && !is_busy && !core->is_drain_asked;
    out->wake_ns = core->deadline_ns;
    if (core->is_blocked) {
        out->wake_ns = MIN(out->wake_ns, now_ns + CORE_BLOCKED_NS);
    }
    if (registry_is_copying(core->registry)) {
        out->wake_ns = MIN(out->wake_ns, now_ns + CORE_COPY_NS);
    }
}
