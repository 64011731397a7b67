/* Parity of the heads post and of attention. The contract shows no KV memory, so keys and values
 * enter through linear with one weight a row, a power of two, which is exact in every order of
 * summation, and come out through attend. Positions behind a sequence's end hold large numbers that
 * a mask must hide, on cuda NaNs that a weight of zero would not.
 *
 * Pieces are prompts cut at multiples of LIMIT_PROMPT_CUT and generated rows one by one; for the
 * prompt form of cuda, which promises the same bits for any cut, also pieces of any length. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/effect.h"
#include "kernels/random.h"
#include "tests/parity/pairwise.h"
#include "tests/parity/parity.h"
#include "tests/step.h"

#define ATTEND_LAYERS 2
#define ATTEND_FEED_K 32 /* input width of the linear that fills the KV memory */

static const uint32_t attend_dims[] = {16, 64, 72, 80, 96, 120, 128, 256};
static const uint32_t attend_groups[] = {1, 4, 5, 7, 8}; /* query heads per KV head */

enum attend_layout {
    LAYOUT_DECODE,
    LAYOUT_PROMPTS,
    LAYOUT_MIXED,
    LAYOUT_RECOMPUTE,
    LAYOUT_N,
    LAYOUT_PASS = LAYOUT_N, /* generated rows that fill a pass, all of the same adapters */
    LAYOUT_END
};

static const char *const attend_layouts[] = {"decode", "prompts", "mixed", "recompute", "pass"};

struct attend_args {
    uint32_t dim;
    uint32_t group;
    uint32_t kv_head_n;
    enum attend_layout layout;
    uint32_t k; /* heads: input width */
    bool has_gate;
    bool has_norm;
    bool has_bias;
    bool has_scales;    /* heads: two of three sequences scale k and v */
    uint32_t rank;      /* heads: of the same sequences' low-rank effects on q, k and v */
    uint32_t adapter_n; /* with ranks: versions that they have, all alike */
    uint32_t rotary_n;
};

struct attend_state {
    const void *w[3];
    const float *bias[3];
    const float *q_norm;
    const float *k_norm;
};

enum {
    STREAM_X,
    STREAM_Q,
    STREAM_GATE,
    STREAM_GAIN, /* q, then k */
    STREAM_W = 8,
    STREAM_BIAS = 12,
    STREAM_SCALE = 14, /* k, then v */
    STREAM_KV = 16,    /* + layer */
    STREAM_A = 18,     /* + site */
    STREAM_B = 21      /* + site */
};

static void attend_world(struct parity_case *c, enum attend_layout layout)
{
    static const uint32_t shapes[LAYOUT_END][9][3] = {
        /* start, rows, prompt */
        [LAYOUT_DECODE] = {{0, 1, 0},
                           {1, 1, 0},
                           {62, 1, 0},
                           {63, 1, 0},
                           {64, 1, 0},
                           {127, 1, 0},
                           {130, 1, 0},
                           {191, 1, 0},
                           {300, 1, 0}},
        [LAYOUT_PROMPTS] = {{0, 100, 1}, {64, 70, 1}, {0, 5, 1}, {128, 64, 1}},
        [LAYOUT_MIXED] = {{0, 64, 1}, {255, 1, 0}, {10, 1, 0}, {128, 33, 1}, {64, 1, 0}, {0, 1, 1}},
        [LAYOUT_RECOMPUTE] = {{60, 9, 0}, {0, 150, 1}, {3, 2, 0}},
        [LAYOUT_PASS] = {{2, 15, 0}, {0, 17, 0}},
    };
    for (uint32_t i = 0; i < 9 && shapes[layout][i][1] > 0; i++) {
        const uint32_t *shape = shapes[layout][i];
        world_add(&c->world, shape[0], shape[1], shape[2] == 1);
    }
    world_deal_pages(&c->world, c->seed, &c->arena);
}

/* A position's inputs on the way into the KV memory: seeded, or large where nothing may look; NaNs
 * for cuda, whose fresh pages may hold them. */
static void attend_feed_row(const struct rig *rig, const struct parity_case *c,
                            const struct world_seq *seq, uint32_t layer, uint32_t pos,
                            uint32_t real_n, float *x)
{
    bool is_nan = rig->form != PARITY_AS_GIVEN;
    size_t value_n = (size_t)c->world.page_n * LIMIT_KV_PAGE * ATTEND_FEED_K;
    const float *values = parity_floats(c, STREAM_KV + layer, value_n, 1.0f);
    size_t at = ((size_t)seq->page_first * LIMIT_KV_PAGE + pos) * ATTEND_FEED_K;
    for (uint32_t i = 0; i < ATTEND_FEED_K; i++) {
        float hidden = is_nan ? NAN : bf16_round(values[at + i] * 1e4f);
        x[i] = pos < real_n ? values[at + i] : hidden;
    }
}

/* Writes one page of a sequence. Positions from real_n on get what nothing may look at. */
static void attend_feed(struct rig *rig, const struct parity_case *c, const struct world_seq *seq,
                        struct kern_linear *op, uint32_t first, uint32_t real_n)
{
    struct kern_row rows[LIMIT_KV_PAGE];
    uint32_t slot = (uint32_t)(seq - c->world.seqs);
    struct kern_seq step_seq = {
        .slot = slot, .row_n = LIMIT_KV_PAGE, .page_first = seq->page_first, .page_n = seq->page_n};
    struct kern_step step = {.rows = rows,
                             .row_n = LIMIT_KV_PAGE,
                             .seqs = &step_seq,
                             .seq_n = 1,
                             .pages = c->world.pages,
                             .rope_scale = 1.0f};
    float *x = arena_alloc(&rig->arena, (size_t)LIMIT_KV_PAGE * op->k * sizeof *x);
    for (uint32_t i = 0; i < LIMIT_KV_PAGE; i++) {
        rows[i] = (struct kern_row){.slot = slot, .pos = first + i, .flags = KERN_ROW_PROMPT};
        attend_feed_row(rig, c, seq, op->heads.kv_layer, first + i, real_n, x + (size_t)i * op->k);
    }
    op->x = rig_put_held(rig, x, (size_t)LIMIT_KV_PAGE * op->k);
    step_begin(rig->kern, rig->dev, &step);
    rig->kern->linear(rig->dev, op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
}

/* A packed weight with one power of two in each row (of either sign), or with nothing. */
static const void *attend_feed_weight(struct rig *rig, uint32_t n, uint32_t site)
{
    float *data = arena_alloc(&rig->arena, (size_t)n * ATTEND_FEED_K * sizeof *data);
    for (uint32_t i = 0; i < n && site > 0; i++) {
        uint64_t draw = kern_mix64(i * 3 + site);
        float value = draw >> 8 & 1 ? 0.5f : 1.0f;
        data[(size_t)i * ATTEND_FEED_K + draw % ATTEND_FEED_K] = draw >> 9 & 1 ? -value : value;
    }
    struct kern_matrix matrix = {.data = data, .n = n, .k = ATTEND_FEED_K};
    return rig_weight(rig, &matrix);
}

/* Opens the KV memory and fills every page of the layers that the case looks at. The world's own
 * rows are real only if the case does not write them itself. Pages of no sequence are discarded
 * afterwards, which the others do not feel. */
static void attend_fill(struct rig *rig, const struct parity_case *c)
{
    const struct attend_args *args = c->args;
    struct kern_kv kv = {.layer_n = ATTEND_LAYERS,
                         .page_n = c->world.page_n,
                         .kv_head_n = args->kv_head_n,
                         .head_dim = args->dim,
                         .head_n = args->group * args->kv_head_n};
    struct err err;
    ASSERT_CMP(rig->kern->kv_open(rig->dev, &kv, &err), ==, 0);
    uint32_t width = args->kv_head_n * args->dim;
    bool is_written = args->k > 0;
    struct kern_linear op = {.k = ATTEND_FEED_K, .site_n = 3, .post = KERN_POST_HEADS};
    for (uint32_t s = 0; s < 3; s++) {
        op.sites[s] = (struct kern_linear_site){
            .site = s, .n = width, .w = attend_feed_weight(rig, width, s)};
    }
    op.heads = (struct kern_heads){.head_n = args->kv_head_n,
                                   .kv_head_n = args->kv_head_n,
                                   .head_dim = args->dim,
                                   .q_out = rig_take(rig, (size_t)LIMIT_KV_PAGE * width * 4)};
    for (uint32_t layer = is_written; layer < ATTEND_LAYERS; layer++) {
        op.heads.kv_layer = layer;
        for (uint32_t i = 0; i < c->world.seq_n; i++) {
            const struct world_seq *seq = &c->world.seqs[i];
            for (uint32_t page = 0; page < seq->page_n; page++) {
                uint32_t real_n = seq->start + (is_written ? 0 : seq->row_n);
                attend_feed(rig, c, seq, &op, page * LIMIT_KV_PAGE, real_n);
            }
        }
    }
    const struct world_seq *last = &c->world.seqs[c->world.seq_n - 1];
    for (uint32_t i = last->page_first + last->page_n; i < c->world.page_n; i++) {
        rig->kern->kv_discard(rig->dev, c->world.pages[i]);
    }
}

static void attend_op(struct rig *rig, const struct parity_case *c, const struct world_view *view,
                      const float *q, const float *gate, uint32_t layer)
{
    const struct attend_args *args = c->args;
    uint32_t head_n = args->group * args->kv_head_n;
    const uint32_t shape[2] = {view->row_n, head_n * args->dim};
    struct kern_attend op = {
        .kv_layer = layer,
        .head_n = head_n,
        .kv_head_n = args->kv_head_n,
        .head_dim = args->dim,
        .scale = 1.0f / sqrtf((float)args->dim),
        .q = q,
        .gate = gate,
        .out = rig_take(rig, (size_t)shape[0] * shape[1] * dtype_bytes(rig->held)),
    };
    rig->kern->attend(rig->dev, &op);
    /* after heads, keys and values may differ by a rounding to 16 bits */
    bool is_loose = args->k > 0 && rig->held != DTYPE_F32;
    /* cuda's prompt form rounds queries and weights to 16 bits for the tensor cores: half a unit
     * each; 0.6 of a unit of the row's largest was seen */
    bool is_rounded = rig->form == PARITY_PROMPT;
    float unit = rig->held == DTYPE_BF16 ? 1.0f / 128 : 1.0f / 1024;
    float relative = is_loose || is_rounded ? unit : 2e-5f;
    struct rig_bound bound = {relative, 0.5f, is_loose || is_rounded};
    rig_out_held(rig, layer == 0 ? "attend layer 0" : "attend layer 1", op.out, shape, bound);
}

static void attend_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct attend_args *args = c->args;
    size_t width = (size_t)args->group * args->kv_head_n * args->dim;
    const float *q = parity_floats(c, STREAM_Q, c->world.row_n * width, 4.0f);
    const float *q_dev = rig_put(rig, q + view->first * width, view->row_n * width * sizeof *q);
    const float *gate = NULL;
    if (args->has_gate) {
        gate = parity_floats(c, STREAM_GATE, c->world.row_n * width, 3.0f);
        gate = rig_put(rig, gate + view->first * width, view->row_n * width * sizeof *gate);
    }
    step_begin(rig->kern, rig->dev, &view->step);
    for (uint32_t layer = 0; layer < ATTEND_LAYERS; layer++) {
        attend_op(rig, c, view, q_dev, gate, layer);
    }
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
}

static const float *heads_gain(struct rig *rig, const struct parity_case *c, uint32_t stream)
{
    const struct attend_args *args = c->args;
    float *gain = arena_alloc(&rig->arena, args->dim * sizeof *gain);
    for (uint32_t i = 0; i < args->dim; i++) {
        gain[i] = 1.0f + parity_floats(c, stream, args->dim, 0.5f)[i];
    }
    return rig_put(rig, gain, args->dim * sizeof *gain);
}

static uint32_t heads_site_n(const struct attend_args *args, uint32_t s)
{
    uint32_t each = s > 0 ? 1 : args->has_gate ? 2 * args->group : args->group;
    return args->kv_head_n * args->dim * each;
}

/* Lays the factors of q, k and v out from `at` on; returns the end. */
static size_t heads_lowranks(const struct rig *rig, const struct attend_args *args, size_t at,
                             struct effect_lowrank *lowranks)
{
    const struct kern *kern = rig->kern;
    for (uint32_t s = 0; s < 3 && args->rank > 0; s++) {
        size_t a = kern->weight_bytes(rig->held, args->rank, args->k);
        size_t b = kern->weight_bytes(rig->held, heads_site_n(args, s), args->rank);
        lowranks[s] = (struct effect_lowrank){.rank = args->rank, .scale = 0.5f, .a_at = at};
        lowranks[s].b_at = at + ROUND_UP(a, EFFECT_ALIGN);
        at = lowranks[s].b_at + ROUND_UP(b, EFFECT_ALIGN);
    }
    return at;
}

static void heads_factors(struct rig *rig, const struct parity_case *c,
                          const struct effect_lowrank *lowranks, char *block)
{
    const struct attend_args *args = c->args;
    for (uint32_t s = 0; s < 3 && args->rank > 0; s++) {
        struct kern_matrix a = parity_matrix(c, STREAM_A + s, args->rank, args->k);
        struct kern_matrix b = parity_matrix(c, STREAM_B + s, heads_site_n(args, s), args->rank);
        rig->kern->weight_pack(rig->held, &a, block + lowranks[s].a_at);
        rig->kern->weight_pack(rig->held, &b, block + lowranks[s].b_at);
    }
}

/* The versions: vectors over the outputs of k and v, factors of all three. */
static void heads_version(struct rig *rig, const struct parity_case *c)
{
    const struct attend_args *args = c->args;
    uint32_t n = heads_site_n(args, 1);
    size_t each = args->has_scales ? ROUND_UP(n * sizeof(float), EFFECT_ALIGN) : 0;
    struct effect_lowrank lowranks[3] = {0};
    size_t scale_at = ROUND_UP(EFFECT_LOWRANK_AT + sizeof lowranks, EFFECT_ALIGN);
    size_t at = ROUND_UP(scale_at + sizeof(struct effect_scale[3]), EFFECT_ALIGN);
    struct effect_scale scales[3] = {{0}, {.out_at = at}, {.out_at = at + each}};
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .site_n = 3,
                                .lowrank_at = EFFECT_LOWRANK_AT,
                                .scale_at = args->has_scales ? scale_at : 0};
    head.bytes = heads_lowranks(rig, args, at + 2 * each, lowranks);
    char *block = arena_alloc(&rig->arena, head.bytes);
    memcpy(block, &head, sizeof head);
    memcpy(block + head.lowrank_at, lowranks, sizeof lowranks);
    memcpy(block + scale_at, scales, sizeof scales);
    for (uint32_t s = 1; s < 3 && args->has_scales; s++) {
        memcpy(block + scales[s].out_at, parity_floats(c, STREAM_SCALE + s - 1, n, 1.5f),
               n * sizeof(float));
    }
    heads_factors(rig, c, lowranks, block);
    const void *at_dev = rig_put(rig, block, head.bytes);
    for (uint32_t i = 0; i < MAX(1, args->adapter_n); i++) {
        rig->kern->set_version(rig->dev, i, at_dev);
    }
}

static void heads_prepare(struct rig *rig, const struct parity_case *c)
{
    const struct attend_args *args = c->args;
    attend_fill(rig, c);
    struct attend_state *state = arena_alloc(&rig->arena, sizeof *state);
    rig->state = state;
    for (uint32_t s = 0; s < 3; s++) {
        uint32_t n = heads_site_n(args, s);
        struct kern_matrix w = parity_matrix(c, STREAM_W + s, n, args->k);
        state->w[s] = rig_weight(rig, &w);
        if (args->has_bias) {
            const float *bias = parity_floats(c, STREAM_BIAS + s, n, 0.5f);
            state->bias[s] = rig_put(rig, bias, n * sizeof *bias);
        }
    }
    if (args->has_norm) {
        state->q_norm = heads_gain(rig, c, STREAM_GAIN);
        state->k_norm = heads_gain(rig, c, STREAM_GAIN + 1);
    }
    if (args->has_scales || args->rank > 0) {
        heads_version(rig, c);
    }
}

static void heads_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct attend_args *args = c->args;
    const struct attend_state *state = rig->state;
    uint32_t head_n = args->group * args->kv_head_n;
    const uint32_t shape[2] = {view->row_n, head_n * args->dim};
    const float *x = parity_floats(c, STREAM_X, (size_t)c->world.row_n * args->k, 1.0f);
    x += (size_t)view->first * args->k;
    struct kern_linear op = {
        .x = rig_put_held(rig, x, (size_t)view->row_n * args->k),
        .k = args->k,
        .site_n = 3,
        .post = KERN_POST_HEADS,
        .heads = {.head_n = head_n,
                  .kv_head_n = args->kv_head_n,
                  .head_dim = args->dim,
                  .q_norm = state->q_norm,
                  .k_norm = state->k_norm,
                  .norm_eps = 0.01f,
                  .kv_layer = 1,
                  .q_out = rig_take(rig, (size_t)shape[0] * shape[1] * sizeof(float))},
    };
    for (uint32_t s = 0; s < 3; s++) {
        uint32_t n = heads_site_n(args, s);
        op.sites[s] =
            (struct kern_linear_site){.site = s, .n = n, .w = state->w[s], .bias = state->bias[s]};
    }
    if (args->has_gate) {
        op.heads.gate_out = rig_take(rig, (size_t)shape[0] * shape[1] * sizeof(float));
    }
    step_begin(rig->kern, rig->dev, &view->step);
    rig->kern->linear(rig->dev, &op);
    attend_op(rig, c, view, op.heads.q_out, op.heads.gate_out, 1);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    struct rig_bound bound = {.relative = 2e-5f, .floor = 0.5f};
    rig_out_f32(rig, "q", op.heads.q_out, shape, bound);
    if (args->has_gate) {
        rig_out_f32(rig, "gate", op.heads.gate_out, shape, bound);
    }
}

static void attend_rope(struct parity_case *c, uint32_t rotary_n)
{
    if (rotary_n > 0) {
        float *inv_freq = arena_alloc(&c->arena, rotary_n / 2 * sizeof *inv_freq);
        for (uint32_t i = 0; i < rotary_n / 2; i++) {
            inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)rotary_n);
        }
        c->world.inv_freq = inv_freq;
        c->world.rotary_n = rotary_n;
        c->world.rope_scale = c->seed % 2 ? 1.25f : 1.0f;
    }
}

static void attend_check(const struct attend_args *args, enum dtype held, uint64_t seed)
{
    struct parity_case c;
    uint32_t width = args->kv_head_n * args->dim;
    parity_case_init(&c, held, seed);
    attend_world(&c, args->layout);
    attend_rope(&c, args->rotary_n);
    uint32_t version_n = args->rank > 0 ? args->adapter_n : args->has_scales;
    c.world.version_n = version_n;
    c.world.scales = args->has_scales;
    c.open.version_max = MAX(1, version_n);
    c.open.rank_max = MAX(1, 3 * args->rank * args->adapter_n);
    for (uint32_t i = 0; i < c.world.seq_n; i++) {
        struct world_seq *seq = &c.world.seqs[i];
        seq->adapter_n = i % 3 != 2 || args->layout == LAYOUT_PASS ? version_n : 0;
        for (uint32_t v = 0; v < seq->adapter_n; v++) {
            seq->versions[v] = v;
            seq->weights[v] = (i + v) % 3 ? -0.75f : 1.0f;
        }
    }
    c.open.k_max = MAX(ATTEND_FEED_K, args->k);
    c.open.n_max = MAX(3, 2 * args->group + 2) * width;
    c.args = args;
    c.prepare = args->k > 0 ? heads_prepare : attend_fill;
    c.run = args->k > 0 ? heads_run : attend_run;
    snprintf(
        c.text, sizeof c.text,
        "%s %s: head_dim %u, heads %u / %u, %s, k %u, gate %d, norm %d, bias %d, scales %d, rank "
        "%u, rotary %u",
        args->k > 0 ? "heads" : "attend", dtype_name(held), args->dim,
        args->group * args->kv_head_n, args->kv_head_n, attend_layouts[args->layout], args->k,
        args->has_gate, args->has_norm, args->has_bias, args->has_scales, args->rank,
        args->rotary_n);
    parity_check(&c);
    parity_case_done(&c);
}

void parity_attend(void)
{
    const uint32_t levels[] = {ARRAY_N(attend_dims), ARRAY_N(attend_groups), LAYOUT_N};
    struct pairwise pairs;
    pairwise_init(&pairs, levels, ARRAY_N(levels), parity_is_long());
    uint32_t at[PAIRWISE_FACTORS];
    for (uint32_t i = 0; pairwise_next(&pairs, at); i++) {
        struct attend_args args = {.dim = attend_dims[at[0]],
                                   .group = attend_groups[at[1]],
                                   .kv_head_n = attend_dims[at[0]] < 100 ? 1 + i % 2 : 1,
                                   .layout = (enum attend_layout)at[2],
                                   .has_gate = i % 3 == 1};
        attend_check(&args, i % 2 ? DTYPE_BF16 : DTYPE_F32, 3000 + i);
        attend_check(&args, i % 2 ? DTYPE_F32 : DTYPE_BF16, 3000 + i);
    }
}

/* Effects of rank on heads that end within 16 rows and that take two tiles of tokens to a pass. The
 * first has both, and ranks that padding makes large: a pass needs most of the memory of shrunk
 * rows, so that tiles which share it wrongly race. */
void parity_ranks(void)
{
    static const struct attend_args cases[] = {
        {.dim = 136, .layout = LAYOUT_PASS, .rank = 1, .adapter_n = 8},
        {.dim = 120, .layout = LAYOUT_PASS, .rank = 12},
        {.dim = 72, .layout = LAYOUT_MIXED, .rank = 16, .has_scales = true},
        {.dim = 256, .layout = LAYOUT_PASS, .rank = 64},
        {.dim = 200, .layout = LAYOUT_PROMPTS, .rank = 4, .has_gate = true},
        {.dim = 104, .layout = LAYOUT_DECODE, .rank = 40},
    };
    for (uint32_t i = 0; i < ARRAY_N(cases); i++) {
        struct attend_args args = cases[i];
        args.group = args.kv_head_n = 1;
        args.k = 64;
        args.adapter_n = MAX(1, args.adapter_n);
        attend_check(&args, i % 2 ? DTYPE_F32 : DTYPE_BF16, 4500 + i);
    }
}

void parity_heads(void)
{
    static const uint32_t ks[] = {8, 64, 72};
    const uint32_t levels[] = {
        ARRAY_N(attend_dims), ARRAY_N(attend_groups), LAYOUT_N, ARRAY_N(ks), 2, 2, 3};
    struct pairwise pairs;
    pairwise_init(&pairs, levels, ARRAY_N(levels), false);
    uint32_t at[PAIRWISE_FACTORS];
    for (uint32_t i = 0; pairwise_next(&pairs, at); i++) {
        uint32_t dim = attend_dims[at[0]];
        struct attend_args args = {.dim = dim,
                                   .group = attend_groups[at[1]],
                                   .kv_head_n = dim < 100 ? 1 + i % 2 : 1,
                                   .layout = (enum attend_layout)at[2],
                                   .k = ks[at[3]],
                                   .has_gate = i % 3 == 1,
                                   .has_norm = at[4] == 1,
                                   .has_bias = at[5] == 1,
                                   .rotary_n = at[6] == 0 ? 0 : dim / at[6]};
        args.has_scales = i % 4 == 2;
        attend_check(&args, i % 2 ? DTYPE_BF16 : DTYPE_F32, 4000 + i);
        attend_check(&args, i % 2 ? DTYPE_F32 : DTYPE_BF16, 4000 + i);
    }
}
