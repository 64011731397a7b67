/* The trial of one algorithm, on the weights it is for: the same bits twice, whatever place a row
 * has and whatever its neighbours are, and values that a sum in double agrees with. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/gemm_int.h"
#include "kernels/cuda/host.h"
#include "kernels/cuda/ops.h"
#include "kernels/random.h"

#define TRIAL_SAMPLES   64
#define TRIAL_TOLERANCE 1e-4 /* of the sum of the products' magnitudes */
#define TRIAL_STEP      37   /* rows move by this permutation: odd, so that all are met */

struct trial {
    const struct cuda_gemm *gemm;
    const struct gemm_shape *shape;
    const void *w_dev;
    float *out_dev;
    uint16_t *x;   /* [GEMM_ROWS][k]: what the first run had */
    uint16_t *mix; /* the same, rearranged */
    float *first;  /* [n][GEMM_ROWS] */
    float *out;
};

static float trial_f32(const struct trial *t, uint16_t v)
{
    return t->gemm->held == DTYPE_BF16 ? bf16_to_f32(v) : f16_to_f32(v);
}

/* Values of several magnitudes, so that the order of a sum shows in its bits. */
static uint16_t trial_value(const struct trial *t, uint64_t seed, uint32_t i)
{
    uint64_t z = kern_mix64((seed << 32) + i + 1);
    float v = (float)((int)(z & 1023) - 511) / (float)(512u << (z >> 10 & 7));
    return t->gemm->held == DTYPE_BF16 ? bf16_from_f32(v) : f16_from_f32(v);
}

static void trial_fill(const struct trial *t, uint64_t seed, uint16_t *row)
{
    for (uint32_t i = 0; i < t->shape->k; i++) {
        row[i] = trial_value(t, seed, i);
    }
}

static int trial_run(const struct trial *t, const uint16_t *x, float *out, struct err *err)
{
    struct dev_stream *stream = t->gemm->stream;
    size_t row_bytes = t->shape->k * sizeof *x;
    dev_copy_in(stream, t->gemm->staging, x, GEMM_ROWS * row_bytes);
    int status = gemm_run(t->gemm, t->shape, t->gemm->staging, t->w_dev, t->out_dev);
    if (status) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "cublasLtMatmul: status %d", status);
    }
    dev_copy_out(stream, out, t->out_dev, (size_t)t->shape->n * GEMM_ROWS * sizeof *out);
    return dev_stream_sync(stream) ? err_set(err, ERR_DEVICE_FAILURE, "%s", dev_failure()) : 0;
}

/* Whether row a of `out` has the bits of row b of the first run. */
static bool trial_is_same(const struct trial *t, uint32_t a, uint32_t b)
{
    for (uint32_t o = 0; o < t->shape->n; o++) {
        float now = t->out[(size_t)o * GEMM_ROWS + a];
        float then = t->first[(size_t)o * GEMM_ROWS + b];
        if (f32_bits(now) != f32_bits(then)) {
            return false;
        }
    }
    return true;
}

static int trial_places(const struct trial *t, struct err *err)
{
    uint32_t k = t->shape->k;
    for (uint32_t row = 0; row < GEMM_ROWS; row++) {
        uint32_t to = (row * TRIAL_STEP + 1) % GEMM_ROWS;
        memcpy(t->mix + (size_t)to * k, t->x + (size_t)row * k, k * sizeof *t->mix);
    }
    int rc = trial_run(t, t->mix, t->out, err);
    for (uint32_t row = 0; row < GEMM_ROWS && rc == 0; row++) {
        if (!trial_is_same(t, (row * TRIAL_STEP + 1) % GEMM_ROWS, row)) {
            rc = err_set(err, ERR_NOT_IMPLEMENTED, "a row's bits depend on its place");
        }
    }
    return rc;
}

/* Rows of one parity keep their values; the others get other ones, or zeros. */
static int trial_neighbours(const struct trial *t, uint32_t parity, struct err *err)
{
    uint32_t k = t->shape->k;
    memcpy(t->mix, t->x, (size_t)GEMM_ROWS * k * sizeof *t->mix);
    for (uint32_t row = 1 - parity; row < GEMM_ROWS; row += 2) {
        uint16_t *to = t->mix + (size_t)row * k;
        memset(to, 0, k * sizeof *to);
        if (row % 4 < 2) {
            trial_fill(t, 2ull * GEMM_ROWS + row, to);
        }
    }
    int rc = trial_run(t, t->mix, t->out, err);
    for (uint32_t row = parity; row < GEMM_ROWS && rc == 0; row += 2) {
        if (!trial_is_same(t, row, row)) {
            rc = err_set(err, ERR_NOT_IMPLEMENTED, "a row's bits depend on its neighbours");
        }
    }
    return rc;
}

/* Some elements against sums in double. */
static int trial_values(const struct trial *t, struct err *err)
{
    uint32_t k = t->shape->k;
    uint16_t *w = mem_zalloc_n(k, sizeof *w);
    int rc = 0;
    for (uint32_t i = 0; i < TRIAL_SAMPLES && rc == 0; i++) {
        uint32_t row = (uint32_t)(kern_random(3, i) * GEMM_ROWS);
        uint32_t o = (uint32_t)(kern_random(4, i) * (float)t->shape->n);
        const uint16_t *w_dev = (const uint16_t *)t->w_dev + (size_t)o * cuda_stride(k);
        double sum = 0;
        double size = 0;
        dev_copy_out(t->gemm->stream, w, w_dev, k * sizeof *w);
        dev_stream_sync(t->gemm->stream);
        for (uint32_t j = 0; j < k; j++) {
            double product =
                (double)trial_f32(t, w[j]) * (double)trial_f32(t, t->x[(size_t)row * k + j]);
            sum += product;
            size += fabs(product);
        }
        double got = (double)t->first[(size_t)o * GEMM_ROWS + row];
        if (!(fabs(got - sum) <= TRIAL_TOLERANCE * size)) {
            rc = err_set(err, ERR_NOT_IMPLEMENTED, "row %u, output %u is %.9g instead of %.9g", row,
                         o, got, sum);
        }
    }
    mem_free(w);
    return rc;
}

int gemm_trial(const struct cuda_gemm *gemm, const struct gemm_shape *shape, const void *w_dev,
               float *out_dev, struct err *err)
{
    size_t x_n = (size_t)GEMM_ROWS * shape->k;
    size_t out_n = (size_t)GEMM_ROWS * shape->n;
    struct trial t = {gemm,
                      shape,
                      w_dev,
                      out_dev,
                      mem_zalloc_n(x_n, sizeof(uint16_t)),
                      mem_zalloc_n(x_n, sizeof(uint16_t)),
                      mem_zalloc_n(out_n, sizeof(float)),
                      mem_zalloc_n(out_n, sizeof(float))};
    for (uint32_t row = 0; row < GEMM_ROWS; row++) {
        trial_fill(&t, 16 + row, t.x + (size_t)row * shape->k);
    }
    int rc = trial_run(&t, t.x, t.first, err);
    rc = rc ? rc : trial_run(&t, t.x, t.out, err);
    if (rc == 0 && memcmp(t.first, t.out, out_n * sizeof(float)) != 0) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED, "two runs differ");
    }
    rc = rc ? rc : trial_places(&t, err);
    rc = rc ? rc : trial_neighbours(&t, 0, err);
    rc = rc ? rc : trial_neighbours(&t, 1, err);
    rc = rc ? rc : trial_values(&t, err);
    mem_free(t.x);
    mem_free(t.mix);
    mem_free(t.first);
    mem_free(t.out);
    return rc;
}
