/* Steps of the CUDA backend on the emulated device, by hand: what was captured is replayed, what
 * fp16 cannot hold is counted, and a discarded page is rubbish to whoever still reads it. */
#include "tests/test.h"

#include "base/base.h"
#include "base/clock.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/effect.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/step.h"

#define HIDDEN 16
#define VOCAB  8
#define ROWS   8
#define LAYERS 2

#define LONG_NS 20000000000u /* nobody waits that long: work runs only when it is asked for */

static struct kern_dev *dev;

static void *take(size_t bytes)
{
    void *out;
    struct err err = {0};
    assert_int_equal(kern_cuda.reserve(dev, bytes, &out, &err), 0);
    return out;
}

static void *put(const void *data, size_t bytes)
{
    void *out = take(bytes);
    kern_cuda.put(dev, out, data, bytes);
    return out;
}

/* A held [n, k] matrix of one value a row: first, first + step, ... */
static void *put_matrix(enum dtype held, uint32_t n, uint32_t k, float first, float step)
{
    float values[64 * HIDDEN];
    assert_true(n * k <= ARRAY_N(values));
    for (uint32_t i = 0; i < n * k; i++) {
        values[i] = first + step * (float)(i / k);
    }
    struct kern_matrix matrix = {.data = values, .dtype = DTYPE_F32, .n = n, .k = k};
    void *out = take(kern_cuda.weight_bytes(held, n, k));
    kern_cuda.weight_load(dev, &matrix, out);
    return out;
}

static void open_device(enum dtype held)
{
    struct err err = {0};
    struct kern_open args = {.held = held,
                             .row_max = ROWS,
                             .slot_max = ROWS,
                             .version_max = 1,
                             .k_max = HIDDEN,
                             .n_max = 128,
                             .vocab_n = VOCAB,
                             .rank_max = 1};
    struct kern_kv kv = {LAYERS, 3, 1, HIDDEN, 1};
    assert_int_equal(kern_cuda.open(&args, &dev, &err), 0);
    assert_int_equal(kern_cuda.kv_open(dev, &kv, &err), 0);
}

/* Ops of a captured part are given out once, before the first step; then a generated part runs them
 * without being given out, on its own records; a prompt part is given out. */
static void replays_what_was_captured(void **state)
{
    (void)state;
    struct err err = {0};
    struct kern_part part = {0};
    float h[HIDDEN];
    const float zero[ROWS * HIDDEN] = {0};
    open_device(DTYPE_BF16);
    struct kern_embed op = {.w = put_matrix(DTYPE_BF16, VOCAB, HIDDEN, 1, 1),
                            .vocab_n = VOCAB,
                            .hidden = HIDDEN,
                            .multiplier = 2,
                            .h = put(zero, sizeof zero)};
    uint32_t capture_n = 0;
    const struct kern_step model = {0};
    assert_int_equal(kern_cuda.next_capture(dev, &model, &part, &err), 0);
    for (; part.row_n > 0; capture_n++) {
        kern_cuda.embed(dev, &op);
        assert_int_equal(kern_cuda.next_capture(dev, &model, &part, &err), 0);
    }
    assert_int_equal(capture_n, 3); /* up to 8 rows: no effects, low-rank ones, all */
    kern_cuda.get(dev, h, op.h, sizeof h);
    assert_true(h[0] == 0); /* nothing has run */

    for (uint32_t token = 3; token < 6; token++) {
        const uint32_t page = 0;
        const struct kern_row row = {.token = token, .pos = token};
        const struct kern_seq seq = {.row_n = 1, .page_n = 1};
        const struct kern_sample_row sample = {.top_p = 1, .repetition_penalty = 1};
        struct kern_step step = {.rows = &row,
                                 .row_n = 1,
                                 .seqs = &seq,
                                 .seq_n = 1,
                                 .pages = &page,
                                 .samples = &sample,
                                 .sample_n = 1};
        kern_cuda.begin_step(dev, &step);
        assert_false(kern_cuda.next_part(dev, &part));
        kern_cuda.end_step(dev, NULL, 0);
        assert_int_equal(kern_cuda.read_step(dev, NULL, true), 0);
        kern_cuda.get(dev, h, op.h, sizeof h);
        assert_true(h[0] == 2 * (float)(token + 1) && h[HIDDEN - 1] == h[0]);
    }
    const struct kern_row row = {.token = 7, .flags = KERN_ROW_PROMPT};
    step_begin(&kern_cuda, dev, &(struct kern_step){.rows = &row, .row_n = 1});
    assert_int_equal(step_end(&kern_cuda, dev), 0);
    kern_cuda.close(dev);
}

/* Version 0 at site 0: c over the inputs, o over the outputs. */
static void put_scales(float c, float o)
{
    struct {
        struct effect_block head;
        struct effect_lowrank lowrank;
        _Alignas(EFFECT_ALIGN) struct effect_scale scale;
        float in[HIDDEN];
        float out[HIDDEN];
    } block = {.head = {.magic = EFFECT_BLOCK_MAGIC,
                        .version = EFFECT_BLOCK_VERSION,
                        .bytes = sizeof block,
                        .site_n = 1,
                        .lowrank_at = EFFECT_LOWRANK_AT}};
    block.head.scale_at = (uint64_t)((char *)&block.scale - (char *)&block);
    block.scale = (struct effect_scale){.in_at = (uint64_t)((char *)block.in - (char *)&block),
                                        .out_at = (uint64_t)((char *)block.out - (char *)&block)};
    for (uint32_t i = 0; i < HIDDEN; i++) {
        block.in[i] = c;
        block.out[i] = o;
    }
    kern_cuda.set_version(dev, 0, put(&block, sizeof block));
}

static uint64_t launches_of(const char *kernel)
{
    struct emu_stats stats;
    emu_stats_get(kernel, &stats);
    return stats.launches;
}

/* A generated row, in version 0's segment or in none, by a captured part. */
static void replay_row(bool is_in, uint32_t flags)
{
    const uint32_t page = 0;
    const struct kern_row row = {0};
    const struct kern_seq seq = {.row_n = 1, .page_n = 1};
    const struct kern_seg seg = {.row_n = 1, .flags = flags};
    const struct kern_seg_row seg_row = {.weight = 0.5f};
    const struct kern_sample_row sample = {.top_p = 1, .repetition_penalty = 1};
    const struct kern_step step = {.rows = &row,
                                   .row_n = 1,
                                   .seqs = &seq,
                                   .seq_n = 1,
                                   .pages = &page,
                                   .segs = &seg,
                                   .seg_n = is_in,
                                   .seg_rows = &seg_row,
                                   .samples = &sample,
                                   .sample_n = 1};
    struct kern_part part;
    struct emu_words before;
    struct emu_words after;
    emu_words_get(&before);
    kern_cuda.begin_step(dev, &step);
    assert_false(kern_cuda.next_part(dev, &part));
    kern_cuda.end_step(dev, NULL, 0);
    assert_int_equal(kern_cuda.read_step(dev, NULL, true), 0);
    emu_words_get(&after);
    assert_int_equal(after.replays - before.replays, 1);
}

/* Of the three kinds of captured parts the last one has the kernel that scales inputs. */
static void scales_where_a_segment_does(void **state)
{
    (void)state;
    struct err err = {0};
    struct kern_part part = {0};
    uint16_t x[ROWS * HIDDEN];
    float y;
    open_device(DTYPE_BF16);
    put_scales(3, -2); /* at a weight of 0.5: factors 2 and -0.5 */
    for (uint32_t i = 0; i < ARRAY_N(x); i++) {
        x[i] = bf16_from_f32(1);
    }
    struct kern_linear op = {
        .x = take(sizeof x),
        .k = HIDDEN,
        .site_n = 1,
        .sites = {{.n = HIDDEN, .w = put_matrix(DTYPE_BF16, HIDDEN, HIDDEN, 1, 0)}},
        .post = KERN_POST_STORE,
        .out = take(ROWS * HIDDEN * sizeof(float))};
    const struct kern_step model = {0};
    assert_int_equal(kern_cuda.next_capture(dev, &model, &part, &err), 0);
    while (part.row_n > 0) {
        kern_cuda.linear(dev, &op);
        assert_int_equal(kern_cuda.next_capture(dev, &model, &part, &err), 0);
    }
    static const struct {
        bool is_in;
        uint32_t flags;
        uint32_t launch_n; /* of the kernel */
        float x, y;
    } steps[] = {{false, 0, 0, 1, HIDDEN},
                 {true, KERN_SEG_SCALES, 1, 2, -0.5f * 2 * HIDDEN},
                 {true, 0, 0, 1, HIDDEN}, /* low rank alone: vectors are not looked for */
                 {false, 0, 0, 1, HIDDEN},
                 {true, KERN_SEG_SCALES, 1, 2, -0.5f * 2 * HIDDEN}};
    for (uint32_t i = 0; i < ARRAY_N(steps); i++) {
        uint64_t before = launches_of("scale_rows<bf16>");
        kern_cuda.put(dev, op.x, x, sizeof x);
        replay_row(steps[i].is_in, steps[i].flags);
        assert_int_equal(launches_of("scale_rows<bf16>") - before, steps[i].launch_n);
        kern_cuda.get(dev, &y, op.out, sizeof y);
        assert_true(y == steps[i].y);
        uint16_t got[2 * HIDDEN];
        kern_cuda.get(dev, got, op.x, sizeof got);
        assert_true(bf16_to_f32(got[HIDDEN - 1]) == steps[i].x);
        assert_true(bf16_to_f32(got[HIDDEN]) == 1); /* not the step's */
    }
    kern_cuda.close(dev);
}

/* A scaled input of f16 is rounded once, and counted where it does not fit. */
static void scaled_inputs_fit_f16(void **state)
{
    (void)state;
    uint16_t x[2 * HIDDEN];
    uint16_t got[2 * HIDDEN];
    open_device(DTYPE_F16);
    /* 1 + 2^-11 lies half way between two f16 and goes to 1; 3 times it goes to 3 + 2^-9 */
    put_scales(1 + 0x1p-11f, 1);
    for (uint32_t i = 0; i < HIDDEN; i++) {
        x[i] = f16_from_f32(i % 2 ? 3 : 1);
        x[HIDDEN + i] = f16_from_f32(65504);
    }
    struct kern_linear op = {
        .x = put(x, sizeof x),
        .k = HIDDEN,
        .site_n = 1,
        .sites = {{.n = HIDDEN, .w = put_matrix(DTYPE_F16, HIDDEN, HIDDEN, 1, 0)}},
        .post = KERN_POST_STORE,
        .out = take(2 * HIDDEN * sizeof(float))};
    const struct kern_row rows[2] = {{.flags = KERN_ROW_PROMPT}, {.flags = KERN_ROW_PROMPT}};
    const struct kern_seg seg = {.row_n = 2, .flags = KERN_SEG_SCALES};
    const struct kern_seg_row seg_rows[2] = {{0, 1}, {1, 1}};
    step_begin(&kern_cuda, dev,
               &(struct kern_step){
                   .rows = rows, .row_n = 2, .segs = &seg, .seg_n = 1, .seg_rows = seg_rows});
    kern_cuda.linear(dev, &op);
    assert_int_equal(step_end(&kern_cuda, dev), 0);
    kern_cuda.get(dev, got, op.x, sizeof got);
    assert_true(f16_to_f32(got[0]) == 1 && f16_to_f32(got[1]) == 3 + 0x1p-9f);
    assert_true(f16_to_f32(got[HIDDEN]) == 65504);
    assert_int_equal(kern_cuda.saturated_n(dev), HIDDEN);
    kern_cuda.close(dev);
}

/* silu(gate) * up = 800 * 800 in every second element; the others are small. */
static void counts_what_saturates(void **state)
{
    (void)state;
    uint16_t x[ROWS * HIDDEN];
    uint16_t out[ROWS * 64];
    open_device(DTYPE_F16);
    for (uint32_t i = 0; i < ARRAY_N(x); i++) {
        x[i] = f16_from_f32(i / HIDDEN % 2 ? 50 : 0.5f);
    }
    const void *w = put_matrix(DTYPE_F16, 64, HIDDEN, 1, 0);
    struct kern_linear op = {.x = put(x, sizeof x),
                             .k = HIDDEN,
                             .site_n = 2,
                             .sites = {{.n = 64, .w = w}, {.n = 64, .w = w}},
                             .post = KERN_POST_ACT_MUL,
                             .gate_multiplier = 1,
                             .out = take(sizeof out)};
    struct kern_row rows[ROWS] = {{0}};
    const uint64_t each = ROWS / 2 * 64;
    const uint32_t late = UINT32_MAX - 9; /* the third time the device's count starts again */
    assert_int_equal(kern_cuda.saturated_n(dev), 0);
    for (uint32_t times = 1; times <= 3; times++) {
        if (times == 3) {
            kern_cuda.put(dev, dev->ctx.saturated, &late, sizeof late);
        }
        step_begin(&kern_cuda, dev, &(struct kern_step){.rows = rows, .row_n = ROWS});
        kern_cuda.linear(dev, &op);
        assert_int_equal(step_end(&kern_cuda, dev), 0);
        assert_int_equal(kern_cuda.saturated_n(dev), times == 3 ? late + each : times * each);
    }
    kern_cuda.get(dev, out, op.out, sizeof out);
    assert_true(f16_to_f32(out[64]) == 65504.0f && f16_to_f32(out[0]) < 65.0f);
    kern_cuda.close(dev);
}

/* What lies in the backend's host memory is read there, when the copy runs; other memory before
 * bring returns. */
static void brings_in_place(void **state)
{
    enum { BYTES = 3000 };
    static char own[BYTES];
    char got[BYTES];
    (void)state;
    open_device(DTYPE_BF16);
    char *host = kern_cuda.reserve_host(dev, 2 * BYTES);
    assert_non_null(host);
    char *froms[] = {own, host, host + BYTES};
    for (uint32_t i = 0; i < ARRAY_N(froms); i++) {
        uint64_t ticket;
        void *to = take(BYTES);
        memset(froms[i], 'a', BYTES);
        assert_int_equal(kern_cuda.bring(dev, to, froms[i], BYTES, &ticket), BYTES);
        memset(froms[i], 'b', BYTES);
        while (!kern_cuda.is_brought(dev, ticket)) {
        }
        kern_cuda.get(dev, got, to, BYTES);
        assert_int_equal(got[0], i == 0 ? 'a' : 'b');
        assert_int_equal(got[BYTES - 1], got[0]);
    }
    kern_cuda.close(dev);
}

/* A step of one row at position 0 of `page`, whose key and value it writes first if is_written,
 * in every layer. It is not read. */
static void attend_in(uint32_t page, bool is_written, void *const out[LAYERS])
{
    const struct kern_row row = {0};
    const struct kern_seq seq = {.row_n = 1, .page_n = 1};
    const struct kern_step step = {
        .rows = &row, .row_n = 1, .seqs = &seq, .seq_n = 1, .pages = &page, .rope_scale = 1};
    uint16_t x[HIDDEN];
    for (uint32_t i = 0; i < HIDDEN; i++) {
        x[i] = bf16_from_f32(1);
    }
    const void *w = put_matrix(DTYPE_BF16, HIDDEN, HIDDEN, 1, 0);
    float *q = put((float[HIDDEN]){0}, HIDDEN * sizeof *q);
    struct kern_linear heads = {
        .x = put(x, sizeof x),
        .k = HIDDEN,
        .site_n = 3,
        .sites = {{.n = HIDDEN, .w = w}, {.n = HIDDEN, .w = w}, {.n = HIDDEN, .w = w}},
        .post = KERN_POST_HEADS,
        .heads = {.head_n = 1, .kv_head_n = 1, .head_dim = HIDDEN, .q_out = q}};
    for (uint32_t i = 0; i < 3; i++) {
        heads.sites[i].site = i;
    }
    step_begin(&kern_cuda, dev, &step);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        heads.heads.kv_layer = layer;
        if (is_written) {
            kern_cuda.linear(dev, &heads);
        }
        kern_cuda.attend(dev, &(struct kern_attend){.kv_layer = layer,
                                                    .head_n = 1,
                                                    .kv_head_n = 1,
                                                    .head_dim = HIDDEN,
                                                    .scale = 1,
                                                    .q = q,
                                                    .out = out[layer]});
    }
    struct kern_part part;
    assert_false(kern_cuda.next_part(dev, &part));
    kern_cuda.end_step(dev, NULL, 0);
}

/* How many layers have told of rubbish; the others of what was written. */
static uint32_t rubbish_n(void *const out[LAYERS])
{
    uint32_t n = 0;
    assert_int_equal(kern_cuda.read_step(dev, NULL, true), 0);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint16_t values[HIDDEN];
        kern_cuda.get(dev, values, out[layer], sizeof values);
        float value = bf16_to_f32(values[HIDDEN - 1]);
        assert_true(value == HIDDEN || value != value);
        n += value != value;
    }
    return n;
}

static void shows_who_reads_a_discarded_page(void **state)
{
    (void)state;
    open_device(DTYPE_BF16);
    void *const out[LAYERS] = {take(HIDDEN * sizeof(uint16_t)), take(HIDDEN * sizeof(uint16_t))};
    attend_in(1, true, out);
    assert_int_equal(rubbish_n(out), 0);
    kern_cuda.kv_discard(dev, 0);
    kern_cuda.kv_discard(dev, 2);
    attend_in(1, false, out);
    assert_int_equal(rubbish_n(out), 0);
    attend_in(1, false, out);
    kern_cuda.kv_discard(dev, 1); /* too early: the step has not run */
    assert_int_equal(rubbish_n(out), LAYERS);
    attend_in(1, true, out); /* and somebody else's page it may be */
    assert_int_equal(rubbish_n(out), 0);
    kern_cuda.close(dev);
}

/* Makes the device well again: of a lost one nothing is freed. */
static void close_lost(void)
{
    emu_reset();
    dev->is_lost = false;
    kern_cuda.close(dev);
}

/* A launch that fails leaves its stream going on: the step's number comes, its tokens are not to be
 * had. Copies that were begun count as made. */
static void a_failure_is_told_before_tokens(void **state)
{
    (void)state;
    const struct kern_row row = {.token = 1, .flags = KERN_ROW_PROMPT};
    const struct kern_step step = {.rows = &row, .row_n = 1};
    const char bytes[64] = {0};
    char got[sizeof bytes];
    uint64_t ticket;
    open_device(DTYPE_BF16);
    void *at = take(sizeof bytes);
    assert_string_equal(kern_cuda.failure(dev), "");
    step_begin(&kern_cuda, dev, &step);
    kern_cuda.end_step(dev, NULL, 0);
    kern_cuda.get(dev, got, at, sizeof got); /* waits: the number is there */
    assert_int_equal(kern_cuda.bring(dev, at, bytes, sizeof bytes, &ticket), sizeof bytes);
    dev_fail("of a test");
    assert_int_equal(kern_cuda.read_step(dev, NULL, false), ERR_DEVICE_FAILURE);
    assert_string_equal(kern_cuda.failure(dev), "of a test");
    assert_true(kern_cuda.is_brought(dev, ticket));
    close_lost();
}

/* No error, no progress: whoever asks first says so to all. */
static void silence_is_a_failure(void **state)
{
    (void)state;
    const struct kern_row row = {.token = 1, .flags = KERN_ROW_PROMPT};
    const char bytes[64] = {0};
    uint64_t ticket;
    const struct emu_knobs knobs = emu_knobs;
    emu_knobs.silence_ns = 50 * CLOCK_NS_PER_MS;
    emu_knobs.hang_op = 1;
    emu_knobs.op_kernel = "publish";
    open_device(DTYPE_BF16);
    void *at = take(sizeof bytes);
    step_begin(&kern_cuda, dev, &(struct kern_step){.rows = &row, .row_n = 1});
    kern_cuda.end_step(dev, NULL, 0);
    assert_int_equal(kern_cuda.bring(dev, at, bytes, sizeof bytes, &ticket), sizeof bytes);
    assert_int_equal(kern_cuda.read_step(dev, NULL, true), ERR_DEVICE_FAILURE);
    assert_string_equal(kern_cuda.failure(dev), "no progress for 0.05 s");
    assert_true(kern_cuda.is_brought(dev, ticket));
    emu_knobs = knobs;
    close_lost();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_what_was_captured),
        cmocka_unit_test(scales_where_a_segment_does),
        cmocka_unit_test(scaled_inputs_fit_f16),
        cmocka_unit_test(counts_what_saturates),
        cmocka_unit_test(brings_in_place),
        cmocka_unit_test(shows_who_reads_a_discarded_page),
        cmocka_unit_test(a_failure_is_told_before_tokens),
        cmocka_unit_test(silence_is_a_failure),
    };
    emu_knobs.lag_ns = LONG_NS;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
