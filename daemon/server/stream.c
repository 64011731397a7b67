/* Generate and Session as sinks of lanes. */
#include "server/stream.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "google/rpc/status.pb-c.h"
#include "graft/v1/inference.pb-c.h"
#include "server/output.h"
#include "server/server_int.h"

#define LOG_ADAPTERS_BYTES 512

void stream_know(struct server *server, struct stream *stream)
{
    struct egress *egress = &server->egress;
    if (stream->is_known) {
        return;
    }
    stream->is_known = true;
    stream->prev = NULL;
    stream->next = egress->streams;
    if (stream->next) {
        stream->next->prev = stream;
    }
    egress->streams = stream;
    egress->stream_n++;
    /* Its own reference: the application's goes with finish, lanes may end later or not exist. */
    rpc_call_ref(stream->user.call);
}

/* Takes it out of the lists; the caller has finished or will drop the call. The memory may be gone
 * afterwards. */
static void stream_forget(struct server *server, struct stream *stream)
{
    struct egress *egress = &server->egress;
    ASSERT(stream->is_known);
    stream->is_over = true;
    stream->is_known = false;
    if (stream->prev) {
        stream->prev->next = stream->next;
    } else {
        egress->streams = stream->next;
    }
    if (stream->next) {
        stream->next->prev = stream->prev;
    }
    egress->stream_n--;
    rpc_call_unref(stream->user.call);
}

static void stream_mark_dirty(struct server *server, struct stream *stream)
{
    if (!stream->is_dirty) {
        stream->is_dirty = true;
        stream->next_dirty = server->egress.dirty;
        server->egress.dirty = stream;
        rpc_call_ref(stream->user.call); /* the list's; egress_flush gives it back */
    }
}

void stream_mark(struct server *server, struct lane *lane, bool is_urgent)
{
    struct stream *stream = lane->stream;
    stream_know(server, stream);
    if (!lane->out.is_open) {
        lane->out.is_open = true;
        lane->out.prev = NULL;
        lane->out.next = stream->open;
        if (lane->out.next) {
            lane->out.next->out.prev = lane;
        }
        stream->open = lane;
    }
    stream->is_urgent = stream->is_urgent || is_urgent;
    stream_mark_dirty(server, stream);
}

static void lane_close(struct lane *lane)
{
    if (!lane->out.is_open) {
        return;
    }
    if (lane->out.prev) {
        lane->out.prev->out.next = lane->out.next;
    } else {
        lane->stream->open = lane->out.next;
    }
    if (lane->out.next) {
        lane->out.next->out.prev = lane->out.prev;
    }
    lane->out.is_open = false;
}

static void push_returned(struct server *server, enum returned_type type, struct lane *lane)
{
    struct returned back = {type, lane};
    bool is_room = ring_push(&server->returned, &back);
    ASSERT(is_room); /* RING_RETURNED_N */
}

void lane_return_id(struct server *server, struct lane *lane)
{
    if (lane->is_submitted) {
        push_returned(server, RETURNED_ID, lane);
    }
}

void lane_return(struct server *server, struct lane *lane)
{
    struct rpc_call *call = lane->stream->user.call;
    lane_close(lane);
    lane->stream->ended_n++;
    rpc_call_ref(call);
    push_returned(server, lane->is_submitted ? RETURNED_LANE : RETURNED_REJECTED, lane);
    rpc_call_poke(call); /* nothing else may bring the cq thread to look */
    rpc_call_unref(call);
}

void lane_log(const struct lane *lane)
{
    static const char *const reasons[] = {"eos", "stop_token", "stop_string", "length",
                                          "cancelled"};
    const struct request *request = &lane->request;
    char adapters[LOG_ADAPTERS_BYTES] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < request->adapter_n && n < sizeof adapters; i++) {
        n += (size_t)snprintf(adapters + n, sizeof adapters - n, "%s%s@%g", i ? "," : "",
                              request->adapters[i].name, (double)request->adapters[i].weight);
    }
    const char *end =
        lane->error.err.code ? err_name(lane->error.err.code) : reasons[lane->out.reason];
    struct log_field fields[] = {
        LOG_F_STR("id", request->id),
        LOG_F_STR("method", lane->stream->is_session ? "Session" : "Generate"),
        LOG_F_STR("adapters", adapters),
        LOG_F_INT("prompt_tokens", request->token_n),
        LOG_F_INT("completion_tokens", lane->out.token_n),
        LOG_F_STR("end", end),
        LOG_F_REAL("queue_ms", (double)request->stats.queue_ns / CLOCK_NS_PER_MS),
        LOG_F_REAL("load_ms", (double)request->stats.adapter_load_ns / CLOCK_NS_PER_MS),
        LOG_F_REAL("ttft_ms", (double)request->stats.first_token_ns / CLOCK_NS_PER_MS),
        LOG_F_REAL("total_ms", (double)(clock_now_ns() - request->arrival_ns) / CLOCK_NS_PER_MS),
    };
    log_fields(LOG_INFO, "request", fields, ARRAY_N(fields));
}

/* How a lane that has ended is answered: its own error, or the drain that cancelled it. */
static const struct rpc_error *lane_error(struct server *server, struct lane *lane)
{
    if (lane->error.err.code == 0 && lane->out.reason == FINISH_CANCELLED &&
        ring_flag_is_raised(&server->is_cancelling)) {
        err_set(&lane->error.err, ERR_DRAINING, "the server has shut down");
    }
    return lane->error.err.code ? &lane->error : NULL;
}

static void generate_send(struct server *server, struct stream *stream, struct arena *arena)
{
    struct lane *lane = stream->open;
    struct rpc_call *call = stream->user.call;
    if (output_bytes(lane) == 0 && !lane->out.has_ended) {
        return;
    }
    bool has_failed = lane->out.has_ended && lane->error.err.code;
    Graft__V1__GenerateResponse *response = NULL;
    if (!has_failed || lane->out.tokens.n + lane->out.text.n > 0) {
        response = output_pack(&server->model, lane, arena);
    }
    if (!lane->out.has_ended) {
        rpc_call_send(call, &response->base);
        output_clear(lane);
        return;
    }
    if (has_failed && response) {
        response->finish = NULL; /* the status says it */
    }
    lane_return_id(server, lane);
    rpc_call_finish(call, response ? &response->base : NULL, lane_error(server, lane));
    lane_log(lane);
    lane_return(server, lane);
    stream_forget(server, stream);
}

static void session_add_item(struct server *server, struct lane *lane, struct arena *arena,
                             Graft__V1__SessionResponse *response)
{
    Graft__V1__SessionItem *item = arena_alloc(arena, sizeof *item);
    graft__v1__session_item__init(item);
    item->stream_id = lane->stream_id;
    bool has_failed = lane->out.has_ended && lane->error.err.code;
    if (!has_failed || lane->out.tokens.n + lane->out.text.n > 0) {
        item->response = output_pack(&server->model, lane, arena);
    }
    if (has_failed && item->response) {
        item->response->finish = NULL;
    }
    if (lane->out.has_ended) {
        const struct rpc_error *error = lane_error(server, lane);
        item->error = error ? rpc_error_status(error, arena) : NULL;
    }
    response->items[response->n_items++] = item;
}

static void session_send_items(struct server *server, struct stream *stream, struct arena *arena)
{
    Graft__V1__SessionResponse response = GRAFT__V1__SESSION_RESPONSE__INIT;
    size_t n = 0;
    for (struct lane *lane = stream->open; lane; lane = lane->out.next) {
        n += output_bytes(lane) > 0;
    }
    if (n == 0) {
        return;
    }
    response.step = stream->step;
    response.items = arena_alloc(arena, n * sizeof(void *));
    for (struct lane *lane = stream->open; lane; lane = lane->out.next) {
        if (output_bytes(lane) > 0) {
            session_add_item(server, lane, arena, &response);
            if (lane->out.has_ended) {
                lane_return_id(server, lane);
            }
        }
    }
    rpc_call_send(stream->user.call, &response.base);
    for (struct lane *lane = stream->open; lane;) {
        struct lane *next = lane->out.next;
        output_clear(lane);
        if (lane->out.has_ended) {
            lane_log(lane);
            lane_return(server, lane);
        }
        lane = next;
    }
}

static void session_finish(struct server *server, struct stream *stream)
{
    struct rpc_error error = {0};
    bool is_complete = stream->is_half_closed && stream->ended_n == stream->expected_n;
    if (stream->broken == SESSION_REFUSALS_OF_ALL) {
        err_set(&error.err, ERR_QUEUE_FULL,
                "the server holds %d refusals that sessions have not read, limit is %d",
                LIMIT_REFUSALS, LIMIT_REFUSALS);
    } else if (stream->broken == SESSION_REFUSALS) {
        err_set(&error.err, ERR_QUEUE_FULL,
                "the session was refused more requests than it has read answers, limit is %d",
                LIMIT_SESSION_REFUSALS);
    } else if (stream->broken == SESSION_MALFORMED) {
        err_set(&error.err, ERR_INVALID_PARAMETER,
                "a message of the session is not a valid graft.v1.SessionRequest");
    } else if (!is_complete) {
        err_set(&error.err, ERR_DRAINING, "the server is shutting down");
    }
    rpc_call_finish(stream->user.call, NULL, error.err.code ? &error : NULL);
    stream_forget(server, stream);
}

static bool session_is_done(struct server *server, const struct stream *stream)
{
    if (stream->broken != SESSION_WHOLE) {
        return true;
    }
    bool is_draining = ring_flag_is_raised(&server->is_draining);
    return !stream->open && ((stream->is_half_closed && stream->ended_n == stream->expected_n) ||
                             (is_draining && server->egress.is_engine_drained));
}

static size_t stream_bytes(const struct stream *stream)
{
    size_t bytes = 0;
    for (const struct lane *lane = stream->open; lane; lane = lane->out.next) {
        bytes += output_bytes(lane);
    }
    return bytes;
}

static void stream_park(struct server *server, struct stream *stream)
{
    for (struct lane *lane = stream->open; lane; lane = lane->out.next) {
        if (!lane->out.is_parked && !lane->out.has_ended) {
            lane->out.is_parked = true;
            egress_to_engine(server, MSG_PARK, lane->request.key);
        }
    }
    stream->is_parked = true;
}

static void stream_resume(struct server *server, struct stream *stream)
{
    for (struct lane *lane = stream->open; lane; lane = lane->out.next) {
        if (lane->out.is_parked && !lane->out.has_ended) {
            lane->out.is_parked = false;
            egress_to_engine(server, MSG_RESUME, lane->request.key);
        }
    }
    stream->is_parked = false;
}

void stream_flush(struct server *server, struct stream *stream)
{
    struct arena arena;
    stream->is_urgent = false;
    if (stream->is_over) {
        return;
    }
    if (!rpc_call_can_send(stream->user.call)) {
        if (stream_bytes(stream) > LIMIT_CALL_BUFFER) {
            stream_park(server, stream);
        }
        return;
    }
    if (stream->is_parked) {
        stream_resume(server, stream);
    }
    arena_init(&arena);
    if (!stream->is_session) {
        generate_send(server, stream, &arena);
    } else {
        session_send_items(server, stream, &arena);
        if (session_is_done(server, stream) && rpc_call_can_send(stream->user.call)) {
            session_finish(server, stream);
        }
    }
    arena_done(&arena);
}

void stream_drop(struct server *server, struct stream *stream)
{
    struct lane *lane = stream->open;
    if (stream->is_over) {
        return;
    }
    while (lane) {
        struct lane *next = lane->out.next;
        output_clear(lane);
        if (lane->out.has_ended) {
            lane_return_id(server, lane);
            lane_log(lane);
            lane_return(server, lane);
        }
        lane = next;
    }
    if (stream->is_parked) {
        stream_resume(server, stream); /* so that its cancel is not parked with it */
    }
    rpc_call_drop(stream->user.call);
    if (stream->is_known) {
        stream_forget(server, stream);
    } else {
        stream->is_over = true;
    }
}
