/* Recurrent states over steps of several parts and over captured ones, on the emulated device: what
 * a slot holds in the end depends on the sequence alone. */
#include "tests/test.h"

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/effect.h"
#include "tests/step.h"

#define SLOTS    300
#define ROWS     640
#define DIM      16
#define X_N      (3 * DIM + DIM + 2) /* q, k, v, z, b, a of one head */
#define STATE_N  (DIM * DIM)
#define SLOT_N   (STATE_N + 3 * 3 * DIM)
#define STATE_AT (EFFECT_LOWRANK_AT + EFFECT_ALIGN)

struct device {
    struct kern_dev *dev;
    struct kern_gdn op;
    float *slots;
    float *x;
};

/* Rows of one sequence in a step. */
struct turn {
    uint32_t slot, pos, row_n;
    bool is_prompt, has_start;
};

static float value_of(uint32_t a, uint32_t b)
{
    uint32_t h = (a * 2654435761u) ^ (b * 2246822519u + 374761393u);
    h = (h ^ (h >> 15)) * 3266489917u;
    return (float)(int32_t)((h ^ (h >> 13)) % 2001) / 1000.0f - 1.0f;
}

static void *put(struct device *d, const float *values, uint32_t n, uint32_t stream)
{
    void *out;
    struct err err = {0};
    float *fill = mem_alloc(n * sizeof *fill);
    for (uint32_t i = 0; i < n; i++) {
        fill[i] = values ? values[i] : value_of(i, stream);
    }
    assert_int_equal(kern_cuda.reserve(d->dev, n * sizeof *fill, &out, &err), 0);
    kern_cuda.put(d->dev, out, fill, n * sizeof *fill);
    mem_free(fill);
    return out;
}

/* A version's block on the host: states only. */
static void put_version(struct device *d)
{
    float block[(STATE_AT + STATE_N * sizeof(float)) / sizeof(float)] = {0};
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .bytes = sizeof block,
                                .lowrank_at = EFFECT_LOWRANK_AT,
                                .state_at = STATE_AT,
                                .state_n = STATE_N};
    memcpy(block, &head, sizeof head);
    for (uint32_t i = 0; i < STATE_N; i++) {
        block[STATE_AT / sizeof(float) + i] = value_of(i, 9);
    }
    kern_cuda.set_version(d->dev, 0, put(d, block, ARRAY_N(block), 0));
}

static void open_device(struct device *d)
{
    struct err err = {0};
    struct kern_open args = {.held = DTYPE_BF16,
                             .row_max = ROWS,
                             .slot_max = SLOTS,
                             .version_max = 1,
                             .k_max = 16,
                             .n_max = 128,
                             .vocab_n = 8,
                             .rank_max = 1};
    struct kern_kv kv = {1, 1, 1, 16, 1};
    struct kern_state state = {1, SLOTS, STATE_N, 3 * DIM};
    *d = (struct device){0};
    assert_int_equal(kern_cuda.open(&args, &d->dev, &err), 0);
    assert_int_equal(kern_cuda.kv_open(d->dev, &kv, &err), 0);
    assert_int_equal(kern_cuda.state_open(d->dev, &state, &d->slots, &err), 0);
    put_version(d);
    d->x = put(d, NULL, ROWS * X_N, 1);
    d->op = (struct kern_gdn){.key_head_n = 1,
                              .value_head_n = 1,
                              .key_dim = DIM,
                              .value_dim = DIM,
                              .x = d->x,
                              .conv = {.w = put(d, NULL, 3 * DIM * LIMIT_CONV_TAPS, 2)},
                              .a_log = put(d, NULL, 1, 3),
                              .dt_bias = put(d, NULL, 1, 4),
                              .norm = put(d, NULL, DIM, 5),
                              .norm_eps = 1e-6f,
                              .out = put(d, NULL, ROWS * DIM, 6)};
}

static void capture(struct device *d)
{
    struct err err = {0};
    struct kern_part part = {0};
    const struct kern_step model = {0};
    assert_int_equal(kern_cuda.next_capture(d->dev, &model, &part, &err), 0);
    while (part.row_n > 0) {
        kern_cuda.gdn(d->dev, &d->op);
        assert_int_equal(kern_cuda.next_capture(d->dev, &model, &part, &err), 0);
    }
}

/* Inputs of rows [first ..+n) of the step, by slot and position. */
static void put_inputs(struct device *d, const struct kern_row *rows, uint32_t n)
{
    float *x = mem_alloc((size_t)ROWS * X_N * sizeof *x);
    for (uint32_t i = 0; i < n * X_N; i++) {
        const struct kern_row *row = &rows[i / X_N];
        x[i] = value_of(row->slot * 4099 + row->pos, i % X_N + 100);
    }
    kern_cuda.put(d->dev, d->x, x, (size_t)n * X_N * sizeof *x);
    mem_free(x);
}

/* Samples each sequence's last row. Returns how many parts were given out. */
static uint32_t run_step(struct device *d, const struct turn *turns, uint32_t n)
{
    static struct kern_row rows[ROWS];
    static struct kern_seq seqs[SLOTS];
    static struct kern_sample_row samples[SLOTS];
    static struct kern_start starts[SLOTS];
    const uint32_t page = 0;
    struct kern_step step = {.rows = rows,
                             .seqs = seqs,
                             .seq_n = n,
                             .pages = &page,
                             .samples = samples,
                             .sample_n = n,
                             .starts = starts};
    for (uint32_t i = 0; i < n; i++) {
        const struct turn *t = &turns[i];
        seqs[i] = (struct kern_seq){t->slot, step.row_n, t->row_n, 0, 1};
        for (uint32_t r = 0; r < t->row_n; r++) {
            uint32_t flags = t->is_prompt ? KERN_ROW_PROMPT : 0;
            rows[step.row_n++] = (struct kern_row){0, t->slot, t->pos + r, flags};
        }
        samples[i] = (struct kern_sample_row){
            .row = step.row_n - 1, .slot = t->slot, .top_p = 1, .repetition_penalty = 1};
        if (t->has_start) {
            starts[step.start_n++] = (struct kern_start){t->slot, 0, 0.5f};
        }
    }
    struct kern_part part;
    uint32_t part_n = 0;
    uint32_t first = 0;
    put_inputs(d, rows, step.row_n);
    kern_cuda.begin_step(d->dev, &step);
    for (; kern_cuda.next_part(d->dev, &part); part_n++) {
        put_inputs(d, rows + first, part.row_n);
        kern_cuda.gdn(d->dev, &d->op);
        first += part.row_n;
    }
    kern_cuda.end_step(d->dev, NULL, 0);
    assert_int_equal(kern_cuda.read_step(d->dev, NULL, true), 0);
    return part_n;
}

/* The slot's state after the turn alone, in the device's memory as it is, is what it holds. */
static void check_alone(const struct device *d, const struct turn *t)
{
    struct device alone;
    float want[SLOT_N];
    float got[SLOT_N];
    open_device(&alone);
    assert_int_equal(run_step(&alone, t, 1), 1);
    kern_cuda.get(alone.dev, want, alone.slots + (size_t)t->slot * SLOT_N, sizeof want);
    kern_cuda.get(d->dev, got, d->slots + (size_t)t->slot * SLOT_N, sizeof got);
    assert_memory_equal(got, want, sizeof want);
    assert_true(got[0] != 0 && got[SLOT_N - 1] != 0);
    kern_cuda.close(alone.dev);
}

/* 257 samples do not go into one part: the last prompt goes into the next one as a whole. */
static void cuts_no_chunk(void **state)
{
    (void)state;
    struct device d;
    struct turn turns[257];
    open_device(&d);
    for (uint32_t i = 0; i < ARRAY_N(turns); i++) {
        uint32_t row_n = i < 256 ? 1 : 40;
        turns[i] = (struct turn){i, 0, row_n, true, i % 2 == 0};
    }
    assert_int_equal(run_step(&d, turns, ARRAY_N(turns)), 2);
    check_alone(&d, &turns[256]);
    check_alone(&d, &turns[255]);
    kern_cuda.close(d.dev);
}

/* A prompt that goes on from anywhere has its chunks end at multiples of 64. */
static void ends_chunks_at_multiples(void **state)
{
    (void)state;
    struct device whole;
    struct device cut;
    const struct turn turns[] = {{4, 0, 60, true, true},
                                 {4, 60, 79, true, false},
                                 {4, 60, 4, true, false},
                                 {4, 64, 64, true, false},
                                 {4, 128, 11, true, false}};
    float want[SLOT_N];
    float got[SLOT_N];
    open_device(&whole);
    open_device(&cut);
    run_step(&whole, &turns[0], 1);
    run_step(&whole, &turns[1], 1);
    run_step(&cut, &turns[0], 1);
    for (uint32_t i = 2; i < ARRAY_N(turns); i++) {
        run_step(&cut, &turns[i], 1);
    }
    kern_cuda.get(whole.dev, want, whole.slots + 4 * SLOT_N, sizeof want);
    kern_cuda.get(cut.dev, got, cut.slots + 4 * SLOT_N, sizeof got);
    assert_memory_equal(got, want, sizeof want);
    assert_true(got[0] != 0);
    kern_cuda.close(whole.dev);
    kern_cuda.close(cut.dev);
}

/* Generated rows of a sequence in two parts: the second goes on from the slot. */
static void goes_on_in_the_next_part(void **state)
{
    (void)state;
    struct device d;
    const struct turn turns[] = {{7, 0, 200, false, false}, {2, 0, 100, false, true}};
    open_device(&d);
    assert_int_equal(run_step(&d, turns, 2), 2);
    check_alone(&d, &turns[0]);
    check_alone(&d, &turns[1]);
    kern_cuda.close(d.dev);
}

/* Replayed parts leave what parts that were given out do, sequences that begin among them. */
static void begins_in_a_captured_part(void **state)
{
    (void)state;
    struct device plain;
    struct device captured;
    const struct turn first[] = {{0, 0, 1, false, true}, {3, 0, 1, false, false}};
    const struct turn second[] = {{3, 1, 2, false, false}, {0, 1, 1, false, false},
                                  {5, 0, 3, false, true},  {6, 0, 1, false, true},
                                  {8, 0, 2, false, false}, {9, 0, 1, false, true}};
    static float want[10 * SLOT_N];
    static float got[10 * SLOT_N];
    open_device(&plain);
    open_device(&captured);
    capture(&captured);
    assert_int_equal(run_step(&plain, first, ARRAY_N(first)), 1);
    assert_int_equal(run_step(&plain, second, ARRAY_N(second)), 1);
    assert_int_equal(run_step(&captured, first, ARRAY_N(first)), 0);
    assert_int_equal(run_step(&captured, second, ARRAY_N(second)), 0);
    kern_cuda.get(plain.dev, want, plain.slots, sizeof want);
    kern_cuda.get(captured.dev, got, captured.slots, sizeof got);
    assert_memory_equal(got, want, sizeof want);
    assert_true(got[6 * SLOT_N] != 0 && got[7 * SLOT_N] == 0);
    kern_cuda.close(plain.dev);
    kern_cuda.close(captured.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_no_chunk),
        cmocka_unit_test(ends_chunks_at_multiples),
        cmocka_unit_test(goes_on_in_the_next_part),
        cmocka_unit_test(begins_in_a_captured_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
