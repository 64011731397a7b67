/* Sending: what the lanes of a stream have to say, as messages on its call. egress thread. */
#ifndef SERVER_STREAM_H
#define SERVER_STREAM_H

#include "server/lane.h"

struct server;

/* Counts the stream among those that are not over. */
void stream_know(struct server *server, struct stream *stream);

/* The lane has something to say; the stream is flushed at the end of the step, or before egress
 * sleeps when it is urgent. */
void stream_mark(struct server *server, struct lane *lane, bool is_urgent);

/* Sends everything that waits unless a send is outstanding; parks and resumes. */
void stream_flush(struct server *server, struct stream *stream);

/* The lane will say no more. First, before the client can know, its id becomes free; then, when
 * nothing borrows from it any more, its memory goes back. */
void lane_return_id(struct server *server, struct lane *lane);
void lane_return(struct server *server, struct lane *lane);

/* One line about a request that has ended or was refused. Any thread that owns the lane. */
void lane_log(const struct lane *lane);

/* Nothing is sent any more: the client has gone, or was too slow for a drain. */
void stream_drop(struct server *server, struct stream *stream);

/* A message for the engine, now or when its inbox has room again. */
void egress_to_engine(struct server *server, enum msg_type type, uint64_t key);

#endif
