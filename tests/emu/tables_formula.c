/* See tables.h: what each op must read, and how evenly its units fill the blocks. */
#include <string.h>

#include "base/base.h"
#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/step.h"
#include "tests/emu/tables.h"

#define HEAD_TURN 8 /* query heads that attention serves with one read of K and V */

struct kern_linear tables_linear(const struct tables_shape *s, enum tables_op op)
{
    uint32_t q = s->head_n * s->head_dim;
    uint32_t kv = s->kv_head_n * s->head_dim;
    struct kern_linear out = {.k = s->hidden, .site_n = 1, .post = KERN_POST_PART};
    out.sites[0].n = s->hidden;
    switch (op) {
    case OP_QKV:
        out.site_n = 3;
        out.sites[0].n = q;
        out.sites[1].n = out.sites[2].n = kv;
        out.post = KERN_POST_HEADS;
        out.heads.head_n = s->head_n;
        out.heads.kv_head_n = s->kv_head_n;
        out.heads.head_dim = s->head_dim;
        break;
    case OP_O:
        out.k = q;
        break;
    case OP_UP:
        out.site_n = 2;
        out.sites[0].n = out.sites[1].n = s->ffn;
        out.post = KERN_POST_ACT_MUL;
        break;
    case OP_DOWN:
        out.k = s->ffn;
        break;
    default:
        out.sites[0].n = s->vocab_n;
        out.post = KERN_POST_STORE;
    }
    return out;
}

/* Bit i: the step's row 32 * pass + i has the adapter. */
static uint32_t formula_mask(const struct tables_step *step, uint32_t pass, uint32_t adapter)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < CUDA_PASS_ROWS; i++) {
        uint32_t row = pass * CUDA_PASS_ROWS + i;
        bool is_named = step->row_n < TABLES_ADAPTERS || row % TABLES_ADAPTERS == adapter;
        mask |= (uint32_t)(row < step->row_n && is_named) << i;
    }
    return mask;
}

/* Weights: n * k * 2 for every tile of tokens. Adapters: A and B of each one that a pass of 32 rows
 * has. */
static void formula_linear(const struct kern_linear *op, const struct tables_step *step,
                           bool has_effects, uint64_t out[BYTES_N])
{
    struct linear_cut cut = linear_cut_of(op, step->row_n, 1);
    uint64_t a = 0;
    uint64_t b = 0;
    for (uint32_t i = 0; i < op->site_n; i++) {
        out[BYTES_WEIGHT] += (uint64_t)cut.tile_n * 2 * op->sites[i].n * op->k;
        a += (uint64_t)TABLES_RANK * op->k * 2;
        b += (uint64_t)TABLES_RANK * op->sites[i].n * 2;
    }
    for (uint32_t pass = 0; pass < DIV_UP(step->row_n, CUDA_PASS_ROWS); pass++) {
        for (uint32_t v = 0; v < TABLES_ADAPTERS && has_effects; v++) {
            out[BYTES_ADAPTER] += formula_mask(step, pass, v) ? a + b : 0;
        }
    }
}

void tables_formula(const struct tables_shape *s, const struct tables_step *step,
                    struct tables_bytes *out)
{
    static const enum tables_op linears[] = {OP_QKV, OP_O, OP_UP, OP_DOWN, OP_HEAD};
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < ARRAY_N(linears); i++) {
        struct kern_linear op = tables_linear(s, linears[i]);
        bool is_layer = linears[i] != OP_HEAD;
        formula_linear(&op, step, is_layer && step->is_mixed, out->bytes[linears[i]]);
        for (uint32_t c = 0; c < BYTES_N && is_layer; c++) {
            out->bytes[linears[i]][c] *= s->layer_n;
        }
    }
    out->bytes[OP_EMBED][BYTES_WEIGHT] = (uint64_t)step->row_n * s->hidden * 2;
    out->bytes[OP_ATTEND][BYTES_KV] = (uint64_t)s->layer_n * step->row_n * 2 * step->context *
                                      s->kv_head_n * s->head_dim * 2 *
                                      DIV_UP(s->head_n / s->kv_head_n, HEAD_TURN);
}

/* Work of a launch's units, and of as many full rounds of all its blocks as the slowest slice has:
 * block b takes units of slice b % split_n. */
static void quantise(const struct kern_linear *op, const struct tables_step *at, uint32_t sm_n,
                     double times, double sum[2])
{
    struct linear_cut cut = linear_cut_of(op, at->row_n, sm_n);
    uint32_t own_n = cut.is_wide ? 1 : cut.split_n; /* slices that have blocks of their own */
    uint32_t unit_n = cut.group_n * cut.unit_n * (cut.split_n / own_n);
    uint32_t blocks = cut.block_n / own_n; /* of the slice that has fewest */
    double work = times * cut.unit_rows * op->k / cut.split_n * cut.tile_tokens;
    sum[0] += work * own_n * unit_n * cut.tile_n;
    sum[1] += work * DIV_UP(unit_n, blocks) * cut.block_n * cut.tile_n;
}

double tables_quantised(const struct tables_shape *s, uint32_t row_n, uint32_t sm_n)
{
    static const enum tables_op linears[] = {OP_QKV, OP_O, OP_UP, OP_DOWN, OP_HEAD};
    struct tables_step step = {.row_n = row_n};
    double sum[2] = {0, 0};
    for (uint32_t i = 0; i < ARRAY_N(linears); i++) {
        struct kern_linear op = tables_linear(s, linears[i]);
        quantise(&op, &step, sm_n, linears[i] == OP_HEAD ? 1 : s->layer_n, sum);
    }
    return sum[0] / sum[1];
}
