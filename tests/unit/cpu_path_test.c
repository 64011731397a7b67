/* Every path against plain loops in double, against the others, and against itself with other
 * numbers of rows: the law of order at its root. */
#include "tests/test.h"

#include <math.h>

#include "base/mem.h"
#include "tests/unit/cpu_paths.h"

#define ROWS_MAX 53u

struct shape {
    enum dtype held;
    uint32_t n, k;
};

struct data {
    struct shape shape;
    float *w; /* [n, k] */
    void *packed;
    float *x;      /* [ROWS_MAX, k] */
    uint16_t *x16; /* the same in bf16 */
};

static const struct shape shapes[] = {
    {DTYPE_BF16, 32, 64},  {DTYPE_BF16, 48, 33}, {DTYPE_BF16, 7, 130}, {DTYPE_BF16, 70, 1},
    {DTYPE_BF16, 64, 320}, {DTYPE_F32, 32, 16},  {DTYPE_F32, 50, 37},  {DTYPE_F32, 16, 129},
};

static void data_init(struct data *d, struct shape shape)
{
    uint64_t seed = shape.n * 977u + shape.k;
    size_t w_n = (size_t)shape.n * shape.k;
    size_t x_n = (size_t)ROWS_MAX * shape.k;
    d->shape = shape;
    d->w = mem_alloc(w_n * sizeof(float));
    d->x = mem_alloc(x_n * sizeof(float));
    d->x16 = mem_alloc(x_n * sizeof(uint16_t));
    for (size_t i = 0; i < w_n; i++) {
        d->w[i] = bf16_round(cpu_paths_float(&seed));
    }
    for (size_t i = 0; i < x_n; i++) {
        d->x16[i] = bf16_from_f32(cpu_paths_float(&seed));
        d->x[i] = bf16_to_f32(d->x16[i]);
    }
    struct kern_matrix matrix = {d->w, DTYPE_F32, shape.n, shape.k};
    size_t bytes = kern_cpu.weight_bytes(shape.held, shape.n, shape.k);
    char *raw = mem_alloc(bytes + 4096);
    kern_cpu.weight_pack(shape.held, &matrix, raw);
    d->packed = raw;
}

static void data_done(struct data *d)
{
    mem_free(d->w);
    mem_free(d->x);
    mem_free(d->x16);
    mem_free(d->packed);
}

/* out[row_n, 16-padded n] of rows `rows` (NULL: the first ones). */
static void multiply(const struct cpu_mm *mm, const struct data *d, bool is_exact,
                     const uint32_t *rows, uint32_t row_n, float *out)
{
    const struct shape *s = &d->shape;
    bool is_f32 = is_exact || s->held == DTYPE_F32;
    size_t stride = ROUND_UP(s->n, 16u);
    void *memory;
    size_t bytes = mm->x_bytes(row_n, s->k);
    assert_int_equal(mem_pages_alloc(bytes, &memory, NULL), 0);
    struct cpu_pack pack = {is_f32 ? (void *)d->x : d->x16, s->k, rows, row_n, s->k, memory};
    for (uint32_t b = 0; b < DIV_UP(row_n, mm->row_block); b++) {
        mm->pack(&pack, b);
    }
    for (uint32_t g = 0; g < layout_group_n(s->n); g++) {
        struct cpu_gemm gemm = {.x = memory,
                                .w = layout_group(s->held, d->packed, s->k, g),
                                .row_n = row_n,
                                .k = s->k,
                                .k_layout = s->k,
                                .tile_n = layout_tile_n(s->n, g),
                                .out = out + (size_t)g * LAYOUT_GROUP,
                                .stride = stride};
        mm->run(&gemm);
    }
    mem_pages_free(memory, bytes);
}

static void check_near(const struct data *d, const float *out, const char *name)
{
    const struct shape *s = &d->shape;
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        for (uint32_t c = 0; c < s->n; c++) {
            double want = 0;
            double size = 0;
            for (uint32_t k = 0; k < s->k; k++) {
                double term = (double)d->x[r * s->k + k] * d->w[c * s->k + k];
                want += term;
                size += fabs(term);
            }
            double got = out[r * ROUND_UP(s->n, 16u) + c];
            if (fabs(got - want) > 1e-6 * size + 1e-30) {
                fail_msg("%s %ux%u row %u column %u: %g, wanted %g", name, s->n, s->k, r, c, got,
                         want);
            }
        }
    }
}

/* Rows in other company must come out with the same bits. */
static void check_rows(const struct cpu_mm *mm, const struct data *d, bool is_exact,
                       const float *all)
{
    size_t stride = ROUND_UP(d->shape.n, 16u);
    float *out = mem_alloc(ROWS_MAX * stride * sizeof(float));
    for (uint32_t row_n = 1; row_n < ROWS_MAX; row_n += row_n < 17 ? 1 : 7) {
        uint32_t rows[ROWS_MAX];
        for (uint32_t r = 0; r < row_n; r++) {
            rows[r] = (r * 19 + row_n) % ROWS_MAX;
        }
        multiply(mm, d, is_exact, rows, row_n, out);
        for (uint32_t r = 0; r < row_n; r++) {
            assert_memory_equal(out + r * stride, all + rows[r] * stride, stride * sizeof(float));
        }
    }
    mem_free(out);
}

static void check_path(const struct cpu_paths_entry *entry, const struct data *d, bool is_exact,
                       float *out)
{
    const struct cpu_mm *mm =
        is_exact ? entry->path->exact[d->shape.held] : entry->path->held[d->shape.held];
    multiply(mm, d, is_exact, NULL, ROWS_MAX, out);
    check_near(d, out, entry->name);
    check_rows(mm, d, is_exact, out);
}

static void test_products(void **state)
{
    struct cpu_paths_entry paths[8];
    uint32_t path_n = cpu_paths(paths);
    (void)state;
    for (uint32_t i = 0; i < ARRAY_N(shapes); i++) {
        struct data d;
        data_init(&d, shapes[i]);
        size_t bytes = ROWS_MAX * ROUND_UP(shapes[i].n, 16u) * sizeof(float);
        float *out = mem_alloc(bytes);
        float *chain = mem_alloc(bytes);
        for (uint32_t p = 0; p < path_n; p++) {
            check_path(&paths[p], &d, true, p == 0 ? chain : out);
            if (p > 0) {
                assert_memory_equal(out, chain, bytes);
            }
            check_path(&paths[p], &d, false, out);
            if (paths[p].is_chain || shapes[i].held == DTYPE_F32) {
                assert_memory_equal(out, chain, bytes);
            }
        }
        mem_free(chain);
        mem_free(out);
        data_done(&d);
    }
}

/* A product cut in two along K, the second part added, is the whole product bit for bit. */
static void test_chain_goes_on(void **state)
{
    struct cpu_paths_entry paths[8];
    uint32_t path_n = cpu_paths(paths);
    struct data d;
    (void)state;
    data_init(&d, (struct shape){DTYPE_BF16, 32, 64});
    for (uint32_t p = 0; p < path_n; p++) {
        const struct cpu_mm *mm = paths[p].path->exact[DTYPE_BF16];
        float whole[4 * 32];
        float parts[4 * 32];
        float x[4 * 64];
        const uint32_t rows[4] = {3, 1, 0, 2};
        multiply(mm, &d, true, NULL, 4, whole);
        for (uint32_t half = 0; half < 2; half++) {
            struct cpu_pack pack = {d.x + half * 32, 64, rows, 4, 32, x};
            for (uint32_t b = 0; b < DIV_UP(4, mm->row_block); b++) {
                mm->pack(&pack, b);
            }
            mm->run(&(struct cpu_gemm){.x = x,
                                       .w = (char *)d.packed + half * 2048,
                                       .row_n = 4,
                                       .k = 32,
                                       .k_layout = 32,
                                       .tile_n = 2,
                                       .out = parts,
                                       .stride = 32,
                                       .rows = rows,
                                       .is_add = half == 1});
        }
        assert_memory_equal(parts, whole, sizeof whole);
    }
    data_done(&d);
}

/* Runs every row function on n elements; returns the bytes it wrote. */
static size_t run_rows(const struct cpu_rows *rows, uint32_t n, float *out)
{
    uint64_t seed = n;
    float in[4][300];
    float page[64];
    float largest = -1.0f;
    float sum = 2.0f;
    float *at = out;
    for (uint32_t i = 0; i < 4 * 300; i++) {
        in[i / 300][i % 300] = 4 * cpu_paths_float(&seed);
    }
    memset(out, 0, 4096 * sizeof(float));
    memcpy(at, in[0], n * 4);
    for (uint32_t held = 0; held < 2; held++) {
        enum dtype type = held ? DTYPE_BF16 : DTYPE_F32;
        struct cpu_join_row join = {at, in[1], held ? in[2] : NULL, 0.5f, -1.5f, in[3], 1e-5f,
                                    n,  at + n};
        rows->join(type, &join);
        rows->act_mul(type, in[1], 1.3f, in[2], n, at + 2 * n);
        rows->to_held(type, in[1], 0.3f, n, at + 3 * n);
        memcpy(at + 4 * n, at, n * 4);
        at += 4 * n;
    }
    rows->add(at, in[1], n);
    rows->scale(at, 1.7f, n);
    rows->gate(at, in[0], n);
    rows->norm(at, in[2], 1e-6f, n);
    rows->rope(at, in[3], n / 2);
    at += n;
    memcpy(page, in[0], sizeof page);
    struct cpu_softmax softmax = {page, n % 64 + 1, 0.125f, &largest, &sum};
    *at++ = rows->softmax(&softmax);
    *at++ = largest;
    *at++ = sum;
    memcpy(at, page, sizeof page);
    at += 64;
    in[0][n / 2] = NAN;
    *at++ = rows->lse(in[0], n);
    return (size_t)(at - out) * sizeof *at;
}

static void test_row_functions(void **state)
{
    struct cpu_paths_entry paths[8];
    uint32_t path_n = cpu_paths(paths);
    static float want[4096];
    static float got[4096];
    (void)state;
    for (uint32_t n = 2; n < 300; n += n < 40 ? 1 : 37) {
        size_t bytes = run_rows(paths[0].path->rows, n, want);
        for (uint32_t p = 1; p < path_n; p++) {
            assert_int_equal(run_rows(paths[p].path->rows, n, got), bytes);
            assert_memory_equal(got, want, bytes);
        }
    }
}

static void test_exp(void **state)
{
    struct cpu_paths_entry paths[8];
    (void)state;
    cpu_paths(paths);
    /* silu(x) * 1 = x / (1 + e^-x) */
    for (float x = -80; x < 80; x += 0.37f) {
        float one = 1;
        float got;
        paths[0].path->rows->act_mul(DTYPE_F32, &x, 1, &one, 1, &got);
        double want = x / (1 + exp(-(double)x));
        assert_true(fabs(got - want) <= 4e-7 * fabs(want));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_chain_goes_on),
        cmocka_unit_test(test_row_functions),
        cmocka_unit_test(test_exp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
