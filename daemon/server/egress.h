/* The thread that answers: events in, messages out.
 *
 * It owns every stream from the moment its first lane was given to the engine, and health watches.
 * It never waits for a client: one write is outstanding per call, what comes meanwhile piles up,
 * and beyond LIMIT_CALL_BUFFER the lanes are parked until the client has caught up. */
#ifndef SERVER_EGRESS_H
#define SERVER_EGRESS_H

#include "base/buf.h"
#include "base/thread.h"
#include "server/lane.h"

struct server;
struct watch;

struct egress {
    struct thread thread;
    struct buf backlog;     /* struct msg that did not fit the engine's inbox, in order */
    struct stream *streams; /* not yet over */
    uint32_t stream_n;
    struct stream *dirty; /* have something to say */
    struct watch *watches;
    bool is_engine_drained;
    bool is_drain_told; /* the loop knows that everything has been sent */
    bool has_quit;
};

void egress_start(struct server *server);

/* After EGRESS_QUIT was pushed. */
void egress_join(struct server *server);

#endif
