/* Parity of linear (store, part + join, act_mul) under every mixture of low-rank effects and under
 * scales, and of join alone. Rows are free: each may run without the others. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/effect.h"
#include "tests/parity/pairwise.h"
#include "tests/parity/parity.h"
#include "tests/step.h"

#define LINEAR_SITE     2 /* effect table index of the first site; those before it are decoys */
#define LINEAR_SITES    4
#define LINEAR_VERSIONS 33
#define LINEAR_SCALED   4   /* versions of MIX_SCALES */
#define LINEAR_RANK_TOP 256 /* the largest rank of any case */

enum linear_mix {
    MIX_NONE,
    MIX_ONE,       /* all rows, one adapter */
    MIX_SOME,      /* a third of the sequences, a negative weight */
    MIX_OPPOSITE,  /* the same two adapters, in turn in either order */
    MIX_THREE,     /* every row in three segments */
    MIX_SCATTERED, /* 33 adapters of all ranks, 0 to 2 a sequence */
    MIX_SCALES,    /* four adapters, most with scales, some with low rank, 0 to 3 a sequence */
    MIX_N
};

static const char *const linear_mixes[MIX_N] = {"none",  "one",       "some",  "opposite",
                                                "three", "scattered", "scales"};
static const char *const linear_posts[] = {"store", "part", "heads", "act_mul"};

static const uint32_t linear_ks[] = {8, 64, 72, 896, 4864};
static const uint32_t linear_ns[] = {1, 16, 63, 64, 65, 500};
static const uint32_t linear_rows[] = {1, 2, 7, 8, 9, 31, 33, 65, 129};
static const uint32_t linear_ranks[] = {1, 4, 12, 16, 64, 100};

struct linear_args {
    uint32_t k;
    uint32_t n; /* of the first site; linear_site_n tells of the others */
    uint32_t rank;
    enum linear_mix mix;
    enum kern_post post;
    bool has_bias;
    uint32_t site_n;
    uint32_t part_n; /* KERN_POST_PART: linears before the join */
};

struct linear_state {
    const void *w[LINEAR_SITES];
    const float *bias[LINEAR_SITES];
    const float *gain;
};

/* Sites stored side by side are ragged. */
static uint32_t linear_site_n(const struct linear_args *args, uint32_t s)
{
    return args->post == KERN_POST_STORE && s > 0 ? args->n / 2 + s : args->n;
}

static uint32_t linear_out_n(const struct linear_args *args)
{
    uint32_t n = args->n;
    for (uint32_t s = 1; args->post == KERN_POST_STORE && s < args->site_n; s++) {
        n += linear_site_n(args, s);
    }
    return n;
}

enum {
    STREAM_X,
    STREAM_H,
    STREAM_GAIN,
    STREAM_W,
    STREAM_BIAS = STREAM_W + LINEAR_SITES,
    STREAM_A = 16,
    STREAM_B = 24,
    STREAM_IN = 32, /* + version */
    STREAM_OUT = STREAM_IN + LINEAR_SCALED
};

static uint32_t linear_version_n(enum linear_mix mix)
{
    static const uint32_t n[MIX_N] = {0, 1, 1, 2, 3, LINEAR_VERSIONS, LINEAR_SCALED};
    return n[mix];
}

/* Rank of a version at a site; 0 leaves the site alone. */
static uint32_t linear_rank(const struct linear_args *args, uint32_t version, uint32_t site)
{
    if (args->mix == MIX_SCALES) {
        return version == 0 || (version == 3 && site == 1) ? 0 : args->rank;
    }
    if (args->mix != MIX_SCATTERED) {
        return version == 2 && site == 1 ? 0 : args->rank;
    }
    return version % 7 == 6 ? 0 : linear_ranks[(version + site) % ARRAY_N(linear_ranks)];
}

/* Whether the site's op has no other: only there may inputs be scaled. */
static bool linear_is_alone(const struct linear_args *args)
{
    return args->post == KERN_POST_PART || args->site_n == 1;
}

static bool linear_scales_in(const struct linear_args *args, uint32_t version)
{
    return args->mix == MIX_SCALES && linear_is_alone(args) && version % 3 == 0;
}

static bool linear_scales_out(const struct linear_args *args, uint32_t version, uint32_t site)
{
    bool is_out =
        version == 1 || (version == 0 && !linear_is_alone(args)) || (version == 3 && site % 2 == 0);
    return args->mix == MIX_SCALES && is_out;
}

static void linear_mix_seq(struct parity_case *c, enum linear_mix mix, uint32_t i)
{
    struct world_seq *seq = &c->world.seqs[i];
    static const float weights[] = {1.0f, 0.5f, -0.75f, 1.5f};
    static const uint32_t scaled_n[] = {2, 1, 3, 0};
    for (uint32_t j = 0; j < WORLD_ADAPTERS; j++) {
        seq->versions[j] = j;
        seq->weights[j] = weights[(i + j) % ARRAY_N(weights)];
    }
    switch (mix) {
    case MIX_ONE:
        seq->adapter_n = 1;
        break;
    case MIX_SOME:
        seq->adapter_n = i % 3 == 1;
        seq->weights[0] = -0.5f;
        break;
    case MIX_OPPOSITE:
        seq->adapter_n = 2;
        seq->versions[0] = i % 2;
        seq->versions[1] = 1 - i % 2;
        break;
    case MIX_THREE:
        seq->adapter_n = 3;
        seq->versions[0] = i % 3;
        seq->versions[1] = (i + 1) % 3;
        seq->versions[2] = (i + 2) % 3;
        break;
    case MIX_SCATTERED:
        seq->adapter_n = parity_draw(c, 3 * i, 3);
        seq->versions[0] = parity_draw(c, 3 * i + 1, LINEAR_VERSIONS);
        seq->versions[1] = (seq->versions[0] + 1 + parity_draw(c, 3 * i + 2, LINEAR_VERSIONS - 1)) %
                           LINEAR_VERSIONS;
        break;
    case MIX_SCALES: /* one that scales inputs and two of them in either order, too */
        seq->adapter_n = scaled_n[i % ARRAY_N(scaled_n)];
        for (uint32_t j = 0; j < WORLD_ADAPTERS; j++) {
            seq->versions[j] = (i + i / 4 + 3 * j) % LINEAR_SCALED;
            seq->weights[j] = weights[(i + i / 4 + j) % ARRAY_N(weights)];
        }
        break;
    default:
        break;
    }
}

/* Sequences of one row, with a few longer prompts among them. */
static void linear_world(struct parity_case *c, uint32_t row_n, enum linear_mix mix)
{
    static const uint32_t lengths[] = {1, 1, 3, 1, 1, 1, 17, 1};
    while (c->world.row_n < row_n) {
        uint32_t i = c->world.seq_n;
        uint32_t n = MIN(lengths[i % ARRAY_N(lengths)], row_n - c->world.row_n);
        world_add(&c->world, i % 40, n, n > 1);
        linear_mix_seq(c, mix, i);
    }
    c->world.version_n = linear_version_n(mix);
    c->world.scales = mix == MIX_SCALES ? 1u << 0 | 1u << 1 | 1u << 3 : 0; /* 2: low rank alone */
    world_deal_pages(&c->world, c->seed, &c->arena);
}

static uint32_t linear_rank_max(const struct parity_case *c, const struct linear_args *args)
{
    uint32_t max = 1;
    for (uint32_t i = 0; i < c->world.seq_n; i++) {
        const struct world_seq *seq = &c->world.seqs[i];
        uint32_t sum = 0;
        for (uint32_t j = 0; j < seq->adapter_n; j++) {
            for (uint32_t s = 0; s < args->site_n; s++) {
                sum += linear_rank(args, seq->versions[j], s);
            }
        }
        max = MAX(max, sum);
    }
    return max;
}

/* Packs A and B of one site into a version's block. */
static void linear_factors(struct rig *rig, const struct parity_case *c, uint32_t stream,
                           uint32_t n, const struct effect_lowrank *site, char *block)
{
    const struct linear_args *args = c->args;
    size_t a_n = (size_t)LINEAR_RANK_TOP * args->k;
    size_t b_n = (size_t)LINEAR_RANK_TOP * (args->n + LINEAR_SITES);
    float a_scale = sqrtf(3.0f / (float)args->k);
    float b_scale = sqrtf(3.0f / (float)site->rank);
    struct kern_matrix a = {
        .data = parity_floats(c, STREAM_A + stream, a_n, a_scale), .n = site->rank, .k = args->k};
    float *b_data = arena_alloc(&rig->arena, b_n * sizeof *b_data);
    const float *unit = parity_floats(c, STREAM_B + stream, b_n, 1.0f);
    for (size_t i = 0; i < (size_t)n * site->rank; i++) {
        b_data[i] = bf16_round(unit[i] * b_scale);
    }
    struct kern_matrix b = {.data = b_data, .n = n, .k = site->rank};
    rig->kern->weight_pack(rig->held, &a, block + site->a_at);
    rig->kern->weight_pack(rig->held, &b, block + site->b_at);
}

/* What fits twelve bits, so that f16 rounds a scaled input no more than f32 does. */
static float linear_coarse(const struct parity_case *c, float value, float steps)
{
    return c->open.held == DTYPE_F32 ? roundf(value * steps) / steps : value;
}

/* Lays a version's vectors out from `at` on; returns the end. Writes them where there is a block.
 * A decoy's are NaNs. */
static size_t linear_scales(const struct parity_case *c, uint32_t version, size_t at,
                            struct effect_scale *scales, char *block)
{
    const struct linear_args *args = c->args;
    uint32_t out_n = args->n + 2 * LINEAR_SITES;
    const float *in = parity_floats(c, STREAM_IN + version, args->k, 0.5f);
    const float *out = parity_floats(c, STREAM_OUT + version, out_n, 1.5f);
    for (uint32_t s = 0; s < LINEAR_SITE; s++) {
        scales[s].in_at = scales[s].out_at = at;
        for (uint32_t i = 0; block && i < MAX(args->k, out_n); i++) {
            ((float *)(void *)(block + at))[i] = NAN;
        }
    }
    at += ROUND_UP(MAX(args->k, out_n) * sizeof *in, EFFECT_ALIGN);
    for (uint32_t s = 0; s < args->site_n; s++) {
        struct effect_scale *scale = &scales[LINEAR_SITE + s];
        if (linear_scales_in(args, version)) {
            scale->in_at = at;
            for (uint32_t i = 0; block && i < args->k; i++) {
                ((float *)(void *)(block + at))[i] = 1 + linear_coarse(c, in[i], 2);
            }
            at += ROUND_UP(args->k * sizeof *in, EFFECT_ALIGN);
        }
        if (linear_scales_out(args, version, s)) {
            scale->out_at = at;
            for (uint32_t i = 0; block && i < linear_site_n(args, s); i++) {
                ((float *)(void *)(block + at))[i] = out[s + i];
            }
            at += ROUND_UP(linear_site_n(args, s) * sizeof *out, EFFECT_ALIGN);
        }
    }
    return at;
}

/* Builds a version's block on the host, as the adapter store will, and puts it. */
static void linear_version(struct rig *rig, const struct parity_case *c, uint32_t version)
{
    const struct linear_args *args = c->args;
    const struct kern *kern = rig->kern;
    uint32_t site_n = LINEAR_SITE + LINEAR_SITES;
    struct effect_lowrank sites[LINEAR_SITE + LINEAR_SITES] = {0};
    size_t lowrank_at = ROUND_UP(sizeof(struct effect_block), EFFECT_ALIGN);
    size_t bytes = ROUND_UP(lowrank_at + sizeof sites, EFFECT_ALIGN);
    struct effect_scale scales[LINEAR_SITE + LINEAR_SITES] = {0};
    bool has_scales = c->world.scales >> version & 1;
    size_t scale_at = bytes;
    size_t vectors_at = ROUND_UP(scale_at + sizeof scales, EFFECT_ALIGN);
    if (has_scales) {
        bytes = linear_scales(c, version, vectors_at, scales, NULL);
    }
    for (uint32_t s = 0; s < args->site_n; s++) {
        struct effect_lowrank *site = &sites[LINEAR_SITE + s];
        site->rank = linear_rank(args, version, s);
        site->scale = 0.25f * (float)(1 + version % 5);
        site->a_at = bytes;
        bytes += ROUND_UP(kern->weight_bytes(rig->held, site->rank, args->k), EFFECT_ALIGN);
        site->b_at = bytes;
        bytes += ROUND_UP(kern->weight_bytes(rig->held, linear_site_n(args, s), site->rank),
                          EFFECT_ALIGN);
    }
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .bytes = bytes,
                                .site_n = site_n,
                                .lowrank_at = (uint32_t)lowrank_at,
                                .scale_at = has_scales ? scale_at : 0};
    char *block = arena_alloc(&rig->arena, bytes);
    memcpy(block, &head, sizeof head);
    memcpy(block + lowrank_at, sites, sizeof sites);
    if (has_scales) {
        linear_scales(c, version, vectors_at, scales, block);
        memcpy(block + scale_at, scales, sizeof scales);
    }
    for (uint32_t s = 0; s < args->site_n; s++) {
        if (sites[LINEAR_SITE + s].rank > 0) {
            /* six streams of factors, shared by the versions */
            linear_factors(rig, c, (version + s) % 6, linear_site_n(args, s),
                           &sites[LINEAR_SITE + s], block);
        }
    }
    kern->set_version(rig->dev, version, rig_put(rig, block, bytes));
}

static void linear_prepare(struct rig *rig, const struct parity_case *c)
{
    const struct linear_args *args = c->args;
    struct linear_state *state = arena_alloc(&rig->arena, sizeof *state);
    rig->state = state;
    for (uint32_t s = 0; s < args->site_n; s++) {
        uint32_t n = linear_site_n(args, s);
        struct kern_matrix w = parity_matrix(c, STREAM_W + s, n, args->k);
        state->w[s] = rig_weight(rig, &w);
        if (args->has_bias) {
            const float *bias = parity_floats(c, STREAM_BIAS + s, n, 0.5f);
            state->bias[s] = rig_put(rig, bias, n * sizeof *bias);
        }
    }
    float *gain = arena_alloc(&rig->arena, args->n * sizeof *gain);
    for (uint32_t i = 0; i < args->n; i++) {
        gain[i] = 1.0f + parity_floats(c, STREAM_GAIN, args->n, 0.5f)[i];
    }
    state->gain = rig_put(rig, gain, args->n * sizeof *gain);
    for (uint32_t v = 0; v < c->world.version_n; v++) {
        linear_version(rig, c, v);
    }
}

static void linear_join(struct rig *rig, const struct parity_case *c, const struct world_view *view,
                        void *const parts[2])
{
    const struct linear_args *args = c->args;
    const struct linear_state *state = rig->state;
    const uint32_t shape[2] = {view->row_n, args->n};
    size_t n = (size_t)shape[0] * shape[1];
    const float *h = parity_floats(c, STREAM_H, (size_t)c->world.row_n * args->n, 1.0f);
    struct kern_join join = {
        .h = rig_put(rig, h + (size_t)view->first * args->n, n * sizeof *h),
        .hidden = args->n,
        .part_n = args->part_n,
        .parts = {parts[0], parts[1]},
        .multipliers = {args->part_n == 2 ? 0.7f : 1.0f, -1.25f},
        .gain = state->gain,
        .eps = 0.01f,
        .x = rig_take(rig, n * dtype_bytes(rig->held)),
    };
    rig->kern->join(rig->dev, &join);
    rig_out_f32(rig, "h", join.h, shape, (struct rig_bound){.relative = 2e-5f, .floor = 0.5f});
    rig_out_held(rig, "x", join.x, shape, (struct rig_bound){.relative = 4e-5f, .floor = 1.0f});
}

/* The view's inputs on the host. */
static const float *linear_input(struct rig *rig, const struct parity_case *c,
                                 const struct world_view *view)
{
    const struct linear_args *args = c->args;
    size_t n = (size_t)view->row_n * args->k;
    const float *x = parity_floats(c, STREAM_X, (size_t)c->world.row_n * args->k, 1.0f);
    x += (size_t)view->first * args->k;
    if (args->mix != MIX_SCALES) {
        return x;
    }
    float *coarse = arena_alloc(&rig->arena, n * sizeof *coarse);
    for (size_t i = 0; i < n; i++) {
        coarse[i] = linear_coarse(c, x[i], 8);
    }
    return coarse;
}

static void linear_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct linear_args *args = c->args;
    const struct linear_state *state = rig->state;
    const uint32_t shape[2] = {view->row_n, linear_out_n(args)};
    size_t x_n = (size_t)view->row_n * args->k;
    const float *x = linear_input(rig, c, view);
    struct kern_linear op = {
        .x = rig_put_held(rig, x, x_n),
        .k = args->k,
        .site_n = args->post == KERN_POST_PART ? 1 : args->site_n,
        .post = args->post,
        .gate_multiplier = args->has_bias ? 0.6f : 1,
    };
    for (uint32_t s = 0; s < args->site_n; s++) {
        op.sites[s] = (struct kern_linear_site){.site = LINEAR_SITE + s,
                                                .n = linear_site_n(args, s),
                                                .w = state->w[s],
                                                .bias = state->bias[s]};
    }
    step_begin(rig->kern, rig->dev, &view->step);
    if (args->post == KERN_POST_PART) {
        void *parts[2] = {NULL, NULL};
        for (uint32_t part = 0; part < args->part_n; part++) {
            parts[part] = rig_take(rig, rig->kern->part_bytes(view->row_n, args->n));
            op.sites[0] = op.sites[part];
            op.out = parts[part];
            op.x = part > 0 ? rig_put_held(rig, x, x_n) : op.x; /* scaled in place */
            rig->kern->linear(rig->dev, &op);
        }
        linear_join(rig, c, view, parts);
    } else if (args->post == KERN_POST_ACT_MUL) {
        op.out = rig_take(rig, (size_t)shape[0] * shape[1] * dtype_bytes(rig->held));
        rig->kern->linear(rig->dev, &op);
        rig_out_held(rig, "act", op.out, shape,
                     (struct rig_bound){.relative = 2e-5f, .floor = 0.5f});
    } else {
        op.out = rig_take(rig, (size_t)shape[0] * shape[1] * sizeof(float));
        rig->kern->linear(rig->dev, &op);
        rig_out_f32(rig, "y", op.out, shape, (struct rig_bound){.relative = 2e-5f, .floor = 0.5f});
    }
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
}

static void linear_check(struct linear_args *args, uint32_t row_n, enum dtype held, uint64_t seed)
{
    struct parity_case c;
    parity_case_init(&c, held, seed);
    if (args->post != KERN_POST_STORE) {
        args->site_n = args->post == KERN_POST_ACT_MUL || args->part_n == 2 ? 2 : 1;
    }
    linear_world(&c, row_n, args->mix);
    c.open.row_max = row_n;
    c.open.k_max = args->k;
    c.open.n_max = MAX(args->n * args->site_n, linear_out_n(args));
    c.open.rank_max = linear_rank_max(&c, args);
    c.open.version_max = MAX(c.world.version_n, 1);
    c.args = args;
    c.has_free_rows = true;
    c.prepare = linear_prepare;
    c.run = linear_run;
    snprintf(c.text, sizeof c.text,
             "linear %s %s: sites %u, k %u, n %u, rows %u, rank %u, mix %s, bias %d, parts %u",
             linear_posts[args->post], dtype_name(held), args->site_n, args->k, args->n, row_n,
             args->rank, linear_mixes[args->mix], args->has_bias, args->part_n);
    parity_check(&c);
    parity_case_done(&c);
}

/* Every form of the op with every number of rows; widths, ranks and biases turn. They come first,
 * so that the few cases of a race check have one of them. */
static void parity_linear_scales(void)
{
    static const uint32_t rows[] = {33, 1, 7, 65, 129};
    static const struct linear_args forms[] = {
        {.post = KERN_POST_STORE, .site_n = 1},
        {.post = KERN_POST_STORE, .site_n = 2},
        {.post = KERN_POST_STORE, .site_n = 3},
        {.post = KERN_POST_STORE, .site_n = 4},
        {.post = KERN_POST_PART, .part_n = 1},
        {.post = KERN_POST_PART, .part_n = 2},
        {.post = KERN_POST_ACT_MUL},
    };
    for (uint32_t i = 0; i < ARRAY_N(forms) * ARRAY_N(rows); i++) {
        struct linear_args args = forms[i / ARRAY_N(rows)];
        args.k = linear_ks[(i + 1) % 4];
        args.n = linear_ns[(i + 2) % ARRAY_N(linear_ns)];
        args.rank = linear_ranks[(i / 2 + 2) % ARRAY_N(linear_ranks)];
        args.mix = MIX_SCALES;
        args.has_bias = i / 3 % 2;
        linear_check(&args, rows[i % ARRAY_N(rows)], i % 2 ? DTYPE_BF16 : DTYPE_F32, 1950 + i);
        if (parity_is_long()) {
            linear_check(&args, rows[i % ARRAY_N(rows)], i % 2 ? DTYPE_F32 : DTYPE_BF16, 1950 + i);
        }
    }
}

/* Under GRAFT_LONG every k x n x rows x mixture, the rank and the held type turning; else every
 * pair of two factors, ranks included, in both types. */
void parity_linear(void)
{
    static const enum kern_post posts[] = {KERN_POST_STORE, KERN_POST_PART, KERN_POST_ACT_MUL};
    const uint32_t levels[] = {ARRAY_N(linear_ks) - 1, ARRAY_N(linear_ns), ARRAY_N(linear_rows),
                               MIX_SCALES, ARRAY_N(linear_ranks)};
    bool is_long = parity_is_long();
    parity_linear_scales();
    struct pairwise pairs;
    pairwise_init(&pairs, levels, is_long ? 4 : 5, is_long);
    uint32_t at[PAIRWISE_FACTORS];
    for (uint32_t i = 0; pairwise_next(&pairs, at); i++) {
        uint32_t turn = i + i / 4 + i / 24 + i / 216;
        uint32_t rank = is_long ? turn % (uint32_t)ARRAY_N(linear_ranks) : at[4];
        struct linear_args args = {.k = linear_ks[at[0]],
                                   .n = linear_ns[at[1]],
                                   .rank = linear_ranks[rank],
                                   .mix = (enum linear_mix)at[3],
                                   .post = posts[turn % 3],
                                   .site_n = 1 + turn / 3 % LINEAR_SITES,
                                   .has_bias = turn / 3 % 2};
        args.part_n = args.post == KERN_POST_PART ? 1 + turn / 6 % 2 : 0;
        linear_check(&args, linear_rows[at[2]], turn % 2 ? DTYPE_BF16 : DTYPE_F32, 1000 + i);
        if (!is_long) {
            linear_check(&args, linear_rows[at[2]], turn % 2 ? DTYPE_F32 : DTYPE_BF16, 1000 + i);
        }
    }
    /* the wide inputs of the shapes we aim at, and a large rank, a few times only */
    static const uint32_t wide_ks[] = {4864, 2560, 14336};
    for (uint32_t i = 0; i < 4 * ARRAY_N(wide_ks); i++) {
        bool is_first = i % 4 < 2;
        struct linear_args args = {.k = wide_ks[i / 4],
                                   .n = is_first ? 64 : 65,
                                   .rank = i / 4 == 1 ? LINEAR_RANK_TOP : 16,
                                   .mix = i % 2 ? MIX_OPPOSITE : MIX_ONE,
                                   .post = i % 2 ? KERN_POST_PART : KERN_POST_STORE,
                                   .site_n = 1,
                                   .part_n = i % 2};
        linear_check(&args, is_first ? 9 : 33, i % 2 ? DTYPE_BF16 : DTYPE_F32, 1900 + i);
        linear_check(&args, is_first ? 9 : 33, i % 2 ? DTYPE_F32 : DTYPE_BF16, 1900 + i);
    }
}

static void join_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    void *const parts[2] = {NULL, NULL};
    step_begin(rig->kern, rig->dev, &view->step);
    linear_join(rig, c, view, parts);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
}

/* The first join of a model: no parts, only the norm. */
void parity_join(void)
{
    static const uint32_t hidden[] = {1, 15, 64, 72, 500, 896};
    for (uint32_t i = 0; i < 2 * ARRAY_N(hidden); i++) {
        struct parity_case c;
        struct linear_args args = {.k = 8, .n = hidden[i / 2], .mix = MIX_NONE};
        parity_case_init(&c, i % 2 ? DTYPE_BF16 : DTYPE_F32, 2000 + i);
        linear_world(&c, linear_rows[i % ARRAY_N(linear_rows)], args.mix);
        c.open.n_max = args.n;
        c.open.k_max = MAX(args.k, args.n);
        c.args = &args;
        c.has_free_rows = true;
        c.prepare = linear_prepare;
        c.run = join_run;
        snprintf(c.text, sizeof c.text, "join %s: hidden %u, rows %u", dtype_name(c.open.held),
                 args.n, c.world.row_n);
        parity_check(&c);
        parity_case_done(&c);
    }
}
