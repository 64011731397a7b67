/* Shared by gemm.c, which chooses and runs, and gemm_trial.c, which judges. */
#ifndef KERNELS_CUDA_GEMM_INT_H
#define KERNELS_CUDA_GEMM_INT_H

#include "base/err.h"
#include "kernels/cuda/cublaslt_abi.h"
#include "kernels/cuda/gemm.h"

#define GEMM_SHAPES     16
#define GEMM_TEXT_BYTES (ERR_TEXT_BYTES + 64)

struct gemm_shape {
    uint32_t n, k;
    bool is_taken; /* false: the own form's */
    void *x, *w, *out;
    struct cublaslt_algo algo;
};

struct cuda_gemm {
    struct dev_stream *stream;
    enum dtype held;
    struct cublaslt_calls calls;
    void *handle; /* NULL: the library is not there */
    void *desc;
    void *staging; /* dev, held [GEMM_ROWS][k] */
    struct gemm_shape shapes[GEMM_SHAPES];
    uint32_t shape_n, taken_n;
    char refusal[ERR_TEXT_BYTES]; /* why the library, or the last shape that was not taken, was not
                                   */
    char text[GEMM_TEXT_BYTES];
};

/* Queues out[n][GEMM_ROWS] = w x^T; a status of the library. */
int gemm_run(const struct cuda_gemm *gemm, const struct gemm_shape *shape, const void *x,
             const void *w, float *out);

/* Whether the shape's algorithm may serve. Uses the staging area and out_dev; waits. */
int gemm_trial(const struct cuda_gemm *gemm, const struct gemm_shape *shape, const void *w_dev,
               float *out_dev, struct err *err);

#endif
