/* What rpc.c and call.c share; for no other room. */
#ifndef RPC_CALL_INT_H
#define RPC_CALL_INT_H

#include <grpc/grpc.h>

#include "rpc/call.h"
#include "rpc/rpc.h"

/* What the completion queue gives back. */
struct rpc_tag {
    void (*fn)(struct rpc_tag *tag, bool ok);
    struct rpc_call *call;
};

/* The number of calls that somebody still refers to, armed ones included. */
struct rpc_calls;

struct rpc_calls *rpc_calls_new(void);

/* Blocks until there are none, which is soon once the server is shut down, and frees it. */
void rpc_calls_join(struct rpc_calls *calls);

struct rpc_server {
    struct rpc_service service;
    grpc_server *grpc;
    grpc_completion_queue *queue;
    grpc_server_credentials *credentials;
    struct thread thread;
    struct wake stopped_wake;
    struct ring_flag stopped;
    struct rpc_tag tag_stopped;
    struct rpc_calls *calls;
};

/* cq thread, or before it starts: waits for the next call of any method. */
void rpc_call_arm(struct rpc_server *server);

#endif
