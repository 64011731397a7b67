/* Products of prompts by cuBLASLt, on the emulated device's stand-in: which algorithms are taken,
 * what the log says of it, and what a prompt's linear is then. */
#include "tests/test.h"

#include <math.h>

#include "base/base.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/host.h"
#include "kernels/emu/emu_knobs.h"
#include "kernels/random.h"
#include "tests/step.h"

#define K      80
#define N      72
#define SITES  2
#define ROWS   300 /* more than one product */
#define LATE_N 40  /* steps, more than the stand-in's products before it fails late */

struct world {
    struct kern_dev *dev;
    struct kern_linear op; /* act_mul: of every unit some outputs are of both sites */
};

static void *take(struct kern_dev *dev, size_t bytes)
{
    void *out;
    struct err err = {0};
    assert_int_equal(kern_cuda.reserve(dev, bytes, &out, &err), 0);
    return out;
}

static float value(uint64_t seed, uint32_t i)
{
    return bf16_round(kern_random(seed, i) - 0.5f);
}

static void world_open(struct world *world, const char *library)
{
    struct err err = {0};
    struct kern_open args = {.held = DTYPE_BF16,
                             .row_max = ROWS,
                             .slot_max = 1,
                             .version_max = 1,
                             .k_max = K,
                             .n_max = SITES * N,
                             .vocab_n = 8,
                             .rank_max = 1};
    struct kern_kv kv = {1, 1, 1, 16, 1};
    static float values[N * K];
    static uint16_t x[ROWS * K];
    *world = (struct world){0};
    emu_knobs.cublaslt = library;
    assert_int_equal(kern_cuda.open(&args, &world->dev, &err), 0);
    assert_int_equal(kern_cuda.kv_open(world->dev, &kv, &err), 0);
    world->op = (struct kern_linear){
        .k = K, .site_n = SITES, .post = KERN_POST_ACT_MUL, .gate_multiplier = 1};
    for (uint32_t s = 0; s < SITES; s++) {
        for (uint32_t i = 0; i < N * K; i++) {
            values[i] = value(s + 1, i);
        }
        struct kern_matrix matrix = {.data = values, .dtype = DTYPE_F32, .n = N, .k = K};
        void *w = take(world->dev, kern_cuda.weight_bytes(DTYPE_BF16, N, K));
        kern_cuda.weight_load(world->dev, &matrix, w);
        world->op.sites[s] = (struct kern_linear_site){.n = N, .w = w};
    }
    for (uint32_t i = 0; i < ROWS * K; i++) {
        x[i] = bf16_from_f32(value(9, i));
    }
    void *x_dev = take(world->dev, sizeof x);
    kern_cuda.put(world->dev, x_dev, x, sizeof x);
    world->op.x = x_dev;
    world->op.out = take(world->dev, sizeof(uint16_t) * ROWS * N);
}

static void world_close(struct world *world)
{
    kern_cuda.close(world->dev);
    emu_knobs.cublaslt = NULL;
}

/* A prompt's linear over rows [first, first + row_n); 0 or what the device says. */
static int run(struct world *world, uint32_t first, uint32_t row_n, uint16_t *out)
{
    static struct kern_row rows[ROWS];
    struct kern_linear op = world->op;
    for (uint32_t i = 0; i < row_n; i++) {
        rows[i] = (struct kern_row){.pos = i % LIMIT_KV_PAGE, .flags = KERN_ROW_PROMPT};
    }
    op.x = (uint16_t *)op.x + (size_t)first * K;
    step_begin(&kern_cuda, world->dev, &(struct kern_step){.rows = rows, .row_n = row_n});
    kern_cuda.linear(world->dev, &op);
    int rc = step_end(&kern_cuda, world->dev);
    if (rc == 0) {
        kern_cuda.get(world->dev, out, op.out, sizeof *out * row_n * N);
    }
    return rc;
}

static uint64_t product_n(void)
{
    struct emu_stats stats;
    emu_stats_get("cublaslt", &stats);
    return stats.launches;
}

static double expected(uint32_t row, uint32_t o)
{
    double y[SITES] = {0};
    for (uint32_t s = 0; s < SITES; s++) {
        for (uint32_t i = 0; i < K; i++) {
            y[s] += (double)value(9, row * K + i) * (double)value(s + 1, o * K + i);
        }
    }
    return y[0] / (1 + exp(-y[0])) * y[1];
}

/* Shared by the two forms: values, and the bits of rows in other tiles and with other neighbours.
 */
static void check_rows(struct world *world)
{
    static uint16_t all[ROWS * N];
    static uint16_t some[ROWS * N];
    assert_int_equal(run(world, 0, ROWS, all), 0);
    for (uint32_t i = 0; i < ROWS * N; i++) {
        double wanted = expected(i / N, i % N);
        assert_true(fabs((double)bf16_to_f32(all[i]) - wanted) <= 0.005 * fabs(wanted) + 1e-5);
    }
    const uint32_t pieces[][2] = {{0, 1}, {1, 33}, {200, 100}, {44, ROWS - 44}};
    for (uint32_t i = 0; i < ARRAY_N(pieces); i++) {
        assert_int_equal(run(world, pieces[i][0], pieces[i][1], some), 0);
        assert_memory_equal(some, all + pieces[i][0] * N, pieces[i][1] * N * sizeof *all);
    }
}

static void own_tiles_without_the_library(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, NULL);
    uint64_t before = product_n();
    assert_string_equal(kern_cuda.prompt_form(world.dev),
                        "own tiles (the emulated device has no cuBLASLt)");
    check_rows(&world);
    assert_int_equal(product_n(), before);
    world_close(&world);
}

static void products_by_the_library(void **state)
{
    (void)state;
    static uint16_t out[ROWS * N];
    struct world world;
    world_open(&world, "fine");
    assert_string_equal(kern_cuda.prompt_form(world.dev), "cuBLASLt 13.1.0 for 1 of 1 shapes");
    check_rows(&world);
    uint64_t before = product_n();
    assert_int_equal(run(&world, 0, ROWS, out), 0);
    assert_int_equal(product_n() - before, 2 * SITES); /* tiles of 256 and 44 rows */
    world_close(&world);
}

static void takes_the_second_algorithm(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "second");
    assert_string_equal(kern_cuda.prompt_form(world.dev), "cuBLASLt 13.1.0 for 1 of 1 shapes");
    check_rows(&world);
    world_close(&world);
}

static void refuses_what_it_cannot_trust(void **state)
{
    (void)state;
    static const char *const faults[][2] = {
        {"create", "own tiles (cublasLtCreate: status 1)"},
        {"find", "72 x 80: no algorithm, status 15"},
        {"workspace", "72 x 80: no algorithm without workspace and split of K"},
        {"split", "72 x 80: no algorithm without workspace and split of K"},
        {"twice", "72 x 80: two runs differ"},
        {"place", "72 x 80: a row's bits depend on its place"},
        {"neighbour", "72 x 80: a row's bits depend on its neighbours"},
        {"wrong", "72 x 80: row "},
    };
    for (uint32_t i = 0; i < ARRAY_N(faults); i++) {
        struct world world;
        world_open(&world, faults[i][0]);
        const char *text = kern_cuda.prompt_form(world.dev);
        uint64_t before = product_n();
        if (!strstr(text, faults[i][1]) || strstr(text, "for 1 of")) {
            fail_msg("%s: \"%s\"", faults[i][0], text);
        }
        check_rows(&world);
        assert_int_equal(product_n(), before);
        world_close(&world);
    }
}

/* A call that fails once it serves is a lost device. */
static void a_late_failure_loses_the_device(void **state)
{
    (void)state;
    static uint16_t out[ROWS * N];
    static struct world world; /* of a lost device nothing is freed: it stays reachable */
    int rc = 0;
    world_open(&world, "late");
    assert_string_equal(kern_cuda.prompt_form(world.dev), "cuBLASLt 13.1.0 for 1 of 1 shapes");
    for (uint32_t i = 0; i < LATE_N && rc == 0; i++) {
        rc = run(&world, 0, 1, out);
    }
    assert_int_equal(rc, ERR_DEVICE_FAILURE);
    assert_string_equal(dev_failure(), "cublasLtMatmul of 72 x 80: status 13");
    world_close(&world);
    emu_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_tiles_without_the_library),
        cmocka_unit_test(products_by_the_library),
        cmocka_unit_test(takes_the_second_algorithm),
        cmocka_unit_test(refuses_what_it_cannot_trust),
        cmocka_unit_test(a_late_failure_loses_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
