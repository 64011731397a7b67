/* Sampling stage by stage, against a plain version that sorts everything. */
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/fmath.h"
#include "kernels/random.h"
#include "kernels/sample.h"

#define VOCAB 3000

static const struct kern_sample_row neutral = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1};

struct bench {
    float logits[VOCAB];
    uint32_t vocab_n;
    const struct kern_bias *biases;
    const uint32_t *hist;
    uint16_t counts[VOCAB];
    struct sample_scratch scratch;
    void *memory;
};

static int bench_init(void **state)
{
    struct bench *b = mem_zalloc(sizeof *b);
    b->memory = mem_alloc(sample_scratch_bytes(VOCAB));
    sample_scratch_init(&b->scratch, b->memory, VOCAB);
    *state = b;
    return 0;
}

static int bench_done(void **state)
{
    struct bench *b = *state;
    mem_free(b->memory);
    mem_free(b);
    return 0;
}

static void bench_set(struct bench *b, const float *logits, uint32_t n)
{
    memcpy(b->logits, logits, n * sizeof *logits);
    b->vocab_n = n;
    b->biases = NULL;
    b->hist = NULL;
}

static struct kern_token bench_run(struct bench *b, const struct kern_sample_row *row)
{
    struct kern_token out;
    struct sample_args args = {.logits = b->logits,
                               .vocab_n = b->vocab_n,
                               .lse = sample_lse(b->logits, b->vocab_n),
                               .row = row,
                               .biases = b->biases,
                               .hist = b->hist,
                               .counts = b->counts};
    sample_row(&args, &b->scratch, &out);
    return out;
}

/* Draws of n positions into counts per token. */
static void bench_count(struct bench *b, struct kern_sample_row row, uint32_t n, uint32_t *counts)
{
    memset(counts, 0, b->vocab_n * sizeof *counts);
    for (uint32_t pos = 0; pos < n; pos++) {
        row.pos = pos;
        counts[bench_run(b, &row).token]++;
    }
}

static void test_greedy(void **state)
{
    struct bench *b = *state;
    struct kern_sample_row row = neutral;
    row.temperature = 0;
    bench_set(b, (const float[]){1, 3, -2, 3}, 4);
    assert_int_equal(bench_run(b, &row).token, 1);
    bench_set(b, (const float[]){NAN, -5, -INFINITY, NAN}, 4);
    assert_int_equal(bench_run(b, &row).token, 1);
    bench_set(b, (const float[]){0, INFINITY, 1}, 3);
    assert_int_equal(bench_run(b, &row).token, 1);
}

static void test_forbidden_row(void **state)
{
    struct bench *b = *state;
    bench_set(b, (const float[]){-INFINITY, NAN, -INFINITY}, 3);
    struct kern_sample_row row = neutral;
    row.top_logprobs = 2;
    for (uint32_t i = 0; i < 2; i++) {
        row.temperature = (float)i;
        struct kern_token token = bench_run(b, &row);
        assert_int_equal(token.token, 0);
        assert_true(token.logprob == -INFINITY);
        assert_int_equal(token.top_n, 2);
        assert_int_equal(token.top_tokens[1], 1);
    }
}

static void test_bias(void **state)
{
    struct bench *b = *state;
    bench_set(b, (const float[]){5, 1, 0}, 3);
    const struct kern_bias biases[] = {{9, 9}, {0, -INFINITY}, {2, 0.75f}, {2, 0.75f}, {99999, 1}};
    b->biases = biases;
    struct kern_sample_row row = neutral;
    row.temperature = 0;
    row.bias_first = 1;
    row.bias_n = 4;
    struct kern_token token = bench_run(b, &row);
    assert_int_equal(token.token, 2);
    /* of the raw logits */
    assert_true(fabs((double)token.logprob + log(exp(5) + exp(1) + 1)) < 1e-5);
    uint32_t counts[3];
    row.temperature = 1;
    bench_count(b, row, 200, counts);
    assert_int_equal(counts[0], 0);
}

static void test_penalties(void **state)
{
    struct bench *b = *state;
    bench_set(b, (const float[]){4, 3.9f, 3.5f, -1}, 4);
    const uint32_t hist[] = {3, 3, 0, 0, 1, 1, 1, 4000000000u};
    b->hist = hist;
    struct kern_sample_row row = neutral;
    row.temperature = 0;
    row.flags = KERN_SAMPLE_FRESH;
    row.hist_first = 2;
    row.hist_n = 6;
    row.hist_prompt_n = 2; /* prompt 0 0, output 1 1 1 */
    assert_int_equal(bench_run(b, &row).token, 0);
    row.presence_penalty = 1; /* output tokens only: 1 */
    assert_int_equal(bench_run(b, &row).token, 0);
    row.repetition_penalty = 2; /* 0 -> 2, once for two occurrences; 1 -> 0.95 */
    assert_int_equal(bench_run(b, &row).token, 2);
    row.repetition_penalty = 1;
    row.presence_penalty = 0;
    bench_set(b, (const float[]){2, 3.9f, 0, -1}, 4);
    b->hist = hist;
    row.frequency_penalty = 0.6f; /* 3.9 - 3 * 0.6 = 2.1 */
    assert_int_equal(bench_run(b, &row).token, 1);
    row.frequency_penalty = 0.65f; /* 1.95 */
    assert_int_equal(bench_run(b, &row).token, 0);
    row.frequency_penalty = 0;
    row.presence_penalty = 1.85f; /* 2.05 */
    assert_int_equal(bench_run(b, &row).token, 1);
    row.presence_penalty = 1.95f;
    assert_int_equal(bench_run(b, &row).token, 0);
    /* a negative logit is multiplied */
    bench_set(b, (const float[]){-1.5f, -1}, 2);
    b->hist = hist + 4;
    row = neutral;
    row.temperature = 0;
    row.flags = KERN_SAMPLE_FRESH;
    row.hist_n = 1;
    row.repetition_penalty = 2;
    assert_int_equal(bench_run(b, &row).token, 0);
}

/* History travels once; what is sampled is counted from then on, until the slot begins anew. */
static void test_counts_stay(void **state)
{
    struct bench *b = *state;
    const uint32_t hist[] = {0, 2, 2};
    struct kern_sample_row row = neutral;
    row.temperature = 0;
    row.frequency_penalty = 1;
    row.flags = KERN_SAMPLE_FRESH;
    row.hist_n = 3;
    row.hist_prompt_n = 1;
    bench_set(b, (const float[]){3, 2.5f, 4, -9}, 4);
    b->hist = hist;
    assert_int_equal(bench_run(b, &row).token, 0); /* 2 counts twice; 0 is of the prompt */
    row.flags = 0;
    row.hist_n = 0;
    assert_int_equal(bench_run(b, &row).token, 1); /* 0 counts once now: 2 2.5 2 */
    assert_int_equal(bench_run(b, &row).token, 0); /* 2 1.5 2, ties to the smaller id */
    assert_int_equal(bench_run(b, &row).token, 2); /* 1 1.5 2 */
    assert_int_equal(b->counts[0], SAMPLE_IN_PROMPT | 2);
    row.frequency_penalty = 0;
    assert_int_equal(bench_run(b, &row).token, 2); /* no penalty: neither read nor counted */
    assert_int_equal(b->counts[2], 3);
    row.frequency_penalty = 1;
    row.flags = KERN_SAMPLE_FRESH;
    assert_int_equal(bench_run(b, &row).token, 2); /* forgotten */
    assert_int_equal(b->counts[0], 0);
}

static void test_cuts(void **state)
{
    struct bench *b = *state;
    uint32_t counts[5];
    /* probabilities 0.4 0.3 0.15 0.1 0.05, not in order of id */
    const float p[5] = {0.1f, 0.4f, 0.05f, 0.3f, 0.15f};
    float logits[5];
    for (uint32_t i = 0; i < 5; i++) {
        logits[i] = logf(p[i]);
    }
    bench_set(b, logits, 5);
    struct kern_sample_row row = neutral;
    row.top_k = 2;
    bench_count(b, row, 400, counts);
    assert_true(counts[1] > 150 && counts[3] > 100 && counts[1] + counts[3] == 400);
    row.top_k = 1;
    bench_count(b, row, 50, counts);
    assert_int_equal(counts[1], 50);
    row.top_k = 77; /* more than there are */
    bench_count(b, row, 400, counts);
    assert_true(counts[2] > 0);
    row = neutral;
    row.top_p = 0.75f; /* 0.4 + 0.3 < 0.75 <= 0.85 */
    bench_count(b, row, 400, counts);
    assert_true(counts[4] > 0 && counts[0] + counts[2] == 0);
    row.top_p = 0;
    bench_count(b, row, 50, counts);
    assert_int_equal(counts[1], 50);
    row = neutral;
    row.top_k = 2;
    row.top_p = 0.5f; /* of what top_k kept: 0.571 is enough */
    bench_count(b, row, 50, counts);
    assert_int_equal(counts[1], 50);
    row = neutral;
    row.min_p = 0.3f; /* 0.12 of the largest */
    bench_count(b, row, 400, counts);
    assert_true(counts[4] > 0 && counts[0] + counts[2] == 0);
    row = neutral;
    row.temperature = 1e-30f;
    bench_count(b, row, 50, counts);
    assert_int_equal(counts[1], 50);
    const float large[4] = {40, 41, 39, 40}; /* each overflows when divided by itself alone */
    bench_set(b, large, 4);
    row.temperature = 1e-38f;
    bench_count(b, row, 50, counts);
    assert_int_equal(counts[1], 50);
}

/* Chi-square of 20000 draws over 8 tokens; 24.3 is the 0.1 % point of 7 degrees of freedom. */
static void test_distribution(void **state)
{
    struct bench *b = *state;
    const float logits[8] = {0, 1, 2, -1, 0.5f, 1.5f, -2, 0};
    const uint32_t draw_n = 20000;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        for (uint32_t warm = 1; warm <= 2; warm++) {
            uint32_t counts[8];
            struct kern_sample_row row = neutral;
            row.seed = seed;
            row.temperature = (float)warm;
            bench_set(b, logits, 8);
            bench_count(b, row, draw_n, counts);
            double sum = 0;
            for (uint32_t i = 0; i < 8; i++) {
                sum += exp(logits[i] / (double)warm);
            }
            double chi = 0;
            for (uint32_t i = 0; i < 8; i++) {
                double wanted = draw_n * exp(logits[i] / (double)warm) / sum;
                chi += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
            }
            assert_true(chi < 24.3);
        }
    }
}

static void test_seed(void **state)
{
    struct bench *b = *state;
    const float flat[VOCAB] = {0};
    bench_set(b, flat, VOCAB);
    struct kern_sample_row row = neutral;
    uint32_t same_n = 0;
    for (uint32_t pos = 0; pos < 50; pos++) {
        row.pos = pos;
        row.seed = 7;
        uint32_t token = bench_run(b, &row).token;
        assert_int_equal(bench_run(b, &row).token, token);
        row.seed = 8;
        same_n += bench_run(b, &row).token == token;
        /* equal logits: ids in order, so the draw itself is the token */
        assert_true(fabsf((float)token - kern_random(7, pos) * VOCAB) <= 1.01f);
    }
    assert_true(same_n < 5);
}

struct plain_candidate {
    float l;
    uint32_t id;
};

static int plain_compare(const void *a, const void *b)
{
    const struct plain_candidate *x = a;
    const struct plain_candidate *y = b;
    if (x->l != y->l) {
        return x->l > y->l ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

/* Stages 5 and 6 as kernels/README.md states them, with a full sort. */
static uint32_t plain_draw(const float *logits, uint32_t n, const struct kern_sample_row *row)
{
    static struct plain_candidate all[VOCAB];
    float top = logits[0];
    for (uint32_t i = 1; i < n; i++) {
        top = fmaxf(top, logits[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        all[i] = (struct plain_candidate){(logits[i] - top) / row->temperature, i};
    }
    qsort(all, n, sizeof *all, plain_compare);
    uint32_t kept = row->top_k > 0 && row->top_k < n ? row->top_k : n;
    double total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        total += fmath_exp(all[i].l - all[0].l);
    }
    if (row->top_p < 1) {
        double sum = 0;
        uint32_t i = 0;
        do {
            sum += fmath_exp(all[i++].l - all[0].l);
        } while (i < kept && sum < row->top_p * total);
        kept = i;
    }
    while (kept > 1 && fmath_exp(all[kept - 1].l - all[0].l) < row->min_p) {
        kept--;
    }
    total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        total += fmath_exp(all[i].l - all[0].l);
    }
    double sum = 0;
    for (uint32_t i = 0; i < kept; i++) {
        sum += fmath_exp(all[i].l - all[0].l);
        if (sum > kern_random(row->seed, row->pos) * total) {
            return all[i].id;
        }
    }
    return all[kept - 1].id;
}

static void test_equals_full_sort(void **state)
{
    struct bench *b = *state;
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t n = i % 3 == 0 ? VOCAB : 1 + (uint32_t)(kern_mix64(i) % 400);
        float spread = (float)(1u << i % 7);
        static float logits[VOCAB];
        for (uint32_t j = 0; j < n; j++) {
            logits[j] = (kern_random(i, j) - 0.5f) * spread;
            logits[j] = i % 2 ? roundf(logits[j] * 4) / 4 : logits[j]; /* many ties */
        }
        bench_set(b, logits, n);
        for (uint32_t pos = 0; pos < 4; pos++) {
            struct kern_sample_row row = neutral;
            row.seed = i;
            row.pos = pos;
            row.temperature = 0.25f * (float)(1 + (i + pos) % 6);
            row.top_k = i % 5 < 2 ? 1 + i * 3 : 0;
            row.top_p = i % 4 == 1 ? 0.95f : i % 4 == 2 ? 0.5f : 1;
            row.min_p = i % 6 == 4 ? 0.02f : 0;
            assert_int_equal(bench_run(b, &row).token, plain_draw(logits, n, &row));
        }
    }
}

static void test_logprobs(void **state)
{
    struct bench *b = *state;
    bench_set(b, (const float[]){1, 2, NAN, 2, -INFINITY}, 5);
    struct kern_sample_row row = neutral;
    row.temperature = 0;
    row.top_logprobs = 20; /* more than there are */
    struct kern_token token = bench_run(b, &row);
    double lse = log(exp(1) + 2 * exp(2));
    assert_int_equal(token.top_n, 5);
    const uint32_t order[5] = {1, 3, 0, 2, 4};
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(token.top_tokens[i], order[i]);
    }
    assert_true(fabs((double)token.top_logprobs[2] - (1 - lse)) < 1e-6);
    assert_true(token.top_logprobs[3] == -INFINITY);
    row.top_logprobs = -1;
    token = bench_run(b, &row);
    assert_int_equal(token.top_n, 0);
    assert_true(fabs((double)token.logprob - (2 - lse)) < 1e-6);
}

int main(void)
{
#define SAMPLE_TEST(f) cmocka_unit_test_setup_teardown(f, bench_init, bench_done)
    const struct CMUnitTest tests[] = {
        SAMPLE_TEST(test_greedy),
        SAMPLE_TEST(test_forbidden_row),
        SAMPLE_TEST(test_bias),
        SAMPLE_TEST(test_penalties),
        SAMPLE_TEST(test_counts_stay),
        SAMPLE_TEST(test_cuts),
        SAMPLE_TEST(test_distribution),
        SAMPLE_TEST(test_seed),
        SAMPLE_TEST(test_equals_full_sort),
        SAMPLE_TEST(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
