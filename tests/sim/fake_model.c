/* Chains of kern_mix64; nothing here is meant to be like language. */
#include "tests/sim/fake_model.h"

#include <math.h>

#include "base/base.h"
#include "base/dtype.h"
#include "kernels/random.h"

uint64_t fake_adapters(uint64_t so_far, uint64_t content, float weight)
{
    return kern_mix64(so_far + content * 3 + f32_bits(weight) + 1);
}

uint64_t fake_state(uint64_t content, float weight)
{
    return kern_mix64(content * 7 + f32_bits(weight)) | 1;
}

uint64_t fake_entry(uint32_t token, uint32_t pos, uint64_t adapters)
{
    return kern_mix64(kern_mix64(adapters + token + 1) + pos);
}

uint64_t fake_fold(uint64_t fold, uint64_t entry)
{
    return kern_mix64(fold * 5 + entry + 7);
}

static float fake_logprob(uint64_t fold, uint32_t token)
{
    return -(float)(kern_mix64(fold + token) % 4096) / 256;
}

static void fake_top(uint64_t fold, uint32_t top_n, struct batch_token *out)
{
    out->top_n = top_n;
    for (uint32_t i = 0; i < top_n; i++) {
        out->top_tokens[i] = (uint32_t)(kern_mix64(fold + i) % FAKE_VOCAB);
        out->top_logprobs[i] = fake_logprob(fold, out->top_tokens[i]) - (float)i;
    }
}

/* Biases count in any order. */
static uint64_t fake_biases(const struct batch_bias *biases, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += kern_mix64(((uint64_t)biases[i].token << 32) + f32_bits(biases[i].bias));
    }
    return sum;
}

static int fake_is_forbidden(const struct batch_bias *biases, uint32_t n, uint32_t token)
{
    for (uint32_t i = 0; i < n; i++) {
        if (biases[i].token == token && isinf(biases[i].bias)) {
            return 1;
        }
    }
    return 0;
}

struct batch_token fake_sample(uint64_t fold, const struct batch_sample *sample,
                               const struct batch_bias *biases, const uint32_t *hist)
{
    const float floats[] = {sample->temperature,
                            sample->top_p,
                            sample->min_p,
                            sample->repetition_penalty,
                            sample->presence_penalty,
                            sample->frequency_penalty};
    uint64_t state = fold + kern_mix64(sample->seed + sample->pos) + sample->top_k;
    for (size_t i = 0; i < ARRAY_N(floats); i++) {
        state = kern_mix64(state + f32_bits(floats[i]));
    }
    state += fake_biases(biases, sample->bias_n);
    for (uint32_t i = 0; i < sample->hist_n; i++) {
        state = kern_mix64(state + hist[i] + (i < sample->hist_prompt_n));
    }
    struct batch_token out = {.token = (uint32_t)(kern_mix64(state) % FAKE_VOCAB)};
    while (fake_is_forbidden(biases, sample->bias_n, out.token)) {
        out.token = (out.token + 1) % FAKE_VOCAB;
    }
    if (sample->top_logprobs >= 0) {
        out.logprob = fake_logprob(fold, out.token);
        fake_top(fold, (uint32_t)sample->top_logprobs, &out);
    }
    return out;
}

struct batch_token fake_score(uint64_t fold, uint32_t target, uint32_t top_n)
{
    struct batch_token out = {.token = target, .logprob = fake_logprob(fold, target)};
    fake_top(fold, top_n, &out);
    return out;
}
