/* The egress thread: two rings of messages from the loop and cq threads, one of events. */
#include "server/egress.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/output.h"
#include "server/server_int.h"
#include "server/stream.h"

#define EGRESS_RETRY_NS CLOCK_NS_PER_MS /* between looks at a full inbox */

static bool egress_push_backlog(struct server *server)
{
    struct buf *backlog = &server->egress.backlog;
    size_t done = 0;
    struct msg msg;
    while (done < backlog->n) {
        memcpy(&msg, backlog->data + done, sizeof msg);
        if (!ring_push(&server->ports->inbox[INBOX_EGRESS], &msg)) {
            break;
        }
        done += sizeof msg;
    }
    if (done > 0) {
        memmove(backlog->data, backlog->data + done, backlog->n - done);
        backlog->n -= done;
        wake_signal(&server->ports->engine_wake);
    }
    return backlog->n == 0;
}

/* The engine may be waiting for this very thread to empty the events, so this never blocks. */
void egress_to_engine(struct server *server, enum msg_type type, uint64_t key)
{
    struct msg msg = {.type = type, .key = key};
    buf_add(&server->egress.backlog, &msg, sizeof msg);
    egress_push_backlog(server);
}

static void egress_flush(struct server *server, bool urgent_only)
{
    struct stream *stream = server->egress.dirty;
    server->egress.dirty = NULL;
    while (stream) {
        struct stream *next = stream->next_dirty;
        struct rpc_call *call = stream->user.call;
        if (urgent_only && !stream->is_urgent) {
            stream->next_dirty = server->egress.dirty;
            server->egress.dirty = stream;
        } else {
            stream->is_dirty = false;
            stream_flush(server, stream);
            rpc_call_unref(call);
        }
        stream = next;
    }
}

/* Which adapter a failure is about, for ResourceInfo. */
static void lane_fail(struct lane *lane)
{
    const struct request *request = &lane->request;
    lane->error.err = request->err;
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        char quoted[LIMIT_ADAPTER_NAME_BYTES + 2];
        snprintf(quoted, sizeof quoted, "\"%s\"", request->adapters[i].name);
        if (request->adapter_n == 1 || strstr(request->err.text, quoted)) {
            snprintf(lane->error.resource, sizeof lane->error.resource, "%s",
                     request->adapters[i].name);
            break;
        }
    }
    lane->out.has_ended = true;
}

/* The stream is over: nobody hears what its lanes say, but their end still counts. */
static void egress_drop_event(struct server *server, struct lane *lane, const struct event *event)
{
    if (event->type == EVENT_FINISHED || event->type == EVENT_FAILED) {
        lane->out.has_ended = true;
        lane->out.reason = event->reason;
        lane->error.err = event->type == EVENT_FAILED ? lane->request.err : lane->error.err;
        lane_return_id(server, lane);
        lane_log(lane);
        lane_return(server, lane);
    }
}

static void egress_lane_event(struct server *server, const struct event *event)
{
    struct lane *lane = lane_of(event->request);
    struct stream *stream = lane->stream;
    if (stream->is_over) {
        egress_drop_event(server, lane, event);
        return;
    }
    bool is_urgent = false;
    switch (event->type) {
    case EVENT_STARTED:
        output_start(&server->model, lane);
        is_urgent = true;
        break;
    case EVENT_PROMPT_TOKEN:
        output_add_prompt_token(lane, event);
        break;
    case EVENT_TOKEN:
        stream->step = event->step;
        if (output_add_token(lane, event)) {
            egress_to_engine(server, MSG_STOP, lane->request.key);
        }
        break;
    case EVENT_FINISHED:
        output_end(lane, event->reason);
        is_urgent = event->reason == FINISH_CANCELLED; /* comes between steps */
        break;
    default:
        ASSERT_CMP(event->type, ==, EVENT_FAILED);
        lane_fail(lane);
        is_urgent = true;
        break;
    }
    stream_mark(server, lane, is_urgent);
}

/* Every stream is looked at once more: idle sessions end here. */
static void egress_drained(struct server *server)
{
    server->egress.is_engine_drained = true;
    for (struct stream *stream = server->egress.streams; stream;) {
        struct stream *next = stream->next;
        stream_flush(server, stream);
        stream = next;
    }
}

static void egress_event(struct server *server, const struct event *event)
{
    switch (event->type) {
    case EVENT_ADAPTER_OP:
        adapter_answer(server, event->op);
        break;
    case EVENT_STEP_END:
        egress_flush(server, false);
        break;
    case EVENT_DRAINED:
        egress_flush(server, false);
        egress_drained(server);
        break;
    default:
        egress_lane_event(server, event);
        break;
    }
}

static void watch_forget(struct server *server, struct watch *watch)
{
    watch->is_over = true;
    if (watch->prev) {
        watch->prev->next = watch->next;
    } else {
        server->egress.watches = watch->next;
    }
    if (watch->next) {
        watch->next->prev = watch->prev;
    }
}

/* Ends a watch; its memory may be gone afterwards. */
static void watch_end(struct server *server, struct watch *watch)
{
    struct rpc_error error = {0};
    watch_forget(server, watch);
    err_set(&error.err, ERR_DRAINING, "the server has shut down");
    if (rpc_call_can_send(watch->user.call)) {
        rpc_call_finish(watch->user.call, NULL, &error);
    } else {
        rpc_call_drop(watch->user.call);
    }
}

static void watch_begin(struct server *server, struct watch *watch)
{
    if (watch->is_over) {
        return;
    }
    watch->next = server->egress.watches;
    if (watch->next) {
        watch->next->prev = watch;
    }
    server->egress.watches = watch;
    if (server->egress.is_drain_told) {
        watch_end(server, watch);
    } else {
        health_send(server, watch);
    }
}

static void egress_closed(struct server *server, struct call_user *user)
{
    if (user->kind == CALL_STREAM) {
        stream_drop(server, (struct stream *)user);
    } else if (user->kind == CALL_WATCH && !((struct watch *)user)->is_over) {
        watch_forget(server, (struct watch *)user);
        rpc_call_drop(user->call);
    }
}

static void egress_writable(struct server *server, struct call_user *user)
{
    if (user->kind == CALL_STREAM) {
        stream_flush(server, (struct stream *)user);
    } else if (user->kind == CALL_WATCH) {
        health_send(server, (struct watch *)user);
    }
}

static void egress_session(struct server *server, const struct egress_msg *msg)
{
    struct stream *stream = rpc_call_user(msg->call);
    if (stream->is_over) {
        return;
    }
    stream_know(server, stream);
    if (msg->type == EGRESS_HALF_CLOSED) {
        stream->is_half_closed = true;
        stream->expected_n = msg->n;
    } else if (msg->type == EGRESS_BROKEN) {
        stream->broken = (enum session_break)msg->n;
    }
    stream_flush(server, stream);
}

static void egress_rejected(struct server *server, struct lane *lane)
{
    lane->out.has_ended = true;
    if (lane->stream->is_over) {
        lane_return(server, lane);
    } else {
        stream_mark(server, lane, true);
    }
}

static void egress_message(struct server *server, const struct egress_msg *msg)
{
    switch (msg->type) {
    case EGRESS_WRITABLE:
        egress_writable(server, rpc_call_user(msg->call));
        break;
    case EGRESS_CLOSED:
        egress_closed(server, rpc_call_user(msg->call));
        break;
    case EGRESS_SESSION:
    case EGRESS_HALF_CLOSED:
    case EGRESS_BROKEN:
        egress_session(server, msg);
        break;
    case EGRESS_REJECTED:
        egress_rejected(server, msg->lane);
        break;
    case EGRESS_WATCH:
        watch_begin(server, rpc_call_user(msg->call));
        break;
    case EGRESS_HEALTH:
        for (struct watch *watch = server->egress.watches; watch; watch = watch->next) {
            health_send(server, watch);
        }
        break;
    case EGRESS_CANCEL_ALL:
        break; /* the flag says it; this only wakes */
    case EGRESS_QUIT:
        server->egress.has_quit = true;
        break;
    }
    if (msg->call) {
        rpc_call_unref(msg->call);
    }
}

/* Tells the loop, once, that what was running has been answered. */
static void egress_check_drained(struct server *server)
{
    struct egress *egress = &server->egress;
    bool is_clear = egress->stream_n == 0 || ring_flag_is_raised(&server->is_cancelling);
    if (!egress->is_engine_drained || egress->is_drain_told || !is_clear) {
        return;
    }
    egress->is_drain_told = true;
    while (egress->watches) {
        watch_end(server, egress->watches);
    }
    loop_tell_drained(&server->loop);
}

static bool egress_run(struct server *server)
{
    struct egress_msg msg;
    struct event event;
    bool any = false;
    while (ring_pop(&server->egress_from_loop, &msg) || ring_pop(&server->egress_from_cq, &msg)) {
        egress_message(server, &msg);
        any = true;
    }
    while (ring_pop(&server->ports->events, &event)) {
        egress_event(server, &event);
        any = true;
    }
    return any;
}

static void egress_main(void *arg)
{
    struct server *server = arg;
    while (!server->egress.has_quit) {
        uint32_t ticket = wake_ticket(&server->ports->egress_wake);
        if (egress_run(server)) {
            continue;
        }
        egress_flush(server, true);
        egress_check_drained(server);
        bool is_clear = egress_push_backlog(server);
        wake_wait(&server->ports->egress_wake, ticket, is_clear ? -1 : EGRESS_RETRY_NS);
    }
}

void egress_start(struct server *server)
{
    thread_start(&server->egress.thread, THREAD_EGRESS, "egress", egress_main, server);
}

void egress_join(struct server *server)
{
    thread_join(&server->egress.thread);
    buf_done(&server->egress.backlog);
}
