/* A rank: one device and the thread that feeds it. It runs what the link brings, in order, and
 * knows nothing of requests. On the CPU backend the thread is also member 0 of the worker team.
 *
 * With no step under way the rank sleeps on a wake of its own; it signals the engine's when a
 * result is there. While steps are under way commands come first, then it asks for the oldest
 * step's results: RANK_SPIN_NS without a pause since it last had news, then with naps of
 * RANK_NAP_NS, which a step that comes cuts short. So the end of a short step is seen at once, and
 * waiting for a long one costs a part of a CPU; a device that has the next step waits for neither.
 */
#ifndef ENGINE_RANK_H
#define ENGINE_RANK_H

#include "base/ring.h"
#include "base/thread.h"
#include "base/wake.h"
#include "engine/link.h"
#include "model/walk.h"

#define RANK_STEPS   4 /* step_ahead + 1 at most */
#define RANK_SPIN_NS 200000
#define RANK_NAP_NS  20000

/* A step that was submitted and not read. */
struct rank_step {
    uint64_t step;
    struct batch_token *tokens;
};

struct rank {
    struct ring commands; /* struct rank_cmd; producer: engine, consumer: rank */
    struct ring results;  /* struct rank_result; producer: rank, consumer: engine */
    struct wake wake;
    struct wake *engine_wake; /* borrowed */
    struct walk walk;
    struct rank_step steps[RANK_STEPS]; /* oldest first */
    uint32_t step_n;
    int64_t news_ns;      /* when a step was last submitted or read */
    uint64_t saturated_n; /* values beyond fp16 in the steps that were read */
    bool is_lost;         /* a step has failed: all later ones fail unasked */
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
