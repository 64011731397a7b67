/* Parity of embed, head, sample and score: what stands at the two ends of a model. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/random.h"
#include "tests/parity/parity.h"
#include "tests/step.h"

struct token_args {
    uint32_t hidden;
    uint32_t vocab_n;
    bool is_tied; /* embed and head share one packed matrix */
    bool is_f16;  /* the checkpoint's type */
    bool is_from_slot;
    uint32_t logit_rows; /* score */
};

struct token_state {
    const void *embed_w;
    const void *head_w;
};

enum { STREAM_X, STREAM_LOGITS, STREAM_EMBED, STREAM_HEAD };

static const uint32_t token_vocabs[] = {1, 65, 500, 1024};

static struct kern_matrix token_f16_matrix(struct rig *rig, const struct token_args *args)
{
    size_t n = (size_t)args->vocab_n * args->hidden;
    uint16_t *data = arena_alloc(&rig->arena, n * sizeof *data);
    for (size_t i = 0; i < n; i++) {
        /* every finite pattern up to 2 comes by, denormals included */
        uint16_t bits = (uint16_t)kern_mix64(i + 77);
        data[i] = (uint16_t)((bits & 0x83FFu) | ((bits >> 10 & 0x1Fu) % 16u) << 10);
    }
    return (struct kern_matrix){
        .data = data, .dtype = DTYPE_F16, .n = args->vocab_n, .k = args->hidden};
}

static void token_prepare(struct rig *rig, const struct parity_case *c)
{
    const struct token_args *args = c->args;
    struct token_state *state = arena_alloc(&rig->arena, sizeof *state);
    rig->state = state;
    struct kern_matrix embed = parity_matrix(c, STREAM_EMBED, args->vocab_n, args->hidden);
    if (args->is_f16) {
        embed = token_f16_matrix(rig, args);
    }
    state->embed_w = rig_weight(rig, &embed);
    state->head_w = state->embed_w;
    if (!args->is_tied) {
        struct kern_matrix head = parity_matrix(c, STREAM_HEAD, args->vocab_n, args->hidden);
        state->head_w = rig_weight(rig, &head);
    }
}

/* A case of one-row sequences. */
static void token_case_init(struct parity_case *c, const struct token_args *args, uint32_t row_n,
                            enum dtype held, uint64_t seed)
{
    parity_case_init(c, held, seed);
    for (uint32_t i = 0; i < row_n; i++) {
        world_add(&c->world, i % 50, 1, i % 3 == 0);
    }
    world_deal_pages(&c->world, seed, &c->arena);
    c->open.row_max = row_n;
    c->open.k_max = args->hidden;
    c->open.n_max = args->hidden;
    c->open.vocab_n = args->vocab_n;
    c->args = args;
    c->has_free_rows = true;
    c->prepare = token_prepare;
}

/* Makes token (31 * slot) % vocab the last one of each of the view's slots. */
static void embed_seed_slots(struct rig *rig, const struct token_args *args,
                             const struct world_view *view)
{
    uint32_t n = view->row_n;
    struct kern_sample_row *samples = arena_alloc(&rig->arena, n * sizeof *samples);
    float *logits = arena_alloc(&rig->arena, (size_t)n * args->vocab_n * sizeof *logits);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = view->step.rows[i].slot;
        samples[i] = (struct kern_sample_row){
            .row = i, .slot = slot, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1};
        logits[(size_t)i * args->vocab_n + 31 * slot % args->vocab_n] = 1.0f;
    }
    struct kern_step step = view->step;
    step.samples = samples;
    step.sample_n = n;
    struct kern_sample op = {
        .logits = rig_put(rig, logits, (size_t)n * args->vocab_n * sizeof *logits),
        .vocab_n = args->vocab_n,
        .out = rig_take(rig, n * sizeof(struct kern_token)),
    };
    step_begin(rig->kern, rig->dev, &step);
    rig->kern->sample(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
}

static void embed_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct token_args *args = c->args;
    const struct token_state *state = rig->state;
    const uint32_t shape[2] = {view->row_n, args->hidden};
    if (args->is_from_slot) {
        embed_seed_slots(rig, args, view);
    }
    struct kern_row *rows = arena_alloc(&rig->arena, view->row_n * sizeof *rows);
    struct kern_step step = view->step;
    for (uint32_t i = 0; i < view->row_n; i++) {
        rows[i] = view->step.rows[i];
        bool is_from_slot = args->is_from_slot && rows[i].slot % 4 != 1;
        rows[i].token = is_from_slot ? UINT32_MAX : rows[i].token * 7 % args->vocab_n;
        rows[i].flags |= is_from_slot ? KERN_ROW_FROM_SLOT : 0;
    }
    step.rows = rows;
    struct kern_embed op = {
        .w = state->embed_w,
        .vocab_n = args->vocab_n,
        .hidden = args->hidden,
        .multiplier = args->is_tied ? 1.0f : 11.3f,
        .h = rig_take(rig, (size_t)shape[0] * shape[1] * sizeof(float)),
    };
    step_begin(rig->kern, rig->dev, &step);
    rig->kern->embed(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    /* one product: equal bits, but where the weight was rounded on its way in */
    float rounding = rig->held == DTYPE_F16 ? 1.0f / 2048 : 0;
    rig_out_f32(rig, "h", op.h, shape, (struct rig_bound){.relative = rounding, .floor = 1.0f});
}

void parity_embed(void)
{
    static const uint32_t hidden[] = {8, 63, 64, 72, 896};
    for (uint32_t i = 0; i < 20; i++) {
        struct parity_case c;
        struct token_args args = {.hidden = hidden[i / 2 % 5],
                                  .vocab_n = token_vocabs[(i / 2 + i / 10) % 4],
                                  .is_tied = i / 4 % 2,
                                  .is_f16 = i / 2 % 3 == 2,
                                  .is_from_slot = i / 10};
        token_case_init(&c, &args, 1 + 13 * (i / 2 % 4), i % 2 ? DTYPE_BF16 : DTYPE_F32, 5000 + i);
        c.run = embed_run;
        snprintf(c.text, sizeof c.text, "embed %s: hidden %u, vocabulary %u, f16 %d, from slot %d",
                 dtype_name(c.open.held), args.hidden, args.vocab_n, args.is_f16,
                 args.is_from_slot);
        parity_check(&c);
        parity_case_done(&c);
    }
}

static const void *token_put_x(struct rig *rig, const struct parity_case *c,
                               const struct world_view *view)
{
    const struct token_args *args = c->args;
    const float *x = parity_floats(c, STREAM_X, (size_t)c->world.row_n * args->hidden, 1.0f);
    return rig_put_held(rig, x + (size_t)view->first * args->hidden,
                        (size_t)view->row_n * args->hidden);
}

static void head_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct token_args *args = c->args;
    const struct token_state *state = rig->state;
    const uint32_t shape[2] = {view->row_n, args->vocab_n};
    struct kern_head op = {
        .x = token_put_x(rig, c, view),
        .w = state->head_w,
        .vocab_n = args->vocab_n,
        .hidden = args->hidden,
        .multiplier = args->is_tied ? 1.0f : 0.3f,
        .logits = rig_take(rig, (size_t)shape[0] * shape[1] * sizeof(float)),
    };
    step_begin(rig->kern, rig->dev, &view->step);
    rig->kern->head(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    rig_out_f32(rig, "logits", op.logits, shape,
                (struct rig_bound){.relative = 1e-5f, .floor = 0.5f});
    rig_flip_rows(rig);
}

void parity_head(void)
{
    static const uint32_t hidden[] = {8, 64, 72, 896};
    static const uint32_t rows[] = {1, 2, 9, 33, 65};
    for (uint32_t i = 0; i < 40; i++) {
        struct parity_case c;
        struct token_args args = {.hidden = hidden[i / 2 % 4],
                                  .vocab_n = token_vocabs[(i / 2 + i / 8) % 4],
                                  .is_tied = i / 4 % 2};
        token_case_init(&c, &args, rows[i / 2 % 5], i % 2 ? DTYPE_BF16 : DTYPE_F32, 6000 + i);
        c.world.samples = arena_alloc(&c.arena, c.world.row_n * sizeof(struct kern_sample_row));
        c.run = head_run;
        snprintf(c.text, sizeof c.text, "head %s: hidden %u, vocabulary %u, rows %u, tied %d",
                 dtype_name(c.open.held), args.hidden, args.vocab_n, c.world.row_n, args.is_tied);
        parity_check(&c);
        parity_case_done(&c);
    }
}

/* Every third logit rounded coarsely, so that ties occur; some rows hold what no row should. */
static const float *sample_logits(const struct parity_case *c)
{
    const struct token_args *args = c->args;
    size_t n = (size_t)c->world.row_n * args->vocab_n;
    float *logits = (float *)(uintptr_t)parity_floats(c, STREAM_LOGITS, n, 8.0f);
    for (size_t i = 0; i < n; i++) {
        uint32_t row = (uint32_t)(i / args->vocab_n);
        logits[i] = i % 3 == 0 ? roundf(logits[i]) : logits[i];
        if (row % 6 == 5) {
            logits[i] = i % 5 == 0 ? -INFINITY : i % 11 == 0 ? NAN : logits[i];
        }
        if (row % 12 == 7) {
            logits[i] = -INFINITY;
        }
    }
    return logits;
}

static void sample_rows(struct parity_case *c)
{
    const struct token_args *args = c->args;
    static const float temperatures[] = {0.0f, 1.0f, 0.7f, 2.0f, 1e-30f};
    static const uint32_t top_ks[] = {0, 1, 5, 40, 100000};
    static const float top_ps[] = {1.0f, 0.9f, 0.1f, 0.0f};
    struct kern_sample_row *rows = arena_alloc(&c->arena, c->world.row_n * sizeof *rows);
    struct kern_bias *biases = arena_alloc(&c->arena, 4 * sizeof *biases);
    uint32_t *hist = arena_alloc(&c->arena, 64 * sizeof *hist);
    for (uint32_t i = 0; i < 64; i++) {
        hist[i] = parity_draw(c, i, MIN(args->vocab_n, 30));
    }
    for (uint32_t i = 0; i < 4; i++) {
        biases[i] = (struct kern_bias){i * 5 % args->vocab_n, i == 3 ? -INFINITY : (float)i * 2};
    }
    for (uint32_t i = 0; i < c->world.row_n; i++) {
        uint32_t draw = parity_draw(c, 100 + i, 1u << 20);
        rows[i] = (struct kern_sample_row){.pos = i,
                                           .slot = i,
                                           .flags = KERN_SAMPLE_FRESH,
                                           .temperature = temperatures[draw % 5],
                                           .top_k = top_ks[draw / 5 % 5],
                                           .top_p = top_ps[draw / 25 % 4],
                                           .min_p = draw / 100 % 3 == 0 ? 0.05f : 0,
                                           .repetition_penalty = draw / 300 % 2 ? 1.3f : 1.0f,
                                           .presence_penalty = draw / 600 % 2 ? 0.5f : 0,
                                           .frequency_penalty = draw / 1200 % 2 ? 0.3f : 0,
                                           .seed = draw,
                                           .top_logprobs = (int32_t)(draw / 2400 % 22) - 1,
                                           .bias_n = draw / 7 % 2 ? 4 : 0,
                                           .hist_n = draw / 11 % 2 ? 64 : 0,
                                           .hist_prompt_n = 20};
    }
    c->world.samples = rows;
    c->world.biases = biases;
    c->world.hist = hist;
}

static void sample_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct token_args *args = c->args;
    size_t all = (size_t)c->world.row_n * args->vocab_n;
    size_t row_bytes = args->vocab_n * sizeof(float);
    const float *logits = parity_floats(c, STREAM_LOGITS, all, 8.0f);
    char *by_sample = arena_alloc(&rig->arena, view->row_n * row_bytes);
    for (uint32_t i = 0; i < view->row_n; i++) {
        uint32_t row = view->first + view->step.samples[i].row;
        memcpy(by_sample + i * row_bytes, logits + (size_t)row * args->vocab_n, row_bytes);
    }
    struct kern_sample op = {
        .logits = rig_put(rig, by_sample, view->row_n * row_bytes),
        .vocab_n = args->vocab_n,
        .out = rig_take(rig, view->row_n * sizeof(struct kern_token)),
    };
    step_begin(rig->kern, rig->dev, &view->step);
    rig->kern->sample(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    rig_out_tokens(rig, op.out, view->row_n, (struct rig_bound){.relative = 2e-6f, .floor = 1.0f});
    rig_flip_rows(rig);
}

void parity_sample(void)
{
    for (uint32_t i = 0; i < 8; i++) {
        struct parity_case c;
        struct token_args args = {.hidden = 8, .vocab_n = token_vocabs[i / 2]};
        token_case_init(&c, &args, 120, i % 2 ? DTYPE_BF16 : DTYPE_F32, 7000 + i);
        sample_logits(&c);
        sample_rows(&c);
        c.prepare = NULL;
        c.run = sample_run;
        snprintf(c.text, sizeof c.text, "sample %s: vocabulary %u", dtype_name(c.open.held),
                 args.vocab_n);
        parity_check(&c);
        parity_case_done(&c);
    }
}

static void score_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct token_args *args = c->args;
    const struct token_state *state = rig->state;
    struct kern_score op = {
        .x = token_put_x(rig, c, view),
        .w = state->head_w,
        .vocab_n = args->vocab_n,
        .hidden = args->hidden,
        .multiplier = args->is_tied ? 1.0f : 0.3f,
        .logits = rig_take(rig, (size_t)args->logit_rows * args->vocab_n * sizeof(float)),
        .logit_rows = args->logit_rows,
        .out = rig_take(rig, view->row_n * sizeof(struct kern_token)),
    };
    step_begin(rig->kern, rig->dev, &view->step);
    rig->kern->score(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    rig_out_tokens(rig, op.out, view->row_n, (struct rig_bound){.relative = 1e-5f, .floor = 1.0f});
    rig_flip_rows(rig);
}

void parity_score(void)
{
    static const uint32_t logit_rows[] = {1, 3, 64};
    for (uint32_t i = 0; i < 24; i++) {
        struct parity_case c;
        struct token_args args = {.hidden = i / 2 % 2 ? 72 : 64,
                                  .vocab_n = token_vocabs[i / 2 % 4],
                                  .is_tied = true,
                                  .logit_rows = logit_rows[i / 2 % 3]};
        token_case_init(&c, &args, i % 5 == 0 ? 1 : 31, i % 2 ? DTYPE_BF16 : DTYPE_F32, 8000 + i);
        struct kern_score_row *scores = arena_alloc(&c.arena, c.world.row_n * sizeof *scores);
        for (uint32_t row = 0; row < c.world.row_n; row++) {
            scores[row] = (struct kern_score_row){.target = parity_draw(&c, row, args.vocab_n),
                                                  .top_n = row % (LIMIT_TOP_LOGPROBS + 1)};
        }
        c.world.scores = scores;
        c.run = score_run;
        snprintf(c.text, sizeof c.text, "score %s: hidden %u, vocabulary %u, in pieces of %u",
                 dtype_name(c.open.held), args.hidden, args.vocab_n, args.logit_rows);
        parity_check(&c);
        parity_case_done(&c);
    }
}
