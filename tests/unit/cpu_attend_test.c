/* A KV page that somebody else used before: what they left, even if it is not a number, never
 * reaches the next owner's rows. */
#include "tests/test.h"

#include <math.h>

#include "base/mem.h"
#include "tests/unit/cpu_paths.h"
#include "tests/step.h"

#define DIM 16u

struct world {
    struct kern_dev *dev;
    enum dtype held;
    void *x;
    void *out;
    float *q;
    struct kern_linear linear;
    struct kern_attend attend;
};

static void *take(struct world *world, size_t bytes)
{
    void *p;
    assert_int_equal(kern_cpu.reserve(world->dev, bytes, &p, NULL), 0);
    return p;
}

/* q, k and v are each [DIM, 1] matrices of ones, so that every head equals its row's input. */
static void world_open(struct world *world, const struct cpu_paths_entry *entry, enum dtype held)
{
    struct kern_open args = {.isa = entry->path->isa,
                             .is_stand_in = strcmp(entry->name, "stand-in") == 0,
                             .thread_n = 1,
                             .held = held,
                             .row_max = 64,
                             .slot_max = 1,
                             .version_max = 1,
                             .k_max = 1,
                             .n_max = 3 * DIM,
                             .vocab_n = 16};
    struct kern_kv kv = {.layer_n = 1, .page_n = 1, .kv_head_n = 1, .head_dim = DIM};
    float ones[DIM];
    assert_int_equal(kern_cpu.open(&args, &world->dev, NULL), 0);
    assert_int_equal(kern_cpu.kv_open(world->dev, &kv, NULL), 0);
    world->held = held;
    world->x = take(world, 64 * 4);
    world->q = take(world, 64 * DIM * sizeof(float));
    world->out = take(world, 64 * DIM * sizeof(float));
    for (uint32_t i = 0; i < DIM; i++) {
        ones[i] = 1;
    }
    struct kern_matrix matrix = {ones, DTYPE_F32, DIM, 1};
    void *w = take(world, kern_cpu.weight_bytes(held, DIM, 1));
    kern_cpu.weight_load(world->dev, &matrix, w);
    world->linear = (struct kern_linear){
        .x = world->x,
        .k = 1,
        .site_n = 3,
        .sites = {{.n = DIM, .w = w}, {.n = DIM, .w = w}, {.n = DIM, .w = w}},
        .post = KERN_POST_HEADS,
        .heads = {.head_n = 1, .kv_head_n = 1, .head_dim = DIM, .q_out = world->q}};
    world->attend = (struct kern_attend){.head_n = 1,
                                         .kv_head_n = 1,
                                         .head_dim = DIM,
                                         .scale = 0.25f,
                                         .q = world->q,
                                         .out = world->out};
}

/* Runs rows at positions 0 .. row_n - 1 that all hold `value`; returns the last row's output. */
static float run(struct world *world, uint32_t row_n, float value)
{
    struct kern_row rows[64] = {{0}};
    struct kern_seq seq = {.row_n = row_n, .page_n = 1};
    uint32_t page = 0;
    struct kern_step step = {
        .rows = rows, .row_n = row_n, .seqs = &seq, .seq_n = 1, .pages = &page, .rope_scale = 1};
    for (uint32_t r = 0; r < row_n; r++) {
        rows[r].pos = r;
        if (world->held == DTYPE_BF16) {
            ((uint16_t *)world->x)[r] = bf16_from_f32(value);
        } else {
            ((float *)world->x)[r] = value;
        }
    }
    step_begin(&kern_cpu, world->dev, &step);
    kern_cpu.linear(world->dev, &world->linear);
    kern_cpu.attend(world->dev, &world->attend);
    assert_int_equal(step_end(&kern_cpu, world->dev), 0);
    size_t last = (size_t)row_n * DIM - 1;
    return world->held == DTYPE_BF16 ? bf16_to_f32(((uint16_t *)world->out)[last])
                                     : ((float *)world->out)[last];
}

static void test_used_page(void **state)
{
    struct cpu_paths_entry paths[8];
    uint32_t path_n = cpu_paths(paths);
    (void)state;
    for (uint32_t i = 0; i < 2 * path_n; i++) {
        struct world world;
        world_open(&world, &paths[i / 2], i % 2 ? DTYPE_BF16 : DTYPE_F32);
        for (uint32_t row_n = 1; row_n <= 64; row_n++) {
            assert_true(isnan(run(&world, 64, NAN)));
            assert_true(fabsf(run(&world, row_n, 1.5f) - 1.5f) < 1e-5f);
        }
        kern_cpu.close(world.dev);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_used_page)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
