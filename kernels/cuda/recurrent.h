/* What the kernels of both recurrent mixers share. recurrent.cu: convolution before, norm and gate
 * behind; recurrent_step.cu: generated rows; recurrent_chunk.cu: prompt rows.
 *
 * Both mixers are one thing seen from here: heads with a state [key_dim][value_dim], read by a
 * query, written by a key and a value; B is ssd's key, C its query, x its value. Between launches
 * the rows' queries, keys and values stand in `work`; a head's outputs take the place of its
 * values, which nothing else reads. */
#ifndef KERNELS_CUDA_RECURRENT_H
#define KERNELS_CUDA_RECURRENT_H

#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"
#include "kernels/fmath.h"

struct recurrent_job {
    const cuda_step *step;
    cuda_state state;
    uint32_t layer;
    uint32_t head_n;
    uint32_t head_share; /* heads of one key and query */
    uint32_t key_dim, value_dim;
    uint32_t query_at, key_at, value_at; /* in a row of work, of the first head */
    float *work;                         /* [rows][conv_n] */
    const float *x;                      /* [rows][x_n] */
    uint32_t x_n;
    uint32_t gate_at; /* in a row of x: gdn's b, then a; ssd's dt */
    float gate_multiplier;
    const float *a_log, *dt_bias;
    const float *d; /* ssd only */
};

/* recurrent_step.cu, recurrent_chunk.cu: outputs of all heads into work, states into slots. */
void recurrent_gdn_step(const struct cuda_ctx *ctx, const recurrent_job &job);
void recurrent_ssd_step(const struct cuda_ctx *ctx, const recurrent_job &job);
void recurrent_gdn_chunk(const struct cuda_ctx *ctx, const recurrent_job &job);
void recurrent_ssd_chunk(const struct cuda_ctx *ctx, const recurrent_job &job);

/* A slot's states of the layer, its convolution's history behind them. */
static DEV float *recurrent_slot(const cuda_state &state, uint32_t layer, uint32_t slot)
{
    size_t each = state.state_n + (size_t)(LIMIT_CONV_TAPS - 1) * state.conv_n;
    return state.data + ((size_t)layer * state.slot_n + slot) * each;
}

/* What a run's states are before its first row: weight times what stands at `at`, or zero. */
struct recurrent_from {
    const float *at;
    float weight;
};

static DEV recurrent_from recurrent_begin(const recurrent_job &job, const cuda_run &run)
{
    recurrent_from from = {nullptr, 1};
    if (run.pos != 0) {
        from.at = recurrent_slot(job.state, job.layer, run.slot);
    } else if (run.start) {
        uint2 raw = ld8(LD_STATE, run.start + offsetof(effect_block, state_at));
        uint64_t at = raw.x | (uint64_t)raw.y << 32;
        const char *state = run.start + at + job.layer * job.state.start_stride;
        from.at = at ? reinterpret_cast<const float *>(state) : nullptr;
        from.weight = run.weight;
    }
    return from;
}

static DEV float recurrent_load(const recurrent_from &from, size_t i)
{
    return from.at ? from.weight * __uint_as_float(ld4(LD_STATE, from.at + i)) : 0;
}

static DEV float recurrent_softplus(float x)
{
    return x > 20.0f ? x : log1pf(fmath_exp(x));
}

/* How much of the state stays, as a logarithm, and how much of the row comes in: gdn's g and beta,
 * ssd's dt A and dt. */
struct recurrent_gates {
    float decay;
    float input;
};

template <bool IS_GDN>
static DEV recurrent_gates recurrent_gates_of(const recurrent_job &job, uint32_t row, uint32_t head)
{
    const float *x = job.x + (size_t)row * job.x_n + job.gate_at + head;
    float a = fmath_exp(job.a_log[head]);
    if (IS_GDN) {
        float step = recurrent_softplus(x[job.head_n] + job.dt_bias[head]);
        return {-a * step, 1.0f / (1.0f + fmath_exp(-x[0]))};
    }
    float step = recurrent_softplus(x[0] * job.gate_multiplier + job.dt_bias[head]);
    return {step * -a, step};
}

#endif
