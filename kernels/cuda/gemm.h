/* Base products of prompts by cuBLASLt, where it can be trusted.
 *
 * A product is always GEMM_ROWS rows of x (a ragged tile is filled up), so that its algorithm
 * depends on the weight's shape alone. An algorithm is chosen once for each shape, when weights are
 * loaded: without workspace, without a split of K, and only after a trial in which a row's bits
 * depended neither on its place nor on its neighbours, and its values were right. Shapes without
 * one are the own form's (linear.cu). A later call that fails is a lost device, never a change of
 * form.
 *
 * Threads: the rank's, and before it the one that loads weights. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"
#include "kernels/cuda/step.h"
#include "kernels/kern_ops.h"

#define GEMM_ROWS CUDA_PART_ROWS /* a part has no more, mostly: weights are read once for it */

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_gemm;
struct dev_stream;

/* Opens the library for a device that is in use. Never NULL: where it cannot be opened, no shape is
 * taken and the text says why. */
struct cuda_gemm *gemm_open(enum dtype held, struct dev_stream *stream);
void gemm_close(struct cuda_gemm *gemm);

/* Where rows are filled up, for inputs of at most k_max elements. */
size_t gemm_staging_bytes(uint32_t k_max);
void gemm_stage_in(struct cuda_gemm *gemm, void *staging_dev);

/* Elements of the products of row_n rows with n outputs in all. */
size_t gemm_product_n(uint32_t row_n, uint32_t n);

/* Chooses an algorithm for weights of this shape, packed at w_dev, unless that was done before or k
 * is no multiple of 8. Not while a step runs. work_dev: gemm_product_n(1, n) floats. */
void gemm_learn(struct cuda_gemm *gemm, uint32_t n, uint32_t k, const void *w_dev, float *work_dev);

/* Queues the base products of a group of sites for row_n rows of op->x: element (row, output o of
 * site s) at [row / GEMM_ROWS][n of the sites before s + o][row % GEMM_ROWS] of out_dev. False, and
 * nothing is queued, where a site's shape is the own form's. */
bool gemm_linear(const struct cuda_gemm *gemm, const struct kern_linear *op, uint32_t row_n,
                 float *out_dev);

/* What multiplies prompts, in words. Valid until the next gemm_learn. */
const char *gemm_text(const struct cuda_gemm *gemm);

#ifdef __cplusplus
}
#endif

#endif
