/* The wide form of the linear: more than 32 rows of x. A unit is 64 weight rows by a tile of 64 or
 * 128 tokens, over all of K or over one slice (linear_cut.h). Each of four warps has 16 of the rows
 * and all tokens, so a weight is loaded once, by one lane; x goes through shared memory, a chunk
 * of 64 elements being copied while the one before is multiplied. Chains are those of
 * linear_order.h: the bits are the narrow form's. */
#ifndef KERNELS_CUDA_LINEAR_WIDE_H
#define KERNELS_CUDA_LINEAR_WIDE_H

#include "kernels/cuda/linear_rows.h"

/* Elements [k, k + n) of a slice, within one part; n == 0: behind the last. */
struct wide_chunk {
    uint32_t part, k, n;
};

static DEV wide_chunk wide_chunk_from(const linear_job &job, uint32_t len, uint32_t part,
                                      uint32_t k)
{
    uint32_t end = (part + 1) * job.part_k;
    if (k >= end) {
        part++;
        end += job.part_k;
    }
    end = end < len ? end : len;
    wide_chunk c = {part, k, 0};
    if (part < LINEAR_PARTS && k < end) {
        c.n = end - k < LINEAR_CHUNK ? end - k : LINEAR_CHUNK;
    }
    return c;
}

/* Begins to copy a chunk of the tokens' x; k_first: the slice's first element. */
template <class T>
static DEV void wide_stage(const linear_job &job, T *xs, uint32_t tokens, uint32_t k_first,
                           wide_chunk c, uint32_t token_first, uint32_t token_n)
{
    const T *x = static_cast<const T *>(job.op.x);
    for (uint32_t i = threadIdx.x; i < tokens * (LINEAR_CHUNK / 8) && c.n > 0;
         i += LINEAR_THREADS) {
        uint32_t token = i / (LINEAR_CHUNK / 8);
        uint32_t at = i % (LINEAR_CHUNK / 8) * 8;
        uint32_t k = k_first + c.k + at;
        bool is_there = token < token_n && at < c.n && k < job.op.k;
        uint32_t row = is_there ? linear_token_row(job, token_first + token) : 0;
        const T *from = x + (size_t)row * job.op.k + (is_there ? k : 0);
        cp_async16(xs + token * LINEAR_WIDE_PITCH + at, from, is_there ? 16 : 0);
    }
    cp_async_commit();
}

/* A lane's weights of a chunk: two steps of two rows. */
struct wide_weights {
    uint4 bits[2][2];
};

template <class T>
static DEV wide_weights wide_load(const linear_rows &rows, wide_chunk c, uint32_t left)
{
    wide_weights out;
    UNROLL
    for (uint32_t s = 0; s < 2; s++) {
        uint32_t k = s * LINEAR_STEP;
        UNROLL
        for (int i = 0; i < 2; i++) {
            out.bits[s][i] =
                linear_load<T>(rows, i, c.k + k + threadIdx.x % 4 * 8, k < c.n ? left : 0);
        }
    }
    return out;
}

template <class T, int NT>
static DEV void wide_multiply(float (&acc)[NT][4], const wide_weights &weights, const T *xs,
                              uint32_t n)
{
    const T *x_lane = xs + threadIdx.x % 32 / 4 * LINEAR_WIDE_PITCH + threadIdx.x % 4 * 8;
    UNROLL
    for (uint32_t s = 0; s < 2; s++) {
        if (s * LINEAR_STEP >= n) {
            break;
        }
        uint4 a = weights.bits[s][0];
        uint4 b = weights.bits[s][1];
        uint32_t low[4] = {a.x, b.x, a.y, b.y};
        uint32_t high[4] = {a.z, b.z, a.w, b.w};
        UNROLL
        for (int t = 0; t < NT; t++) {
            const T *at = x_lane + t * 8 * LINEAR_WIDE_PITCH + s * LINEAR_STEP;
            uint4 x = *reinterpret_cast<const uint4 *>(at);
            uint32_t xl[2] = {x.x, x.y};
            uint32_t xh[2] = {x.z, x.w};
            mma<T>(acc[t], low, xl);
            mma<T>(acc[t], high, xh);
        }
    }
}

/* sum += a part's chain, or = that of the first. */
template <int NT> static DEV void wide_add(float (&sum)[NT][4], float (&acc)[NT][4], bool is_first)
{
    UNROLL
    for (int t = 0; t < NT; t++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
            sum[t][e] = is_first ? acc[t][e] : sum[t][e] + acc[t][e];
            acc[t][e] = 0;
        }
    }
}

/* One slice of the warp's 16 rows by NT * 8 tokens. xs: room for two chunks. */
template <class T, int NT>
static DEV void wide_slice(const linear_job &job, const linear_rows &rows, uint32_t slice, T *xs,
                           uint32_t token_first, uint32_t token_n, float (&sum)[NT][4])
{
    const uint32_t tokens = NT * 8;
    float acc[NT][4] = {};
    uint32_t k_first = slice * job.slice_k;
    uint32_t len = linear_slice_len(job, slice);
    wide_chunk c = wide_chunk_from(job, len, 0, 0);
    wide_stage(job, xs, tokens, k_first, c, token_first, token_n);
    wide_weights weights = wide_load<T>(rows, c, job.stride - k_first);
    for (uint32_t turn = 0; c.n > 0; turn ^= 1) {
        wide_chunk next = wide_chunk_from(job, len, c.part, c.k + c.n);
        wide_stage(job, xs + (turn ^ 1) * tokens * LINEAR_WIDE_PITCH, tokens, k_first, next,
                   token_first, token_n);
        wide_weights ahead = wide_load<T>(rows, next, job.stride - k_first);
        cp_async_wait<1>();
        __syncthreads();
        wide_multiply<T, NT>(acc, weights, xs + turn * tokens * LINEAR_WIDE_PITCH, c.n);
        __syncthreads();
        if (next.n == 0 || next.part != c.part) {
            wide_add<NT>(sum, acc, c.part == 0);
        }
        if (next.n == 0 && c.part + 1 < LINEAR_PARTS) {
            wide_add<NT>(sum, acc, false); /* parts behind K are zeros */
        }
        weights = ahead;
        c = next;
    }
    cp_async_wait<0>();
    __syncthreads();
}

/* The adapter's ranks of one unit for the tokens of its pass: those of one slice, or of all. */
template <class T>
static DEV void wide_shrink(const linear_job &job, const linear_tiles &tiles, uint32_t unit,
                            uint32_t split, T *xs, uint32_t total, float *u)
{
    linear_shrink shrink = linear_shrink_of(job, tiles, unit, LINEAR_WIDE);
    uint32_t first = linear_tile_pass(job, tiles, shrink.tile) * CUDA_PASS_ROWS;
    uint32_t token_n = total - first < CUDA_PASS_ROWS ? total - first : CUDA_PASS_ROWS;
    uint32_t begin = job.split_n > 1 ? split : 0;
    uint32_t end = job.split_n > 1 ? split + 1 : job.slice_n;
    uint32_t r = threadIdx.x / 32 * 16;
    for (uint32_t s = begin; s < end; s++) {
        float sum[4][4];
        linear_rows rows = linear_a_rows<T>(job, shrink, r, s);
        wide_slice<T, 4>(job, rows, s, xs, first, token_n, sum);
        for (uint32_t t = 0; t < 4; t++) {
            for (uint32_t e = 0; e < 4; e++) {
                uint32_t token = first + t * 8 + threadIdx.x % 4 * 2 + e % 2;
                uint32_t rank = r + threadIdx.x % 32 / 4 + e / 2 * 8;
                linear_put_u(shrink, u + split * job.u_stride, token, rank, sum[t][e], s > begin);
            }
        }
    }
}

/* 64 rows from r on of a group: sums to `to` ([rows][tokens]), slice after slice. */
template <class T, int NT>
static DEV void wide_base(const linear_job &job, uint32_t group, uint32_t r, uint32_t split, T *xs,
                          uint32_t token_first, uint32_t token_n, float *to)
{
    const uint32_t tokens = NT * 8;
    uint32_t begin = job.split_n > 1 ? split : 0;
    uint32_t end = job.split_n > 1 ? split + 1 : job.slice_n;
    r += threadIdx.x / 32 * 16;
    for (uint32_t s = begin; s < end; s++) {
        float sum[NT][4];
        linear_rows rows = linear_base_rows<T>(job, group, r, s);
        wide_slice<T, NT>(job, rows, s, xs, token_first, token_n, sum);
        UNROLL
        for (int t = 0; t < NT; t++) {
            UNROLL
            for (uint32_t e = 0; e < 4; e++) {
                uint32_t row = r + threadIdx.x % 32 / 4 + e / 2 * 8;
                uint32_t token = t * 8 + threadIdx.x % 4 * 2 + e % 2;
                if (row < job.group_rows) {
                    float *at = to + row * tokens + token;
                    *at = s > begin ? *at + sum[t][e] : sum[t][e];
                }
            }
        }
    }
}

#endif
