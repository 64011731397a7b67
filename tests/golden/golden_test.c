/* Every family, base and adapters, against what transformers and peft compute (tests/oracle):
 * logits of prompt positions fed in three ways, and a greedy continuation. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/mem.h"
#include "tests/golden/golden.h"

#define BACKENDS_MAX 16

/* Of the row's largest |logit|. A backend that holds 16 bits must pick the reference's winner where
 * the second is further off than CLEAR. */
#define TOLERANCE_F32 1e-4
#define TOLERANCE_16  1e-2
#define CLEAR         2e-2
#define CLEAR_ROWS    32

enum feed { FEED_WHOLE, FEED_SPLIT, FEED_SINGLE, FEED_N };

static const char *const feed_words[FEED_N] = {"whole", "split at 64", "token by token"};

static const struct golden_run runs[] = {
    {.name = "base"},
    {.name = "a", .seg_n = 1, .segs = {{0, 1}}},
    {.name = "b", .seg_n = 1, .segs = {{1, 1}}},
    {.name = "pair", .seg_n = 2, .segs = {{0, 0.7f}, {1, -0.4f}}},
    {.name = "s", .start = {2, 1}},
    {.name = "n", .start = {3, 1}},
    {.name = "ia3", .seg_n = 1, .segs = {{4, 1, BATCH_SEG_SCALES}}},
    {.name = "sa", .seg_n = 1, .segs = {{0, 1}}, .start = {2, 1}},
};

static struct golden_backend backends[BACKENDS_MAX];
static uint32_t backend_n;

static const struct tensor *expected(const struct golden *g, const char *run, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", run, what);
    const struct tensor *t = tensor_set_find(&g->expected, name);
    assert_non_null(t);
    return t;
}

/* Feeds the prompt and keeps the logits of all its rows; returns the next token. */
static uint32_t feed_prompt(struct golden *g, const struct golden_run *run, enum feed feed,
                            float *logits)
{
    const struct tensor *prompt = tensor_set_find(&g->expected, "prompt");
    assert_non_null(prompt);
    uint32_t n = (uint32_t)prompt->dims[0];
    int32_t tokens[GOLDEN_ROWS_MAX];
    uint32_t piece[FEED_N] = {n, LIMIT_PROMPT_CUT, 1};
    uint32_t next = 0;
    assert_true(n <= GOLDEN_ROWS_MAX);
    memcpy(tokens, prompt->data, n * sizeof *tokens);
    golden_restart(g);
    for (uint32_t at = 0; at < n; at += piece[feed]) {
        next = golden_step(g, run, tokens + at, MIN(piece[feed], n - at), feed != FEED_SINGLE,
                           logits + (size_t)at * g->model.desc.vocab_n);
    }
    return next;
}

/* Row `row` of what the reference computed. */
static void expected_row(const struct tensor *want, size_t row, float *out)
{
    size_t bytes = want->dims[1] * sizeof *out;
    memcpy(out, (const char *)want->data + row * bytes, bytes);
}

/* The largest difference over all rows, as a share of the row's largest |logit|. */
static double worst_logit(const struct golden *g, const struct golden_run *run, const float *logits)
{
    const struct tensor *want = expected(g, run->name, "logits");
    const struct tensor *prompt = tensor_set_find(&g->expected, "prompt");
    uint32_t vocab_n = g->model.desc.vocab_n;
    assert_int_equal(want->dims[1], vocab_n);
    assert_true(vocab_n <= GOLDEN_VOCAB_MAX);
    double worst = 0;
    for (size_t row = 0; row < want->dims[0]; row++) {
        const float *got = logits + (prompt->dims[0] - want->dims[0] + row) * vocab_n;
        float w[GOLDEN_VOCAB_MAX];
        double largest = 0;
        double difference = 0;
        expected_row(want, row, w);
        for (size_t i = 0; i < vocab_n; i++) {
            double d = fabs((double)w[i] - (double)got[i]);
            largest = fmax(largest, fabs((double)w[i]));
            difference = isnan(d) ? INFINITY : fmax(difference, d);
        }
        worst = fmax(worst, difference / largest);
    }
    return worst;
}

static uint32_t best_of(const float *logits, uint32_t vocab_n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab_n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

/* The winner at every position where the reference has a clear one; there are enough of those. */
static void check_winners(const struct golden *g, const struct golden_run *run, const float *logits,
                          const char *label)
{
    const struct tensor *want = expected(g, run->name, "logits");
    const struct tensor *prompt = tensor_set_find(&g->expected, "prompt");
    uint32_t vocab_n = g->model.desc.vocab_n;
    uint32_t clear_n = 0;
    for (size_t row = 0; row < want->dims[0]; row++) {
        const float *got = logits + (prompt->dims[0] - want->dims[0] + row) * vocab_n;
        float w[GOLDEN_VOCAB_MAX];
        float largest = 0;
        float second = -INFINITY;
        expected_row(want, row, w);
        uint32_t best = best_of(w, vocab_n);
        for (uint32_t i = 0; i < vocab_n; i++) {
            largest = fmaxf(largest, fabsf(w[i]));
            second = i != best ? fmaxf(second, w[i]) : second;
        }
        bool is_clear = (double)(w[best] - second) > CLEAR * (double)largest;
        clear_n += is_clear;
        if (is_clear && best_of(got, vocab_n) != best) {
            fail_msg("%s, run %s: the winner of row %zu is %u, the reference has %u", label,
                     run->name, row, best_of(got, vocab_n), best);
        }
    }
    assert_true(clear_n >= CLEAR_ROWS);
}

static void check_greedy(struct golden *g, const struct golden_run *run, uint32_t next,
                         const char *label)
{
    const struct tensor *want = expected(g, run->name, "tokens");
    int32_t tokens[GOLDEN_STEPS];
    assert_int_equal(want->dims[0], GOLDEN_STEPS);
    memcpy(tokens, want->data, sizeof tokens);
    for (uint32_t i = 0; i < GOLDEN_STEPS; i++) {
        if (next != (uint32_t)tokens[i]) {
            fail_msg("%s, run %s: greedy token %u is %u, the reference has %d", label, run->name, i,
                     next, tokens[i]);
        }
        next = golden_step(g, run, NULL, 1, false, NULL);
    }
}

/* Scores of prompt tokens against the logits of the same rows; a sample in the same step comes
 * first. */
static void check_scores(struct golden *g, const struct golden_run *run, const float *logits)
{
    static struct batch_token out[GOLDEN_ROWS_MAX];
    const struct tensor *prompt = tensor_set_find(&g->expected, "prompt");
    uint32_t n = (uint32_t)prompt->dims[0];
    uint32_t vocab_n = g->model.desc.vocab_n;
    int32_t tokens[GOLDEN_ROWS_MAX];
    memcpy(tokens, prompt->data, n * sizeof *tokens);
    golden_score(g, run, tokens, n, out);
    for (uint32_t row = 0; row < n; row++) {
        const float *l = logits + (size_t)row * vocab_n;
        const struct batch_token *got = row + 1 < n ? &out[1 + row] : &out[0];
        uint32_t best = best_of(l, vocab_n);
        double sum = 0;
        for (uint32_t i = 0; i < vocab_n; i++) {
            sum += exp((double)l[i]);
        }
        uint32_t target = row + 1 < n ? (uint32_t)tokens[row + 1] : best;
        assert_int_equal(got->token, target);
        assert_true(fabs((double)l[target] - log(sum) - (double)got->logprob) < 1e-4);
        if (row + 1 < n) {
            assert_int_equal(got->top_n, 2);
            assert_int_equal(got->top_tokens[0], best);
        }
    }
}

/* The states after the prompt, where the reference kept them. */
static void check_states(const struct golden *g, const struct golden_run *run, const char *label)
{
    const struct model_desc *desc = &g->model.desc;
    float *state = mem_zalloc_n(g->state.state_n + 1, sizeof *state);
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        char name[64];
        double worst = 0;
        double largest = 0;
        snprintf(name, sizeof name, "%s.state.%u", run->name, l);
        const struct tensor *want = tensor_set_find(&g->expected, name);
        if (!want) {
            continue;
        }
        assert_int_equal(want->bytes, g->state.state_n * sizeof *state);
        golden_read_state(g, desc->layers[l].state_layer, state);
        for (size_t i = 0; i < g->state.state_n; i++) {
            float w;
            memcpy(&w, (const char *)want->data + i * sizeof w, sizeof w);
            worst = fmax(worst, fabs((double)w - (double)state[i]));
            largest = fmax(largest, fabs((double)w));
        }
        print_message("%s, run %s, state of layer %u: %.2e\n", label, run->name, l,
                      worst / largest);
        assert_true(worst / largest < TOLERANCE_F32);
    }
    mem_free(state);
}

static void check_run(struct golden *g, const struct golden_run *run, const char *label)
{
    bool is_16 = g->model.held != DTYPE_F32;
    double tolerance = is_16 ? TOLERANCE_16 : TOLERANCE_F32;
    size_t bytes = (size_t)GOLDEN_ROWS_MAX * g->model.desc.vocab_n * sizeof(float);
    float *logits[FEED_N] = {0};
    /* With cuBLASLt's stand-in nothing but prompts of many rows is computed otherwise. */
    uint32_t feed_n = getenv("GRAFT_EMU_CUBLASLT") ? FEED_SINGLE : FEED_N;
    for (uint32_t feed = 0; feed < feed_n; feed++) {
        logits[feed] = mem_zalloc(bytes);
        uint32_t next = feed_prompt(g, run, feed, logits[feed]);
        double worst = worst_logit(g, run, logits[feed]);
        print_message("%s, run %s, %s: %.2e\n", label, run->name, feed_words[feed], worst);
        if (worst > tolerance) {
            fail_msg("%s, run %s, prompt %s: a logit differs by %.2e of the row's largest", label,
                     run->name, feed_words[feed], worst);
        }
        check_states(g, run, label);
        if (is_16) {
            check_winners(g, run, logits[feed], label);
        } else if (feed == FEED_SPLIT) {
            check_greedy(g, run, next, label);
        }
    }
    /* The law of order: a split at 64 positions changes no bit. */
    assert_memory_equal(logits[FEED_WHOLE], logits[FEED_SPLIT], bytes);
    check_scores(g, run, logits[FEED_WHOLE]);
    for (enum feed feed = 0; feed < FEED_N; feed++) {
        mem_free(logits[feed]);
    }
}

static void check_case(void **state)
{
    const char *name = *state;
    for (uint32_t i = 0; i < backend_n; i++) {
        char label[128];
        struct golden g;
        if (!golden_can_hold(&backends[i], name)) {
            continue;
        }
        snprintf(label, sizeof label, "%s on %s", name, backends[i].name);
        golden_open(&g, &backends[i], name);
        for (size_t r = 0; r < (golden_is_first() ? 1 : ARRAY_N(runs)); r++) {
            if (golden_has_run(&g, runs[r].name)) {
                check_run(&g, &runs[r], label);
            }
        }
        golden_close(&g);
    }
}

#define RANDOM_ROWS 40

static void random_logits(const struct golden_backend *backend, const char *name, enum dtype held,
                          uint64_t seed, float *logits)
{
    static const struct golden_run base = {.name = "base"};
    int32_t tokens[RANDOM_ROWS];
    struct golden g;
    golden_open_random(&g, backend, name, held, seed);
    for (uint32_t i = 0; i < RANDOM_ROWS; i++) {
        tokens[i] = (int32_t)(i * 37 % g.model.desc.vocab_n);
    }
    golden_step(&g, &base, tokens, RANDOM_ROWS, true, logits);
    golden_close(&g);
}

/* Largest difference as a share of the largest logit of the row. */
static double random_difference(const float *a, const float *b, uint32_t vocab_n)
{
    double worst = 0;
    for (size_t row = 0; row < RANDOM_ROWS; row++) {
        double largest = 0;
        double difference = 0;
        for (size_t i = row * vocab_n; i < (row + 1) * vocab_n; i++) {
            largest = fmax(largest, fabs((double)a[i]));
            difference = fmax(difference, fabs((double)a[i] - (double)b[i]));
        }
        assert_true(isfinite(largest) && largest > 0.5 && largest < 50); /* a sum of squares of 1 */
        worst = fmax(worst, difference / largest);
    }
    return worst;
}

/* A random model is the same model on every backend, and another one for another seed. */
static void random_weights_agree(void **state)
{
    static const char *const names[] = {"qwen3-bf16", "qwen2-bf16"}; /* norms of heads; biases */
    static float ref[RANDOM_ROWS * GOLDEN_VOCAB_MAX];
    static float got[RANDOM_ROWS * GOLDEN_VOCAB_MAX];
    (void)state;
    for (uint32_t c = 0; c < 2 * ARRAY_N(names); c++) {
        enum dtype held = c % 2 ? DTYPE_F32 : DTYPE_BF16;
        struct golden g;
        golden_open_random(&g, &backends[0], names[c / 2], held, 5);
        uint32_t vocab_n = g.model.desc.vocab_n;
        assert_int_equal(strncmp(g.model.fingerprint, "random:5:", 9), 0);
        assert_int_equal(strlen(g.model.fingerprint), 9 + 64);
        golden_close(&g);
        random_logits(&backends[0], names[c / 2], held, 5, ref);
        for (uint32_t i = 1; i < backend_n; i++) {
            if (backends[i].is_16_bit && held == DTYPE_F32) {
                continue;
            }
            random_logits(&backends[i], names[c / 2], held, 5, got);
            double worst = random_difference(ref, got, vocab_n);
            printf("random %s %s on %s: %.2g\n", names[c / 2], dtype_name(held), backends[i].name,
                   worst);
            assert_true(worst < (held == DTYPE_F32 ? TOLERANCE_F32 : TOLERANCE_16));
        }
        random_logits(&backends[0], names[c / 2], held, 6, got);
        assert_true(random_difference(ref, got, vocab_n) > 0.1);
    }
}

#define CASE(name)                                                                                 \
    {                                                                                              \
        name, check_case, NULL, NULL, (char[])                                                     \
        {                                                                                          \
            name                                                                                   \
        }                                                                                          \
    }

/* Usage: golden_test [BACKEND]: ref and what is called so, "cuda", "cpu avx512" and so on. With
 * GRAFT_FIRST set only the base. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE("llama"),          CASE("llama-bias"),
        CASE("qwen2"),          CASE("qwen2-tied"),
        CASE("qwen3"),          CASE("llama-bf16"),
        CASE("qwen2-bf16"),     CASE("qwen3-bf16"),
        CASE("llama-f16"),      CASE("qwen3-f16"),
        CASE("qwen2-ia3"),      CASE("qwen35"),
        CASE("qwen35-nested"),  CASE("qwen35-fused"),
        CASE("falcon-h1"),      CASE("falcon-h1-norm"),
        CASE("falcon-h1-gate"), CASE("qwen35-bf16"),
        CASE("falcon-h1-bf16"), cmocka_unit_test(random_weights_agree),
    };
    backend_n = golden_backends(backends, BACKENDS_MAX, argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
