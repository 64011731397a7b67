/* A rank: one device and the thread that feeds it. It runs what the link brings, in order, and
 * knows nothing of requests. On the CPU backend the thread is also member 0 of the worker team.
 *
 * The rank sleeps on a wake of its own and signals the engine's when a result is there. */
#ifndef ENGINE_RANK_H
#define ENGINE_RANK_H

#include "base/ring.h"
#include "base/thread.h"
#include "base/wake.h"
#include "engine/link.h"
#include "model/walk.h"

struct rank {
    struct ring commands; /* struct rank_cmd; producer: engine, consumer: rank */
    struct ring results;  /* struct rank_result; producer: rank, consumer: engine */
    struct wake wake;
    struct wake *engine_wake; /* borrowed */
    struct walk walk;
    struct thread thread;
};

/* Takes the walk's workspace on the model's device; the model is borrowed until rank_done. */
int rank_init(struct rank *rank, const struct model *model, const struct batch_limits *limits,
              struct wake *engine_wake, struct err *err);
void rank_done(struct rank *rank);

void rank_start(struct rank *rank);

/* Sends RANK_QUIT and joins. Whoever was the engine thread, or after it has ended. */
void rank_stop(struct rank *rank);

/* The engine's end. */
struct link rank_link(struct rank *rank);

#endif
