/* Parity of the recurrent mixers. state_open shows the memory, so states and histories go straight
 * into the slots of sequences that go on, NaNs into those that begin (nothing may read them), and
 * what a sequence's last row left is an output of that row.
 *
 * Pieces are prompts cut at multiples of LIMIT_PROMPT_CUT and generated rows one by one: a chunked
 * form's bits depend on where chunks end. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/effect.h"
#include "tests/parity/pairwise.h"
#include "tests/parity/parity.h"
#include "tests/step.h"

#define RECURRENT_LAYERS    2
#define RECURRENT_LAYER     1 /* the one that runs */
#define RECURRENT_VERSIONS  2
#define RECURRENT_PART_ROWS 256 /* generated rows of one part of a step, on cuda */

enum recurrent_layout {
    LAYOUT_DECODE,
    LAYOUT_ROWS,
    LAYOUT_PROMPTS,
    LAYOUT_LONG,
    LAYOUT_CONTINUED,
    LAYOUT_MIXED,
    LAYOUT_N
};

static const char *const recurrent_layouts[] = {"decode", "rows",      "prompts",
                                                "long",   "continued", "mixed"};

static const uint32_t recurrent_shapes[LAYOUT_N][12][3] = {
    /* start, rows, prompt */
    [LAYOUT_DECODE] = {{0, 1, 0},
                       {1, 1, 0},
                       {63, 1, 0},
                       {64, 1, 0},
                       {130, 1, 0},
                       {0, 1, 0},
                       {0, 1, 0},
                       {1, 1, 0},
                       {63, 1, 0},
                       {64, 1, 0},
                       {130, 1, 0},
                       {0, 1, 0}},
    [LAYOUT_ROWS] = {{0, 9, 0}, {60, 9, 0}, {3, 2, 0}, {128, 5, 0}, {0, 3, 0}},
    [LAYOUT_PROMPTS] = {{0, 1, 1}, {0, 5, 1}, {0, 63, 1}, {0, 64, 1}, {0, 65, 1}, {0, 2, 1}},
    [LAYOUT_LONG] = {{0, 130, 1}, {0, 301, 1}},
    [LAYOUT_CONTINUED] = {{64, 70, 1}, {128, 64, 1}, {64, 1, 1}, {128, 2, 1}, {64, 65, 1}},
    [LAYOUT_MIXED] = {{0, 66, 1}, {130, 1, 0}, {0, 5, 1}, {128, 33, 1}, {0, 1, 0}, {64, 2, 0}},
};

struct gdn_shape {
    uint32_t key_head_n, value_head_n, key_dim, value_dim;
};

static const struct gdn_shape gdn_shapes[] = {{1, 1, 16, 16},   {2, 4, 16, 24},  {1, 3, 64, 32},
                                              {2, 2, 128, 128}, {1, 2, 32, 256}, {1, 1, 256, 8}};

struct ssd_shape {
    uint32_t head_n, head_dim, group_n, state_dim;
};

static const struct ssd_shape ssd_shapes[] = {
    {1, 16, 1, 16}, {4, 24, 2, 16}, {6, 64, 1, 128}, {3, 32, 3, 256}};

static const char *const ssd_norms[] = {"no norm", "norm last", "norm first"};

struct recurrent_args {
    bool is_ssd;
    bool has_bias;
    struct kern_gdn gdn; /* shapes and plain numbers; pointers are filled in for a run */
    struct kern_ssd ssd;
    struct kern_state state;
    uint32_t head_n;
    uint32_t x_n;   /* floats of a row of x */
    uint32_t out_n; /* of a row of out */
};

struct recurrent_state {
    float *slots;
    struct kern_conv conv;
    const float *a_log, *dt_bias, *d, *norm;
};

enum {
    STREAM_X,
    STREAM_CONV,
    STREAM_CONV_BIAS,
    STREAM_DT_BIAS,
    STREAM_D,
    STREAM_NORM,
    STREAM_SLOT,
    STREAM_VERSION = 8
};

static void recurrent_world(struct parity_case *c, enum recurrent_layout layout)
{
    static const float weights[] = {1.0f, 0.5f, -0.75f};
    for (uint32_t i = 0; i < 12 && recurrent_shapes[layout][i][1] > 0; i++) {
        const uint32_t *shape = recurrent_shapes[layout][i];
        struct world_seq *seq = world_add(&c->world, shape[0], shape[1], shape[2] == 1);
        seq->has_state = (i + c->seed) % 3 != 1;
        seq->state_version = (i + c->seed / 2) % RECURRENT_VERSIONS;
        seq->state_weight = weights[(i / 2 + c->seed) % ARRAY_N(weights)];
    }
    world_deal_pages(&c->world, c->seed, &c->arena);
}

/* A version with the states of every layer. */
static void recurrent_version(struct rig *rig, const struct parity_case *c, uint32_t version)
{
    const struct recurrent_args *args = c->args;
    uint32_t n = args->state.state_n;
    uint64_t at = EFFECT_LOWRANK_AT + ROUND_UP(sizeof(struct effect_lowrank), EFFECT_ALIGN);
    uint64_t bytes = at + RECURRENT_LAYERS * effect_state_stride(n);
    const float *values =
        parity_floats(c, STREAM_VERSION + version, (size_t)RECURRENT_LAYERS * n, 1.0f);
    char *block = arena_alloc(&rig->arena, bytes);
    memset(block, 0, bytes);
    *(struct effect_block *)(void *)block = (struct effect_block){.magic = EFFECT_BLOCK_MAGIC,
                                                                  .version = EFFECT_BLOCK_VERSION,
                                                                  .bytes = bytes,
                                                                  .site_n = 1,
                                                                  .lowrank_at = EFFECT_LOWRANK_AT,
                                                                  .state_at = at,
                                                                  .state_n = n};
    for (uint32_t layer = 0; layer < RECURRENT_LAYERS; layer++) {
        memcpy(block + at + layer * effect_state_stride(n), values + (size_t)layer * n,
               n * sizeof *values);
    }
    rig->kern->set_version(rig->dev, version, rig_put(rig, block, bytes));
}

/* The memory of all layers: NaNs but for the slots of sequences that go on in the layer that runs.
 */
static void recurrent_slots(struct rig *rig, const struct parity_case *c,
                            struct recurrent_state *state)
{
    const struct recurrent_args *args = c->args;
    struct err err;
    size_t slot_n = kern_state_slot_n(&args->state);
    size_t bytes = kern_state_bytes(&args->state);
    float *fill = arena_alloc(&rig->arena, bytes);
    const float *values = parity_floats(c, STREAM_SLOT, args->state.slot_n * slot_n, 1.0f);
    for (size_t i = 0; i < bytes / sizeof *fill; i++) {
        fill[i] = NAN;
    }
    for (uint32_t i = 0; i < c->world.seq_n; i++) {
        if (c->world.seqs[i].start > 0) {
            memcpy(fill + (RECURRENT_LAYER * (size_t)args->state.slot_n + i) * slot_n,
                   values + i * slot_n, slot_n * sizeof *fill);
        }
    }
    ASSERT_CMP(rig->kern->state_open(rig->dev, &args->state, &state->slots, &err), ==, 0);
    rig->kern->put(rig->dev, state->slots, fill, bytes);
}

static const float *recurrent_put(struct rig *rig, const struct parity_case *c, uint32_t stream,
                                  uint32_t n, float scale)
{
    return rig_put(rig, parity_floats(c, stream, n, scale), n * sizeof(float));
}

/* Heads that forget slowly, about as fast as they learn, and at once: e^-20 a position and beyond,
 * so that a chunk's cumulated decay is far out of the range of a float. */
static float recurrent_rate(const struct parity_case *c, uint32_t head)
{
    static const float rates[] = {0.01f, 1.0f, 20.0f};
    return rates[(head + c->seed) % ARRAY_N(rates)];
}

static void recurrent_prepare(struct rig *rig, const struct parity_case *c)
{
    const struct recurrent_args *args = c->args;
    uint32_t norm_n = args->is_ssd ? args->out_n : args->gdn.value_dim;
    struct recurrent_state *state = arena_alloc(&rig->arena, sizeof *state);
    rig->state = state;
    recurrent_slots(rig, c, state);
    for (uint32_t v = 0; v < RECURRENT_VERSIONS; v++) {
        recurrent_version(rig, c, v);
    }
    uint32_t conv_n = args->state.conv_n;
    state->conv.w = recurrent_put(rig, c, STREAM_CONV, conv_n * LIMIT_CONV_TAPS, 1.0f);
    state->conv.bias =
        args->has_bias ? recurrent_put(rig, c, STREAM_CONV_BIAS, conv_n, 0.5f) : NULL;
    state->dt_bias = recurrent_put(rig, c, STREAM_DT_BIAS, args->head_n, 0.5f);
    state->d = recurrent_put(rig, c, STREAM_D, args->head_n, 1.0f);
    float *a_log = arena_alloc(&rig->arena, args->head_n * sizeof *a_log);
    for (uint32_t h = 0; h < args->head_n; h++) {
        a_log[h] = logf(recurrent_rate(c, h));
    }
    state->a_log = rig_put(rig, a_log, args->head_n * sizeof *a_log);
    float *norm = arena_alloc(&rig->arena, norm_n * sizeof *norm);
    for (uint32_t i = 0; i < norm_n; i++) {
        norm[i] = 1.0f + parity_floats(c, STREAM_NORM, norm_n, 0.5f)[i];
    }
    state->norm = rig_put(rig, norm, norm_n * sizeof *norm);
}

static void recurrent_call(struct rig *rig, const struct parity_case *c, const float *x, void *out)
{
    const struct recurrent_args *args = c->args;
    const struct recurrent_state *state = rig->state;
    struct kern_gdn gdn = args->gdn;
    struct kern_ssd ssd = args->ssd;
    if (args->is_ssd) {
        ssd.state_layer = RECURRENT_LAYER;
        ssd.x = x;
        ssd.conv = state->conv;
        ssd.a_log = state->a_log;
        ssd.dt_bias = state->dt_bias;
        ssd.d = state->d;
        ssd.norm = ssd.norm_order == KERN_SSD_NO_NORM ? NULL : state->norm;
        ssd.out = out;
        rig->kern->ssd(rig->dev, &ssd);
    } else {
        gdn.state_layer = RECURRENT_LAYER;
        gdn.x = x;
        gdn.conv = state->conv;
        gdn.a_log = state->a_log;
        gdn.dt_bias = state->dt_bias;
        gdn.norm = state->norm;
        gdn.out = out;
        rig->kern->gdn(rig->dev, &gdn);
    }
}

/* What the slots hold of the sequences whose last row of the world is in the view. */
static void recurrent_out_slots(struct rig *rig, const struct parity_case *c,
                                const struct world_view *view)
{
    const struct recurrent_args *args = c->args;
    const struct recurrent_state *state = rig->state;
    size_t slot_n = kern_state_slot_n(&args->state);
    uint32_t state_n = args->state.state_n;
    uint32_t history_n = (uint32_t)slot_n - state_n;
    uint32_t *at = arena_alloc(&rig->arena, view->row_n * sizeof *at);
    float *states = arena_alloc(&rig->arena, (size_t)view->step.seq_n * state_n * sizeof *states);
    float *histories =
        arena_alloc(&rig->arena, (size_t)view->step.seq_n * history_n * sizeof *histories);
    uint32_t n = 0;
    for (uint32_t row = 0; row < view->row_n; row++) {
        const struct world_seq *seq = world_seq_of(&c->world, view->first + row);
        bool is_last = view->first + row + 1 == seq->row_first + seq->row_n;
        at[row] = is_last ? n : UINT32_MAX;
        if (is_last) {
            size_t slot = (size_t)RECURRENT_LAYER * args->state.slot_n + view->step.rows[row].slot;
            const float *from = state->slots + slot * slot_n;
            rig->kern->get(rig->dev, states + (size_t)n * state_n, from, state_n * sizeof *from);
            rig->kern->get(rig->dev, histories + (size_t)n * history_n, from + state_n,
                           history_n * sizeof *from);
            n++;
        }
    }
    /* a history is inputs, at most times a multiplier: no rounding of it may differ */
    rig_out_some(rig, &(struct rig_out){.name = "state",
                                        .row_n = view->row_n,
                                        .col_n = state_n,
                                        .values = states,
                                        .at = at,
                                        .bound = {.relative = 2e-5f, .floor = 0.5f}});
    rig_out_some(rig, &(struct rig_out){.name = "history",
                                        .row_n = view->row_n,
                                        .col_n = history_n,
                                        .values = histories,
                                        .at = at});
}

/* The view's rows of x. In every other case the fast heads forget all at a few positions and hardly
 * anything at the others: what is cumulated there must not cost those behind them their digits. The
 * decay's input is what a row ends with, for both mixers. */
static const float *recurrent_x(struct rig *rig, const struct parity_case *c,
                                const struct world_view *view)
{
    const struct recurrent_args *args = c->args;
    size_t bytes = (size_t)view->row_n * args->x_n * sizeof(float);
    const float *from = parity_floats(c, STREAM_X, (size_t)c->world.row_n * args->x_n, 2.0f);
    float *x = arena_memdup(&rig->arena, from + (size_t)view->first * args->x_n, bytes);
    for (uint32_t row = 0; row < view->row_n && c->seed % 2 == 0; row++) {
        bool is_reset = view->step.rows[row].pos % LIMIT_PROMPT_CUT < 8;
        float *gates = x + (size_t)(row + 1) * args->x_n - args->head_n;
        for (uint32_t h = 0; h < args->head_n; h++) {
            float gate = is_reset ? 60 : gates[h] - 10;
            gates[h] = recurrent_rate(c, h) > 1 ? gate : gates[h];
        }
    }
    return rig_put(rig, x, bytes);
}

/* In steps of one part each. */
static void recurrent_run(struct rig *rig, const struct parity_case *c,
                          const struct world_view *view)
{
    const struct recurrent_args *args = c->args;
    const uint32_t shape[2] = {view->row_n, args->out_n};
    const float *x_dev = recurrent_x(rig, c, view);
    size_t out_bytes = args->out_n * dtype_bytes(rig->held);
    char *out = rig_take(rig, view->row_n * out_bytes);
    uint32_t part_n = rig->form == PARITY_GENERATED ? RECURRENT_PART_ROWS : view->row_n;
    for (uint32_t first = 0; first < view->row_n; first += part_n) {
        struct world_view part;
        world_view(&c->world, view->first + first, MIN(part_n, view->row_n - first), &rig->arena,
                   &part);
        world_view_set_form(&part, rig->form);
        step_begin(rig->kern, rig->dev, &part.step);
        recurrent_call(rig, c, x_dev + (size_t)first * args->x_n, out + first * out_bytes);
        ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    }
    rig_out_held(rig, "out", out, shape, (struct rig_bound){.relative = 2e-5f, .floor = 0.5f});
    recurrent_out_slots(rig, c, view);
}

static bool recurrent_has_gdn(const struct kern *kern)
{
    return kern->gdn;
}

static bool recurrent_has_ssd(const struct kern *kern)
{
    return kern->ssd;
}

/* `text` says what is special about the case. */
static void recurrent_check(struct recurrent_args *args, enum recurrent_layout layout,
                            enum dtype held, uint64_t seed, const char *text)
{
    struct parity_case c;
    parity_case_init(&c, held, seed);
    recurrent_world(&c, layout);
    args->state.layer_n = RECURRENT_LAYERS;
    args->state.slot_n = c.world.seq_n;
    c.open.version_max = RECURRENT_VERSIONS;
    c.open.n_max = args->x_n;
    c.args = args;
    c.prepare = recurrent_prepare;
    c.run = recurrent_run;
    c.is_present = args->is_ssd ? recurrent_has_ssd : recurrent_has_gdn;
    c.is_cut_lawful = true;
    snprintf(c.text, sizeof c.text, "%s %s, %s: %s, bias %d", args->is_ssd ? "ssd" : "gdn",
             dtype_name(held), recurrent_layouts[layout], text, args->has_bias);
    parity_check(&c);
    parity_case_done(&c);
}

void parity_gdn(void)
{
    const uint32_t levels[] = {ARRAY_N(gdn_shapes), LAYOUT_N, 2};
    struct pairwise pairs;
    pairwise_init(&pairs, levels, ARRAY_N(levels), parity_is_long());
    uint32_t at[PAIRWISE_FACTORS];
    for (uint32_t i = 0; pairwise_next(&pairs, at); i++) {
        const struct gdn_shape *s = &gdn_shapes[at[0]];
        char text[80];
        struct recurrent_args args = {.has_bias = at[2] == 1,
                                      .gdn = {.key_head_n = s->key_head_n,
                                              .value_head_n = s->value_head_n,
                                              .key_dim = s->key_dim,
                                              .value_dim = s->value_dim,
                                              .norm_eps = 0.01f},
                                      .head_n = s->value_head_n,
                                      .out_n = s->value_head_n * s->value_dim};
        args.x_n = kern_gdn_row_n(&args.gdn);
        args.state.state_n = kern_gdn_state_n(&args.gdn);
        args.state.conv_n = kern_gdn_conv_n(&args.gdn);
        snprintf(text, sizeof text, "heads %u / %u, key %u, value %u", s->key_head_n,
                 s->value_head_n, s->key_dim, s->value_dim);
        recurrent_check(&args, at[1], i % 2 ? DTYPE_BF16 : DTYPE_F32, 9000 + i, text);
    }
}

void parity_ssd(void)
{
    const uint32_t levels[] = {ARRAY_N(ssd_shapes), LAYOUT_N, 3, 2};
    struct pairwise pairs;
    pairwise_init(&pairs, levels, ARRAY_N(levels), parity_is_long());
    uint32_t at[PAIRWISE_FACTORS];
    for (uint32_t i = 0; pairwise_next(&pairs, at); i++) {
        const struct ssd_shape *s = &ssd_shapes[at[0]];
        char text[100];
        struct recurrent_args args = {.is_ssd = true,
                                      .has_bias = at[3] == 1,
                                      .ssd = {.head_n = s->head_n,
                                              .head_dim = s->head_dim,
                                              .group_n = s->group_n,
                                              .state_dim = s->state_dim,
                                              .multipliers = {0.75f, 1.25f, 0.5f, 1.5f, 0.8f},
                                              .norm_order = (enum kern_ssd_norm)at[2],
                                              .norm_eps = 0.01f},
                                      .head_n = s->head_n,
                                      .out_n = s->head_n * s->head_dim};
        args.x_n = kern_ssd_row_n(&args.ssd);
        args.state.state_n = kern_ssd_state_n(&args.ssd);
        args.state.conv_n = kern_ssd_conv_n(&args.ssd);
        snprintf(text, sizeof text, "heads %u of %u, groups %u, state %u, %s", s->head_n,
                 s->head_dim, s->group_n, s->state_dim, ssd_norms[at[2]]);
        recurrent_check(&args, at[1], i % 2 ? DTYPE_BF16 : DTYPE_F32, 9500 + i, text);
    }
}
