/* Private to the room: the core's data, and what its files (core.c, life.c, build.c) share. */
#ifndef ENGINE_CORE_INT_H
#define ENGINE_CORE_INT_H

#include "engine/core.h"
#include "engine/keymap.h"
#include "sched/event.h"
#include "sched/request.h"

/* How a sequence is to end; the first reason wins. */
enum ending {
    ENDING_NONE,
    ENDING_FINISHED, /* seq->reason */
    ENDING_FAILED,   /* request->err */
};

/* Mutable state of a request from its arrival until no unread step names it. Index = the
 * scheduler's id. */
struct seq {
    struct request *request; /* NULL: unused, or its last event was sent */
    struct lease lease;
    enum ending ending;
    enum finish_reason reason;
    bool is_counted;     /* the rank has its tokens so far, for penalties */
    uint32_t token_n;    /* generated tokens that were read; the scheduler's count runs ahead */
    uint32_t scored_n;   /* prompt positions whose logprob was sent: 1..scored_n */
    int64_t accepted_ns; /* when it left the inbox */
    int64_t held_ns;     /* when its adapters were there; 0 = not yet */
    int64_t started_ns;  /* 0 = not yet */
    int64_t first_token_ns;
    int64_t last_token_ns;
    int64_t parked_until_ns; /* when a client that does not read loses it; 0 = not parked */
};

/* A step from its plan until its result was read. Nothing of it changes in between. */
struct core_step {
    struct sched_plan plan;
    uint32_t *item_score_n;      /* scores of each item of the plan */
    struct batch *batch;         /* what the rank reads */
    struct batch_token *results; /* what it writes: [sample_max + score_max] */
    bool is_plan_end;            /* the last step of its plan */
    uint32_t event_reserve;      /* ring room that is its own, its EVENT_STEP_END included */
};

struct core {
    struct core_config config;
    struct registry *registry;
    struct sched sched;
    void *sched_memory;
    struct core_step *steps; /* ring [step_ahead + 1]: the unread ones, oldest first */
    uint32_t step_first;
    uint32_t step_n;
    uint32_t plan_n;     /* plans that these steps are of */
    uint64_t *sort_keys; /* [slot_n] */
    struct seq *seqs;    /* [seq_max] */
    uint32_t seq_max;
    uint32_t *tokens;    /* generated tokens [slot_n][context_max] */
    size_t tokens_bytes; /* taken as pages: only what is written is really used */
    struct keymap keys;
    uint32_t *held_ids; /* sequences that wait for adapters, in order of arrival */
    uint32_t held_n;
    uint32_t *ending_ids; /* sequences that are to end */
    uint32_t ending_n;
    uint64_t step;    /* of the last step sent */
    uint64_t arrival; /* requests accepted */
    int64_t now_ns;
    int64_t deadline_ns;    /* no deadline passes before this */
    uint32_t event_reserve; /* sum of the unread steps' */
    uint32_t turn_event_n;  /* events since the last EVENT_STEP_END */
    uint32_t op_n;          /* adapter ops that have not been answered */
    bool is_blocked;        /* something waits for room in a ring */
    bool is_end_blocked;    /* ... and it is a sequence's end */
    bool is_draining;
    bool is_drain_asked; /* EVENT_DRAINED is owed */
    bool is_drained;     /* EVENT_DRAINED was sent: nobody may be there to run jobs */
    bool is_quitting;
    bool is_lost;
};

/* life.c: from arrival to the last event. */

/* Events that may be sent now without touching the unread steps' room. */
uint32_t life_room(const struct core *core);
void life_emit(struct core *core, const struct event *event);

/* A request from an inbox; needs room for one event. */
void life_accept(struct core *core, struct request *request);

/* Tries the leases of all that wait for adapters; retries those that are still loading. */
void life_try_held(struct core *core);

/* A sequence runs for the first time. */
void life_started(struct core *core, uint32_t id);

/* Marks a sequence: nothing more of it is planned or told but its end. */
void life_finish(struct core *core, uint32_t id, enum finish_reason reason);
void life_fail(struct core *core, uint32_t id, int code, const char *text);
void life_fail_all(struct core *core, int code, const char *text);
void life_cancel_all(struct core *core);
/* Stops or resumes scheduling; whoever stays parked for LIMIT_PARK_NS fails as a slow consumer. */
void life_park(struct core *core, uint32_t id, bool is_parked);
void life_check_deadlines(struct core *core);

/* Tells the ends of the marked ones and frees what no unread step names any more; true when one is
 * gone (the registry has got its pins back). */
bool life_end_marked(struct core *core);

/* build.c: fills the step's batch and item_score_n from its plan. */
void build_batch(struct core *core, struct core_step *step);

static inline uint32_t *core_tokens(const struct core *core, uint32_t slot)
{
    return core->tokens + (size_t)slot * core->config.context_max;
}

#endif
