/* The rank's thread and its two rings. Sealed: nothing is allocated once it runs. */
#include "engine/rank.h"

#include <string.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "model/model.h"

static uint32_t rank_ring_slots(uint32_t n)
{
    uint32_t slots = 1;
    while (slots < n) {
        slots *= 2;
    }
    return slots;
}

int rank_init(struct rank *rank, const struct model *model, const struct batch_limits *limits,
              struct wake *engine_wake, struct err *err)
{
    uint32_t step_max = model->kern->step_ahead + 1;
    *rank = (struct rank){.engine_wake = engine_wake};
    ASSERT_CMP(step_max, <=, RANK_STEPS);
    int rc =
        walk_init(&rank->walk, model, limits->row_max, limits->sample_max, limits->score_max, err);
    rc = rc ? rc : walk_capture(&rank->walk, err);
    if (rc) {
        return rc;
    }
    /* every version slot and a step, as often as steps may be under way; a quit */
    uint32_t command_n = step_max * (LIMIT_VERSIONS + 1) + 1;
    ring_init(&rank->commands, sizeof(struct rank_cmd), rank_ring_slots(command_n));
    ring_init(&rank->results, sizeof(struct rank_result), rank_ring_slots(step_max));
    wake_init(&rank->wake);
    return 0;
}

void rank_done(struct rank *rank)
{
    ring_done(&rank->commands);
    ring_done(&rank->results);
}

static void rank_answer(struct rank *rank, uint64_t step, int code)
{
    struct rank_result result = {step, code, rank->saturated_n};
    bool is_pushed = ring_push(&rank->results, &result);
    ASSERT(is_pushed); /* the engine waits for no more than the ring holds */
    wake_signal(rank->engine_wake);
}

static void rank_submit(struct rank *rank, const struct rank_cmd *cmd)
{
    ASSERT_CMP(rank->step_n, <=, rank->walk.model->kern->step_ahead);
    rank->steps[rank->step_n++] = (struct rank_step){cmd->batch->step, cmd->tokens};
    if (!rank->is_lost) {
        walk_submit(&rank->walk, cmd->batch);
    }
    rank->news_ns = clock_now_ns();
}

/* False when it was the last one. */
static bool rank_run(struct rank *rank, const struct rank_cmd *cmd)
{
    const struct model *model = rank->walk.model;
    if (cmd->type == RANK_SET_VERSION) {
        model->kern->set_version(model->dev, cmd->version, cmd->block_dev);
    } else if (cmd->type == RANK_STEP) {
        rank_submit(rank, cmd);
    }
    return cmd->type != RANK_QUIT;
}

/* The log is told once: the model does not quite fit the type it is held in. */
static void rank_count_saturated(struct rank *rank)
{
    const struct model *model = rank->walk.model;
    uint64_t n = model->kern->saturated_n(model->dev);
    if (n > 0 && rank->saturated_n == 0) {
        log_msg(
            LOG_WARN,
            "%llu values of a step are beyond fp16 and were set to 65504: --dtype bf16 has room "
            "for them",
            (unsigned long long)n);
    }
    rank->saturated_n = n;
}

/* Asks for the oldest step's results; false when it has not ended yet. */
static bool rank_read(struct rank *rank)
{
    struct rank_step step = rank->steps[0];
    int rc = rank->is_lost ? ERR_DEVICE_FAILURE : walk_read(&rank->walk, step.tokens, false);
    if (rc == 1) {
        return false;
    }
    rank->is_lost = rank->is_lost || rc != 0;
    rank->step_n--;
    memmove(&rank->steps[0], &rank->steps[1], rank->step_n * sizeof *rank->steps);
    rank->news_ns = clock_now_ns();
    if (rc == 0) {
        rank_count_saturated(rank);
    }
    rank_answer(rank, step.step, rc);
    return true;
}

static inline void rank_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Nothing to do until a step ends or a command comes. */
static void rank_rest(struct rank *rank, uint32_t ticket)
{
    if (rank->step_n == 0) {
        wake_wait(&rank->wake, ticket, -1);
    } else if (clock_now_ns() - rank->news_ns < RANK_SPIN_NS) {
        rank_pause();
    } else {
        wake_wait(&rank->wake, ticket, RANK_NAP_NS);
    }
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
        } else if (rank->step_n == 0 || !rank_read(rank)) {
            rank_rest(rank, ticket);
        }
    }
    ASSERT_CMP(rank->step_n, ==, 0); /* nobody quits with a step under way */
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
