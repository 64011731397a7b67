/* gRPC core behind a small door: a server without listeners whose connections are handed to it.
 *
 * One completion queue with one thread. Methods are found by path; everything the application does
 * for a call begins in a callback on that thread. No other room includes gRPC's headers. */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include "base/err.h"
#include "base/ring.h"
#include "base/thread.h"
#include "base/wake.h"
#include "rpc/call.h"

enum rpc_shape {
    RPC_UNARY,         /* one message, one answer */
    RPC_SERVER_STREAM, /* one message, many answers */
    RPC_BIDI,          /* many, many */
};

/* Callbacks run on the cq thread; ctx is the service's. */
struct rpc_method {
    const char *path; /* "/graft.v1.ModelService/GetModel" */
    enum rpc_shape shape;
    /* RPC_BIDI only: the call has arrived. */
    void (*on_open)(void *ctx, struct rpc_call *call);
    /* A message; data is borrowed. For other shapes it comes exactly once, or the call is dropped
     * before anybody hears of it. */
    void (*on_message)(void *ctx, struct rpc_call *call, const void *data, size_t n);
    /* RPC_BIDI only: the client sends no more. */
    void (*on_half_close)(void *ctx, struct rpc_call *call);
};

struct rpc_service {
    void *ctx;
    const struct rpc_method *methods;
    size_t method_n;
    /* cq thread: the call was cancelled by the client, its deadline or its connection. Only for
     * calls the application has heard of. */
    void (*on_cancelled)(void *ctx, struct rpc_call *call);
    /* cq thread: what can_send waited for has happened. */
    void (*on_writable)(void *ctx, struct rpc_call *call);
    /* cq thread: somebody asked for this thread's attention. */
    void (*on_poked)(void *ctx);
    /* Any thread: the last reference is gone; free what hangs on the call. */
    void (*on_free)(void *ctx, struct rpc_call *call);
};

/* Takes up gRPC core and starts the cq thread. `service` is copied, its methods are borrowed. */
struct rpc_server *rpc_server_start(const struct rpc_service *service);

/* Loop thread. Hands a connected, non-blocking socket over; the descriptor is gRPC's then. */
void rpc_server_adopt(struct rpc_server *server, int fd);

/* Refuses new calls, gives those in flight grace_ns to be delivered, cancels the rest, waits for
 * the application to let go of them, joins the cq thread and frees everything. Blocks. */
void rpc_server_stop(struct rpc_server *server, int64_t grace_ns);

#endif
