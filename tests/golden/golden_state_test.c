/* What initial recurrent states must and must not change, on every backend: zero states are no
 * states, what an op leaves behind is affine in them, and neither the split of a prompt nor
 * neighbours nor what a slot held before change a bit. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "model/walk_int.h"
#include "tests/golden/golden.h"
#include "tests/step.h"

#define BACKENDS_MAX 16
#define STATE_PROMPT 150
#define STATE_STEPS  16 /* generated after the prompt */
#define STATE_ROWS   (STATE_PROMPT + STATE_STEPS)
#define VERSION_S    2

/* Shares of the largest value: of a row fed as a generated one against a prompt's, in fp32, also
 * beside LoRA, whose large changes here make more of rounding; of what rounding makes of an affine
 * map. */
#define TOLERANCE_FORM   1e-5
#define TOLERANCE_LORA   2e-5
#define TOLERANCE_AFFINE 1e-5
#define LEAST_CHANGE     1e-4 /* by a state, beside which the tolerance is small */

enum { RUN_BASE, RUN_S, RUN_N, RUN_SA, RUN_A, RUN_N_ALL };

static const struct golden_run runs[RUN_N_ALL] = {
    {.name = "base"},
    {.name = "s", .start = {VERSION_S, 1}},
    {.name = "n", .start = {3, 1}},
    {.name = "sa", .seg_n = 1, .segs = {{0, 1}}, .start = {VERSION_S, 1}},
    {.name = "a", .seg_n = 1, .segs = {{0, 1}}},
};

static struct golden_backend backends[BACKENDS_MAX];
static uint32_t backend_n;

/* What a sequence gave: the logits of its prompt's rows and of those generated after them, and the
 * slot's memory in the end. The tokens are in the logits. */
struct trace {
    uint32_t row_n;
    float logits[STATE_ROWS * GOLDEN_VOCAB_MAX];
    float *states; /* [state layer][slot], the convolution's part too */
};

/* A backend with one case; traces of its own. */
struct lab {
    struct golden g;
    char label[128];
    int32_t prompt[STATE_PROMPT];
    size_t slot_n; /* floats of a slot in all layers */
};

static struct trace *trace_new(const struct lab *lab)
{
    struct trace *t = mem_zalloc(sizeof *t);
    t->states = mem_zalloc_n(lab->slot_n, sizeof *t->states);
    return t;
}

static void trace_free(struct trace *t)
{
    mem_free(t->states);
    mem_free(t);
}

static void trace_read_states(struct lab *lab, uint32_t slot, struct trace *out)
{
    struct golden *g = &lab->g;
    size_t slot_n = kern_state_slot_n(&g->state);
    for (uint32_t l = 0; l < g->state.layer_n; l++) {
        g->model.kern->get(g->model.dev, out->states + l * slot_n, golden_slot_state(g, l, slot),
                           slot_n * sizeof(float));
    }
}

/* The prompt's first n tokens in pieces, then STATE_STEPS rows. */
static void trace_run(struct lab *lab, const struct golden_run *run, uint32_t slot, uint32_t n,
                      uint32_t piece, struct trace *out)
{
    struct golden *g = &lab->g;
    uint32_t vocab_n = g->model.desc.vocab_n;
    golden_restart_slot(g, slot);
    for (uint32_t at = 0; at < n; at += piece) {
        struct golden_part part = {run, slot, lab->prompt + at, MIN(piece, n - at)};
        golden_step_parts(g, &part, 1, piece > 1, out->logits + (size_t)at * vocab_n);
    }
    for (uint32_t i = 0; i < STATE_STEPS; i++) {
        struct golden_part part = {run, slot, NULL, 1};
        golden_step_parts(g, &part, 1, false, out->logits + (size_t)(n + i) * vocab_n);
    }
    out->row_n = n + STATE_STEPS;
    trace_read_states(lab, slot, out);
}

static void assert_same(const struct lab *lab, const struct trace *a, const struct trace *b,
                        const char *what)
{
    size_t row_bytes = lab->g.model.desc.vocab_n * sizeof(float);
    assert_int_equal(a->row_n, b->row_n);
    for (uint32_t row = 0; row < a->row_n; row++) {
        size_t at = (size_t)row * lab->g.model.desc.vocab_n;
        if (memcmp(a->logits + at, b->logits + at, row_bytes) != 0) {
            fail_msg("%s, %s: the logits of position %u differ", lab->label, what, row);
        }
    }
    for (size_t i = 0; i < lab->slot_n; i++) {
        if (memcmp(&a->states[i], &b->states[i], sizeof(float)) != 0) {
            fail_msg("%s, %s: float %zu of the states differs, %g and %g", lab->label, what, i,
                     (double)a->states[i], (double)b->states[i]);
        }
    }
}

/* In the prompt's first row, which nothing but the beginning and the adapters tells apart. */
static void assert_differ(const struct lab *lab, const struct trace *a, const struct trace *b,
                          const char *what)
{
    size_t row_bytes = lab->g.model.desc.vocab_n * sizeof(float);
    if (memcmp(a->logits, b->logits, row_bytes) == 0) {
        fail_msg("%s, %s: the logits are equal", lab->label, what);
    }
}

/* The largest difference as a share of the largest value. */
static double difference(const float *a, const float *b, size_t n)
{
    double largest = 0;
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        largest = fmax(largest, fabs((double)a[i]));
        worst = isnan(d) ? INFINITY : fmax(worst, d);
    }
    return worst / largest;
}

static void lab_open(struct lab *lab, const struct golden_backend *backend, const char *name)
{
    *lab = (struct lab){0};
    snprintf(lab->label, sizeof lab->label, "%s on %s", name, backend->name);
    golden_open(&lab->g, backend, name);
    for (uint32_t i = 0; i < STATE_PROMPT; i++) {
        lab->prompt[i] = (int32_t)((i * 37 + i / 5 + 11) % lab->g.model.desc.vocab_n);
    }
    lab->slot_n = kern_state_slot_n(&lab->g.state) * lab->g.state.layer_n;
}

/* Every backend that can hold the case. */
static void each_backend(const char *name, void (*check)(struct lab *lab))
{
    static struct lab lab;
    bool is_spared = strcmp(name, "falcon-h1") == 0 || strcmp(name, "qwen35-bf16") == 0;
    bool is_first = strncmp(name, "qwen35", 6) == 0;
    if ((is_spared && golden_is_brief()) || (!is_first && golden_is_first())) {
        skip();
    }
    for (uint32_t i = 0; i < backend_n; i++) {
        if (golden_can_hold(&backends[i], name)) {
            lab_open(&lab, &backends[i], name);
            check(&lab);
            golden_close(&lab.g);
        }
    }
}

static void zero_the_states(struct golden *g, uint32_t version)
{
    const struct model *m = &g->model;
    char *block = mem_alloc(g->block_bytes[version]);
    m->kern->get(m->dev, block, g->blocks[version], g->block_bytes[version]);
    const struct effect_block *head = (const struct effect_block *)(void *)block;
    assert_true(head->state_at > 0);
    memset(block + head->state_at, 0,
           (size_t)effect_state_stride(head->state_n) * g->state.layer_n);
    m->kern->put(m->dev, g->blocks[version], block, g->block_bytes[version]);
    m->kern->set_version(m->dev, version, g->blocks[version]);
    mem_free(block);
}

static void check_zero(struct lab *lab)
{
    static const uint32_t pairs[][2] = {{RUN_BASE, RUN_S}, {RUN_A, RUN_SA}};
    struct trace *without = trace_new(lab);
    struct trace *with = trace_new(lab);
    const uint32_t n = STATE_PROMPT;
    trace_run(lab, &runs[RUN_BASE], 0, n, n, without);
    trace_run(lab, &runs[RUN_S], 0, n, n, with);
    assert_differ(lab, without, with, "states before they are zero");
    zero_the_states(&lab->g, VERSION_S);
    for (size_t i = 0; i < ARRAY_N(pairs); i++) {
        trace_run(lab, &runs[pairs[i][0]], 0, n, n, without);
        trace_run(lab, &runs[pairs[i][1]], 0, n, n, with);
        assert_same(lab, without, with, "zero states");
    }
    trace_free(without);
    trace_free(with);
}

static void zero_states_are_none(void **state)
{
    each_backend(*state, check_zero);
}

/* The whole prompt, split at multiples of LIMIT_PROMPT_CUT, and as generated rows. */
static void check_split(struct lab *lab)
{
    static const uint32_t cases[] = {RUN_BASE, RUN_S, RUN_A, RUN_SA};
    struct trace *whole = trace_new(lab);
    struct trace *parts = trace_new(lab);
    const uint32_t n = STATE_PROMPT;
    size_t vocab_n = lab->g.model.desc.vocab_n;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        const struct golden_run *run = &runs[cases[i]];
        trace_run(lab, run, 0, n, n, whole);
        trace_run(lab, run, 0, n, LIMIT_PROMPT_CUT, parts);
        assert_same(lab, whole, parts, "a split prompt");
        if (lab->g.model.held == DTYPE_F32) {
            double worst = 0;
            trace_run(lab, run, 0, n, 1, parts);
            for (uint32_t row = 0; row < n; row++) {
                worst = fmax(worst, difference(whole->logits + row * vocab_n,
                                               parts->logits + row * vocab_n, vocab_n));
            }
            double states = difference(whole->states, parts->states, lab->slot_n);
            print_message("%s, run %s, token by token: logits %.1e, states %.1e\n", lab->label,
                          run->name, worst, states);
            assert_true(worst < (run->seg_n > 0 ? TOLERANCE_LORA : TOLERANCE_FORM));
            assert_true(states < TOLERANCE_FORM);
        }
    }
    trace_free(whole);
    trace_free(parts);
}

static void a_split_changes_nothing(void **state)
{
    each_backend(*state, check_split);
}

/* Four sequences side by side, step by step; each is what it is alone. */
static void check_crowd(struct lab *lab)
{
    static const uint32_t lengths[GOLDEN_SLOTS] = {70, 17, 33, 40};
    static const uint32_t slots[GOLDEN_SLOTS] = {2, 0, 3, 1};
    static float logits[GOLDEN_ROWS_MAX * GOLDEN_VOCAB_MAX];
    struct golden *g = &lab->g;
    size_t vocab_n = g->model.desc.vocab_n;
    struct golden_part parts[GOLDEN_SLOTS];
    struct trace *crowd[GOLDEN_SLOTS];
    struct trace *alone[GOLDEN_SLOTS];
    golden_restart(g);
    for (uint32_t i = 0; i < GOLDEN_SLOTS; i++) { /* base, s, n, sa */
        crowd[i] = trace_new(lab);
        alone[i] = trace_new(lab);
        parts[i] = (struct golden_part){&runs[i], slots[i], lab->prompt, lengths[i]};
    }
    for (uint32_t step = 0; step <= STATE_STEPS; step++) {
        const float *from = logits;
        golden_step_parts(g, parts, GOLDEN_SLOTS, step == 0, logits);
        for (uint32_t i = 0; i < GOLDEN_SLOTS; i++) {
            size_t n = parts[i].n * vocab_n;
            memcpy(crowd[i]->logits + crowd[i]->row_n * vocab_n, from, n * sizeof *from);
            crowd[i]->row_n += parts[i].n;
            from += n;
            parts[i] = (struct golden_part){&runs[i], slots[i], NULL, 1};
        }
    }
    for (uint32_t i = 0; i < GOLDEN_SLOTS; i++) {
        trace_read_states(lab, slots[i], crowd[i]);
    }
    for (uint32_t i = 0; i < GOLDEN_SLOTS; i++) {
        trace_run(lab, &runs[i], 0, lengths[i], lengths[i], alone[i]);
        assert_same(lab, crowd[i], alone[i], runs[i].name);
        for (uint32_t k = 0; k < i; k++) {
            assert_differ(lab, alone[i], alone[k], "two runs");
        }
    }
    for (uint32_t i = 0; i < GOLDEN_SLOTS; i++) {
        trace_free(crowd[i]);
        trace_free(alone[i]);
    }
}

static void neighbours_change_nothing(void **state)
{
    each_backend(*state, check_crowd);
}

static void fill_with_nan(struct golden *g, uint32_t slot)
{
    size_t slot_n = kern_state_slot_n(&g->state);
    float *values = mem_alloc(slot_n * sizeof *values);
    for (size_t i = 0; i < slot_n; i++) {
        values[i] = NAN;
    }
    for (uint32_t l = 0; l < g->state.layer_n; l++) {
        g->model.kern->put(g->model.dev, golden_slot_state(g, l, slot), values,
                           slot_n * sizeof *values);
    }
    mem_free(values);
}

/* A new sequence in a slot that another one had, and in one that holds no numbers. */
static void check_restart(struct lab *lab)
{
    static const uint32_t cases[] = {RUN_BASE, RUN_S};
    static const uint32_t lengths[] = {1, LIMIT_PROMPT_CUT + 9}; /* 1: a generated row's form */
    struct trace *fresh = trace_new(lab);
    struct trace *later = trace_new(lab);
    for (size_t i = 0; i < ARRAY_N(cases) * ARRAY_N(lengths); i++) {
        const struct golden_run *run = &runs[cases[i / 2]];
        uint32_t n = lengths[i % 2];
        trace_run(lab, run, (uint32_t)(i % 2) * 2, n, n, fresh);
        trace_run(lab, &runs[RUN_N], 1, STATE_PROMPT, STATE_PROMPT, later);
        trace_run(lab, run, 1, n, n, later);
        assert_same(lab, fresh, later, "a slot used before");
        fill_with_nan(&lab->g, 1);
        trace_run(lab, run, 1, n, n, later);
        assert_same(lab, fresh, later, "a slot without numbers");
    }
    trace_free(fresh);
    trace_free(later);
}

static void a_slot_begins_anew(void **state)
{
    each_backend(*state, check_restart);
}

/* The model's first recurrent op, on what stands in walk->mixer. */
static void call_mixer(struct golden *g)
{
    const struct model *m = &g->model;
    const struct layer_weights *w = &m->layers[0];
    const struct kern_conv conv = {w->conv_w, w->conv_bias};
    if (m->desc.layers[0].mixer == MIXER_GDN) {
        const struct gdn_desc *d = &m->desc.gdn;
        m->kern->gdn(m->dev,
                     &(struct kern_gdn){0, d->key_head_n, d->value_head_n, d->key_dim, d->value_dim,
                                        g->walk.mixer, conv, w->a_log, w->dt_bias, w->mixer_norm,
                                        m->desc.norm_eps, g->walk.mixed});
        return;
    }
    const struct ssd_desc *d = &m->desc.ssd;
    struct kern_ssd op = {.head_n = d->head_n,
                          .head_dim = d->head_dim,
                          .group_n = d->group_n,
                          .state_dim = d->state_dim,
                          .x = g->walk.mixer,
                          .multipliers = {1, 1, 1, 1, 1},
                          .conv = conv,
                          .a_log = w->a_log,
                          .dt_bias = w->dt_bias,
                          .d = w->d,
                          .norm_order = d->norm_order,
                          .norm = w->mixer_norm,
                          .norm_eps = m->desc.norm_eps,
                          .out = g->walk.mixed};
    m->kern->ssd(m->dev, &op);
}

static uint32_t mixer_row_n(const struct model_desc *desc)
{
    const struct gdn_desc *a = &desc->gdn;
    const struct ssd_desc *b = &desc->ssd;
    struct kern_gdn gdn = {0, a->key_head_n, a->value_head_n, a->key_dim, a->value_dim};
    struct kern_ssd ssd = {0, b->head_n, b->head_dim, b->group_n, b->state_dim};
    bool is_gdn = desc->layers[0].mixer == MIXER_GDN;
    return is_gdn ? kern_gdn_row_n(&gdn) : kern_ssd_row_n(&ssd);
}

/* n rows of x for each of seq_n sequences, the same for all. */
static void put_inputs(struct golden *g, uint32_t seq_n, uint32_t n)
{
    size_t each = (size_t)n * mixer_row_n(&g->model.desc);
    float *x = mem_alloc(seq_n * each * sizeof *x);
    for (size_t i = 0; i < seq_n * each; i++) {
        x[i] = (float)((i % each * 2654435761u >> 16) % 2048) / 1024.0f - 1.0f;
    }
    g->model.kern->put(g->model.dev, g->walk.mixer, x, seq_n * each * sizeof *x);
    mem_free(x);
}

/* From no states, from w times s and from 2 w times s, in slots 0 to 2 of one step. */
static void check_affine_rows(struct lab *lab, uint32_t n, bool is_prompt)
{
    struct golden *g = &lab->g;
    struct golden_run from[3];
    struct golden_part parts[3];
    size_t state_n = g->state.state_n;
    float *states = mem_alloc(3 * state_n * sizeof *states);
    double most = 0;
    double change = 0;
    double worst = 0;
    golden_restart(g);
    for (uint32_t i = 0; i < 3; i++) {
        from[i] = (struct golden_run){.name = "s", .start = {VERSION_S, 4.0f * (float)i}};
        parts[i] = (struct golden_part){&from[i], i, lab->prompt, n};
    }
    golden_fill(g, parts, 3, is_prompt);
    put_inputs(g, 3, n);
    struct kern_step step = walk_view(&g->walk, g->batch);
    step_begin(g->model.kern, g->model.dev, &step);
    call_mixer(g);
    assert_int_equal(step_end(g->model.kern, g->model.dev), 0);
    for (uint32_t i = 0; i < 3; i++) {
        g->model.kern->get(g->model.dev, states + i * state_n, golden_slot_state(g, 0, i),
                           state_n * sizeof *states);
    }
    for (size_t i = 0; i < state_n; i++) {
        double zero = (double)states[i];
        double one = (double)states[state_n + i] - zero;
        double two = (double)states[2 * state_n + i] - zero;
        most = fmax(most, fabs((double)states[2 * state_n + i]));
        change = fmax(change, fabs(one));
        worst = isnan(two) ? INFINITY : fmax(worst, fabs(two - 2 * one));
    }
    print_message("%s, %u %s rows: off by %.1e, changed by %.1e\n", lab->label, n,
                  is_prompt ? "prompt" : "generated", worst / most, change / most);
    assert_true(change / most > LEAST_CHANGE);
    assert_true(worst / most < TOLERANCE_AFFINE);
    mem_free(states);
}

static void check_affine(struct lab *lab)
{
    check_affine_rows(lab, 1, true);
    check_affine_rows(lab, 5, false);
    check_affine_rows(lab, 50, true);
}

static void states_are_affine_in_the_first(void **state)
{
    each_backend(*state, check_affine);
}

#define EACH(check)                                                                                \
    CASE(check, "qwen35"), CASE(check, "falcon-h1"), CASE(check, "falcon-h1-norm"),                \
        CASE(check, "qwen35-bf16"), CASE(check, "falcon-h1-bf16")
#define CASE(check, name)                                                                          \
    {                                                                                              \
#check " " name, check, NULL, NULL, (char[])                                               \
        {                                                                                          \
            name                                                                                   \
        }                                                                                          \
    }

/* Usage: golden_state_test [BACKEND]: ref and what is called so, "cuda", "cpu avx512" and so on.
 * With GRAFT_FIRST set only one family. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        EACH(zero_states_are_none),    EACH(states_are_affine_in_the_first),
        EACH(a_split_changes_nothing), EACH(neighbours_change_nothing),
        EACH(a_slot_begins_anew),
    };
    backend_n = golden_backends(backends, BACKENDS_MAX, argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
