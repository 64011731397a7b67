/* One RPC on the server side.
 *
 * A call is counted: one reference for each operation that gRPC core has not completed, one for the
 * application from its first callback until rpc_call_finish or rpc_call_drop. At any time one
 * thread is the call's sender (the cq thread at first, the egress thread once it was handed over);
 * only the sender calls send, finish and drop. At most one send is outstanding. */
#ifndef RPC_CALL_H
#define RPC_CALL_H

#include <protobuf-c/protobuf-c.h>

#include "base/base.h"
#include "rpc/error.h"

struct rpc_call;

/* What the application hangs on the call; set on the cq thread before the hand-over. */
void rpc_call_set_user(struct rpc_call *call, void *user);
void *rpc_call_user(const struct rpc_call *call);

/* Monotonic; CLOCK_NEVER when the client set none. */
int64_t rpc_call_deadline_ns(const struct rpc_call *call);

/* The path of its method, static. */
const char *rpc_call_path(const struct rpc_call *call);

/* True once the client has gone: what is sent now goes nowhere. Any thread. */
bool rpc_call_is_dead(struct rpc_call *call);

void rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);

/* Any thread that holds a reference. Has the service's on_poked called on the cq thread. */
void rpc_call_poke(struct rpc_call *call);

/* Sender. True when a message may be sent now. False while one is outstanding, and then the
 * service's on_writable will be called once it has been accepted. */
bool rpc_call_can_send(struct rpc_call *call);

/* Sender; nothing outstanding (can_send, or the first send). The message is packed at once. */
void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);

/* Sender; nothing outstanding. Ends the call with a last message (or none) and OK (error NULL) or
 * an error; the application's reference is gone afterwards. */
void rpc_call_finish(struct rpc_call *call, const ProtobufCMessage *message,
                     const struct rpc_error *error);

/* Sender. Cancels the call and gives up the application's reference, whatever is outstanding. */
void rpc_call_drop(struct rpc_call *call);

#endif
