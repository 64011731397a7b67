/* What rpc.c and call.c share; for no other room. */
#ifndef RPC_CALL_INT_H
#define RPC_CALL_INT_H

#include <grpc/grpc.h>
#include <stdatomic.h>

#include "rpc/call.h"
#include "rpc/rpc.h"

/* What the completion queue gives back. */
struct rpc_tag {
    void (*fn)(struct rpc_tag *tag, bool ok);
    struct rpc_call *call;
};

struct rpc_server {
    struct rpc_service service;
    grpc_server *grpc;
    grpc_completion_queue *queue;
    grpc_server_credentials *credentials;
    struct thread thread;
    struct wake stopped_wake;
    struct ring_flag stopped;
    struct rpc_tag tag_stopped;
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
    struct rpc_tag tag_arrived, tag_closed, tag_received, tag_sent;
    grpc_byte_buffer *received;
    int cancelled;

    bool is_initial_sent; /* sender */
    bool is_finished;     /* sender */
    bool has_details;
    grpc_slice status_text;
    grpc_slice status_details;
};

/* cq thread, or before it starts: waits for the next call of any method. */
void rpc_call_arm(struct rpc_server *server);

#endif
