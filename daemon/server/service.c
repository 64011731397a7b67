/* The method table, the state gate, and the cq thread's two doors: to the engine and to egress. */
#include <time.h>

#include "base/mem.h"
#include "server/reflection.h"
#include "server/server_int.h"

#define SERVICE_WAIT_NS 100000 /* between looks at a full ring */

#define GRAFT "/graft.v1."

static const struct rpc_method service_methods[] = {
    {GRAFT "InferenceService/Generate", RPC_SERVER_STREAM, .on_message = generate_on_message},
    {GRAFT "InferenceService/Session", RPC_BIDI, session_on_open, session_on_message,
     session_on_half_close},
    {GRAFT "InferenceService/Abort", RPC_UNARY, .on_message = abort_on_message},
    {GRAFT "AdapterService/LoadAdapter", RPC_UNARY, .on_message = adapter_on_load},
    {GRAFT "AdapterService/UnloadAdapter", RPC_UNARY, .on_message = adapter_on_unload},
    {GRAFT "AdapterService/GetAdapter", RPC_UNARY, .on_message = adapter_on_get},
    {GRAFT "AdapterService/ListAdapters", RPC_UNARY, .on_message = adapter_on_list},
    {GRAFT "ModelService/GetModel", RPC_UNARY, .on_message = model_on_get},
    {GRAFT "ModelService/Tokenize", RPC_UNARY, .on_message = model_on_tokenize},
    {"/grpc.health.v1.Health/Check", RPC_UNARY, .on_message = health_on_check},
    {"/grpc.health.v1.Health/Watch", RPC_SERVER_STREAM, .on_message = health_on_watch},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", RPC_BIDI, reflection_on_open,
     reflection_on_message, reflection_on_half_close},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", RPC_BIDI, reflection_on_open,
     reflection_on_message, reflection_on_half_close},
};

int service_gate(struct server *server, bool is_work, struct rpc_error *error)
{
    if (!ring_flag_is_raised(&server->is_ready)) {
        return err_set(&error->err, ERR_STARTING, "the model is still being loaded");
    }
    if (is_work && ring_flag_is_raised(&server->is_draining)) {
        return err_set(&error->err, ERR_DRAINING, "the server is shutting down");
    }
    return 0;
}

static void service_wait(void)
{
    struct timespec pause = {0, SERVICE_WAIT_NS};
    nanosleep(&pause, NULL);
}

void service_to_egress(struct server *server, struct egress_msg msg)
{
    while (!ring_push(&server->egress_from_cq, &msg)) {
        wake_signal(&server->ports->egress_wake);
        service_wait();
    }
    wake_signal(&server->ports->egress_wake);
}

void service_to_engine(struct server *server, struct msg msg)
{
    while (!ring_push(&server->ports->inbox[INBOX_CQ], &msg)) {
        wake_signal(&server->ports->engine_wake);
        service_wait();
    }
    wake_signal(&server->ports->engine_wake);
}

void service_reap(struct server *server)
{
    struct returned back;
    THREAD_ASSERT(THREAD_CQ);
    while (ring_pop(&server->returned, &back)) {
        switch (back.type) {
        case RETURNED_ID:
            live_remove(&server->live, back.lane);
            break;
        case RETURNED_LANE:
            server->live.bytes -= back.lane->bytes;
            lane_free(back.lane);
            break;
        case RETURNED_REJECTED:
            server->live.rejected_n--;
            back.lane->stream->rejected_n--;
            lane_free(back.lane);
            break;
        case RETURNED_OP:
            server->live.n--;
            break;
        }
    }
}

static void service_on_cancelled(void *ctx, struct rpc_call *call)
{
    struct server *server = ctx;
    struct call_user *user = rpc_call_user(call);
    service_reap(server);
    switch (user->kind) {
    case CALL_STREAM:
        if (((struct stream *)user)->is_refused) {
            return;
        }
        stream_cancel_lanes(server, (struct stream *)user);
        break;
    case CALL_ADAPTER_OP:
        service_to_engine(
            server, (struct msg){.type = MSG_CANCEL, .key = ((struct adapter_call *)user)->op.key});
        return;
    case CALL_REFLECTION:
        reflection_on_cancelled(call);
        return;
    case CALL_WATCH:
        break;
    }
    rpc_call_ref(call);
    service_to_egress(server, (struct egress_msg){.type = EGRESS_CLOSED, .call = call});
}

static void service_on_writable(void *ctx, struct rpc_call *call)
{
    struct server *server = ctx;
    struct call_user *user = rpc_call_user(call);
    service_reap(server);
    if (user->kind == CALL_REFLECTION) {
        reflection_on_writable(call);
        return;
    }
    rpc_call_ref(call);
    service_to_egress(server, (struct egress_msg){.type = EGRESS_WRITABLE, .call = call});
}

static void service_on_poked(void *ctx)
{
    service_reap(ctx);
}

static void service_on_free(void *ctx, struct rpc_call *call)
{
    struct call_user *user = rpc_call_user(call);
    (void)ctx;
    switch (user->kind) {
    case CALL_REFLECTION:
        reflection_free(user);
        return;
    case CALL_ADAPTER_OP:
        mem_free(((struct adapter_call *)user)->records);
        break;
    case CALL_STREAM:
    case CALL_WATCH:
        break;
    }
    mem_free(user);
}

struct rpc_service service_table(struct server *server)
{
    return (struct rpc_service){
        .ctx = server,
        .methods = service_methods,
        .method_n = ARRAY_N(service_methods),
        .on_cancelled = service_on_cancelled,
        .on_writable = service_on_writable,
        .on_poked = service_on_poked,
        .on_free = service_on_free,
    };
}
