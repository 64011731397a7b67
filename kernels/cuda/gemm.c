/* cuBLASLt opened at run time: its calls, the algorithm of each shape, the products of a prompt. */
#include "kernels/cuda/gemm_int.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/host.h"
#include "kernels/cuda/ops.h"

#define GEMM_ALIGNMENT  16u /* bytes */
#define GEMM_WIDTH      8   /* elements of so many bytes: rows of x are multiples of it */
#define GEMM_CANDIDATES 8

static_assert(sizeof(struct cublaslt_calls) == CUBLASLT_CALL_N * sizeof(void *), "one name each");

static int gemm_type(enum dtype held)
{
    return held == DTYPE_BF16 ? CUBLASLT_R_16BF : CUBLASLT_R_16F;
}

static int gemm_load(struct cuda_gemm *gemm, struct err *err)
{
    char *calls = (char *)&gemm->calls;
    for (size_t i = 0; i < CUBLASLT_CALL_N; i++) {
        void *call;
        int rc = dev_cublaslt(cublaslt_names[i], &call, err);
        if (rc) {
            return rc;
        }
        memcpy(calls + i * sizeof call, &call, sizeof call);
    }
    return 0;
}

static int gemm_start(struct cuda_gemm *gemm, struct err *err)
{
    int32_t transpose = CUBLASLT_OP_T;
    int status = gemm->calls.create(&gemm->handle);
    if (status) {
        gemm->handle = NULL;
        return err_set(err, ERR_NO_DEVICE, "cublasLtCreate: status %d", status);
    }
    status = gemm->calls.desc_create(&gemm->desc, CUBLASLT_COMPUTE_32F, CUBLASLT_R_32F);
    if (status == 0) {
        status =
            gemm->calls.desc_set(gemm->desc, CUBLASLT_DESC_TRANSA, &transpose, sizeof transpose);
    }
    return status ? err_set(err, ERR_NO_DEVICE, "cublasLtMatmulDesc: status %d", status) : 0;
}

static void gemm_stop(struct cuda_gemm *gemm)
{
    if (gemm->desc) {
        gemm->calls.desc_destroy(gemm->desc);
        gemm->desc = NULL;
    }
    if (gemm->handle) {
        gemm->calls.destroy(gemm->handle);
        gemm->handle = NULL;
    }
}

static void gemm_tell(struct cuda_gemm *gemm)
{
    if (!gemm->handle) {
        snprintf(gemm->text, sizeof gemm->text, "own tiles (%s)", gemm->refusal);
        return;
    }
    size_t version = gemm->calls.version();
    int n =
        snprintf(gemm->text, sizeof gemm->text, "cuBLASLt %zu.%zu.%zu for %u of %u shapes",
                 version / 10000, version / 100 % 100, version % 100, gemm->taken_n, gemm->shape_n);
    if (gemm->taken_n < gemm->shape_n) {
        snprintf(gemm->text + n, sizeof gemm->text - (size_t)n, " (%s)", gemm->refusal);
    }
}

struct cuda_gemm *gemm_open(enum dtype held, struct dev_stream *stream)
{
    struct cuda_gemm *gemm = mem_zalloc(sizeof *gemm);
    struct err err = {0};
    gemm->stream = stream;
    gemm->held = held;
    int rc = gemm_load(gemm, &err);
    rc = rc ? rc : gemm_start(gemm, &err);
    if (rc) {
        gemm_stop(gemm);
        memcpy(gemm->refusal, err.text, sizeof gemm->refusal);
    }
    gemm_tell(gemm);
    return gemm;
}

static void gemm_drop(const struct cuda_gemm *gemm, struct gemm_shape *shape)
{
    void **layouts[] = {&shape->x, &shape->w, &shape->out};
    for (size_t i = 0; i < ARRAY_N(layouts); i++) {
        if (*layouts[i]) {
            gemm->calls.layout_destroy(*layouts[i]);
            *layouts[i] = NULL;
        }
    }
}

void gemm_close(struct cuda_gemm *gemm)
{
    if (gemm) {
        for (uint32_t i = 0; i < gemm->shape_n; i++) {
            gemm_drop(gemm, &gemm->shapes[i]);
        }
        gemm_stop(gemm);
        mem_free(gemm);
    }
}

size_t gemm_staging_bytes(uint32_t k_max)
{
    return (size_t)GEMM_ROWS * k_max * dtype_bytes(DTYPE_BF16);
}

void gemm_stage_in(struct cuda_gemm *gemm, void *staging_dev)
{
    gemm->staging = staging_dev;
}

size_t gemm_product_n(uint32_t row_n, uint32_t n)
{
    return (size_t)((row_n + GEMM_ROWS - 1) / GEMM_ROWS) * GEMM_ROWS * n;
}

/* Column-major, as the library has it: x is [k, rows] transposed, w [k, n], out [rows, n]. */
static int gemm_layouts(const struct cuda_gemm *gemm, struct gemm_shape *shape)
{
    int type = gemm_type(gemm->held);
    uint32_t k = shape->k;
    int status = gemm->calls.layout_create(&shape->x, type, k, GEMM_ROWS, k);
    if (status == 0) {
        status = gemm->calls.layout_create(&shape->w, type, k, shape->n, cuda_stride(k));
    }
    if (status == 0) {
        status =
            gemm->calls.layout_create(&shape->out, CUBLASLT_R_32F, GEMM_ROWS, shape->n, GEMM_ROWS);
    }
    return status;
}

/* Algorithms that need no workspace and add nothing up between blocks. */
static int gemm_candidates(const struct cuda_gemm *gemm, const struct gemm_shape *shape,
                           struct cublaslt_found *out, int *out_n)
{
    const uint64_t workspace = 0;
    const uint32_t reduction = 0;
    const uint32_t alignment = GEMM_ALIGNMENT;
    const struct cublaslt_calls *calls = &gemm->calls;
    void *pref;
    int status = calls->pref_create(&pref);
    if (status) {
        return status;
    }
    status = calls->pref_set(pref, CUBLASLT_PREF_WORKSPACE, &workspace, sizeof workspace);
    if (status == 0) {
        status = calls->pref_set(pref, CUBLASLT_PREF_REDUCTION, &reduction, sizeof reduction);
    }
    for (int i = CUBLASLT_PREF_ALIGNMENT_A; i <= CUBLASLT_PREF_ALIGNMENT_D && status == 0; i++) {
        status = calls->pref_set(pref, i, &alignment, sizeof alignment);
    }
    if (status == 0) {
        status = calls->find(gemm->handle, gemm->desc, shape->x, shape->w, shape->out, shape->out,
                             pref, GEMM_CANDIDATES, out, out_n);
    }
    calls->pref_destroy(pref);
    return status;
}

static bool gemm_is_whole(const struct cuda_gemm *gemm, const struct cublaslt_found *found)
{
    int32_t split = 0;
    uint32_t reduction = 0;
    size_t bytes;
    return found->state == 0 && found->workspace_bytes == 0 &&
           gemm->calls.config_get(&found->algo, CUBLASLT_CONFIG_SPLIT_K, &split, sizeof split,
                                  &bytes) == 0 &&
           gemm->calls.config_get(&found->algo, CUBLASLT_CONFIG_REDUCTION, &reduction,
                                  sizeof reduction, &bytes) == 0 &&
           split <= 1 && reduction == 0;
}

/* The fastest candidate that passes the trial. */
static int gemm_choose(struct cuda_gemm *gemm, struct gemm_shape *shape, const void *w_dev,
                       float *work_dev, struct err *err)
{
    struct cublaslt_found found[GEMM_CANDIDATES];
    int found_n = 0;
    int status = gemm_layouts(gemm, shape);
    status = status ? status : gemm_candidates(gemm, shape, found, &found_n);
    if (status) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "no algorithm, status %d", status);
    }
    err_set(err, ERR_NOT_IMPLEMENTED, "no algorithm without workspace and split of K");
    for (int i = 0; i < found_n; i++) {
        shape->algo = found[i].algo;
        if (gemm_is_whole(gemm, &found[i]) && gemm_trial(gemm, shape, w_dev, work_dev, err) == 0) {
            return 0;
        }
    }
    return ERR_NOT_IMPLEMENTED;
}

static const struct gemm_shape *gemm_find(const struct cuda_gemm *gemm, uint32_t n, uint32_t k)
{
    for (uint32_t i = 0; i < gemm->shape_n; i++) {
        if (gemm->shapes[i].n == n && gemm->shapes[i].k == k) {
            return &gemm->shapes[i];
        }
    }
    return NULL;
}

void gemm_learn(struct cuda_gemm *gemm, uint32_t n, uint32_t k, const void *w_dev, float *work_dev)
{
    struct err err = {0};
    bool is_known = gemm_find(gemm, n, k) != NULL;
    if (!gemm->handle || is_known || k % GEMM_WIDTH != 0 || gemm->shape_n == GEMM_SHAPES) {
        return; /* a shape beyond the table is the own form's */
    }
    struct gemm_shape *shape = &gemm->shapes[gemm->shape_n++];
    *shape = (struct gemm_shape){.n = n, .k = k};
    shape->is_taken = gemm_choose(gemm, shape, w_dev, work_dev, &err) == 0;
    gemm->taken_n += shape->is_taken;
    if (!shape->is_taken) {
        snprintf(gemm->refusal, sizeof gemm->refusal, "%u x %u: %.*s", n, k,
                 (int)sizeof gemm->refusal - 32, err.text);
        gemm_drop(gemm, shape);
    }
    gemm_tell(gemm);
}

int gemm_run(const struct cuda_gemm *gemm, const struct gemm_shape *shape, const void *x,
             const void *w, float *out)
{
    const float one = 1;
    const float zero = 0;
    return gemm->calls.matmul(gemm->handle, gemm->desc, &one, x, shape->x, w, shape->w, &zero, out,
                              shape->out, out, shape->out, &shape->algo, NULL, 0,
                              dev_stream_native(gemm->stream));
}

/* One product of each site; rows behind row_n are whatever the staging area holds. */
static void gemm_tile(const struct cuda_gemm *gemm, const struct kern_linear *op, const void *x,
                      uint32_t row_n, float *out)
{
    if (row_n < GEMM_ROWS) {
        dev_copy(gemm->stream, gemm->staging, x, (size_t)row_n * op->k * dtype_bytes(gemm->held));
        x = gemm->staging;
    }
    for (uint32_t s = 0; s < op->site_n; s++) {
        const struct gemm_shape *shape = gemm_find(gemm, op->sites[s].n, op->k);
        int status = gemm_run(gemm, shape, x, op->sites[s].w, out);
        if (status) {
            char what[ERR_TEXT_BYTES];
            snprintf(what, sizeof what, "cublasLtMatmul of %u x %u: status %d", shape->n, shape->k,
                     status);
            dev_fail(what);
            return;
        }
        out += (size_t)shape->n * GEMM_ROWS;
    }
}

bool gemm_linear(const struct cuda_gemm *gemm, const struct kern_linear *op, uint32_t row_n,
                 float *out_dev)
{
    size_t n = 0;
    for (uint32_t s = 0; s < op->site_n; s++) {
        const struct gemm_shape *shape = gemm_find(gemm, op->sites[s].n, op->k);
        if (!shape || !shape->is_taken) {
            return false;
        }
        n += op->sites[s].n;
    }
    for (uint32_t row = 0; row < row_n; row += GEMM_ROWS) {
        const char *x = (const char *)op->x + (size_t)row * op->k * dtype_bytes(gemm->held);
        gemm_tile(gemm, op, x, MIN(row_n - row, GEMM_ROWS), out_dev + row * n);
    }
    return true;
}

const char *gemm_text(const struct cuda_gemm *gemm)
{
    return gemm->text;
}
