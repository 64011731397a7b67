/* The expansion of low-rank effects: the group's sums in shared memory plus, for every segment in
 * order, B (A x) for the tokens that are the segment's. By the block that arrived last. */
#ifndef KERNELS_CUDA_LINEAR_EXPAND_H
#define KERNELS_CUDA_LINEAR_EXPAND_H

#include "kernels/cuda/linear_work.h"

/* One group for one tile of tokens, in shared memory: y[r * pitch + token]. */
struct linear_out {
    float *y;
    uint32_t pitch;
    uint32_t group;
    uint32_t token_first; /* of the part, or of the list */
    uint32_t token_n;     /* valid ones, <= the tile's */
    uint32_t tile_tokens; /* of y: all of one pass */
    const float *partial; /* the group's: [group_rows][partial_tokens], slices somewhere behind */
    uint32_t partial_tokens;
    const float *u; /* [slices][u_stride], this tile's */
    uint32_t u_slice_n;
};

/* Four values of u, for ranks k + 2 t, + 1, + 8, + 9 of one row, times its weight, as high and low
 * parts of the held type. */
template <class T> struct linear_u {
    uint32_t high[2], low[2];
};

template <class T>
static DEV linear_u<T> finish_u(const linear_job &job, const linear_out &out, const float *u,
                                uint32_t rank, uint32_t k, float weight)
{
    linear_u<T> pair;
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        float v[2];
        UNROLL
        for (uint32_t e = 0; e < 2; e++) {
            uint32_t r = k + 8 * i + e;
            v[e] = 0;
            if (u && r < rank) {
                float sum = u[r];
                for (uint32_t s = 1; s < out.u_slice_n; s++) {
                    sum += u[s * job.u_stride + r];
                }
                v[e] = sum * weight;
            }
        }
        pair.high[i] = pack2<T>(v[0], v[1]);
        pair.low[i] = pack2<T>(v[0] - to_f32(from_f32<T>(v[0])), v[1] - to_f32(from_f32<T>(v[1])));
    }
    return pair;
}

/* 16 rows of B at row `r` of the group, ranks k..k+15, as mma's operand. */
template <class T>
static DEV void finish_b(const linear_job &job, uint32_t group, uint32_t r, const void *b,
                         uint32_t pad, uint32_t k, uint32_t (&out)[4])
{
    uint32_t g = threadIdx.x % 32 / 4;
    uint32_t t = threadIdx.x % 4;
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        linear_place p = linear_place_of(job, group, r + g + 8 * i);
        const T *row = static_cast<const T *>(b) + (size_t)p.row * pad + k + 2 * t;
        bool is_there = p.row != UINT32_MAX;
        out[i] = is_there ? ld4(LD_ADAPTER, row) : 0;
        out[i + 2] = is_there ? ld4(LD_ADAPTER, row + 8) : 0;
    }
}

/* 16 rows by 8 tokens of y, the lane's elements at `y` and 8 rows further, if the group has those
 * (a head may end behind the first 8): += a * v for the columns whose bit is set. The others keep
 * their sum by selection, so that nothing of another request touches them. */
template <class T>
static DEV void finish_columns(float *y, uint32_t pitch, const uint32_t (&a)[4],
                               const linear_u<T> &v, uint32_t bits, bool has_below)
{
    float *below = y + (has_below ? 8 * pitch : 0);
    float acc[4] = {y[0], y[1], below[0], below[1]};
    mma<T>(acc, a, v.high);
    mma<T>(acc, a, v.low);
    UNROLL
    for (uint32_t c = 0; c < 2; c++) {
        if (bits >> c & 1) {
            y[c] = acc[c];
            if (has_below) {
                below[c] = acc[c + 2];
            }
        }
    }
}

/* Adds one tile's effect to 16 rows of the group, 8 tokens at a time; B is read once for all of
 * them. An element's chain is in ascending k, its sum rests in y between two steps. */
template <class T>
static DEV void finish_effect(const linear_job &job, const linear_out &out,
                              const linear_tiles &tiles, uint32_t i, uint32_t r)
{
    uint32_t g = threadIdx.x % 32 / 4;
    uint32_t t = threadIdx.x % 4;
    const cuda_tile &tile = job.step->tiles[tiles.first + i];
    uint32_t site = linear_place_of(job, out.group, r).site;
    linear_shrink s = linear_shrink_site(job, tiles, i, site);
    if (s.rank == 0 || linear_tile_pass(job, tiles, i) != out.token_first / CUDA_PASS_ROWS) {
        return;
    }
    const effect_lowrank &e = tile.sites[job.op.sites[site].site];
    const void *b = tile.block + e.b_at;
    for (uint32_t k = 0; k < s.pad; k += 16) {
        uint32_t a[4];
        finish_b<T>(job, out.group, r, b, s.pad, k, a);
        for (uint32_t n = 0; n < out.tile_tokens; n += 8) {
            uint32_t row = out.token_first + n; /* of the part */
            uint32_t bits = tile.mask >> row % CUDA_PASS_ROWS & 0xff;
            if (bits == 0) {
                continue;
            }
            bool is_mine = bits >> g & 1;
            uint32_t below = tile.mask & ((1u << (row + g) % CUDA_PASS_ROWS) - 1);
            uint32_t j = (uint32_t)__popc(below);
            const float *u = is_mine ? out.u + s.u_at + (size_t)j * s.pad : nullptr;
            float weight = is_mine ? job.step->seg_rows[tile.seg_row + j].weight * e.scale : 0;
            linear_u<T> v = finish_u<T>(job, out, u, s.rank, k + 2 * t, weight);
            finish_columns<T>(out.y + (r + g) * out.pitch + n + 2 * t, out.pitch, a, v,
                              bits >> 2 * t, r + 8 < job.group_rows);
        }
    }
}

template <class T>
static DEV void finish_effects(const linear_job &job, const linear_out &out,
                               const linear_tiles &tiles)
{
    for (uint32_t r = threadIdx.x / 32 * 16; r < job.group_rows; r += LINEAR_WARPS * 16) {
        for (uint32_t i = 0; i < tiles.n; i++) {
            finish_effect<T>(job, out, tiles, i, r);
        }
    }
    __syncthreads();
}

#endif
