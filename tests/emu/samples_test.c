/* The sample kernels give right results, and the same bits in five orders, on three grids, with
 * every compiler; they are counted. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/samples.h"

#define SEED_N  5u
#define Y_N     (SAMPLE_ROWS * SAMPLE_N)
#define X_N     (SAMPLE_ROWS * SAMPLE_K)
#define THREADS 64u

static const uint32_t grids[] = {1, 3, 7};

/* FNV-1a of all results of one grid and order, the same for gcc and clang: products and sums are
 * written out in their order and never fused. */
#define HASH 0x4eb76406u

struct results {
    float bf16[Y_N], f16[Y_N];
    float rms[X_N];
    uint32_t bins[2 * SAMPLE_BINS];
};

static void compute(uint32_t grid, struct results *out)
{
    sample_linear(DTYPE_BF16, false, grid, out->bf16);
    sample_linear(DTYPE_F16, false, grid, out->f16);
    sample_rms(grid, out->rms);
    sample_bins(grid, out->bins);
}

static uint32_t hash_of(const void *p, size_t bytes)
{
    const unsigned char *at = p;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ at[i]) * 16777619u;
    }
    return hash;
}

static void test_same_bits(void **state)
{
    (void)state;
    static struct results results;
    for (uint32_t seed = 0; seed < SEED_N; seed++) {
        for (size_t g = 0; g < ARRAY_N(grids); g++) {
            emu_knobs.lane_seed = seed;
            compute(grids[g], &results);
            uint32_t hash = hash_of(&results, sizeof results);
            if (hash != HASH) {
                fail_msg("order %u, grid %u: 0x%08x", seed, grids[g], hash);
            }
        }
    }
    emu_knobs.lane_seed = 0;
}

/* Both operands rounded to the type, sums in double: what is left is the rounding of fp32 sums. */
static void check_linear(enum dtype held, const float *y)
{
    for (uint32_t i = 0; i < Y_N; i++) {
        double sum = 0.0;
        double size = 0.0;
        for (uint32_t k = 0; k < SAMPLE_K; k++) {
            float w = sample_weight(i % SAMPLE_N, k);
            float x = sample_x(i / SAMPLE_N, k);
            double product = held == DTYPE_BF16 ? (double)bf16_round(w) * bf16_round(x)
                                                : (double)f16_to_f32(f16_from_f32(w)) *
                                                      f16_to_f32(f16_from_f32(x));
            sum += product;
            size += fabs(product);
        }
        if (!(fabs(sum - y[i]) <= size * SAMPLE_K * 0x1p-24)) {
            fail_msg("%s, element %u: %g, expected %g", dtype_name(held), i, y[i], sum);
        }
    }
}

static void test_linear(void **state)
{
    (void)state;
    static float y[Y_N], turned[Y_N];
    for (int t = 0; t < 2; t++) {
        enum dtype held = t ? DTYPE_F16 : DTYPE_BF16;
        sample_linear(held, false, 4, y);
        check_linear(held, y);
        sample_linear(held, true, 4, turned);
        assert_memory_equal(y, turned, sizeof y);
    }
}

static void test_rms_and_bins(void **state)
{
    (void)state;
    static float y[X_N];
    uint32_t bins[2 * SAMPLE_BINS];
    uint32_t expected[2 * SAMPLE_BINS] = {0};
    sample_rms(3, y);
    sample_bins(3, bins);
    for (uint32_t i = 0; i < X_N; i++) {
        double squares = 0.0;
        for (uint32_t k = 0; k < SAMPLE_K; k++) {
            squares += (double)sample_x(i / SAMPLE_K, k) * sample_x(i / SAMPLE_K, k);
        }
        float x = sample_x(i / SAMPLE_K, i % SAMPLE_K);
        assert_true(fabs(x / sqrt(squares / SAMPLE_K + 1.0) - y[i]) <= 1e-5);
        expected[i * 7 % SAMPLE_BINS]++;
        expected[SAMPLE_BINS + i / THREADS % SAMPLE_BINS] += x < 0.0f;
    }
    assert_memory_equal(bins, expected, sizeof bins);
}

/* 20 units of 24 rows of 128 bytes, two warps with two mma each. */
static void test_counts(void **state)
{
    (void)state;
    static float y[Y_N];
    struct emu_stats stats;
    emu_stats_reset();
    sample_linear(DTYPE_BF16, false, 3, y);
    sample_linear(DTYPE_BF16, false, 3, y);
    emu_stats_get(NULL, &stats);
    assert_int_equal(stats.launches, 2);
    assert_int_equal(stats.blocks, 6);
    assert_int_equal(stats.mma, 2 * 20 * 4);
    assert_int_equal(stats.bytes[0], 2 * 20 * 24 * 128);
    assert_int_equal(stats.bytes[1], 0);
    emu_stats_get("bins", &stats);
    assert_int_equal(stats.launches, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_rms_and_bins),
        cmocka_unit_test(test_counts),
    };
    emu_knobs.is_strict = true;
    emu_knobs.threads_max = THREADS;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
