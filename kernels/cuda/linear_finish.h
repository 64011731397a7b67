/* The end of a group: slices added, effects expanded, bias, post. By the block that arrived last.
 */
#ifndef KERNELS_CUDA_LINEAR_FINISH_H
#define KERNELS_CUDA_LINEAR_FINISH_H

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/held.h"
#include "kernels/cuda/linear_expand.h"
#include "kernels/fmath.h"

/* The slices' sums, slice_stride apart, added in order. */
static DEV void finish_sum(const linear_job &job, const linear_out &out, uint32_t slice_n,
                           size_t slice_stride)
{
    for (uint32_t i = threadIdx.x; i < job.group_rows * out.tile_tokens; i += LINEAR_THREADS) {
        uint32_t r = i / out.tile_tokens;
        uint32_t token = i % out.tile_tokens;
        const float *p = out.partial + r * out.partial_tokens + token;
        float sum = p[0];
        for (uint32_t s = 1; s < slice_n; s++) {
            sum += p[s * slice_stride];
        }
        out.y[r * out.pitch + token] = sum;
    }
    __syncthreads();
}

/* Base sums from a library's product (gemm.h), whose rows are the sites' outputs. */
static DEV void finish_product(const linear_job &job, const linear_out &out)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < job.op.site_n; s++) {
        n += job.op.sites[s].n;
    }
    for (uint32_t i = threadIdx.x; i < job.group_rows * out.token_n; i += LINEAR_THREADS) {
        uint32_t r = i / out.token_n;
        uint32_t token = i % out.token_n;
        uint32_t row = out.token_first + token;
        linear_place p = linear_place_of(job, out.group, r);
        size_t at = row / GEMM_ROWS * (size_t)n + p.row;
        for (uint32_t s = 0; s < p.site; s++) {
            at += job.op.sites[s].n;
        }
        bool is_there = p.row != UINT32_MAX;
        out.y[r * out.pitch + token] = is_there ? job.product[at * GEMM_ROWS + row % GEMM_ROWS] : 0;
    }
    __syncthreads();
}

static DEV void finish_bias(const linear_job &job, const linear_out &out)
{
    for (uint32_t i = threadIdx.x; i < job.group_rows * out.tile_tokens; i += LINEAR_THREADS) {
        linear_place p = linear_place_of(job, out.group, i / out.tile_tokens);
        const float *bias = job.op.sites[p.site].bias;
        if (bias && p.row != UINT32_MAX) {
            out.y[i / out.tile_tokens * out.pitch + i % out.tile_tokens] += bias[p.row];
        }
    }
    __syncthreads();
}

/* The outputs of all sites of a row side by side. */
static DEV void finish_store(const linear_job &job, const linear_out &out)
{
    linear_place p = linear_place_of(job, out.group, 0);
    uint32_t before = 0;
    uint32_t n = 0;
    for (uint32_t s = 0; s < job.op.site_n; s++) {
        before += s < p.site ? job.op.sites[s].n : 0;
        n += job.op.sites[s].n;
    }
    for (uint32_t i = threadIdx.x; i < job.group_rows * out.token_n; i += LINEAR_THREADS) {
        uint32_t r = i % job.group_rows;
        uint32_t token = i / job.group_rows;
        if (p.row + r < job.op.sites[p.site].n) {
            float *to = static_cast<float *>(job.op.out);
            to[(size_t)(out.token_first + token) * n + before + p.row + r] =
                job.store_multiplier * out.y[r * out.pitch + token];
        }
    }
}

template <class T> static DEV void finish_act_mul(const linear_job &job, const linear_out &out)
{
    uint32_t n = job.op.sites[0].n;
    uint32_t half = LINEAR_GROUP / 2;
    for (uint32_t i = threadIdx.x; i < half * out.token_n; i += LINEAR_THREADS) {
        uint32_t r = i % half;
        uint32_t token = i / half;
        uint32_t row = out.group * half + r;
        if (row < n) {
            float gate = out.y[r * out.pitch + token];
            float up = out.y[(r + half) * out.pitch + token];
            T *to = static_cast<T *>(job.op.out);
            to[(size_t)(out.token_first + token) * n + row] =
                held_of<T>(job.saturated, fmath_silu(job.op.gate_multiplier * gate) * up);
        }
    }
}

/* Norm over head_dim by one warp, lanes strided, then halves: a fixed order. */
static DEV void finish_norm(const linear_job &job, float *y, uint32_t pitch, const float *gain)
{
    uint32_t dim = job.op.heads.head_dim;
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) {
        sum += y[i * pitch] * y[i * pitch];
    }
    for (int step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    float scale = 1.0f / sqrtf(sum / (float)dim + job.op.heads.norm_eps);
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) {
        y[i * pitch] = y[i * pitch] * scale * gain[i];
    }
    __syncwarp();
}

static DEV void finish_rope(const linear_job &job, float *y, uint32_t pitch, uint32_t row)
{
    uint32_t half = job.rotary_n / 2;
    const float *rope = job.rope + (size_t)row * half * 2;
    for (uint32_t i = threadIdx.x % 32; i < half; i += 32) {
        float a = y[i * pitch];
        float b = y[(i + half) * pitch];
        float cosine = rope[2 * i];
        float sine = rope[2 * i + 1];
        y[i * pitch] = a * cosine - b * sine;
        y[(i + half) * pitch] = b * cosine + a * sine;
    }
    __syncwarp();
}

/* One head of one token, by one warp: norm and rope of q and k; q and a gate to memory, k and v
 * into the page. */
template <class T>
static DEV void finish_head(const linear_job &job, const linear_out &out, uint32_t token)
{
    const kern_heads &h = job.op.heads;
    uint32_t row = out.token_first + token;
    float *y = out.y + token;
    linear_place p = linear_place_of(job, out.group, 0);
    uint32_t head = p.row / h.head_dim;
    bool is_gate = p.site == 0 && h.gate_out && head % 2 == 1;
    const float *gain = p.site == 0 ? h.q_norm : p.site == 1 ? h.k_norm : nullptr;
    if (gain && !is_gate) {
        finish_norm(job, y, out.pitch, gain);
    }
    if (p.site < 2 && !is_gate) {
        finish_rope(job, y, out.pitch, row);
    }
    if (p.site == 0) {
        head = h.gate_out ? head / 2 : head;
        float *to = is_gate ? h.gate_out : h.q_out;
        to += ((size_t)row * h.head_n + head) * h.head_dim;
        for (uint32_t i = threadIdx.x % 32; i < h.head_dim; i += 32) {
            to[i] = y[i * out.pitch];
        }
        return;
    }
    cuda_row r = job.step->rows[row];
    const cuda_kv &kv = job.kv;
    size_t at = (size_t)h.kv_layer * kv.page_n +
                kv.page_table[(size_t)r.slot * kv.page_stride + r.pos / LIMIT_KV_PAGE];
    at = ((at * 2 + p.site - 1) * kv.kv_head_n + head) * LIMIT_KV_PAGE + r.pos % LIMIT_KV_PAGE;
    T *to = static_cast<T *>(kv.data) + at * h.head_dim;
    for (uint32_t i = threadIdx.x % 32; i < h.head_dim; i += 32) {
        to[i] = held_of<T>(job.saturated, y[i * out.pitch]);
    }
}

template <class T>
static DEV void finish_group(const linear_job &job, const linear_out &out,
                             const linear_tiles &tiles)
{
    if (tiles.n > 0) {
        finish_effects<T>(job, out, tiles);
    }
    finish_bias(job, out);
    if (job.op.post == KERN_POST_ACT_MUL) {
        finish_act_mul<T>(job, out);
    } else if (job.op.post == KERN_POST_HEADS) {
        for (uint32_t token = threadIdx.x / 32; token < out.token_n; token += LINEAR_WARPS) {
            finish_head<T>(job, out, token);
        }
    } else {
        finish_store(job, out);
    }
    __syncthreads();
}

#endif
