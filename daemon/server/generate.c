/* Generate, Session and Abort on the cq thread: messages into lanes, lanes into the engine. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "graft/v1/inference.pb-c.h"
#include "rpc/codec.h"
#include "server/request.h"
#include "server/server_int.h"
#include "server/stream.h"

static struct stream *stream_new(struct rpc_call *call, bool is_session)
{
    struct stream *stream = mem_zalloc(sizeof *stream);
    stream->user = (struct call_user){CALL_STREAM, call};
    stream->is_session = is_session;
    return stream;
}

/* Hands a filled lane to the engine. On failure the lane is still the caller's. */
static int lane_submit(struct server *server, struct lane *lane, struct rpc_error *error)
{
    struct request *request = &lane->request;
    struct msg msg = {.type = MSG_REQUEST, .ptr = request};
    service_reap(server);
    if (live_find(&server->live, request->id)) {
        snprintf(error->resource, sizeof error->resource, "%s", request->id);
        return err_set(&error->err, ERR_REQUEST_EXISTS, "request_id \"%s\" is in use", request->id);
    }
    if (server->live.n >= LIMIT_LIVE) {
        return err_set(&error->err, ERR_QUEUE_FULL, "the server holds %u requests, limit is %d",
                       server->live.n, LIMIT_LIVE);
    }
    lane->bytes = lane->arena.bytes + lane->tokens.cap * sizeof *lane->tokens.ids;
    if (server->live.bytes + lane->bytes > LIMIT_LIVE_BYTES) {
        return err_set(&error->err, ERR_QUEUE_FULL,
                       "the server holds %" PRIu64 " bytes of requests, limit is %llu",
                       server->live.bytes, LIMIT_LIVE_BYTES);
    }
    request->key = ++server->live.key_end;
    request->owner = lane;
    request->deadline_ns = rpc_call_deadline_ns(lane->stream->user.call);
    msg.key = request->key;
    live_add(&server->live, lane);
    lane->is_submitted = true;
    if (!ring_push(&server->ports->inbox[INBOX_CQ], &msg)) {
        live_remove(&server->live, lane);
        lane->is_submitted = false;
        return err_set(&error->err, ERR_QUEUE_FULL, "the queue of new requests is full");
    }
    server->live.bytes += lane->bytes;
    wake_signal(&server->ports->engine_wake);
    return 0;
}

static int lane_begin(struct server *server, const Graft__V1__GenerateRequest *message,
                      struct lane *lane, struct rpc_error *error)
{
    int rc = service_gate(server, true, error);
    rc = rc ? rc : request_fill(&server->model, message, lane, error);
    return rc ? rc : lane_submit(server, lane, error);
}

static int undecodable(struct rpc_error *error, const char *type)
{
    return err_set(&error->err, ERR_INVALID_PARAMETER, "the message is not a valid %s", type);
}

void generate_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct server *server = ctx;
    struct stream *stream = stream_new(call, false);
    rpc_call_set_user(call, stream);
    struct lane *lane = lane_new(stream);
    const ProtobufCMessage *message =
        rpc_unpack(&graft__v1__generate_request__descriptor, data, n, &lane->arena);
    int rc = message ? lane_begin(server, (const Graft__V1__GenerateRequest *)message, lane,
                                  &lane->error)
                     : undecodable(&lane->error, "graft.v1.GenerateRequest");
    if (rc) {
        stream->is_refused = true;
        lane_log(lane);
        rpc_call_finish(call, NULL, &lane->error);
        lane_free(lane);
    }
}

void session_on_open(void *ctx, struct rpc_call *call)
{
    struct server *server = ctx;
    rpc_call_set_user(call, stream_new(call, true));
    rpc_call_ref(call);
    service_to_egress(server, (struct egress_msg){.type = EGRESS_SESSION, .call = call});
}

/* The lane's stream_id, and whether the session may begin it. */
static int session_admit(const struct stream *stream, uint32_t stream_id, struct rpc_error *error)
{
    if (live_find_lane(stream, stream_id)) {
        return request_refuse(error, ERR_REQUEST_EXISTS, "stream_id",
                              "stream_id %u is in use in this session", stream_id);
    }
    if (stream->lane_n >= LIMIT_SESSION_LANES) {
        return err_set(&error->err, ERR_QUEUE_FULL,
                       "the session has %u unfinished requests, limit is %d", stream->lane_n,
                       LIMIT_SESSION_LANES);
    }
    return 0;
}

static void lane_cancel(struct server *server, struct lane *lane)
{
    if (!lane->is_cancel_sent) {
        lane->is_cancel_sent = true;
        service_to_engine(server, (struct msg){.type = MSG_CANCEL, .key = lane->request.key});
    }
}

void stream_cancel_lanes(struct server *server, struct stream *stream)
{
    stream->is_closed = true;
    for (struct lane *lane = stream->lanes; lane; lane = lane->next) {
        lane_cancel(server, lane);
    }
}

static void session_break(struct server *server, struct stream *stream, enum session_break why)
{
    service_reap(server);
    if (why == SESSION_REFUSALS_OF_ALL) {
        log_msg(LOG_WARN, "ended a session: %u requests of all were refused and not read yet",
                server->live.rejected_n);
    } else if (why == SESSION_REFUSALS) {
        log_msg(LOG_WARN, "ended a session: %u of its requests were refused and not read yet",
                stream->rejected_n);
    } else {
        log_msg(LOG_WARN, "ended a session: not a valid graft.v1.SessionRequest");
    }
    stream_cancel_lanes(server, stream);
    rpc_call_ref(stream->user.call);
    service_to_egress(
        server,
        (struct egress_msg){.type = EGRESS_BROKEN, .n = (uint32_t)why, .call = stream->user.call});
}

/* A client that is refused and does not read must not fill the memory: its session ends. Refusals
 * are counted apart from what is live, so that they take no room from anybody's requests. */
static void session_reject(struct server *server, struct lane *lane)
{
    struct stream *stream = lane->stream;
    bool is_too_many = stream->rejected_n >= LIMIT_SESSION_REFUSALS;
    if (is_too_many || server->live.rejected_n >= LIMIT_REFUSALS) {
        session_break(server, stream, is_too_many ? SESSION_REFUSALS : SESSION_REFUSALS_OF_ALL);
        lane_free(lane);
        return;
    }
    stream->rejected_n++;
    server->live.rejected_n++;
    lane_shrink(lane);
    service_to_egress(server, (struct egress_msg){.type = EGRESS_REJECTED, .lane = lane});
}

static void session_start(struct server *server, struct lane *lane,
                          const Graft__V1__SessionRequest *message)
{
    struct stream *stream = lane->stream;
    lane->stream_id = message->stream_id;
    stream->total_n++;
    service_reap(server);
    int rc = session_admit(stream, message->stream_id, &lane->error);
    rc = rc ? rc : lane_begin(server, message->start, lane, &lane->error);
    if (rc) {
        session_reject(server, lane);
    }
}

void session_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct server *server = ctx;
    struct stream *stream = rpc_call_user(call);
    if (stream->is_closed) {
        return;
    }
    struct lane *lane = lane_new(stream);
    const Graft__V1__SessionRequest *message = (const Graft__V1__SessionRequest *)rpc_unpack(
        &graft__v1__session_request__descriptor, data, n, &lane->arena);
    if (message && message->action_case == GRAFT__V1__SESSION_REQUEST__ACTION_START) {
        session_start(server, lane, message);
        return; /* the lane is on its way */
    }
    if (message && message->action_case == GRAFT__V1__SESSION_REQUEST__ACTION_CANCEL) {
        service_reap(server);
        struct lane *target = live_find_lane(stream, message->stream_id);
        if (target) {
            lane_cancel(server, target);
        }
    } else {
        session_break(server, stream, SESSION_MALFORMED);
    }
    lane_free(lane);
}

void session_on_half_close(void *ctx, struct rpc_call *call)
{
    struct server *server = ctx;
    struct stream *stream = rpc_call_user(call);
    rpc_call_ref(call);
    service_to_egress(server, (struct egress_msg){
                                  .type = EGRESS_HALF_CLOSED, .call = call, .n = stream->total_n});
}

static int abort_run(struct server *server, const Graft__V1__AbortRequest *request,
                     Graft__V1__AbortResponse *response, struct rpc_error *error)
{
    int rc = service_gate(server, false, error);
    if (rc) {
        return rc;
    }
    if (request->n_request_ids > LIMIT_ABORT_IDS) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "request_ids",
                              "the call names %zu requests, limit is %d", request->n_request_ids,
                              LIMIT_ABORT_IDS);
    }
    service_reap(server);
    for (size_t i = 0; i < request->n_request_ids; i++) {
        struct lane *lane = live_find(&server->live, request->request_ids[i]);
        if (lane) {
            lane_cancel(server, lane);
            response->aborted[response->n_aborted++] = request->request_ids[i];
        }
    }
    return 0;
}

void abort_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct rpc_error error = {0};
    struct arena arena;
    Graft__V1__AbortResponse response = GRAFT__V1__ABORT_RESPONSE__INIT;
    char *aborted[LIMIT_ABORT_IDS];
    arena_init(&arena);
    response.aborted = aborted;
    const ProtobufCMessage *request =
        rpc_unpack(&graft__v1__abort_request__descriptor, data, n, &arena);
    int rc = request ? abort_run(ctx, (const Graft__V1__AbortRequest *)request, &response, &error)
                     : undecodable(&error, "graft.v1.AbortRequest");
    rpc_call_finish(call, rc ? NULL : &response.base, rc ? &error : NULL);
    arena_done(&arena);
}
