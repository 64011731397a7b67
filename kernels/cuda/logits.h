/* Reading one row of logits by a block: their log-sum-exp, the best of them, keys that order them.
 *
 * A key sorts by logit, descending, then by id, ascending: the smallest key is the best token. A
 * NaN logit counts as -INFINITY, +INFINITY as the largest float (kernels/README.md). */
#ifndef KERNELS_CUDA_LOGITS_H
#define KERNELS_CUDA_LOGITS_H

#include "kernels/cuda/block.h"
#include "kernels/fmath.h"
#include "kernels/kern_step.h"

#define LOGITS_MAX 3.402823466e38f

static DEV float logits_clean(float l)
{
    if (!(l == l)) {
        return -INFINITY;
    }
    return l > LOGITS_MAX ? LOGITS_MAX : l + 0.0f; /* -0 becomes 0 */
}

static DEV uint32_t logits_order(float l)
{
    uint32_t u = __float_as_uint(l);
    return u & 0x80000000u ? u : ~u & 0x7fffffffu; /* descending */
}

static DEV uint64_t logits_key(float l, uint32_t id)
{
    return (uint64_t)logits_order(l) << 32 | id;
}

/* Of raw logits. */
struct logits_sum {
    float max;
    float lse; /* -INFINITY when every logit is */
};

static DEV logits_sum logits_reduce(const float *l, uint32_t n)
{
    float low = INFINITY; /* of the negated logits: the least is the largest logit */
    for (uint32_t i = threadIdx.x; i < n; i += BLOCK_THREADS) {
        low = fminf(low, -logits_clean(l[i]));
    }
    logits_sum out = {-block_reduce<block_least>(low), -INFINITY};
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < n && out.max > -INFINITY; i += BLOCK_THREADS) {
        sum += (double)fmath_exp(logits_clean(l[i]) - out.max);
    }
    sum = block_reduce<block_add>(sum);
    if (out.max > -INFINITY) {
        out.lse = (float)((double)out.max + fmath_log(sum));
    }
    return out;
}

/* The best key above `after`; ~0 when there is none. */
static DEV uint64_t logits_best(const float *l, uint32_t n, uint64_t after, bool is_first)
{
    uint64_t best = ~0ull;
    for (uint32_t i = threadIdx.x; i < n; i += BLOCK_THREADS) {
        uint64_t key = logits_key(logits_clean(l[i]), i);
        best = (is_first || key > after) && key < best ? key : best;
    }
    return block_reduce<block_least>(best);
}

static DEV float logits_logprob(const float *l, uint32_t token, float lse)
{
    float v = logits_clean(l[token]);
    return v > -INFINITY ? v - lse : -INFINITY;
}

/* Fills a result from raw logits: the token, its log-probability, the top_n best. */
static DEV void logits_tell(const float *l, uint32_t n, float lse, uint32_t token, uint32_t top_n,
                            kern_token *out)
{
    top_n = min(top_n, min(n, (uint32_t)LIMIT_TOP_LOGPROBS));
    if (threadIdx.x == 0) {
        out->token = token;
        out->logprob = logits_logprob(l, token, lse);
        out->top_n = top_n;
    }
    uint64_t last = 0;
    for (uint32_t i = 0; i < LIMIT_TOP_LOGPROBS; i++) {
        uint32_t id = 0;
        if (i < top_n) {
            last = logits_best(l, n, last, i == 0);
            id = (uint32_t)last;
        }
        if (threadIdx.x == 0) {
            out->top_tokens[i] = id;
            out->top_logprobs[i] = i < top_n ? logits_logprob(l, id, lse) : 0;
        }
    }
}

#endif
