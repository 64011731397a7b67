/* grpc.reflection v1 and v1alpha, which differ in nothing but their names: one handler for both.
 * Everything runs on the cq thread. */
#ifndef SERVER_REFLECTION_H
#define SERVER_REFLECTION_H

#include "rpc/call.h"
#include "server/lane.h"

void reflection_on_open(void *ctx, struct rpc_call *call);
void reflection_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n);
void reflection_on_half_close(void *ctx, struct rpc_call *call);
void reflection_on_writable(struct rpc_call *call);
void reflection_on_cancelled(struct rpc_call *call);
void reflection_free(struct call_user *user); /* any thread */

#endif
