/* A request's life: arrival, waiting for adapters, start, end. Whatever ends a sequence only marks
 * it; life_end_marked does the rest, so there is one place where pages, slots, pins and requests go
 * back. The last event waits for room and for the running step, but not for a step sent ahead of
 * it; what a step names waits until none that was sent names it. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "engine/core_int.h"
#include "kernels/random.h"

uint32_t life_room(const struct core *core)
{
    uint32_t reserve = core->event_reserve + 1; /* and the turn's EVENT_STEP_END */
    uint32_t free_n = ring_free_n(&core->config.ports->events);
    return free_n > reserve ? free_n - reserve : 0;
}

void life_emit(struct core *core, const struct event *event)
{
    bool is_pushed = ring_push(&core->config.ports->events, event);
    ASSERT(is_pushed); /* whoever emits has asked for room */
    core->turn_event_n++;
}

static void life_refuse(struct core *core, struct request *request)
{
    life_emit(core, &(struct event){.type = EVENT_FAILED, .step = core->step, .request = request});
}

/* A digest of what a prefix's KV depends on beside its tokens: base, versions and weights, in
 * order, each field tagged. Adapters of weight 0 change nothing and count for nothing. */
static void life_cache_ns(const struct core *core, const struct request *request, uint64_t out[2])
{
    char text[2 * SHA256_HEX_BYTES];
    uint64_t a = 1;
    uint64_t b = 2;
    for (uint32_t i = 0; i <= request->adapter_n; i++) {
        if (i == 0) {
            snprintf(text, sizeof text, "base:%s", core->config.fingerprint);
        } else if (request->adapters[i - 1].weight != 0) {
            snprintf(text, sizeof text, "adapter:%s@%a", request->revisions[i - 1],
                     (double)request->adapters[i - 1].weight);
        } else {
            continue;
        }
        for (const char *c = text; *c; c++) {
            a = kern_mix64(a ^ (unsigned char)*c) + 0x9E3779B97F4A7C15u;
            b = kern_mix64(b + a + (unsigned char)*c);
        }
    }
    out[0] = a;
    out[1] = b;
}

static void life_ready(struct core *core, uint32_t id)
{
    struct seq *seq = &core->seqs[id];
    uint64_t cache_ns[2];
    life_cache_ns(core, seq->request, cache_ns);
    seq->held_ns = core->now_ns;
    seq->request->stats.adapter_load_ns = core->now_ns - seq->accepted_ns;
    sched_ready(&core->sched, id, cache_ns);
}

/* True when the sequence need not wait for adapters any more (it may have failed). */
static bool life_try_lease(struct core *core, uint32_t id)
{
    struct seq *seq = &core->seqs[id];
    struct request *request = seq->request;
    struct lease_want want = {
        .n = request->adapter_n,
        .fail_if_cold = request->load_policy == LOAD_FAIL_IF_COLD,
    };
    struct lease_answer answer;
    for (uint32_t i = 0; i < want.n; i++) {
        want.names[i] = request->adapters[i].name;
        want.revisions[i] = request->adapters[i].revision;
    }
    answer.err.code = 0;
    int rc = registry_acquire(core->registry, &want, &seq->lease, core->now_ns, &answer);
    if (rc == ERR_ADAPTER_LOADING && !want.fail_if_cold) {
        return false;
    }
    if (rc) {
        life_fail(core, id, rc, answer.err.text);
    } else {
        memcpy(request->revisions, answer.revisions, sizeof request->revisions);
        life_ready(core, id);
    }
    return true;
}

void life_try_held(struct core *core)
{
    uint32_t kept_n = 0;
    for (uint32_t i = 0; i < core->held_n; i++) {
        uint32_t id = core->held_ids[i];
        if (core->seqs[id].ending != ENDING_NONE || !life_try_lease(core, id)) {
            core->held_ids[kept_n++] = id;
        }
    }
    core->held_n = kept_n;
}

static int life_check_request(const struct core *core, struct request *request)
{
    if (core->is_lost) {
        return err_set(&request->err, ERR_DEVICE_FAILURE, "the device has failed");
    }
    if (core->is_draining || core->is_quitting) {
        return err_set(&request->err, ERR_DRAINING, "the server is shutting down");
    }
    uint64_t positions = (uint64_t)request->token_n + request->max_tokens;
    ASSERT_CMP(positions, <=, core->config.context_max);
    return 0;
}

static int life_add(struct core *core, struct request *request, uint32_t *out_id)
{
    struct sched_want want = {request->token_n, request->max_tokens, core->arrival + 1};
    const struct sched_config *limits = &core->config.sched;
    int rc = life_check_request(core, request);
    if (rc) {
        return rc;
    }
    rc = sched_add(&core->sched, &want, out_id);
    if (rc == ERR_QUEUE_FULL) {
        return err_set(&request->err, rc, "%u requests are waiting, limit is %u",
                       core->sched.held_n + core->sched.waiting.n, limits->queue_n);
    }
    if (rc) {
        return err_set(&request->err, rc,
                       "prompt of %u tokens and max_tokens %u need %u positions of KV memory, it "
                       "has %u",
                       request->token_n, request->max_tokens,
                       request->token_n + request->max_tokens, limits->page_n * LIMIT_KV_PAGE);
    }
    return 0;
}

void life_accept(struct core *core, struct request *request)
{
    uint32_t id;
    request->err.code = 0;
    request->stats = (struct request_stats){0};
    if (life_add(core, request, &id)) {
        life_refuse(core, request);
        return;
    }
    core->arrival++;
    core->seqs[id] = (struct seq){.request = request, .accepted_ns = core->now_ns};
    core->deadline_ns = MIN(core->deadline_ns, request->deadline_ns);
    keymap_put(&core->keys, request->key, id);
    if (request->adapter_n == 0) {
        life_ready(core, id);
    } else if (!life_try_lease(core, id)) {
        core->held_ids[core->held_n++] = id;
    }
}

void life_started(struct core *core, uint32_t id)
{
    struct seq *seq = &core->seqs[id];
    seq->started_ns = core->now_ns;
    seq->request->stats.queue_ns =
        core->now_ns - seq->request->arrival_ns - seq->request->stats.adapter_load_ns;
    life_emit(core,
              &(struct event){.type = EVENT_STARTED, .step = core->step, .request = seq->request});
}

static void life_mark(struct core *core, uint32_t id, enum ending ending)
{
    core->seqs[id].ending = ending;
    sched_stop(&core->sched, id);
    ASSERT_CMP(core->ending_n, <, core->seq_max);
    core->ending_ids[core->ending_n++] = id;
}

void life_finish(struct core *core, uint32_t id, enum finish_reason reason)
{
    if (core->seqs[id].ending == ENDING_NONE) {
        core->seqs[id].reason = reason;
        life_mark(core, id, ENDING_FINISHED);
    }
}

void life_fail(struct core *core, uint32_t id, int code, const char *text)
{
    if (core->seqs[id].ending == ENDING_NONE) {
        err_set(&core->seqs[id].request->err, code, "%s", text);
        life_mark(core, id, ENDING_FAILED);
    }
}

void life_fail_all(struct core *core, int code, const char *text)
{
    for (uint32_t id = 0; id < core->seq_max; id++) {
        if (core->seqs[id].request) {
            life_fail(core, id, code, text);
        }
    }
}

void life_cancel_all(struct core *core)
{
    for (uint32_t id = 0; id < core->seq_max; id++) {
        if (core->seqs[id].request) {
            life_finish(core, id, FINISH_CANCELLED);
        }
    }
}

void life_park(struct core *core, uint32_t id, bool is_parked)
{
    struct seq *seq = &core->seqs[id];
    sched_park(&core->sched, id, is_parked);
    seq->parked_until_ns = is_parked ? core->now_ns + LIMIT_PARK_NS : 0;
    if (is_parked) {
        core->deadline_ns = MIN(core->deadline_ns, seq->parked_until_ns);
    }
}

void life_check_deadlines(struct core *core)
{
    if (core->now_ns < core->deadline_ns) {
        return;
    }
    core->deadline_ns = INT64_MAX;
    for (uint32_t id = 0; id < core->seq_max; id++) {
        const struct seq *seq = &core->seqs[id];
        if (!seq->request || seq->ending != ENDING_NONE) {
            continue;
        }
        char text[ERR_TEXT_BYTES];
        int64_t parked_until = seq->parked_until_ns ? seq->parked_until_ns : INT64_MAX;
        int64_t until = MIN(seq->request->deadline_ns, parked_until);
        if (until > core->now_ns) {
            core->deadline_ns = MIN(core->deadline_ns, until);
            continue;
        }
        if (parked_until <= core->now_ns) {
            /* It holds a slot and its adapters, which others wait for. */
            snprintf(text, sizeof text, "the client has not read for %lld s",
                     (long long)(LIMIT_PARK_NS / CLOCK_NS_PER_S));
            life_fail(core, id, ERR_SLOW_CONSUMER, text);
            continue;
        }
        snprintf(text, sizeof text, "the deadline passed after %u of %u tokens", seq->token_n,
                 seq->request->max_tokens);
        life_fail(core, id, ERR_DEADLINE_EXCEEDED, text);
    }
}

static void life_fill_stats(const struct core *core, uint32_t id)
{
    const struct seq *seq = &core->seqs[id];
    struct request_stats *stats = &seq->request->stats;
    int64_t arrival_ns = seq->request->arrival_ns;
    stats->token_n = seq->token_n;
    if (seq->held_ns == 0) {
        stats->adapter_load_ns = core->now_ns - seq->accepted_ns;
        stats->queue_ns = seq->accepted_ns - arrival_ns;
    } else if (seq->started_ns == 0) {
        stats->queue_ns = core->now_ns - arrival_ns - stats->adapter_load_ns;
    } else if (stats->token_n == 0) {
        stats->prefill_ns = core->now_ns - seq->started_ns;
    } else {
        stats->prefill_ns = seq->first_token_ns - seq->started_ns;
        stats->first_token_ns = seq->first_token_ns - arrival_ns;
        stats->decode_ns = seq->last_token_ns - seq->first_token_ns;
    }
}

static void life_unhold(struct core *core, uint32_t id)
{
    for (uint32_t i = 0; i < core->held_n; i++) {
        if (core->held_ids[i] == id) {
            core->held_n--;
            memmove(&core->held_ids[i], &core->held_ids[i + 1],
                    (core->held_n - i) * sizeof *core->held_ids);
            return;
        }
    }
}

/* The last event: the request goes back. */
static void life_tell_end(struct core *core, uint32_t id)
{
    struct seq *seq = &core->seqs[id];
    struct request *request = seq->request;
    bool is_failed = seq->ending == ENDING_FAILED;
    life_fill_stats(core, id);
    if (core->sched.seqs[id].state == SCHED_HELD) {
        life_unhold(core, id);
    }
    keymap_remove(&core->keys, request->key);
    seq->request = NULL;
    life_emit(core, &(struct event){
                        .type = is_failed ? EVENT_FAILED : EVENT_FINISHED,
                        .reason = seq->reason,
                        .step = core->step,
                        .request = request,
                    });
}

/* Everything that steps name by it is free again. */
static void life_end(struct core *core, uint32_t id)
{
    struct seq *seq = &core->seqs[id];
    registry_release(core->registry, &seq->lease, core->now_ns);
    sched_remove(&core->sched, id);
    *seq = (struct seq){0};
}

bool life_end_marked(struct core *core)
{
    uint32_t kept_n = 0;
    uint32_t marked_n = core->ending_n;
    core->is_end_blocked = false;
    for (uint32_t i = 0; i < core->ending_n; i++) {
        uint32_t id = core->ending_ids[i];
        const struct seq *seq = &core->seqs[id];
        uint32_t unread_n = core->sched.seqs[id].unread_n;
        bool has_room = life_room(core) > 0;
        bool is_told = seq->request == NULL;
        core->is_end_blocked = core->is_end_blocked || (!is_told && !has_room);
        if (!is_told && has_room && unread_n < core_plan_max(core->config.step_ahead)) {
            life_tell_end(core, id);
            is_told = true;
        }
        if (is_told && unread_n == 0) {
            life_end(core, id);
        } else {
            core->ending_ids[kept_n++] = id;
        }
    }
    core->is_blocked = core->is_blocked || core->is_end_blocked;
    core->ending_n = kept_n;
    return kept_n < marked_n;
}
