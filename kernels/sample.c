/* Sampling of one row. The sorted order of candidates is produced lazily: candidates are dealt into
 * bands by their distance from the largest logit (a counting pass), and a band is sorted only when
 * the walk down the order reaches it. The result is that of a full sort, the cost rarely is.
 * Sums over probabilities are in double, in the order stated where they are taken. */
#include "kernels/sample.h"

#include <float.h>
#include <math.h>

#include "base/base.h"
#include "base/dtype.h"
#include "kernels/fmath.h"
#include "kernels/random.h"

#define SAMPLE_BANDS         128
#define SAMPLE_BANDS_PER_NAT 4.0f

/* Candidates in (logit descending, id ascending) order, keys[0..sorted_n) of them in place. */
struct sample_order {
    const float *logits;
    uint64_t *keys;
    float max;
    uint32_t n;
    uint32_t sorted_n;
    uint32_t band; /* next to sort */
    uint32_t band_end[SAMPLE_BANDS];
};

/* What a logit counts as; -0 becomes 0 so that equal logits have equal keys. */
static inline float sample_clean(float l)
{
    if (!(l > -INFINITY)) {
        return -INFINITY;
    }
    return l > FLT_MAX ? FLT_MAX : l + 0.0f;
}

/* Ascending keys are descending logits, then ascending ids. */
static uint64_t sample_key(float l, uint32_t id)
{
    uint32_t u = f32_bits(l);
    uint32_t ascending = u & 0x80000000u ? ~u : u | 0x80000000u;
    return ((uint64_t)~ascending << 32) | id;
}

static void sample_sift(uint64_t *keys, uint32_t root, uint32_t n)
{
    uint64_t key = keys[root];
    for (;;) {
        uint32_t child = 2 * root + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && keys[child + 1] > keys[child]) {
            child++;
        }
        if (keys[child] <= key) {
            break;
        }
        keys[root] = keys[child];
        root = child;
    }
    keys[root] = key;
}

/* Heapsort: in place, no worst case, and keys are distinct so stability is no question. */
static void sample_sort(uint64_t *keys, uint32_t n)
{
    for (uint32_t i = n / 2; i > 0; i--) {
        sample_sift(keys, i - 1, n);
    }
    for (uint32_t end = n; end > 1; end--) {
        uint64_t top = keys[0];
        keys[0] = keys[end - 1];
        keys[end - 1] = top;
        sample_sift(keys, 0, end - 1);
    }
}

static uint32_t sample_band(float max, float l)
{
    float distance = (max - l) * SAMPLE_BANDS_PER_NAT;
    return distance < SAMPLE_BANDS - 1 ? (uint32_t)distance : SAMPLE_BANDS - 1;
}

/* Deals every token that has a probability above 0 into its band. */
static void sample_order_init(struct sample_order *order, const float *logits, uint32_t vocab_n,
                              float max, uint64_t *keys)
{
    uint32_t at[SAMPLE_BANDS] = {0};
    for (uint32_t id = 0; id < vocab_n; id++) {
        if (logits[id] > -INFINITY) {
            at[sample_band(max, logits[id])]++;
        }
    }
    uint32_t n = 0;
    for (uint32_t band = 0; band < SAMPLE_BANDS; band++) {
        uint32_t count = at[band];
        at[band] = n;
        n += count;
        order->band_end[band] = n;
    }
    for (uint32_t id = 0; id < vocab_n; id++) {
        if (logits[id] > -INFINITY) {
            keys[at[sample_band(max, logits[id])]++] = sample_key(logits[id], id);
        }
    }
    order->logits = logits;
    order->keys = keys;
    order->max = max;
    order->n = n;
    order->sorted_n = 0;
    order->band = 0;
}

/* The i-th candidate's id; *out_p is its probability relative to the first one's. */
static uint32_t sample_order_at(struct sample_order *order, uint32_t i, float *out_p)
{
    while (i >= order->sorted_n) {
        uint32_t end = order->band_end[order->band++];
        sample_sort(order->keys + order->sorted_n, end - order->sorted_n);
        order->sorted_n = end;
    }
    uint32_t id = (uint32_t)order->keys[i];
    *out_p = fmath_exp(order->logits[id] - order->max);
    return id;
}

static double sample_order_sum(struct sample_order *order, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        float p;
        sample_order_at(order, i, &p);
        sum += p;
    }
    return sum;
}

size_t sample_scratch_bytes(uint32_t vocab_n)
{
    return (size_t)vocab_n * (sizeof(uint64_t) + sizeof(float));
}

void sample_scratch_init(struct sample_scratch *scratch, void *memory, uint32_t vocab_n)
{
    scratch->keys = memory;
    scratch->logits = (float *)(scratch->keys + vocab_n);
}

/* The largest logit's id, ties to the smallest; 0 when all are -INFINITY. */
static uint32_t sample_argmax(const float *logits, uint32_t vocab_n)
{
    uint32_t best = 0;
    float max = -INFINITY;
    for (uint32_t id = 0; id < vocab_n; id++) {
        float l = sample_clean(logits[id]);
        if (l > max) {
            max = l;
            best = id;
        }
    }
    return best;
}

float sample_lse(const float *logits, uint32_t vocab_n)
{
    float max = sample_clean(logits[sample_argmax(logits, vocab_n)]);
    if (max == -INFINITY) {
        return -INFINITY;
    }
    double sum = 0; /* ascending ids */
    for (uint32_t id = 0; id < vocab_n; id++) {
        sum += fmath_exp(sample_clean(logits[id]) - max);
    }
    return (float)(max + fmath_log(sum));
}

static float sample_logprob(const struct sample_args *args, uint32_t token)
{
    float l = sample_clean(args->logits[token]);
    return l > -INFINITY ? l - args->lse : -INFINITY;
}

void sample_logprobs(const struct sample_args *args, uint32_t token, uint32_t top_n,
                     struct kern_token *out)
{
    uint64_t top[LIMIT_TOP_LOGPROBS];
    uint32_t n = 0;
    top_n = MIN(top_n, MIN(args->vocab_n, LIMIT_TOP_LOGPROBS));
    for (uint32_t id = 0; id < args->vocab_n && top_n > 0; id++) {
        uint64_t key = sample_key(sample_clean(args->logits[id]), id);
        if (n == top_n && key > top[n - 1]) {
            continue;
        }
        uint32_t at = n < top_n ? n++ : n - 1;
        for (; at > 0 && top[at - 1] > key; at--) {
            top[at] = top[at - 1];
        }
        top[at] = key;
    }
    memset(out, 0, sizeof *out);
    out->token = token;
    out->logprob = sample_logprob(args, token);
    out->top_n = n;
    for (uint32_t i = 0; i < n; i++) {
        out->top_tokens[i] = (uint32_t)top[i];
        out->top_logprobs[i] = sample_logprob(args, (uint32_t)top[i]);
    }
}

bool sample_has_penalty(const struct kern_sample_row *row)
{
    return row->repetition_penalty != 1.0f || row->presence_penalty != 0.0f ||
           row->frequency_penalty != 0.0f;
}

static void sample_count(uint16_t *counts, uint32_t token)
{
    bool is_full = (counts[token] & ~SAMPLE_IN_PROMPT) == SAMPLE_IN_PROMPT - 1;
    counts[token] = (uint16_t)(counts[token] + !is_full);
}

/* What the row brings of its sequence's past. */
static void sample_remember(const struct sample_args *args)
{
    const struct kern_sample_row *row = args->row;
    const uint32_t *hist = args->hist + row->hist_first;
    if (row->flags & KERN_SAMPLE_FRESH) {
        memset(args->counts, 0, args->vocab_n * sizeof *args->counts);
    }
    for (uint32_t i = 0; i < row->hist_n; i++) {
        if (hist[i] >= args->vocab_n) {
            continue;
        }
        if (i < row->hist_prompt_n) {
            args->counts[hist[i]] |= SAMPLE_IN_PROMPT;
        } else {
            sample_count(args->counts, hist[i]);
        }
    }
}

static void sample_penalize(const struct sample_args *args, float *logits)
{
    const struct kern_sample_row *row = args->row;
    float p = row->repetition_penalty;
    for (uint32_t id = 0; id < args->vocab_n; id++) {
        uint32_t count = args->counts[id] & ~SAMPLE_IN_PROMPT;
        if (args->counts[id] == 0) {
            continue;
        }
        float l = logits[id];
        l = l > 0 ? l / p : l * p;
        logits[id] =
            count > 0 ? l - (row->frequency_penalty * (float)count + row->presence_penalty) : l;
    }
}

/* Stage 5 and 6: over logits that are final but for the temperature. */
static uint32_t sample_draw(const struct kern_sample_row *row, uint32_t vocab_n,
                            struct sample_scratch *scratch)
{
    float *logits = scratch->logits;
    float top = sample_clean(logits[sample_argmax(logits, vocab_n)]);
    if (top == -INFINITY) {
        return 0;
    }
    /* Distances, so that no temperature, however small, makes two of them overflow alike. */
    for (uint32_t id = 0; id < vocab_n; id++) {
        logits[id] = sample_clean((sample_clean(logits[id]) - top) / row->temperature);
    }
    const float max = 0.0f;
    struct sample_order order;
    sample_order_init(&order, logits, vocab_n, max, scratch->keys);
    uint32_t kept = order.n;
    double total = 0;
    float p;
    if (row->top_k > 0 && row->top_k < order.n) {
        kept = row->top_k;
        total = sample_order_sum(&order, kept); /* in sorted order */
    } else {
        for (uint32_t id = 0; id < vocab_n; id++) { /* ascending ids */
            total += fmath_exp(logits[id] - max);
        }
    }
    if (row->top_p < 1.0f) {
        double want = (double)row->top_p * total;
        uint32_t n = 0;
        double sum = 0;
        do {
            sample_order_at(&order, n++, &p);
            sum += p;
        } while (n < kept && sum < want);
        kept = n;
        total = sum;
    }
    if (row->min_p > 0.0f) {
        uint32_t n = 0;
        while (n < kept && (sample_order_at(&order, n, &p), p >= row->min_p)) {
            n++;
        }
        kept = MAX(n, 1);
        total = sample_order_sum(&order, kept);
    }
    double want = (double)kern_random(row->seed, row->pos) * total;
    uint32_t token = 0;
    double sum = 0;
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t id = sample_order_at(&order, i, &p);
        token = p > 0 ? id : token; /* the last possible one, should rounding leave sum short */
        sum += p;
        if (sum > want) {
            break;
        }
    }
    return token;
}

void sample_row(const struct sample_args *args, struct sample_scratch *scratch,
                struct kern_token *out)
{
    const struct kern_sample_row *row = args->row;
    const float *logits = args->logits;
    bool is_greedy = !(row->temperature > 0.0f);
    uint32_t token;
    if (!is_greedy || row->bias_n > 0 || sample_has_penalty(row)) {
        memcpy(scratch->logits, logits, (size_t)args->vocab_n * sizeof *logits);
        for (uint32_t i = 0; i < row->bias_n; i++) {
            const struct kern_bias *bias = &args->biases[row->bias_first + i];
            if (bias->token < args->vocab_n) {
                scratch->logits[bias->token] += bias->bias;
            }
        }
        if (sample_has_penalty(row)) {
            sample_remember(args);
            sample_penalize(args, scratch->logits);
        }
        logits = scratch->logits;
    }
    if (is_greedy) {
        token = sample_argmax(logits, args->vocab_n);
    } else {
        token = sample_draw(row, args->vocab_n, scratch);
    }
    if (sample_has_penalty(row)) {
        sample_count(args->counts, token);
    }
    sample_logprobs(args, token, row->top_logprobs > 0 ? (uint32_t)row->top_logprobs : 0, out);
}
