/* The server's parts, for the files of this room. */
#ifndef SERVER_SERVER_INT_H
#define SERVER_SERVER_INT_H

#include "adapters/adapter.h"
#include "rpc/rpc.h"
#include "server/egress.h"
#include "server/live.h"
#include "server/loop.h"
#include "server/server.h"

/* From the cq or the loop thread to egress. A call in a message carries a reference. */
enum egress_msg_type {
    EGRESS_WRITABLE,    /* call: what can_send waited for */
    EGRESS_CLOSED,      /* call: cancelled by the client */
    EGRESS_SESSION,     /* call: a session has begun */
    EGRESS_HALF_CLOSED, /* call, n: the client begins no more lanes, n were begun */
    EGRESS_BROKEN,      /* call, n: the session ends for this enum session_break */
    EGRESS_REJECTED,    /* lane: it never reached the engine; its error says why */
    EGRESS_WATCH,       /* call: a health watch */
    EGRESS_HEALTH,      /* the daemon's state changed */
    EGRESS_CANCEL_ALL,  /* wait for no client any more */
    EGRESS_QUIT,
};

struct egress_msg {
    enum egress_msg_type type;
    uint32_t n;
    struct rpc_call *call;
    struct lane *lane;
};

/* From egress to the cq thread. */
enum returned_type {
    RETURNED_ID,       /* lane: its id and stream_id are free again; the client will know at once */
    RETURNED_LANE,     /* lane: free it */
    RETURNED_REJECTED, /* lane: a refused one of a session; free it */
    RETURNED_OP,       /* an adapter operation is over */
};

struct returned {
    enum returned_type type;
    struct lane *lane;
};

struct server {
    struct wake finished_wake;    /* of server_wait */
    struct ring egress_from_cq;   /* struct egress_msg */
    struct ring egress_from_loop; /* struct egress_msg */
    struct ring returned;         /* struct returned; producer egress, consumer cq */
    struct server_options options;
    struct ports *ports;
    struct rpc_server *rpc;
    struct server_model model; /* written before is_ready is raised */
    struct live live;          /* cq */
    struct egress egress;
    struct loop loop;
    struct ring_flag is_ready;
    struct ring_flag is_draining;
    struct ring_flag is_cancelling;
    struct ring_flag is_finished; /* server_wait may return */
};

/* A health watch. */
struct watch {
    struct call_user user;
    char service[128];
    bool is_over; /* egress */
    int sent;     /* egress: the status the client knows, -1 = none */
    struct watch *prev, *next;
};

/* An adapter operation on its way. */
struct adapter_call {
    struct call_user user;
    struct adapter_op op;
    struct adapter *records;
};

/* service.c: the method table, and the callbacks of the rpc room. */
struct rpc_service service_table(struct server *server);

/* cq thread. STARTING or DRAINING when the daemon does not take work; 0 otherwise. */
int service_gate(struct server *server, bool is_work, struct rpc_error *error);

/* cq thread; waits for room, egress never waits for this thread. */
void service_to_egress(struct server *server, struct egress_msg msg);

/* cq thread; waits for room, the engine never waits for this thread. */
void service_to_engine(struct server *server, struct msg msg);

/* cq thread: takes back what egress has returned. */
void service_reap(struct server *server);

/* generate.c, cq thread. */
void generate_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n);
void session_on_open(void *ctx, struct rpc_call *call);
void session_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n);
void session_on_half_close(void *ctx, struct rpc_call *call);
void abort_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n);
void stream_cancel_lanes(struct server *server, struct stream *stream);

/* adapters.c */
void adapter_on_load(void *ctx, struct rpc_call *call, const void *data, size_t n);
void adapter_on_unload(void *ctx, struct rpc_call *call, const void *data, size_t n);
void adapter_on_get(void *ctx, struct rpc_call *call, const void *data, size_t n);
void adapter_on_list(void *ctx, struct rpc_call *call, const void *data, size_t n);
void adapter_answer(struct server *server, struct adapter_op *op); /* egress thread */

/* model.c, cq thread. */
void model_on_get(void *ctx, struct rpc_call *call, const void *data, size_t n);
void model_on_tokenize(void *ctx, struct rpc_call *call, const void *data, size_t n);

/* health.c: Check on the cq thread; Watch handed to egress, which sends. */
void health_on_check(void *ctx, struct rpc_call *call, const void *data, size_t n);
void health_on_watch(void *ctx, struct rpc_call *call, const void *data, size_t n);
void health_send(struct server *server, struct watch *watch); /* egress thread */

#endif
