/* What both forms of attention share: generated rows (attend.cu), prompt rows (attend_prompt.cu).
 */
#ifndef KERNELS_CUDA_ATTEND_H
#define KERNELS_CUDA_ATTEND_H

#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"
#include "kernels/fmath.h"

/* v times the sigmoid of its gate, where there is one. */
static DEV float attend_gated(const float *gate, size_t at, float v)
{
    return gate ? v / (1.0f + fmath_exp(-gate[at])) : v;
}

enum attend_which { ATTEND_K, ATTEND_V };

/* The key or value of one position; those of its page follow, head_dim apart. */
template <class T>
static DEV const T *attend_at(const cuda_kv &kv, const kern_attend &op, attend_which which,
                              uint32_t slot, uint32_t kv_head, uint32_t pos)
{
    uint32_t page = kv.page_table[(size_t)slot * kv.page_stride + pos / LIMIT_KV_PAGE];
    size_t at = ((size_t)op.kv_layer * kv.page_n + page) * 2 + which;
    at = (at * kv.kv_head_n + kv_head) * LIMIT_KV_PAGE + pos % LIMIT_KV_PAGE;
    return static_cast<const T *>(kv.data) + at * op.head_dim;
}

#endif
