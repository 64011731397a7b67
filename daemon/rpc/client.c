/* Blocking calls on a completion queue of their own per client; every operation is waited for. */
#include "rpc/client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/codec.h"

#define CLIENT_DETAILS_KEY "grpc-status-details-bin"

struct rpc_client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    int64_t timeout_ns;
};

struct rpc_client_call {
    struct rpc_client *client;
    grpc_call *grpc;
    const ProtobufCMessageDescriptor *type;
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code status;
    grpc_slice status_text;
    bool is_over; /* the status has been received */
};

static int client_target(const char *address, char *out, size_t out_bytes, struct err *err)
{
    int n = -1;
    if (strncmp(address, "unix:", 5) == 0 && address[5] != '\0') {
        n = snprintf(out, out_bytes, "%s", address);
    } else if (strncmp(address, "tcp://", 6) == 0 && address[6] != '\0') {
        n = snprintf(out, out_bytes, "dns:///%s", address + 6);
    }
    if (n < 0 || (size_t)n >= out_bytes) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "address \"%s\" is neither unix:PATH nor tcp://HOST:PORT", address);
    }
    return 0;
}

int rpc_client_open(const char *address, struct rpc_client **out, struct err *err)
{
    char target[512];
    int rc = client_target(address, target, sizeof target, err);
    if (rc) {
        return rc;
    }
    struct rpc_client *client = mem_zalloc(sizeof *client);
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH};
    arg.value.integer = LIMIT_MESSAGE_BYTES;
    grpc_channel_args args = {1, &arg};
    grpc_init();
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    client->channel = grpc_channel_create(target, credentials, &args);
    grpc_channel_credentials_release(credentials);
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->timeout_ns = -1;
    *out = client;
    return 0;
}

void rpc_client_close(struct rpc_client *client)
{
    if (!client) {
        return;
    }
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    while (
        grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
        GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(client->queue);
    grpc_shutdown_blocking();
    mem_free(client);
}

void rpc_client_set_timeout(struct rpc_client *client, int64_t timeout_ns)
{
    client->timeout_ns = timeout_ns;
}

/* Starts a batch and waits for it; true when it succeeded. */
static bool client_run(struct rpc_client_call *call, const grpc_op *ops, size_t op_n)
{
    grpc_call_error rc = grpc_call_start_batch(call->grpc, ops, op_n, call, NULL);
    ASSERT_CMP(rc, ==, GRPC_CALL_OK);
    grpc_event event =
        grpc_completion_queue_next(call->client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    ASSERT(event.type == GRPC_OP_COMPLETE && event.tag == call);
    return event.success != 0;
}

struct rpc_client_call *rpc_client_stream(struct rpc_client *client, const char *path,
                                          const ProtobufCMessage *request,
                                          const ProtobufCMessageDescriptor *type)
{
    struct rpc_client_call *call = mem_zalloc(sizeof *call);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (client->timeout_ns >= 0) {
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_nanos(client->timeout_ns, GPR_TIMESPAN));
    }
    call->client = client;
    call->type = type;
    call->status_text = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->grpc =
        grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
                                 grpc_slice_from_copied_string(path), NULL, deadline, NULL);

    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(request));
    protobuf_c_message_pack(request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
    ops[1].data.send_message.send_message = buffer;
    client_run(call, ops, 3);
    grpc_op receive = {.op = GRPC_OP_RECV_INITIAL_METADATA};
    receive.data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    client_run(call, &receive, 1);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
    return call;
}

static void client_read_details(const grpc_slice *bytes, struct rpc_failure *failure)
{
    static const char prefix[] = "type.googleapis.com/google.rpc.";
    struct arena arena;
    arena_init(&arena);
    Google__Rpc__Status *status = (Google__Rpc__Status *)rpc_unpack(
        &google__rpc__status__descriptor, GRPC_SLICE_START_PTR(*bytes), GRPC_SLICE_LENGTH(*bytes),
        &arena);
    for (size_t i = 0; status && i < status->n_details; i++) {
        const Google__Protobuf__Any *any = status->details[i];
        if (strncmp(any->type_url, prefix, sizeof prefix - 1) != 0) {
            continue;
        }
        const char *name = any->type_url + sizeof prefix - 1;
        if (strcmp(name, "ErrorInfo") == 0) {
            Google__Rpc__ErrorInfo *info = (Google__Rpc__ErrorInfo *)rpc_unpack(
                &google__rpc__error_info__descriptor, any->value.data, any->value.len, &arena);
            snprintf(failure->reason, sizeof failure->reason, "%s", info ? info->reason : "");
        } else if (strcmp(name, "RetryInfo") == 0) {
            Google__Rpc__RetryInfo *info = (Google__Rpc__RetryInfo *)rpc_unpack(
                &google__rpc__retry_info__descriptor, any->value.data, any->value.len, &arena);
            if (info && info->retry_delay) {
                failure->retry_ms =
                    info->retry_delay->seconds * 1000 + info->retry_delay->nanos / CLOCK_NS_PER_MS;
            }
        }
    }
    arena_done(&arena);
}

static void client_finish(struct rpc_client_call *call, struct rpc_failure *failure)
{
    if (!call->is_over) {
        grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
        op.data.recv_status_on_client.trailing_metadata = &call->trailing;
        op.data.recv_status_on_client.status = &call->status;
        op.data.recv_status_on_client.status_details = &call->status_text;
        client_run(call, &op, 1);
        call->is_over = true;
    }
    *failure = (struct rpc_failure){.grpc_code = (int)call->status};
    snprintf(failure->message, sizeof failure->message, "%.*s",
             (int)MIN(GRPC_SLICE_LENGTH(call->status_text), sizeof failure->message - 1),
             (const char *)GRPC_SLICE_START_PTR(call->status_text));
    for (size_t i = 0; i < call->trailing.count; i++) {
        if (grpc_slice_str_cmp(call->trailing.metadata[i].key, CLIENT_DETAILS_KEY) == 0) {
            client_read_details(&call->trailing.metadata[i].value, failure);
        }
    }
}

ProtobufCMessage *rpc_client_next(struct rpc_client_call *call, struct arena *arena,
                                  struct rpc_failure *failure)
{
    grpc_byte_buffer *buffer = NULL;
    grpc_byte_buffer_reader reader;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &buffer;
    bool ok = !call->is_over && client_run(call, &op, 1);
    if (!ok || !buffer || !grpc_byte_buffer_reader_init(&reader, buffer)) {
        grpc_byte_buffer_destroy(buffer);
        client_finish(call, failure);
        return NULL;
    }
    grpc_slice bytes = grpc_byte_buffer_reader_readall(&reader);
    ProtobufCMessage *message =
        rpc_unpack(call->type, GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes), arena);
    grpc_slice_unref(bytes);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    *failure = (struct rpc_failure){0};
    if (!message) {
        rpc_client_cancel(call);
        failure->grpc_code = GRPC_STATUS_INTERNAL;
        snprintf(failure->message, sizeof failure->message, "the answer is no %s",
                 call->type->name);
    }
    return message;
}

ProtobufCMessage *rpc_client_unary(struct rpc_client *client, const char *path,
                                   const ProtobufCMessage *request,
                                   const ProtobufCMessageDescriptor *type, struct arena *arena,
                                   struct rpc_failure *failure)
{
    struct rpc_client_call *call = rpc_client_stream(client, path, request, type);
    ProtobufCMessage *answer = rpc_client_next(call, arena, failure);
    if (answer) {
        client_finish(call, failure);
        if (failure->grpc_code != 0) {
            answer = NULL;
        }
    } else if (failure->grpc_code == 0) {
        failure->grpc_code = GRPC_STATUS_INTERNAL;
        snprintf(failure->message, sizeof failure->message, "the server sent no answer");
    }
    rpc_client_call_close(call);
    return answer;
}

void rpc_client_cancel(struct rpc_client_call *call)
{
    grpc_call_cancel(call->grpc, NULL);
}

void rpc_client_call_close(struct rpc_client_call *call)
{
    struct rpc_failure ignored;
    if (!call->is_over) {
        rpc_client_cancel(call);
        client_finish(call, &ignored);
    }
    grpc_slice_unref(call->status_text);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_call_unref(call->grpc);
    mem_free(call);
}

const char *rpc_code_name(int grpc_code)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    return grpc_code >= 0 && grpc_code < (int)ARRAY_N(names) ? names[grpc_code] : "UNKNOWN";
}
