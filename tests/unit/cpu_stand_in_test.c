/* The stand-ins: their arithmetic against exact sums, and, where the machine has the instruction,
 * the stand-in against the hardware bit for bit. */
#include "tests/test.h"

#include <math.h>

#include "base/mem.h"
#include "kernels/cpu/stand_in.h"
#include "tests/unit/cpu_paths.h"

/* a * b + c in one lane. */
static float lane(float a, float b, float c)
{
    float acc[16] = {c};
    float w[16] = {b};
    stand_in_fma(acc, a, w);
    return acc[0];
}

static void test_flush(void **state)
{
    const float tiny = FLT_MIN;
    (void)state;
    assert_true(f32_bits(stand_in_flush(-FLT_MIN / 2)) == 0x80000000u);
    assert_true(f32_bits(stand_in_flush(FLT_MIN)) == 0x00800000u);
    assert_true(isnan(stand_in_flush(NAN)) && isinf(stand_in_flush(INFINITY)));
    /* a difference of normals that is denormal */
    assert_true(f32_bits(lane(1.0f, 1.5f * tiny, -tiny)) == 0);
    assert_true(f32_bits(lane(-1.0f, 1.5f * tiny, tiny)) == 0x80000000u);
    assert_true(lane(1.0f, 1.5f * tiny, tiny) == 2.5f * tiny);
}

/* Products that lie just below FLT_MIN: 24-bit rounding decides what is tiny, not denormal steps.
 */
static void test_edge(void **state)
{
    const float a = 1.0f - 0x1p-8f; /* (1 - 2^-8) (1 + 2^-8) = 1 - 2^-16: clearly tiny */
    (void)state;
    assert_true(f32_bits(lane(a, FLT_MIN * (1.0f + 0x1p-7f), 0)) >= 0x00800000u);
    assert_true(f32_bits(lane(a, FLT_MIN, 0)) == 0);
    /* FLT_MIN + p with p = -2^-25 (kept: ties to even upwards) and just below it (flushed) */
    assert_true(lane(-0x1p-60f, FLT_MIN * 0x1p35f, FLT_MIN) == FLT_MIN);
    float below = lane(-0x1p-60f, FLT_MIN * 0x1p35f * (1.0f + 0x1p-7f), FLT_MIN);
    assert_true(f32_bits(below) == 0);
    assert_true(lane(-0x1p-70f, FLT_MIN * 0x1p35f, FLT_MIN) == FLT_MIN);
    assert_true(lane(0x1p-60f, FLT_MIN * 0x1p35f, -FLT_MIN) == -FLT_MIN);
}

/* The odd product is accumulated first: with the other order the small one would be lost. */
static void test_dp_order(void **state)
{
    float acc[16] = {-0x1p30f};
    uint16_t pair[32] = {0};
    (void)state;
    pair[0] = bf16_from_f32(1.0f);
    pair[1] = bf16_from_f32(0x1p30f);
    uint32_t ones = 0x3F803F80u;
    stand_in_dp(acc, ones, pair);
    assert_true(acc[0] == 1.0f);
}

/* One group of one matrix under both paths, numbers from 2^-130 to 2^2. */
static void compare(enum kern_isa isa, uint32_t n, uint32_t k, uint32_t row_n, uint64_t seed)
{
    size_t w_n = (size_t)n * k;
    uint16_t *w = mem_alloc(w_n * 2);
    uint16_t *x = mem_alloc((size_t)row_n * k * 2);
    size_t packed_bytes = kern_cpu.weight_bytes(DTYPE_BF16, n, k);
    char *packed = mem_alloc(packed_bytes + 4096);
    float *out[2];
    for (size_t i = 0; i < w_n + (size_t)row_n * k; i++) {
        int scale = (int)(cpu_paths_draw(&seed) % 66) - 65;
        uint16_t value =
            bf16_from_f32(4 * cpu_paths_float(&seed) * ldexpf(1.0f, scale * (int)(seed >> 40 & 1)));
        *(i < w_n ? &w[i] : &x[i - w_n]) = value;
    }
    struct kern_matrix matrix = {w, DTYPE_BF16, n, k};
    kern_cpu.weight_pack(DTYPE_BF16, &matrix, packed);
    for (uint32_t side = 0; side < 2; side++) {
        const struct cpu_mm *mm = cpu_isa_path(isa, side == 1)->held[DTYPE_BF16];
        void *memory;
        size_t bytes = mm->x_bytes(row_n, k);
        out[side] = mem_zalloc((size_t)row_n * 32 * sizeof(float));
        assert_int_equal(mem_pages_alloc(bytes, &memory, NULL), 0);
        struct cpu_pack pack = {x, k, NULL, row_n, k, memory};
        for (uint32_t b = 0; b < DIV_UP(row_n, mm->row_block); b++) {
            mm->pack(&pack, b);
        }
        mm->run(&(struct cpu_gemm){.x = memory,
                                   .w = packed,
                                   .row_n = row_n,
                                   .k = k,
                                   .k_layout = k,
                                   .tile_n = layout_tile_n(n, 0),
                                   .out = out[side],
                                   .stride = 32});
        mem_pages_free(memory, bytes);
    }
    assert_memory_equal(out[0], out[1], (size_t)row_n * 32 * sizeof(float));
    mem_free(out[0]);
    mem_free(out[1]);
    mem_free(packed);
    mem_free(x);
    mem_free(w);
}

static void test_hardware(void **state)
{
    (void)state;
    for (enum kern_isa isa = KERN_ISA_AVX512BF16; isa <= KERN_ISA_AMX; isa++) {
        const char *missing;
        if (!cpu_isa_is_present(isa, &missing)) {
            printf("%s: not compared with the hardware, this machine has no %s\n",
                   kern_isa_word(isa), missing);
            continue;
        }
        for (uint32_t i = 0; i < 40; i++) {
            compare(isa, i % 2 ? 32 : 16, 1 + i * 37 % 200, 1 + i * 7 % 45, i);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flush),
        cmocka_unit_test(test_edge),
        cmocka_unit_test(test_dp_order),
        cmocka_unit_test(test_hardware),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
