/* The life of a call: arrival, messages, sends, close, and the count that frees it.
 *
 * Operations that are always there: RECV_CLOSE, armed on arrival, so that an idle stream notices a
 * cancel; RECV_MESSAGE, once for one-message shapes and again after each message otherwise. The
 * first send carries the initial metadata, the last one the status. */
#include "rpc/call_int.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/tsan.h"

enum rpc_send_state {
    SEND_IDLE,
    SEND_BUSY,
    SEND_BUSY_WANTED, /* busy, and the sender wants to know when it ends */
};

#define CALL_OPS_MAX 3
#define CALL_WAIT_NS CLOCK_NS_PER_MS

struct rpc_calls {
    _Atomic uint32_t n;
};

struct rpc_call {
    _Atomic uint32_t ref_n;
    _Atomic uint32_t is_dead;
    _Atomic uint32_t send_state; /* enum rpc_send_state */
    struct rpc_server *server;
    const struct rpc_method *method;
    void *user;
    int64_t deadline_ns;

    grpc_call *grpc; /* NULL until a client's call has arrived */
    grpc_call_details details;
    grpc_metadata_array metadata;
    struct rpc_tag tag_arrived, tag_closed, tag_received, tag_sent, tag_poked;
    grpc_byte_buffer *received;
    int cancelled;

    bool is_initial_sent; /* sender */
    bool is_finished;     /* sender */
    bool has_details;
    grpc_slice status_text;
    grpc_slice status_details;
};

static void call_arrived(struct rpc_tag *tag, bool ok);
static void call_closed(struct rpc_tag *tag, bool ok);
static void call_received(struct rpc_tag *tag, bool ok);
static void call_sent(struct rpc_tag *tag, bool ok);
static void call_poked(struct rpc_tag *tag, bool ok);

struct rpc_calls *rpc_calls_new(void)
{
    return mem_zalloc(sizeof(struct rpc_calls));
}

/* Looks now and then: whoever lets go of the last call may touch nothing after it has counted. */
void rpc_calls_join(struct rpc_calls *calls)
{
    const struct timespec pause = {.tv_nsec = CALL_WAIT_NS};
    while (atomic_load_explicit(&calls->n, memory_order_acquire) > 0) {
        nanosleep(&pause, NULL);
    }
    mem_free(calls);
}

void rpc_call_ref(struct rpc_call *call)
{
    atomic_fetch_add_explicit(&call->ref_n, 1, memory_order_relaxed);
}

void rpc_call_unref(struct rpc_call *call)
{
    struct rpc_server *server = call->server;
    struct rpc_calls *calls = server->calls;
    if (atomic_fetch_sub_explicit(&call->ref_n, 1, memory_order_acq_rel) > 1) {
        return;
    }
    if (call->user) {
        server->service.on_free(server->service.ctx, call);
    }
    if (call->has_details) {
        grpc_slice_unref(call->status_details);
    }
    grpc_slice_unref(call->status_text);
    grpc_byte_buffer_destroy(call->received);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    if (call->grpc) {
        grpc_call_unref(call->grpc);
    }
    mem_free(call);
    /* The last one lets rpc_server_stop go on: server and count may be gone right afterwards. */
    atomic_fetch_sub_explicit(&calls->n, 1, memory_order_release);
}

void rpc_call_arm(struct rpc_server *server)
{
    struct rpc_call *call = mem_zalloc(sizeof *call);
    atomic_init(&call->ref_n, 1); /* the arrival's */
    call->server = server;
    atomic_fetch_add_explicit(&server->calls->n, 1, memory_order_relaxed);
    call->status_text = grpc_empty_slice();
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    call->tag_arrived = (struct rpc_tag){call_arrived, call};
    call->tag_closed = (struct rpc_tag){call_closed, call};
    call->tag_received = (struct rpc_tag){call_received, call};
    call->tag_sent = (struct rpc_tag){call_sent, call};
    call->tag_poked = (struct rpc_tag){call_poked, call};
    RPC_TSAN_RELEASE(&call->tag_arrived);
    grpc_call_error rc =
        grpc_server_request_call(server->grpc, &call->grpc, &call->details, &call->metadata,
                                 server->queue, server->queue, &call->tag_arrived);
    if (rc != GRPC_CALL_OK) {
        rpc_call_unref(call); /* shutting down */
    }
}

static void call_batch(struct rpc_call *call, const grpc_op *ops, size_t op_n, struct rpc_tag *tag)
{
    rpc_call_ref(call);
    RPC_TSAN_RELEASE(tag);
    grpc_call_error rc = grpc_call_start_batch(call->grpc, ops, op_n, tag, NULL);
    ASSERT_CMP(rc, ==, GRPC_CALL_OK);
}

static void call_receive(struct rpc_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->received;
    call_batch(call, &op, 1, &call->tag_received);
}

static const struct rpc_method *call_find_method(const struct rpc_call *call)
{
    const struct rpc_service *service = &call->server->service;
    for (size_t i = 0; i < service->method_n; i++) {
        if (grpc_slice_str_cmp(call->details.method, service->methods[i].path) == 0) {
            return &service->methods[i];
        }
    }
    return NULL;
}

static int64_t call_deadline(gpr_timespec deadline)
{
    gpr_timespec when = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(when, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0 ||
        when.tv_sec >= CLOCK_NEVER / CLOCK_NS_PER_S) {
        return CLOCK_NEVER;
    }
    return when.tv_sec * CLOCK_NS_PER_S + when.tv_nsec;
}

static void call_refuse_method(struct rpc_call *call)
{
    struct rpc_error error = {0};
    char *path = grpc_slice_to_c_string(call->details.method);
    err_set(&error.err, ERR_NOT_IMPLEMENTED, "method %.100s is not served here", path);
    gpr_free(path);
    rpc_call_finish(call, NULL, &error);
}

static void call_arrived(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = tag->call;
    if (!ok) {
        rpc_call_unref(call);
        return;
    }
    rpc_call_arm(call->server);
    call->deadline_ns = call_deadline(call->details.deadline);
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->cancelled;
    call_batch(call, &op, 1, &call->tag_closed);
    /* The reference of the arrival becomes the application's from here on. */
    call->method = call_find_method(call);
    if (!call->method) {
        call_refuse_method(call);
        return;
    }
    if (call->method->shape == RPC_BIDI) {
        call->method->on_open(call->server->service.ctx, call);
    }
    call_receive(call);
}

static void call_closed(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = tag->call;
    (void)ok; /* this operation always succeeds */
    if (call->cancelled) {
        atomic_store(&call->is_dead, 1);
        if (call->user) {
            call->server->service.on_cancelled(call->server->service.ctx, call);
        }
    }
    rpc_call_unref(call);
}

static void call_deliver(struct rpc_call *call, grpc_byte_buffer *buffer)
{
    void *ctx = call->server->service.ctx;
    grpc_byte_buffer_reader reader;
    bool is_readable = grpc_byte_buffer_reader_init(&reader, buffer);
    grpc_slice bytes = is_readable ? grpc_byte_buffer_reader_readall(&reader) : grpc_empty_slice();
    call->method->on_message(ctx, call, GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes));
    grpc_slice_unref(bytes);
    if (is_readable) {
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(buffer);
}

static void call_received(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = tag->call;
    grpc_byte_buffer *buffer = call->received;
    void *ctx = call->server->service.ctx;
    call->received = NULL;
    if (buffer && ok) {
        call_deliver(call, buffer);
        if (call->method->shape == RPC_BIDI) {
            call_receive(call);
        }
    } else if (call->method->shape == RPC_BIDI) {
        grpc_byte_buffer_destroy(buffer);
        call->method->on_half_close(ctx, call);
    } else {
        grpc_byte_buffer_destroy(buffer);
        struct rpc_error error = {0};
        err_set(&error.err, ERR_INVALID_PARAMETER, "the call carries no request message");
        rpc_call_finish(call, NULL, &error);
    }
    rpc_call_unref(call);
}

bool rpc_call_can_send(struct rpc_call *call)
{
    uint32_t state = atomic_load(&call->send_state);
    while (state != SEND_IDLE) {
        if (state == SEND_BUSY_WANTED ||
            atomic_compare_exchange_weak(&call->send_state, &state, SEND_BUSY_WANTED)) {
            return false;
        }
    }
    return true; /* only the sender leaves IDLE */
}

static void call_claim(struct rpc_call *call)
{
    ASSERT(!call->is_finished && atomic_load(&call->send_state) == SEND_IDLE);
    atomic_store(&call->send_state, SEND_BUSY);
}

static void call_sent(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = tag->call;
    (void)ok; /* a failed send means a cancelled call, which RECV_CLOSE tells */
    if (atomic_exchange(&call->send_state, SEND_IDLE) == SEND_BUSY_WANTED) {
        call->server->service.on_writable(call->server->service.ctx, call);
    }
    rpc_call_unref(call);
}

static void call_poked(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = tag->call;
    (void)ok;
    call->server->service.on_poked(call->server->service.ctx);
    rpc_call_unref(call);
}

/* A batch without operations completes at once: the only public way to wake the queue. */
void rpc_call_poke(struct rpc_call *call)
{
    call_batch(call, NULL, 0, &call->tag_poked);
}

static grpc_byte_buffer *call_pack(const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static size_t call_add_initial(struct rpc_call *call, grpc_op *ops, size_t op_n)
{
    if (!call->is_initial_sent) {
        ops[op_n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
        call->is_initial_sent = true;
    }
    return op_n;
}

static size_t call_add_message(grpc_op *ops, size_t op_n, grpc_byte_buffer *buffer)
{
    if (buffer) {
        ops[op_n] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
        ops[op_n++].data.send_message.send_message = buffer;
    }
    return op_n;
}

void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    grpc_op ops[CALL_OPS_MAX];
    grpc_byte_buffer *buffer = call_pack(message);
    call_claim(call);
    size_t op_n = call_add_initial(call, ops, 0);
    op_n = call_add_message(ops, op_n, buffer);
    call_batch(call, ops, op_n, &call->tag_sent);
    grpc_byte_buffer_destroy(buffer); /* core holds references to its slices */
}

static void call_set_status(struct rpc_call *call, const struct rpc_error *error)
{
    struct arena arena;
    arena_init(&arena);
    Google__Rpc__Status *status = rpc_error_status(error, &arena);
    call->status_text = grpc_slice_from_copied_string(error->err.text);
    call->status_details = grpc_slice_malloc(protobuf_c_message_get_packed_size(&status->base));
    protobuf_c_message_pack(&status->base, GRPC_SLICE_START_PTR(call->status_details));
    call->has_details = true;
    arena_done(&arena);
}

void rpc_call_finish(struct rpc_call *call, const ProtobufCMessage *message,
                     const struct rpc_error *error)
{
    grpc_op ops[CALL_OPS_MAX];
    grpc_metadata details = {0};
    grpc_byte_buffer *buffer = message ? call_pack(message) : NULL;
    call_claim(call);
    call->is_finished = true;
    size_t op_n = call_add_initial(call, ops, 0);
    op_n = call_add_message(ops, op_n, buffer);
    ops[op_n] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    if (error) {
        call_set_status(call, error);
        details.key = grpc_slice_from_static_string("grpc-status-details-bin");
        details.value = call->status_details;
        ops[op_n].data.send_status_from_server.status =
            (grpc_status_code)err_grpc_status(error->err.code);
        ops[op_n].data.send_status_from_server.status_details = &call->status_text;
        ops[op_n].data.send_status_from_server.trailing_metadata = &details;
        ops[op_n].data.send_status_from_server.trailing_metadata_count = 1;
    }
    call_batch(call, ops, op_n + 1, &call->tag_sent);
    grpc_byte_buffer_destroy(buffer);
    rpc_call_unref(call);
}

void rpc_call_drop(struct rpc_call *call)
{
    grpc_call_cancel(call->grpc, NULL);
    rpc_call_unref(call);
}

void rpc_call_set_user(struct rpc_call *call, void *user)
{
    call->user = user;
}

void *rpc_call_user(const struct rpc_call *call)
{
    return call->user;
}

int64_t rpc_call_deadline_ns(const struct rpc_call *call)
{
    return call->deadline_ns;
}

const char *rpc_call_path(const struct rpc_call *call)
{
    return call->method->path;
}

bool rpc_call_is_dead(struct rpc_call *call)
{
    return atomic_load(&call->is_dead) != 0;
}
