/* Connections: accept, look at the first four bytes, hand gRPC's over. loop thread.
 *
 * Each adopted connection stays watched through a second descriptor, only to learn of its end:
 * gRPC core keeps no count that we could read, and connections are limited. */
#ifndef SERVER_ACCEPT_H
#define SERVER_ACCEPT_H

#include "base/limits.h"
#include "rpc/rpc.h"
#include "server/address.h"
#include "server/uvloop.h"

struct conn;

struct acceptor {
    uv_loop_t *uv;
    struct rpc_server *rpc;
    struct listener listeners[LIMIT_ADDRESSES];
    uv_poll_t polls[LIMIT_ADDRESSES];
    uint32_t listener_n;
    int spare_fd; /* given up for a moment when descriptors run out, to refuse in order */
    uint32_t conn_n;
    struct conn *conns;
    bool is_full_logged;
};

/* The listeners are open already. */
void acceptor_start(struct acceptor *acceptor, uv_loop_t *uv, struct rpc_server *rpc);

/* Stops listening and lets go of every connection that gRPC does not have. */
void acceptor_stop(struct acceptor *acceptor);

#endif
