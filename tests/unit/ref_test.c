/* ref against numbers worked out by hand: rope, norms, attention, low rank, scales, embed, score.
 */
#include "tests/test.h"

#include <math.h>

#include "base/err.h"
#include "kernels/effect.h"
#include "kernels/fmath.h"
#include "kernels/kern.h"
#include "tests/step.h"

#define NEAR 1e-6

static struct kern_dev *ref_device(enum dtype held)
{
    const struct kern_open args = {.held = held,
                                   .row_max = 4,
                                   .slot_max = 4,
                                   .version_max = 4,
                                   .k_max = 8,
                                   .n_max = 32,
                                   .vocab_n = 4,
                                   .rank_max = 4};
    struct kern_dev *dev;
    struct err err;
    assert_int_equal(kern_ref.open(&args, &dev, &err), 0);
    return dev;
}

static void *ref_put(struct kern_dev *dev, const void *data, size_t bytes)
{
    void *out;
    struct err err;
    assert_int_equal(kern_ref.reserve(dev, bytes, &out, &err), 0);
    kern_ref.put(dev, out, data, bytes);
    return out;
}

#define REF_PUT(dev, ...) ref_put(dev, (const float[]){__VA_ARGS__}, sizeof((float[]){__VA_ARGS__}))

static void assert_near(float got, double wanted)
{
    if (!(fabs(got - wanted) <= NEAR * fmax(1, fabs(wanted)))) {
        fail_msg("%.9g, wanted %.9g", (double)got, wanted);
    }
}

static void test_functions(void **state)
{
    (void)state;
    for (float x = -103; x < 88.7f; x += 0.37f) {
        double wanted = exp((double)x);
        /* two units of the result, which below 1e-38 are absolute */
        assert_true(fabs((double)fmath_exp(x) - wanted) <= fmax(2.4e-7 * wanted, 1.5e-45));
    }
    assert_true(fmath_exp(0) == 1.0f);
    assert_true(fmath_exp(-INFINITY) == 0.0f);
    assert_true(fmath_exp(INFINITY) == INFINITY);
    assert_true(isnan(fmath_exp(NAN)));
    for (double x = 1e-30; x < 1e30; x *= 1.7) {
        assert_true(fabs(fmath_log(x) - log(x)) <= 1e-13 * fmax(1, fabs(log(x))));
    }
    assert_true(fmath_log(1) == 0);
    assert_true(fmath_log(0) == -(double)INFINITY);
    for (float x = 0; x < 1048576.0f; x = x * 1.013f + 0.11f) {
        float s;
        float c;
        fmath_sincos(x, &s, &c);
        assert_true(fabs((double)s - sin((double)x)) <= 6e-8);
        assert_true(fabs((double)c - cos((double)x)) <= 6e-8);
    }
    assert_near(fmath_silu(1), 0.7310585786);
}

static void test_embed(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_BF16);
    /* 1.00390625 = 1 + 2^-8 lies half way between two bf16 and goes to the even one, 1 */
    const float table[4][2] = {{1, 2}, {3, 4}, {1.00390625f, 1.01171875f}, {7, 8}};
    struct kern_matrix matrix = {.data = table, .dtype = DTYPE_F32, .n = 4, .k = 2};
    uint16_t packed[8];
    assert_int_equal(kern_ref.weight_bytes(DTYPE_BF16, 4, 2), sizeof packed);
    kern_ref.weight_pack(DTYPE_BF16, &matrix, packed);
    const struct kern_row rows[2] = {{.token = 2, .slot = 0}, {.token = 0, .slot = 1}};
    struct kern_step step = {.rows = rows, .row_n = 2};
    struct kern_embed op = {.w = ref_put(dev, packed, sizeof packed),
                            .vocab_n = 4,
                            .hidden = 2,
                            .multiplier = 3,
                            .h = REF_PUT(dev, 0, 0, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.embed(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    assert_true(op.h[0] == 3.0f && op.h[1] == 3 * 1.015625f);
    assert_true(op.h[2] == 3.0f && op.h[3] == 6.0f);
    kern_ref.close(dev);
}

static void test_join(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    const struct kern_row rows[1] = {{0}};
    struct kern_step step = {.rows = rows, .row_n = 1};
    struct kern_join op = {.h = REF_PUT(dev, 1, 2),
                           .hidden = 2,
                           .part_n = 2,
                           .parts = {REF_PUT(dev, 1, 0), REF_PUT(dev, 3, 4)},
                           .multipliers = {0.5f, 0.5f},
                           .gain = REF_PUT(dev, 1, 10),
                           .eps = 0.5f,
                           .x = REF_PUT(dev, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.join(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    assert_near(op.h[0], 3);
    assert_near(op.h[1], 4);
    /* mean of squares 12.5, eps 0.5: divided by sqrt 13 */
    assert_near(((float *)op.x)[0], 3 / sqrt(13));
    assert_near(((float *)op.x)[1], 40 / sqrt(13));
    kern_ref.close(dev);
}

/* One site of rank 2 over inputs of 2: A = [[1, 0], [1, 1]], B = [[1, 2]]. */
static const void *ref_version(struct kern_dev *dev, float scale, float factor)
{
    struct {
        struct effect_block head;
        struct effect_lowrank site;
        float a[4];
        float b[2];
    } block = {.head = {.magic = EFFECT_BLOCK_MAGIC,
                        .version = EFFECT_BLOCK_VERSION,
                        .bytes = sizeof block,
                        .site_n = 1,
                        .lowrank_at = sizeof(struct effect_block)},
               .a = {1, 0, 1, 1},
               .b = {factor, 2 * factor}};
    block.site = (struct effect_lowrank){.rank = 2,
                                         .scale = scale,
                                         .a_at = (uint64_t)((char *)block.a - (char *)&block),
                                         .b_at = (uint64_t)((char *)block.b - (char *)&block)};
    return ref_put(dev, &block, sizeof block);
}

static void test_lowrank(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    kern_ref.set_version(dev, 0, ref_version(dev, 0.5f, 1));
    kern_ref.set_version(dev, 1, ref_version(dev, 2, 10));
    const struct kern_row rows[2] = {{.slot = 0}, {.slot = 1}};
    const struct kern_seg_row seg_rows[3] = {{0, 1}, {1, 4}, {0, -0.25f}};
    const struct kern_seg segs[2] = {{.version = 0, .row_first = 0, .row_n = 2},
                                     {.version = 1, .order = 1, .row_first = 2, .row_n = 1}};
    struct kern_step step = {
        .rows = rows, .row_n = 2, .segs = segs, .seg_n = 2, .seg_rows = seg_rows};
    struct kern_linear op = {
        .x = REF_PUT(dev, 1, 2, 3, 4),
        .k = 2,
        .site_n = 1,
        .sites = {{.n = 1, .w = REF_PUT(dev, 100, 1000), .bias = REF_PUT(dev, 7)}},
        .post = KERN_POST_STORE,
        .out = REF_PUT(dev, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.linear(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    /* row 0: A x = (1, 3), B u = 7: 2107 + 1 * 0.5 * 7 - 0.25 * 2 * 70; row 1: A x = (3, 7) */
    assert_near(((float *)op.out)[0], 2107 + 3.5 - 35);
    assert_near(((float *)op.out)[1], 4307 + 4 * 0.5 * 17);
    kern_ref.set_version(dev, 0, NULL);
    kern_ref.close(dev);
}

/* The version above, of scale 1, with vectors: c over the inputs of 2, o over the output. */
static const void *ref_scaled_version(struct kern_dev *dev, uint32_t rank, const float c[2],
                                      float o)
{
    struct {
        struct effect_block head;
        struct effect_lowrank site;
        struct effect_scale scale;
        float a[4];
        float b[2];
        float in[2];
        float out[1];
    } block = {.head = {.magic = EFFECT_BLOCK_MAGIC,
                        .version = EFFECT_BLOCK_VERSION,
                        .bytes = sizeof block,
                        .site_n = 1,
                        .lowrank_at = sizeof(struct effect_block)},
               .a = {1, 0, 1, 1},
               .b = {1, 2},
               .in = {c[0], c[1]},
               .out = {o}};
    block.head.scale_at = (uint64_t)((char *)&block.scale - (char *)&block);
    block.site = (struct effect_lowrank){.rank = rank,
                                         .scale = 1,
                                         .a_at = (uint64_t)((char *)block.a - (char *)&block),
                                         .b_at = (uint64_t)((char *)block.b - (char *)&block)};
    block.scale = (struct effect_scale){.in_at = (uint64_t)((char *)block.in - (char *)&block),
                                        .out_at = (uint64_t)((char *)block.out - (char *)&block)};
    return ref_put(dev, &block, sizeof block);
}

/* o (W (c x) + b) + B (A (c x)); of two adapters the factors, each w v + 1 - w, multiply. */
static void test_scales(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    kern_ref.set_version(dev, 0, ref_scaled_version(dev, 2, (const float[]){2, 3}, 10));
    kern_ref.set_version(dev, 1, ref_scaled_version(dev, 2, (const float[]){0.5f, 1}, -1));
    const struct kern_row rows[3] = {{.slot = 0}, {.slot = 1}, {.slot = 2}};
    const struct kern_seg_row seg_rows[3] = {{0, 1}, {1, 0.5f}, {0, -0.75f}};
    const struct kern_seg segs[2] = {
        {.version = 0, .row_n = 2, .flags = KERN_SEG_SCALES},
        {.version = 1, .order = 1, .row_first = 2, .row_n = 1, .flags = KERN_SEG_SCALES}};
    struct kern_step step = {
        .rows = rows, .row_n = 3, .segs = segs, .seg_n = 2, .seg_rows = seg_rows};
    struct kern_linear op = {
        .x = REF_PUT(dev, 1, 2, 3, 4, 5, 1),
        .k = 2,
        .site_n = 1,
        .sites = {{.n = 1, .w = REF_PUT(dev, 100, 1000), .bias = REF_PUT(dev, 7)}},
        .post = KERN_POST_STORE,
        .out = REF_PUT(dev, 0, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.linear(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    /* row 0: c (2, 3) times (1.375, 1), so c x = (2.75, 6); o 10 times 2.5; B A c x = 20.25.
     * Row 1: c (1.5, 2), so c x = (4.5, 8); o 5.5; B A c x = 29.5. Row 2 has no adapter. */
    assert_near(((float *)op.out)[0], 25 * (275 + 6000 + 7) + 20.25 - 0.75 * 20.25);
    assert_near(((float *)op.out)[1], 5.5 * (450 + 8000 + 7) + 0.5 * 29.5);
    assert_near(((float *)op.out)[2], 1507);
    kern_ref.close(dev);
}

/* 1 + 2^-8 and 1 + 3 * 2^-8 lie half way between two bf16 each and go to the even one. */
static void test_scaled_inputs_are_rounded(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_BF16);
    const float c[2] = {1.00390625f, 1.01171875f};
    const uint16_t ones[2] = {bf16_from_f32(1), bf16_from_f32(1)};
    const uint16_t w[2] = {bf16_from_f32(1), bf16_from_f32(2)};
    kern_ref.set_version(dev, 0, ref_scaled_version(dev, 0, c, 3));
    const struct kern_row row = {0};
    const struct kern_seg_row seg_row = {0, 1};
    const struct kern_seg seg = {.row_n = 1, .flags = KERN_SEG_SCALES};
    struct kern_step step = {
        .rows = &row, .row_n = 1, .segs = &seg, .seg_n = 1, .seg_rows = &seg_row};
    struct kern_linear op = {.x = ref_put(dev, ones, sizeof ones),
                             .k = 2,
                             .site_n = 1,
                             .sites = {{.n = 1, .w = ref_put(dev, w, sizeof w)}},
                             .post = KERN_POST_STORE,
                             .out = REF_PUT(dev, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.linear(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    assert_true(((float *)op.out)[0] == 3 * (1 + 2 * 1.015625f));
    kern_ref.close(dev);
}

static void test_act_mul(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    const struct kern_row rows[1] = {{0}};
    struct kern_step step = {.rows = rows, .row_n = 1};
    struct kern_linear op = {
        .x = REF_PUT(dev, 1),
        .k = 1,
        .site_n = 2,
        .sites = {{.n = 2, .w = REF_PUT(dev, 1, -2)}, {.n = 2, .w = REF_PUT(dev, 3, 5)}},
        .post = KERN_POST_ACT_MUL,
        .gate_multiplier = 1,
        .out = REF_PUT(dev, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.linear(dev, &op);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    assert_near(((float *)op.out)[0], 3 / (1 + exp(-1)));
    assert_near(((float *)op.out)[1], 5 * -2 / (1 + exp(2)));
    kern_ref.close(dev);
}

/* Two positions of one head of two dimensions through norm, rope and attention. */
static void test_heads_and_attend(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    struct err err;
    const struct kern_kv kv = {.layer_n = 1, .page_n = 3, .kv_head_n = 1, .head_dim = 2};
    assert_int_equal(kern_ref.kv_bytes(DTYPE_F32, &kv), 3 * 2 * 64 * 2 * 4);
    assert_int_equal(kern_ref.kv_open(dev, &kv, &err), 0);
    const struct kern_row rows[2] = {{.pos = 0}, {.pos = 1}};
    const uint32_t pages[1] = {2};
    const struct kern_seq seqs[1] = {{.row_n = 2, .page_n = 1}};
    const float inv_freq[1] = {0.5f};
    struct kern_step step = {.rows = rows,
                             .row_n = 2,
                             .seqs = seqs,
                             .seq_n = 1,
                             .pages = pages,
                             .inv_freq = inv_freq,
                             .rotary_n = 2,
                             .rope_scale = 2};
    struct kern_linear op = {
        .x = REF_PUT(dev, 1, 0, 0, 1),
        .k = 2,
        .site_n = 3,
        .sites = {{.n = 2, .w = REF_PUT(dev, 3, 0, 4, 5)}, /* q = (3, 4), then (0, 5) */
                  {.n = 2, .w = REF_PUT(dev, 1, 1, 0, 1)}, /* k = (1, 0), then (1, 1) */
                  {.n = 2, .w = REF_PUT(dev, 10, 30, 20, 40)}},
        .post = KERN_POST_HEADS,
        .heads = {.head_n = 1,
                  .kv_head_n = 1,
                  .head_dim = 2,
                  .q_norm = REF_PUT(dev, 1, 2),
                  .norm_eps = 0,
                  .q_out = REF_PUT(dev, 0, 0, 0, 0)},
    };
    struct kern_attend attend = {.head_n = 1,
                                 .kv_head_n = 1,
                                 .head_dim = 2,
                                 .scale = 0.25f,
                                 .q = op.heads.q_out,
                                 .out = REF_PUT(dev, 0, 0, 0, 0)};
    step_begin(&kern_ref, dev, &step);
    kern_ref.linear(dev, &op);
    kern_ref.attend(dev, &attend);
    assert_int_equal(step_end(&kern_ref, dev), 0);
    /* q0: (3, 4) / sqrt 12.5, gains (1, 2), angle 0, scale 2 */
    const float *q = op.heads.q_out;
    assert_near(q[0], 6 / sqrt(12.5));
    assert_near(q[1], 16 / sqrt(12.5));
    /* q1: (0, 5) / sqrt 12.5 * (1, 2) = (0, b), turned by 0.5: (-b sin, b cos) * 2 */
    double b = 10 / sqrt(12.5);
    assert_near(q[2], -2 * b * sin(0.5));
    assert_near(q[3], 2 * b * cos(0.5));
    const float *out = attend.out;
    assert_near(out[0], 10);
    assert_near(out[1], 20);
    /* k0 = (2, 0); k1 = (1, 1) turned by 0.5, times 2 */
    double s0 = 0.25 * 2 * -2 * b * sin(0.5);
    double k1[2] = {2 * (cos(0.5) - sin(0.5)), 2 * (cos(0.5) + sin(0.5))};
    double s1 = 0.25 * (-2 * b * sin(0.5) * k1[0] + 2 * b * cos(0.5) * k1[1]);
    double p1 = 1 / (1 + exp(s0 - s1));
    assert_near(out[2], 10 * (1 - p1) + 30 * p1);
    assert_near(out[3], 20 * (1 - p1) + 40 * p1);
    kern_ref.close(dev);
}

/* Sampled tokens feed the next step; scores go through the head one row at a time. */
static void test_sample_and_score(void **state)
{
    (void)state;
    struct kern_dev *dev = ref_device(DTYPE_F32);
    const struct kern_row rows[2] = {{.slot = 3}, {.slot = 1}};
    const struct kern_sample_row samples[1] = {
        {.row = 1, .slot = 3, .repetition_penalty = 1, .top_p = 1, .top_logprobs = 2}};
    const struct kern_score_row scores[2] = {{.row = 0, .target = 0, .top_n = 1}, {.row = 1}};
    struct kern_step step = {.rows = rows,
                             .row_n = 2,
                             .samples = samples,
                             .sample_n = 1,
                             .scores = scores,
                             .score_n = 2};
    const void *w = REF_PUT(dev, 0, 1, 2, 1); /* logits x * (0, 1, 2, 1) */
    const void *x = REF_PUT(dev, 1, -1);
    float *logits = REF_PUT(dev, 0, 0, 0, 0);
    struct kern_token token;
    struct kern_token scored[2];
    step_begin(&kern_ref, dev, &step);
    kern_ref.head(
        dev, &(struct kern_head){
                 .x = x, .w = w, .vocab_n = 4, .hidden = 1, .multiplier = 1, .logits = logits});
    kern_ref.sample(dev, &(struct kern_sample){.logits = logits, .vocab_n = 4, .out = &token});
    kern_ref.score(dev, &(struct kern_score){.x = x,
                                             .w = w,
                                             .vocab_n = 4,
                                             .hidden = 1,
                                             .multiplier = 1,
                                             .logits = logits,
                                             .logit_rows = 1,
                                             .out = scored});
    assert_int_equal(step_end(&kern_ref, dev), 0);
    double down = log(1 + 2 * exp(-1) + exp(-2)); /* of row 1: logits (0, -1, -2, -1) */
    double up = log(1 + 2 * exp(1) + exp(2));     /* of row 0: logits (0, 1, 2, 1) */
    assert_int_equal(token.token, 0);
    assert_near(token.logprob, -down);
    assert_int_equal(token.top_n, 2);
    assert_int_equal(token.top_tokens[1], 1); /* before 3, which ties */
    assert_near(token.top_logprobs[1], -1 - down);
    assert_int_equal(scored[0].token, 0);
    assert_near(scored[0].logprob, -up);
    assert_int_equal(scored[0].top_tokens[0], 2);
    assert_near(scored[0].top_logprobs[0], 2 - up);
    assert_near(scored[1].logprob, -down);
    assert_int_equal(scored[1].top_n, 0);

    const struct kern_row next[1] = {{.token = 2, .slot = 3, .flags = KERN_ROW_FROM_SLOT}};
    struct kern_step next_step = {.rows = next, .row_n = 1};
    float *h = REF_PUT(dev, -1);
    step_begin(&kern_ref, dev, &next_step);
    kern_ref.embed(
        dev,
        &(struct kern_embed){
            .w = REF_PUT(dev, 5, 6, 7, 8), .vocab_n = 4, .hidden = 1, .multiplier = 1, .h = h});
    assert_int_equal(step_end(&kern_ref, dev), 0);
    assert_near(h[0], 5);
    kern_ref.close(dev);
}

static void test_errors_and_words(void **state)
{
    (void)state;
    struct kern_open args = {.held = DTYPE_F16};
    struct kern_dev *dev = NULL;
    struct err err;
    assert_int_equal(kern_ref.open(&args, &dev, &err), ERR_INVALID_PARAMETER);
    assert_string_equal(err.text, "ref cannot hold weights as f16");
    assert_null(dev);
    dev = ref_device(DTYPE_F32);
    void *out = NULL;
    assert_int_equal(kern_ref.reserve(dev, (size_t)1 << 60, &out, &err), ERR_NO_MEMORY);
    assert_null(out);
    assert_string_equal(kern_ref.isa_name(dev), "ref");
    kern_ref.close(dev);
    for (enum kern_isa isa = KERN_ISA_AUTO; isa < KERN_ISA_N; isa++) {
        assert_int_equal(kern_isa_parse(kern_isa_word(isa)), isa);
    }
    assert_int_equal(kern_isa_parse("sse2"), KERN_ISA_N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_lowrank),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_scaled_inputs_are_rounded),
        cmocka_unit_test(test_act_mul),
        cmocka_unit_test(test_heads_and_attend),
        cmocka_unit_test(test_sample_and_score),
        cmocka_unit_test(test_errors_and_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
