/* Softmax over a page, and the log-sum-exp of logits, written once over `struct vec`. The order of
 * their sums is path_rows.h's. */
#ifndef KERNELS_CPU_PATH_SOFTMAX_H
#define KERNELS_CPU_PATH_SOFTMAX_H

#include <float.h>
#include <math.h>

#include "kernels/cpu/path.h"
#include "kernels/cpu/vec_rows.h"
#include "kernels/fmath.h"

static inline float rows_softmax(const struct cpu_softmax *p)
{
    const struct vec lowest = vec_set1(-INFINITY);
    const struct vec scale = vec_set1(p->scale);
    struct vec top = lowest;
    for (uint32_t i = 0; i < p->valid; i += VEC_N) {
        struct vec s = vec_mul(vec_load(p->s + i), scale);
        s = vec_first(s, MIN(VEC_N, p->valid - i), lowest);
        vec_store(p->s + i, s);
        top = vec_max(top, s);
    }
    float page = vec_largest(top);
    float largest = page > *p->largest ? page : *p->largest;
    float sums[VEC_N];
    vec_store(sums, vec_exp(vec_set1(*p->largest - largest)));
    float factor = sums[0];
    struct vec sum = vec_set1(0.0f);
    for (uint32_t i = 0; i < LIMIT_KV_PAGE; i += VEC_N) {
        struct vec e = vec_set1(0.0f);
        if (i < p->valid) {
            e = vec_exp(vec_sub(vec_load(p->s + i), vec_set1(largest)));
            e = vec_first(e, MIN(VEC_N, p->valid - i), vec_set1(0.0f));
        }
        vec_store(p->s + i, e);
        sum = vec_add(sum, e);
    }
    *p->largest = largest;
    *p->sum = *p->sum * factor + vec_sum(sum);
    return factor;
}

/* ln of the sum of e^l; a NaN counts as -INFINITY, an infinity as the largest float. */
static inline float rows_lse(const float *logits, uint32_t n)
{
    const struct vec lowest = vec_set1(-INFINITY);
    const struct vec highest = vec_set1(FLT_MAX);
    struct vec top = lowest;
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec l = vec_first(rows_load(logits + i, n - i), MIN(VEC_N, n - i), lowest);
        top = vec_max(vec_min(vec_max(l, lowest), highest), top);
    }
    float largest = vec_largest(top);
    if (largest == -INFINITY) {
        return largest;
    }
    struct vec sum = vec_set1(0.0f);
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec l = vec_min(vec_max(rows_load(logits + i, n - i), lowest), highest);
        struct vec e = vec_exp(vec_sub(l, vec_set1(largest)));
        sum = vec_add(sum, vec_first(e, MIN(VEC_N, n - i), vec_set1(0.0f)));
    }
    return largest + (float)fmath_log(vec_sum(sum));
}

#endif
