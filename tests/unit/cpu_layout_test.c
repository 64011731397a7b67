/* The packed layout: what goes in comes out, padding is zeros, nothing is written outside. */
#include "tests/test.h"

#include <math.h>

#include "base/mem.h"
#include "tests/unit/cpu_paths.h"

static void check(enum dtype held, enum dtype from, uint32_t n, uint32_t k)
{
    uint64_t seed = n * 131u + k;
    size_t bytes = kern_cpu.weight_bytes(held, n, k);
    char *src = mem_zalloc((size_t)n * k * dtype_bytes(from));
    char *packed = mem_alloc(bytes + 64);
    float *column = mem_alloc(k * sizeof *column);
    float *want = mem_alloc((size_t)n * k * sizeof *want);
    for (size_t i = 0; i < (size_t)n * k; i++) {
        want[i] = bf16_round(cpu_paths_float(&seed));
        if (from == DTYPE_F32) {
            memcpy(src + i * 4, &want[i], 4);
        } else {
            uint16_t half = from == DTYPE_BF16 ? bf16_from_f32(want[i]) : 0x3C00; /* f16: 1 */
            memcpy(src + i * 2, &half, 2);
            want[i] = from == DTYPE_BF16 ? want[i] : 1.0f;
        }
    }
    memset(packed, 0xA5, bytes + 64);
    struct kern_matrix matrix = {src, from, n, k};
    kern_cpu.weight_pack(held, &matrix, packed);
    double sum = 0;
    double want_sum = 0;
    for (uint32_t c = 0; c < n; c++) {
        layout_read_column(held, packed, n, k, c, column);
        for (uint32_t i = 0; i < k; i++) {
            assert_true(column[i] == want[(size_t)c * k + i]);
            want_sum += column[i];
        }
    }
    for (size_t i = 0; i < bytes; i += dtype_bytes(held)) {
        float f;
        uint16_t half;
        memcpy(&half, packed + i, 2);
        if (held == DTYPE_F32) {
            memcpy(&f, packed + i, 4);
        }
        sum += held == DTYPE_F32 ? f : bf16_to_f32(half);
    }
    assert_true(fabs(sum - want_sum) < 1e-9); /* padding adds nothing */
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal((unsigned char)packed[bytes + i], 0xA5);
    }
    mem_free(want);
    mem_free(column);
    mem_free(packed);
    mem_free(src);
}

static void test_layout(void **state)
{
    static const uint32_t shapes[][2] = {{1, 1},   {16, 32}, {17, 33},  {32, 64}, {48, 16},
                                         {33, 31}, {5, 100}, {100, 96}, {64, 65}};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_N(shapes); i++) {
        for (enum dtype from = 0; from < DTYPE_N; from++) {
            check(DTYPE_BF16, from, shapes[i][0], shapes[i][1]);
            check(DTYPE_F32, from, shapes[i][0], shapes[i][1]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layout)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
