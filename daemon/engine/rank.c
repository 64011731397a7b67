/* The rank's thread and its two rings. Sealed: nothing is allocated once it runs. */
#include "engine/rank.h"

#include "base/base.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "model/model.h"

#define RANK_COMMANDS (2 * LIMIT_VERSIONS)

_Static_assert((RANK_COMMANDS & (RANK_COMMANDS - 1)) == 0, "rings have a power of two of records");
_Static_assert(RANK_COMMANDS >= LIMIT_VERSIONS + 2, "every version slot, a step and a quit");

int rank_init(struct rank *rank, const struct model *model, const struct batch_limits *limits,
              struct wake *engine_wake, struct err *err)
{
    *rank = (struct rank){.engine_wake = engine_wake};
    int rc =
        walk_init(&rank->walk, model, limits->row_max, limits->sample_max, limits->score_max, err);
    if (rc) {
        return rc;
    }
    ring_init(&rank->commands, sizeof(struct rank_cmd), RANK_COMMANDS);
    ring_init(&rank->results, sizeof(struct rank_result), 2);
    wake_init(&rank->wake);
    return 0;
}

void rank_done(struct rank *rank)
{
    ring_done(&rank->commands);
    ring_done(&rank->results);
}

/* False when it was the last one. */
static bool rank_run(struct rank *rank, const struct rank_cmd *cmd)
{
    const struct model *model = rank->walk.model;
    if (cmd->type == RANK_SET_VERSION) {
        model->kern->set_version(model->dev, cmd->version, cmd->block_dev);
    } else if (cmd->type == RANK_STEP) {
        struct rank_result result = {.step = cmd->batch->step};
        result.code = walk_step(&rank->walk, cmd->batch, cmd->tokens);
        bool is_pushed = ring_push(&rank->results, &result);
        ASSERT(is_pushed); /* one step at a time */
        wake_signal(rank->engine_wake);
    }
    return cmd->type != RANK_QUIT;
}

static void rank_main(void *arg)
{
    struct rank *rank = arg;
    struct rank_cmd cmd = {.type = RANK_STEP};
    bool is_running = true;
    mem_seal();
    while (is_running) {
        uint32_t ticket = wake_ticket(&rank->wake);
        if (ring_pop(&rank->commands, &cmd)) {
            is_running = rank_run(rank, &cmd);
        } else {
            wake_wait(&rank->wake, ticket, -1);
        }
    }
}

void rank_start(struct rank *rank)
{
    thread_start(&rank->thread, THREAD_RANK, "graft-rank", rank_main, rank);
}

static void rank_send(void *arg, const struct rank_cmd *cmd)
{
    struct rank *rank = arg;
    bool is_pushed = ring_push(&rank->commands, cmd);
    ASSERT(is_pushed);
    if (cmd->type != RANK_SET_VERSION) { /* changes are followed by their step */
        wake_signal(&rank->wake);
    }
}

static bool rank_receive(void *arg, struct rank_result *out)
{
    struct rank *rank = arg;
    return ring_pop(&rank->results, out);
}

void rank_stop(struct rank *rank)
{
    rank_send(rank, &(struct rank_cmd){.type = RANK_QUIT});
    thread_join(&rank->thread);
}

struct link rank_link(struct rank *rank)
{
    return (struct link){rank_send, rank_receive, rank};
}
