/* The tables of perf/cuda-tables.md: shapes, a model of one of them on the emulated device, and
 * what its ops launch and read. */
#ifndef TESTS_EMU_TABLES_H
#define TESTS_EMU_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "model/walk.h"
#include "sched/batch.h"

#define TABLES_ADAPTERS 8 /* distinct ones of a mixed step, on every linear */
#define TABLES_RANK     16
#define TABLES_ROWS     128 /* of a step, at most */
#define TABLES_CONTEXT  512 /* positions of a sequence, at most */

struct tables_shape {
    const char *name;
    uint32_t layer_n, hidden, ffn, head_n, kv_head_n, head_dim, vocab_n;
};

enum tables_op { OP_EMBED, OP_QKV, OP_ATTEND, OP_O, OP_UP, OP_DOWN, OP_HEAD, OP_OTHER, OP_N };
extern const char *const tables_op_names[OP_N];

enum { BYTES_WEIGHT, BYTES_ADAPTER, BYTES_KV, BYTES_N }; /* enum ld_class of dev.h */

struct tables_bytes {
    uint64_t bytes[OP_N][BYTES_N];
};

/* A step of generated rows, each of a sequence of its own at position `context` - 1. Mixed: row i
 * names adapter i modulo 8; where there are fewer rows than adapters, each names all. */
struct tables_step {
    uint32_t row_n;
    uint32_t context;
    bool is_mixed;
};

/* The open model. Dry: no weights, no memory for them; steps are captured and never run. */
struct tables_rig {
    const struct tables_shape *shape;
    bool is_dry;
    struct kern kern; /* kern_cuda, but for what a dry rig leaves out and a counting one counts */
    struct model model;
    struct walk walk;
    struct arena arena;
    struct batch *batch;
    struct batch_token *tokens;
    struct tables_bytes counted;
};

/* page_n: of KV. */
void tables_open(struct tables_rig *rig, const struct tables_shape *shape, bool is_dry,
                 uint32_t page_n);
void tables_close(struct tables_rig *rig);

/* Dry: the launches of the graph that replays a step of so many generated rows. */
uint32_t tables_launches(const struct tables_rig *rig, uint32_t row_n, bool is_mixed);

/* Runs the step op by op; what each read is in rig->counted. */
void tables_run(struct tables_rig *rig, const struct tables_step *step);

/* The ops' formulas. */
void tables_formula(const struct tables_shape *shape, const struct tables_step *step,
                    struct tables_bytes *out);

/* The linears of a step: QKV, O, UP, DOWN, HEAD with their shapes only. */
struct kern_linear tables_linear(const struct tables_shape *shape, enum tables_op op);

/* Units over rounds times blocks of all linears of a step, weighted by their work. */
double tables_quantised(const struct tables_shape *shape, uint32_t row_n, uint32_t sm_n);

#endif
