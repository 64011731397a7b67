/* gRPC core's server object, its completion queue and the thread that empties it. */
#include "rpc/rpc.h"

#include <grpc/compression.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/call_int.h"
#include "rpc/tsan.h"

/* Accepts kept armed. Calls beyond them wait inside core, without bound but for
 * RPC_STREAMS_MAX per connection and LIMIT_CONNECTIONS, and only until the cq thread comes by. */
#define RPC_ARMED_N 64

#define RPC_STREAMS_MAX       1024
#define RPC_METADATA_BYTES    (16 << 10)
#define RPC_KEEPALIVE_MS      30000
#define RPC_KEEPALIVE_WAIT_MS 20000
#define RPC_PING_MIN_MS       5000

static grpc_arg rpc_int_arg(const char *key, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)key};
    arg.value.integer = value;
    return arg;
}

/* A client may ping every 5 s even on a silent stream: a long prefill is silent. Calls that name a
 * compression are refused: core bounds a message by what it measures on the wire. */
static grpc_server *rpc_core_new(void)
{
    grpc_arg args[] = {
        rpc_int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, RPC_STREAMS_MAX),
        rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, LIMIT_MESSAGE_BYTES),
        rpc_int_arg(GRPC_ARG_MAX_METADATA_SIZE, RPC_METADATA_BYTES),
        rpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, RPC_KEEPALIVE_MS),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, RPC_KEEPALIVE_WAIT_MS),
        rpc_int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        rpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, RPC_PING_MIN_MS),
        rpc_int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 10),
        rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        rpc_int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
        rpc_int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_channel_args list = {ARRAY_N(args), args};
    return grpc_server_create(&list, NULL);
}

static void rpc_log(gpr_log_func_args *args)
{
    enum log_level level = args->severity == GPR_LOG_SEVERITY_ERROR  ? LOG_WARN
                           : args->severity == GPR_LOG_SEVERITY_INFO ? LOG_INFO
                                                                     : LOG_DEBUG;
    log_msg(level, "grpc: %s", args->message);
}

static void rpc_cq_main(void *arg)
{
    struct rpc_server *server = arg;
    for (int i = 0; i < RPC_ARMED_N; i++) {
        rpc_call_arm(server);
    }
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return;
        }
        struct rpc_tag *tag = event.tag;
        RPC_TSAN_ACQUIRE(tag);
        tag->fn(tag, event.success != 0);
    }
}

static void rpc_stopped(struct rpc_tag *tag, bool ok)
{
    struct rpc_server *server = CONTAINER_OF(tag, struct rpc_server, tag_stopped);
    (void)ok;
    ring_flag_raise(&server->stopped);
    wake_signal(&server->stopped_wake);
}

struct rpc_server *rpc_server_start(const struct rpc_service *service)
{
    struct rpc_server *server = mem_zalloc(sizeof *server);
    server->service = *service;
    server->calls = rpc_calls_new();
    wake_init(&server->stopped_wake);
    server->tag_stopped.fn = rpc_stopped;
    gpr_set_log_function(rpc_log);
    grpc_init();
    server->grpc = rpc_core_new();
    server->queue = grpc_completion_queue_create_for_next(NULL);
    server->credentials = grpc_insecure_server_credentials_create();
    grpc_server_register_completion_queue(server->grpc, server->queue, NULL);
    grpc_server_start(server->grpc);
    thread_start(&server->thread, THREAD_CQ, "cq", rpc_cq_main, server);
    return server;
}

void rpc_server_adopt(struct rpc_server *server, int fd)
{
    grpc_server_add_channel_from_fd(server->grpc, fd, server->credentials);
}

/* True once every connection is closed; the application may still refer to calls. */
static bool rpc_wait_stopped(struct rpc_server *server, int64_t deadline_ns)
{
    for (;;) {
        uint32_t ticket = wake_ticket(&server->stopped_wake);
        if (ring_flag_is_raised(&server->stopped)) {
            return true;
        }
        int64_t left = deadline_ns == CLOCK_NEVER ? -1 : deadline_ns - clock_now_ns();
        if (deadline_ns != CLOCK_NEVER && left <= 0) {
            return false;
        }
        wake_wait(&server->stopped_wake, ticket, left);
    }
}

void rpc_server_stop(struct rpc_server *server, int64_t grace_ns)
{
    RPC_TSAN_RELEASE(&server->tag_stopped);
    grpc_server_shutdown_and_notify(server->grpc, server->queue, &server->tag_stopped);
    if (!rpc_wait_stopped(server, clock_now_ns() + grace_ns)) {
        grpc_server_cancel_all_calls(server->grpc);
        rpc_wait_stopped(server, CLOCK_NEVER);
    }
    rpc_calls_join(server->calls);
    grpc_server_destroy(server->grpc);
    grpc_completion_queue_shutdown(server->queue);
    thread_join(&server->thread);
    grpc_completion_queue_destroy(server->queue);
    grpc_server_credentials_release(server->credentials);
    grpc_shutdown_blocking();
    mem_free(server);
}
