/* Sampling, stage by stage as in kernels/README.md, a block per sample.
 *
 * Nothing is sorted. The candidates' order is that of their keys (logits.h); what a sort would
 * give, the first k, the shortest prefix of a mass, the candidate at a point of the distribution,
 * is found by descending the bits of the keys: a histogram of a digit, the bin where the sum passes
 * what is wanted, then the next digit within that bin. Probabilities are relative to the best
 * token's and summed as integers of 2^-40, so that no order of addition shows.
 *
 * Bytes: a row of logits is read once for its log-sum-exp, copied once, and the copy read once per
 * digit looked at: from L2. */
#include "kernels/cuda/logits.h"
#include "kernels/cuda/ops.h"
#include "kernels/random.h"

#define SAMPLE_BINS      256
#define SAMPLE_ONE       1099511627776.0f /* 2^40: a probability of 1 */
#define SAMPLE_IN_PROMPT 0x8000u

/* Scratch of the candidates' distances from the best logit, then the slots' counts. */
struct sample_memory {
    float *distances; /* [CUDA_PART_ROWS][vocab_n] */
    uint16_t *counts; /* [slot_max][vocab_n] */
};

static sample_memory sample_layout(const struct cuda_limits *limits, void *base)
{
    float *distances = static_cast<float *>(base);
    return {distances,
            reinterpret_cast<uint16_t *>(distances + (size_t)CUDA_PART_ROWS * limits->vocab_n)};
}

size_t cuda_sample_bytes(const struct cuda_limits *limits)
{
    return (size_t)limits->vocab_n *
           (CUDA_PART_ROWS * sizeof(float) + limits->slot_max * sizeof(uint16_t));
}

static DEV bool sample_has_penalty(const kern_sample_row &row)
{
    return row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f ||
           row.frequency_penalty != 0.0f;
}

static DEV void sample_count(uint16_t *counts, uint32_t token)
{
    bool is_full = (counts[token] & 0x7fffu) == 0x7fffu;
    counts[token] = (uint16_t)(counts[token] + !is_full);
}

/* What the row brings of its sequence's past; outputs may repeat, so one thread counts them. */
static DEV void sample_remember(const cuda_step *step, const kern_sample_row &row, uint32_t vocab_n,
                                uint16_t *counts)
{
    if (row.flags & KERN_SAMPLE_FRESH) {
        for (uint32_t i = threadIdx.x; i < vocab_n; i += BLOCK_THREADS) {
            counts[i] = 0;
        }
        __syncthreads();
    }
    const uint32_t *hist = step->hist + row.hist_first;
    for (uint32_t i = 0; i < row.hist_n && threadIdx.x == 0; i++) {
        if (hist[i] >= vocab_n) {
            continue;
        }
        if (i < row.hist_prompt_n) {
            counts[hist[i]] |= SAMPLE_IN_PROMPT;
        } else {
            sample_count(counts, hist[i]);
        }
    }
    __syncthreads();
}

static DEV float sample_penalize(const kern_sample_row &row, float l, uint32_t count)
{
    uint32_t output_n = count & 0x7fffu;
    float p = row.repetition_penalty;
    if (count == 0) {
        return l;
    }
    l = l > 0 ? l / p : l * p;
    return output_n > 0 ? l - (row.frequency_penalty * (float)output_n + row.presence_penalty) : l;
}

/* Logits with biases and penalties into d. */
static DEV void sample_adjust(const cuda_step *step, const kern_sample_row &row, const float *l,
                              uint32_t vocab_n, uint16_t *counts, float *d)
{
    for (uint32_t i = threadIdx.x; i < vocab_n; i += BLOCK_THREADS) {
        d[i] = l[i];
    }
    __syncthreads();
    for (uint32_t i = 0; i < row.bias_n && threadIdx.x == 0; i++) {
        kern_bias bias = step->biases[row.bias_first + i];
        if (bias.token < vocab_n) {
            d[bias.token] += bias.bias;
        }
    }
    __syncthreads();
    if (sample_has_penalty(row)) {
        sample_remember(step, row, vocab_n, counts);
        for (uint32_t i = threadIdx.x; i < vocab_n; i += BLOCK_THREADS) {
            d[i] = sample_penalize(row, d[i], counts[i]);
        }
        __syncthreads();
    }
}

/* Candidates are the ids with a finite distance and a key below `end`. */
struct sample_pool {
    const float *d;
    uint32_t n;
    uint64_t end;
};

static DEV uint64_t sample_mass(float distance)
{
    return (uint64_t)(fmath_exp(distance) * SAMPLE_ONE);
}

/* Mass of the candidates, or their number. */
static DEV uint64_t sample_total(const sample_pool &pool, bool is_count)
{
    unsigned long long sum = 0;
    for (uint32_t i = threadIdx.x; i < pool.n; i += BLOCK_THREADS) {
        float d = pool.d[i];
        if (d > -INFINITY && logits_key(d, i) < pool.end) {
            sum += is_count ? 1 : sample_mass(d);
        }
    }
    return block_reduce<block_add>(sum);
}

/* The key of the first candidate at which the running sum, in key order, reaches `wanted` (>= 1);
 * there is one. Eight bits of the key at a time. */
static DEV uint64_t sample_find(const sample_pool &pool, uint64_t wanted, bool is_count)
{
    SHARED(unsigned long long, bins, [SAMPLE_BINS]);
    SHARED(unsigned long long, found, [2]);
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        bins[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < pool.n; i += BLOCK_THREADS) {
            float d = pool.d[i];
            uint64_t key = logits_key(d, i);
            bool is_in = d > -INFINITY && key < pool.end &&
                         (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8));
            if (is_in) {
                atomicAdd(&bins[key >> shift & 0xff],
                          (unsigned long long)(is_count ? 1 : sample_mass(d)));
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned bin = 0;
            while (bin < SAMPLE_BINS - 1 && bins[bin] < wanted) {
                wanted -= bins[bin++];
            }
            found[0] = bin;
            found[1] = wanted;
        }
        __syncthreads();
        prefix |= (uint64_t)found[0] << shift;
        wanted = found[1];
        __syncthreads();
    }
    return prefix;
}

/* Cuts the pool by top_k, top_p and min_p and returns the mass that is left. */
static DEV uint64_t sample_cut(const kern_sample_row &row, sample_pool *pool)
{
    uint64_t total;
    if (row.top_k > 0 && row.top_k < sample_total(*pool, true)) {
        pool->end = sample_find(*pool, row.top_k, true) + 1;
    }
    total = sample_total(*pool, false);
    if (row.top_p < 1.0f) {
        double wanted = ceil((double)row.top_p * (double)total);
        uint64_t least = wanted < 1 ? 1 : (uint64_t)wanted;
        pool->end = sample_find(*pool, least, false) + 1;
        total = sample_total(*pool, false);
    }
    if (row.min_p > 0.0f) {
        uint64_t end = 0; /* behind the last that is likely enough; the best one always is */
        for (uint32_t i = threadIdx.x; i < pool->n; i += BLOCK_THREADS) {
            float d = pool->d[i];
            uint64_t key = logits_key(d, i);
            bool is_kept =
                d > -INFINITY && key < pool->end && (fmath_exp(d) >= row.min_p || d == 0);
            end = is_kept && key + 1 > end ? key + 1 : end;
        }
        pool->end = ~block_reduce<block_least>(~end);
        total = sample_total(*pool, false);
    }
    return total;
}

/* Stages 5 and 6 over adjusted logits in d, which become distances. */
static DEV uint32_t sample_draw(const kern_sample_row &row, float *d, uint32_t n)
{
    float low = INFINITY;
    for (uint32_t i = threadIdx.x; i < n; i += BLOCK_THREADS) {
        low = fminf(low, -logits_clean(d[i]));
    }
    float top = -block_reduce<block_least>(low);
    if (top == -INFINITY) {
        return 0;
    }
    for (uint32_t i = threadIdx.x; i < n; i += BLOCK_THREADS) {
        d[i] = logits_clean((logits_clean(d[i]) - top) / row.temperature);
    }
    __syncthreads();
    sample_pool pool = {d, n, ~0ull};
    uint64_t total = sample_cut(row, &pool);
    /* the first candidate whose running sum exceeds u * total */
    uint64_t point = (uint64_t)((double)kern_random(row.seed, row.pos) * (double)total);
    return (uint32_t)sample_find(pool, point + 1 < total ? point + 1 : total, false);
}

static __global__ void __launch_bounds__(BLOCK_THREADS, 2)
    sample(const cuda_step *step, kern_sample op, float *distances, uint16_t *all_counts,
           uint32_t count_stride, uint32_t *slot_token)
{
    pdl_wait();
    uint32_t i = blockIdx.x;
    if (i >= step->sample_n) {
        return;
    }
    kern_sample_row row = step->samples[i];
    const float *l = op.logits + (size_t)i * op.vocab_n;
    float *d = distances + (size_t)i * op.vocab_n;
    uint16_t *counts = all_counts + (size_t)row.slot * count_stride;
    logits_sum sum = logits_reduce(l, op.vocab_n);
    bool is_greedy = !(row.temperature > 0.0f);
    bool is_adjusted = row.bias_n > 0 || sample_has_penalty(row);
    uint32_t token;
    if (is_adjusted || !is_greedy) {
        sample_adjust(step, row, l, op.vocab_n, counts, d);
    }
    if (is_greedy) {
        uint64_t best = logits_best(is_adjusted ? d : l, op.vocab_n, 0, true);
        token = (uint32_t)best;
    } else {
        token = sample_draw(row, d, op.vocab_n);
    }
    if (threadIdx.x == 0) {
        slot_token[row.slot] = token;
        if (sample_has_penalty(row)) {
            sample_count(counts, token);
        }
    }
    logits_tell(l, op.vocab_n, sum.lse, token,
                row.top_logprobs > 0 ? (uint32_t)row.top_logprobs : 0,
                op.out + step->sample_out[i]);
    pdl_trigger();
}

void cuda_sample(const struct cuda_ctx *ctx, const struct kern_sample *op)
{
    sample_memory memory = sample_layout(&ctx->limits, ctx->sampling);
    launch_cfg cfg = {dim3(ctx->sample_cap), dim3(BLOCK_THREADS), 0, false, ctx->stream};
    launch(cfg, sample, ctx->step, *op, memory.distances, memory.counts, ctx->limits.vocab_n,
           ctx->slot_token);
}
