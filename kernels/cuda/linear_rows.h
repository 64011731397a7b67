/* The linear's inputs on the device: its tokens, its slices of K, a lane's rows of weights or of an
 * adapter's A, and where A x goes. */
#ifndef KERNELS_CUDA_LINEAR_ROWS_H
#define KERNELS_CUDA_LINEAR_ROWS_H

#include "kernels/cuda/linear_mac.h"
#include "kernels/cuda/linear_work.h"

/* Rows of x that a launch has, and where the i-th one stands. */
static DEV uint32_t linear_token_total(const linear_job &job)
{
    uint32_t n = job.step->row_n;
    if (job.is_gathered) {
        n = job.from == CUDA_GATHER_SAMPLES ? job.step->sample_n : job.step->score_n;
        n = n > job.first ? n - job.first : 0;
        n = n < job.cap ? n : job.cap;
    }
    return n;
}

static DEV uint32_t linear_token_row(const linear_job &job, uint32_t token)
{
    if (!job.is_gathered) {
        return token;
    }
    return job.from == CUDA_GATHER_SAMPLES ? job.step->samples[job.first + token].row
                                           : job.step->scores[job.first + token].row;
}

/* Elements of slice s that are not behind K, in whole steps. */
static DEV uint32_t linear_slice_len(const linear_job &job, uint32_t s)
{
    uint32_t left = job.op.k - s * job.slice_k;
    left = (left + LINEAR_STEP - 1) / LINEAR_STEP * LINEAR_STEP;
    return left < job.slice_k ? left : job.slice_k;
}

/* The lane's rows of a unit whose first row is r of a group, at slice s. */
template <class T>
static DEV linear_rows linear_base_rows(const linear_job &job, uint32_t group, uint32_t r,
                                        uint32_t s)
{
    linear_rows rows;
    rows.cls = LD_WEIGHT;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t at = r + threadIdx.x % 32 / 4 + 8 * i;
        linear_place p = linear_place_of(job, group, at);
        bool is_there = at < job.group_rows && p.row != UINT32_MAX;
        rows.row[i] = is_there ? static_cast<const T *>(job.op.sites[p.site].w) +
                                     (size_t)p.row * job.stride + s * job.slice_k
                               : nullptr;
    }
    return rows;
}

template <class T>
static DEV linear_rows linear_a_rows(const linear_job &job, const linear_shrink &shrink, uint32_t r,
                                     uint32_t s)
{
    linear_rows rows;
    rows.cls = LD_ADAPTER;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t rank = shrink.rank_first + r + threadIdx.x % 32 / 4 + 8 * i;
        rows.row[i] = rank < shrink.rank ? static_cast<const T *>(shrink.a) +
                                               (size_t)rank * job.stride + s * job.slice_k
                                         : nullptr;
    }
    return rows;
}

/* Stores one value of u, or adds it to what is there, if the row is one of the tile's pass. */
static DEV void linear_put_u(const linear_shrink &shrink, float *u, uint32_t row, uint32_t r,
                             float value, bool is_added)
{
    uint32_t bit = row % CUDA_PASS_ROWS;
    uint32_t rank = shrink.rank_first + r;
    if (shrink.mask >> bit & 1 && rank < shrink.rank) {
        uint32_t j = (uint32_t)__popc(shrink.mask & ((1u << bit) - 1));
        float *at = u + shrink.u_at + (size_t)j * shrink.pad + rank;
        *at = is_added ? *at + value : value;
    }
}

#endif
