/* The client side, for graftctl: blocking calls over one channel.
 *
 * A client belongs to one thread. Answers live in the arena that the caller hands in. A failure is
 * a struct rpc_failure: the gRPC status with what its details say. */
#ifndef RPC_CLIENT_H
#define RPC_CLIENT_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/err.h"

struct rpc_client;
struct rpc_client_call;

struct rpc_failure {
    int grpc_code;                /* a gRPC status code; 0 = no failure */
    char message[ERR_TEXT_BYTES]; /* as the server said it */
    char reason[64];              /* ErrorInfo.reason, "" when there is none */
    int64_t retry_ms;             /* RetryInfo, 0 when there is none */
};

/* Makes a channel to "unix:PATH" or "tcp://HOST:PORT". Does not connect yet: the first call does.
 * Errors (INVALID_PARAMETER): the address has no such form. */
int rpc_client_open(const char *address, struct rpc_client **out, struct err *err);
void rpc_client_close(struct rpc_client *client); /* NULL is allowed */

/* One message, one answer. Blocks. Returns the answer, which lives
 * in the arena, or NULL with *failure filled. */
ProtobufCMessage *rpc_client_unary(struct rpc_client *client, const char *path,
                                   const ProtobufCMessage *request,
                                   const ProtobufCMessageDescriptor *type, struct arena *arena,
                                   struct rpc_failure *failure);

/* A deadline for each later call of the client, from its start; < 0 (at first) waits for ever. */
void rpc_client_set_timeout(struct rpc_client *client, int64_t timeout_ns);

/* A server-streaming call: sends the request. Never fails by itself: next tells. */
struct rpc_client_call *rpc_client_stream(struct rpc_client *client, const char *path,
                                          const ProtobufCMessage *request,
                                          const ProtobufCMessageDescriptor *type);

/* The next message, in the arena; NULL at the end, with failure->grpc_code 0 when it ended well.
 * Blocks. */
ProtobufCMessage *rpc_client_next(struct rpc_client_call *call, struct arena *arena,
                                  struct rpc_failure *failure);

/* Any thread, a signal handler excepted: makes next end with CANCELLED. */
void rpc_client_cancel(struct rpc_client_call *call);

/* Cancels what still runs and frees the call. */
void rpc_client_call_close(struct rpc_client_call *call);

/* "NOT_FOUND" for 5. Static storage. */
const char *rpc_code_name(int grpc_code);

#endif
