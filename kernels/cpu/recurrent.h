/* What an instruction set provides for the recurrent mixers (kern_recurrent.h): work on one head
 * of one sequence, or on some channels of it. Pure, as all of path.h. */
#ifndef KERNELS_CPU_RECURRENT_H
#define KERNELS_CPU_RECURRENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/dtype.h"
#include "base/limits.h"

#define RECURRENT_CHANNELS 64u                          /* of one unit of the convolution */
#define RECURRENT_CHUNK    ((uint32_t)LIMIT_PROMPT_CUT) /* positions of one chunk at most */

/* Asks for n floats of a row that comes RECURRENT_AHEAD rows later: one is pages away from the
 * next, too far for the machine to see it coming. A hint; any address will do. */
#define RECURRENT_AHEAD 8u

static inline void recurrent_ask(const float *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __builtin_prefetch(p + i);
    }
}

/* The convolution of a sequence's rows, at most RECURRENT_CHANNELS channels of it. Arrays begin at
 * the first of them. history moves on; where the sequence begins it is taken as zeros. */
struct cpu_conv {
    const float *x;
    size_t x_stride;
    uint32_t row_n;
    uint32_t n;         /* channels */
    const float *taps;  /* [LIMIT_CONV_TAPS, RECURRENT_CHANNELS] */
    const float *bias;  /* [RECURRENT_CHANNELS] */
    const float *scale; /* [RECURRENT_CHANNELS], of x */
    float *history;
    size_t history_stride;
    bool is_first;
    float *out;
    size_t out_stride;
};

/* Floats from row to row of a chunk's scratch, beside each other in a cache. */
static inline size_t recurrent_stride(uint32_t dim)
{
    return ROUND_UP((size_t)dim, 16) + 16;
}

#define RECURRENT_WIDE ((size_t)RECURRENT_CHUNK * (LIMIT_STATE_DIM + 16))

/* A member's scratch for one chunk. */
struct cpu_chunk_scratch {
    float *wide[4];   /* [RECURRENT_CHUNK, recurrent_stride(dim)], or less */
    float *tall;      /* [dim, RECURRENT_CHUNK] */
    float *square[2]; /* [RECURRENT_CHUNK, RECURRENT_CHUNK] */
};

/* Positions of one head of the delta rule; q, k, v are rows of the convolution's output. */
struct cpu_gdn_head {
    const float *q, *k, *v;
    size_t stride;
    uint32_t row_n; /* 1 of a generated row, at most RECURRENT_CHUNK of a chunk */
    uint32_t key_dim, value_dim;
    const float *g;    /* [row_n] log decays */
    const float *beta; /* [row_n] */
    float *state;      /* [key_dim, value_dim] */
    float *o;          /* [row_n, o_stride]; whole vectors are written */
    size_t o_stride;
};

/* The same of state-space duality. */
struct cpu_ssd_head {
    const float *x, *b, *c;
    size_t stride;
    uint32_t row_n;
    uint32_t head_dim, state_dim;
    const float *g;  /* [row_n] log decays */
    const float *dt; /* [row_n] */
    float d;
    float *state; /* [head_dim, state_dim] */
    float *y;     /* [row_n, y_stride] */
    size_t y_stride;
};

/* out = held(rows of n, with gate and norm). */
struct cpu_gated {
    float *y; /* [n], overwritten */
    const float *z;
    float z_scale;
    const float *norm; /* NULL: none */
    bool is_gate_last; /* after the norm */
    float eps;
    uint32_t n;
    void *out;
};

struct cpu_recurrent {
    void (*conv)(const struct cpu_conv *conv);
    void (*begin)(float *state, const float *from, float weight, uint32_t n); /* from may be NULL */
    void (*gdn_row)(const struct cpu_gdn_head *head);
    void (*gdn_chunk)(const struct cpu_gdn_head *head, const struct cpu_chunk_scratch *scratch);
    void (*ssd_row)(const struct cpu_ssd_head *head);
    void (*ssd_chunk)(const struct cpu_ssd_head *head, const struct cpu_chunk_scratch *scratch);
    void (*gated)(enum dtype held, const struct cpu_gated *gated);
};

extern const struct cpu_recurrent cpu_recurrent_portable, cpu_recurrent_portable_fused,
    cpu_recurrent_avx512;

#endif
