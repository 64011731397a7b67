/* The link from the engine to a rank: commands there, results back, plain data in order.
 *
 * Two implementations exist: the rank thread's rings (rank.h) and the simulation's fake. The batch
 * that a RANK_STEP names stays unchanged until its result has come back; a link to another process
 * would send its `bytes` bytes, which is why a batch has no pointers. At most step_ahead + 1 steps
 * (core_config) are on their way and not answered; answers come in the steps' order. A step means
 * the versions that were set before it was sent, whatever is set before it has run. */
#ifndef ENGINE_LINK_H
#define ENGINE_LINK_H

#include <stdbool.h>
#include <stdint.h>

struct batch;
struct batch_token;

enum rank_cmd_type {
    RANK_SET_VERSION, /* version, block_dev: kern->set_version */
    RANK_STEP,        /* batch -> tokens; answered by a rank_result */
    RANK_QUIT,        /* the rank ends; nothing follows */
};

struct rank_cmd {
    enum rank_cmd_type type;
    uint32_t version;
    const void *block_dev;
    const struct batch *batch;
    struct batch_token *tokens; /* [sample_n + score_n], written before the result is sent */
};

struct rank_result {
    uint64_t step;
    int code;             /* 0 or ERR_DEVICE_FAILURE */
    uint64_t saturated_n; /* values beyond fp16 in all steps up to this one, at least */
};

struct link {
    /* Never full: it holds a change of every version slot and a step, as often as steps may be on
     * their way, and a quit. */
    void (*send)(void *arg, const struct rank_cmd *cmd);
    /* False when no result has come yet. */
    bool (*receive)(void *arg, struct rank_result *out);
    void *arg;
};

#endif
