/* A rig: one backend with the model loaded, on which engine cores are run synchronously: a step is
 * computed when it is sent, a job when it is taken. One core at a time. */
#ifndef TESTS_MIXING_RIG_H
#define TESTS_MIXING_RIG_H

#include "engine/core.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "model/walk.h"
#include "sched/event.h"
#include "sched/request.h"
#include "tests/mixing/files.h"

#define RIG_SLOTS   8
#define RIG_ROWS    300
#define RIG_PAGES   12
#define RIG_CONTEXT 256

/* A way to compute. */
struct rig_path {
    const char *name;
    const struct kern *kern;
    enum kern_isa isa;
    bool is_stand_in;
    bool is_16_bit; /* holds bf16 or f16, never f32 */
};

#define RIG_STEPS 4

struct rig_unread {
    uint64_t step;
    struct batch_token *tokens;
};

struct rig {
    struct ports ports;
    struct model model;
    struct walk walk;
    struct store *store;
    void *pool;
    size_t pool_bytes;
    /* of the core that runs */
    struct core *core;
    struct core_turn turn;
    struct rig_unread unread[RIG_STEPS]; /* steps sent, oldest first */
    uint32_t unread_n;
    uint32_t look_n;
    int64_t now_ns;
    uint64_t mixed_n; /* steps with rows of several adapters */
    uint64_t ahead_n; /* steps that were read while another ran */
};

/* False when this machine lacks the path. */
bool rig_open(struct rig *rig, const struct files *files, const struct rig_path *path,
              enum dtype held, uint32_t thread_n);
void rig_close(struct rig *rig);

/* A fresh engine with these sizes and this much adapter memory. */
void rig_core_start(struct rig *rig, const struct sched_config *sched, size_t pool_bytes);

/* Everything must have ended. */
void rig_core_stop(struct rig *rig);

void rig_send(struct rig *rig, enum msg_type type, uint64_t key, void *ptr);

/* One turn of the engine, and what the other threads would do. */
void rig_turn(struct rig *rig);

/* Next event that is a request's; false when there is none. */
bool rig_event(struct rig *rig, struct event *out);

#endif
