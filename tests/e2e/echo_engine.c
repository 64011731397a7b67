/* See the header. One list of sequences in arrival order; one token each per step. */
#include "echo_engine.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/job.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "sched/event.h"
#include "sched/request.h"

#define ECHO_ADAPTERS    4
#define ECHO_SLOW_JOB_NS (200 * CLOCK_NS_PER_MS)

struct echo_seq {
    struct echo_seq *next;
    struct request *request;
    uint32_t done;
    bool is_active, is_parked, is_cancelled, is_stopped;
};

struct echo_job {
    struct job job;
    struct adapter_op *op;
};

struct echo_engine {
    struct echo_options options;
    struct thread thread;
    struct echo_seq *seqs; /* oldest first */
    struct adapter adapters[ECHO_ADAPTERS];
    uint64_t step;
    uint64_t saturated_n;
    bool is_draining, is_drain_told, has_quit;
    bool has_news; /* events since the last STEP_END */
};

static void echo_emit(struct echo_engine *engine, struct event event)
{
    event.step = engine->step;
    while (!ring_push(&engine->options.ports->events, &event)) {
        wake_signal(&engine->options.ports->egress_wake);
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    engine->has_news = true;
}

static struct adapter *echo_find(struct echo_engine *engine, const char *name)
{
    for (int i = 0; i < ECHO_ADAPTERS; i++) {
        if (strcmp(engine->adapters[i].name, name) == 0) {
            return &engine->adapters[i];
        }
    }
    return NULL;
}

static void echo_load(struct adapter *adapter)
{
    adapter->state = ADAPTER_DEVICE;
    snprintf(adapter->kind, sizeof adapter->kind, "lora");
    memset(adapter->revision, 'a' + adapter->name[0] % 6, SHA256_HEX_BYTES - 1);
    adapter->rank_max = 8;
    adapter->modules_applied = adapter->modules_total = 14;
    adapter->device_bytes = 4096;
    adapter->load_n++;
    adapter->etag++;
    adapter->loaded_unix_ms = clock_unix_ms();
}

static void echo_answer(struct echo_engine *engine, struct adapter_op *op)
{
    struct adapter *adapter = echo_find(engine, op->name);
    if (op->type == ADAPTER_OP_LIST) {
        memcpy(op->out, engine->adapters, sizeof engine->adapters);
        op->out_n = ECHO_ADAPTERS;
    } else if (!adapter) {
        err_set(&op->err, ERR_ADAPTER_NOT_FOUND, "adapter \"%s\" is not known", op->name);
    } else if (op->type == ADAPTER_OP_LOAD && strcmp(op->name, "broken") == 0) {
        err_set(&op->err, ERR_ADAPTER_INCOMPATIBLE,
                "could not load adapter \"broken\": tensor \"x\" has 24 rows, rank is 16");
        adapter->state = ADAPTER_FAILED;
        snprintf(adapter->last_error, sizeof adapter->last_error, "%s", op->err.text);
    } else {
        op->is_unchanged = op->type == ADAPTER_OP_LOAD && adapter->state == ADAPTER_DEVICE;
        if (op->type == ADAPTER_OP_LOAD && !op->is_unchanged) {
            echo_load(adapter);
        } else if (op->type == ADAPTER_OP_UNLOAD) {
            adapter->state = ADAPTER_REGISTERED;
            adapter->revision[0] = '\0';
        }
        op->out[0] = *adapter;
        op->out_n = 1;
    }
    echo_emit(engine, (struct event){.type = EVENT_ADAPTER_OP, .op = op});
}

static void echo_job_run(struct job *job)
{
    (void)job;
    nanosleep(&(struct timespec){0, ECHO_SLOW_JOB_NS}, NULL);
}

static void echo_adapter_op(struct echo_engine *engine, struct adapter_op *op)
{
    struct ports *ports = engine->options.ports;
    struct adapter *adapter = echo_find(engine, op->name);
    if (op->type == ADAPTER_OP_LOAD && strcmp(op->name, "slow") == 0 &&
        adapter->state != ADAPTER_DEVICE) {
        struct echo_job *work = mem_zalloc(sizeof *work);
        struct job *job = &work->job;
        work->job.run = echo_job_run;
        work->op = op;
        adapter->is_loading = true;
        if (ring_push(&ports->jobs, &job)) {
            ports->notify_loop(ports->notify_arg);
            return;
        }
        mem_free(work);
    }
    echo_answer(engine, op);
}

static void echo_job_done(struct echo_engine *engine, struct job *job)
{
    struct echo_job *work = CONTAINER_OF(job, struct echo_job, job);
    echo_find(engine, "slow")->is_loading = false;
    echo_answer(engine, work->op);
    mem_free(work);
}

/* True when the request may run; else it has been answered. */
static bool echo_admit(struct echo_engine *engine, struct request *request)
{
    if (engine->is_draining) {
        err_set(&request->err, ERR_DRAINING, "the server is shutting down");
    }
    for (uint32_t i = 0; i < request->adapter_n && !request->err.code; i++) {
        const char *name = request->adapters[i].name;
        struct adapter *adapter = echo_find(engine, name);
        if (!adapter) {
            err_set(&request->err, ERR_ADAPTER_NOT_FOUND, "adapter \"%s\" is not known", name);
        } else if (adapter->state != ADAPTER_DEVICE && request->load_policy == LOAD_FAIL_IF_COLD) {
            err_set(&request->err, ERR_ADAPTER_LOADING, "adapter \"%s\" is not loaded", name);
        } else if (adapter->state != ADAPTER_DEVICE) {
            echo_load(adapter);
        }
        if (adapter) {
            memcpy(request->revisions[i], adapter->revision, SHA256_HEX_BYTES);
        }
    }
    if (request->err.code) {
        echo_emit(engine, (struct event){.type = EVENT_FAILED, .request = request});
        return false;
    }
    return true;
}

static void echo_request(struct echo_engine *engine, struct request *request)
{
    if (echo_admit(engine, request)) {
        struct echo_seq **link = &engine->seqs;
        struct echo_seq *seq = mem_zalloc(sizeof *seq);
        while (*link) {
            link = &(*link)->next;
        }
        seq->request = request;
        *link = seq;
    }
}

static void echo_mark(struct echo_engine *engine, const struct msg *msg)
{
    for (struct echo_seq *seq = engine->seqs; seq; seq = seq->next) {
        if (seq->request->key == msg->key || msg->type == MSG_CANCEL_ALL) {
            seq->is_cancelled |= msg->type == MSG_CANCEL || msg->type == MSG_CANCEL_ALL;
            seq->is_stopped |= msg->type == MSG_STOP;
            if (msg->type == MSG_PARK || msg->type == MSG_RESUME) {
                log_msg(LOG_DEBUG, "%s %s", msg->type == MSG_PARK ? "park" : "resume",
                        seq->request->id);
            }
            seq->is_parked = msg->type == MSG_PARK || (seq->is_parked && msg->type != MSG_RESUME);
        }
    }
}

static void echo_message(struct echo_engine *engine, const struct msg *msg)
{
    switch (msg->type) {
    case MSG_REQUEST:
        echo_request(engine, msg->ptr);
        break;
    case MSG_ADAPTER_OP:
        echo_adapter_op(engine, msg->ptr);
        break;
    case MSG_JOB_DONE:
        echo_job_done(engine, msg->ptr);
        break;
    case MSG_DRAIN:
        engine->is_draining = true;
        break;
    case MSG_QUIT:
        engine->has_quit = true;
        break;
    default:
        echo_mark(engine, msg);
        break;
    }
}

static void echo_start_seq(struct echo_engine *engine, struct echo_seq *seq)
{
    struct request *request = seq->request;
    seq->is_active = true;
    request->stats.queue_ns = clock_now_ns() - request->arrival_ns;
    echo_emit(engine, (struct event){.type = EVENT_STARTED, .request = request});
    for (uint32_t i = 1; request->prompt_logprobs >= 0 && i < request->token_n; i++) {
        struct event event = {.type = EVENT_PROMPT_TOKEN, .request = request};
        event.token = (struct token_logprob){request->tokens[i], -0.5f};
        event.top_n = (uint32_t)request->prompt_logprobs;
        for (uint32_t j = 0; j < event.top_n; j++) {
            event.top[j] = (struct token_logprob){j, -1.0f - (float)j};
        }
        echo_emit(engine, event);
    }
}

static bool echo_has(const uint32_t *tokens, uint32_t n, uint32_t token)
{
    for (uint32_t i = 0; i < n; i++) {
        if (tokens[i] == token) {
            return true;
        }
    }
    return false;
}

/* One token; true and *out_reason when the sequence ends with it. */
static bool echo_token(struct echo_engine *engine, struct echo_seq *seq,
                       enum finish_reason *out_reason)
{
    struct request *request = seq->request;
    struct event event = {.type = EVENT_TOKEN, .request = request};
    uint32_t token = request->tokens[seq->done % request->token_n];
    bool may_end = seq->done >= request->min_tokens;
    event.token.token = token;
    if (request->top_logprobs >= 0) {
        event.token.logprob = -0.25f;
        event.top_n = (uint32_t)request->top_logprobs;
        for (uint32_t j = 0; j < event.top_n; j++) {
            event.top[j] = (struct token_logprob){j, -1.0f - (float)j};
        }
    }
    if (seq->done == 0) {
        request->stats.first_token_ns = clock_now_ns() - request->arrival_ns;
    }
    seq->done++;
    request->stats.step_n++;
    request->stats.token_n++;
    engine->saturated_n += ECHO_SATURATED;
    ring_number_set(&engine->options.ports->saturated, engine->saturated_n);
    echo_emit(engine, event);
    if (may_end && echo_has(request->eos_tokens, request->eos_n, token)) {
        *out_reason = FINISH_EOS;
        return true;
    }
    if (may_end && echo_has(request->stop_tokens, request->stop_n, token)) {
        *out_reason = FINISH_STOP_TOKEN;
        return true;
    }
    *out_reason = FINISH_LENGTH;
    return seq->done >= request->max_tokens;
}

/* True when the sequence has ended and been answered. */
static bool echo_step_seq(struct echo_engine *engine, struct echo_seq *seq, bool is_room)
{
    struct request *request = seq->request;
    enum finish_reason reason = FINISH_CANCELLED;
    bool has_ended = seq->is_cancelled;
    if (!has_ended && clock_now_ns() >= request->deadline_ns) {
        err_set(&request->err, ERR_DEADLINE_EXCEEDED, "the deadline has passed");
        echo_emit(engine, (struct event){.type = EVENT_FAILED, .request = request});
        return true;
    }
    if (!has_ended && seq->is_stopped) {
        reason = FINISH_STOP_STRING;
        has_ended = true;
    }
    if (!has_ended && !seq->is_parked && (seq->is_active || is_room)) {
        if (!seq->is_active) {
            echo_start_seq(engine, seq);
        }
        has_ended = echo_token(engine, seq, &reason);
    }
    if (has_ended) {
        echo_emit(engine,
                  (struct event){.type = EVENT_FINISHED, .request = request, .reason = reason});
    }
    return has_ended;
}

/* True when a sequence could run on. */
static bool echo_step(struct echo_engine *engine)
{
    uint32_t active_n = 0;
    bool can_go_on = false;
    engine->step++;
    for (struct echo_seq **link = &engine->seqs; *link;) {
        struct echo_seq *seq = *link;
        if (echo_step_seq(engine, seq, active_n < engine->options.active_max)) {
            *link = seq->next;
            mem_free(seq);
            continue;
        }
        active_n += seq->is_active;
        can_go_on = can_go_on || !seq->is_parked;
        link = &seq->next;
    }
    if (engine->has_news) {
        echo_emit(engine, (struct event){.type = EVENT_STEP_END});
        engine->has_news = false;
    }
    if (engine->is_draining && !engine->seqs && !engine->is_drain_told) {
        engine->is_drain_told = true;
        echo_emit(engine, (struct event){.type = EVENT_DRAINED});
    }
    wake_signal(&engine->options.ports->egress_wake);
    return can_go_on;
}

static void echo_main(void *arg)
{
    struct echo_engine *engine = arg;
    struct ports *ports = engine->options.ports;
    while (!engine->has_quit) {
        uint32_t ticket = wake_ticket(&ports->engine_wake);
        struct msg msg;
        for (int i = 0; i < INBOX_N; i++) {
            while (ring_pop(&ports->inbox[i], &msg)) {
                echo_message(engine, &msg);
            }
        }
        if (echo_step(engine)) {
            nanosleep(&(struct timespec){engine->options.step_ns / CLOCK_NS_PER_S,
                                         engine->options.step_ns % CLOCK_NS_PER_S},
                      NULL);
        } else if (!engine->has_quit) {
            wake_wait(&ports->engine_wake, ticket, -1);
        }
    }
}

struct echo_engine *echo_engine_start(const struct echo_options *options)
{
    static const char *const names[ECHO_ADAPTERS] = {"alpha", "beta", "broken", "slow"};
    struct echo_engine *engine = mem_zalloc(sizeof *engine);
    engine->options = *options;
    for (int i = 0; i < ECHO_ADAPTERS; i++) {
        struct adapter *adapter = &engine->adapters[i];
        snprintf(adapter->name, sizeof adapter->name, "%s", names[i]);
        adapter->state = ADAPTER_REGISTERED;
        adapter->registered_unix_ms = clock_unix_ms();
    }
    thread_start(&engine->thread, THREAD_ENGINE, "echo", echo_main, engine);
    return engine;
}

void echo_engine_stop(struct echo_engine *engine)
{
    struct msg quit = {.type = MSG_QUIT};
    bool is_room = ring_push(&engine->options.ports->inbox[INBOX_LOOP], &quit);
    ASSERT(is_room);
    wake_signal(&engine->options.ports->engine_wake);
    thread_join(&engine->thread);
    mem_free(engine);
}
