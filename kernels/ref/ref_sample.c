/* ref: sample and score; the stages themselves are in kernels/sample.c. */
#include "kernels/ref/ref_int.h"

void ref_sample(struct kern_dev *dev, const struct kern_sample *op)
{
    const struct kern_step *step = &dev->step;
    ASSERT_CMP(op->vocab_n, <=, dev->args.vocab_n);
    for (uint32_t i = 0; i < step->sample_n; i++) {
        const float *logits = op->logits + (size_t)i * op->vocab_n;
        struct sample_args args = {
            .logits = logits,
            .vocab_n = op->vocab_n,
            .lse = sample_lse(logits, op->vocab_n),
            .row = &step->samples[i],
            .biases = step->biases,
            .hist = step->hist,
            .counts = dev->counts + (size_t)step->samples[i].slot * dev->args.vocab_n,
        };
        ASSERT_CMP(args.row->slot, <, dev->args.slot_max);
        sample_row(&args, &dev->sample, &op->out[i]);
        dev->slot_token[args.row->slot] = op->out[i].token;
    }
}

void ref_score(struct kern_dev *dev, const struct kern_score *op)
{
    const struct kern_step *step = &dev->step;
    ASSERT_CMP(op->logit_rows, >=, 1);
    for (uint32_t i = 0; i < step->score_n; i++) {
        /* one row at a time: row 0 of the scratch is enough */
        const struct kern_score_row *score = &step->scores[i];
        const float *x = ref_widen(dev, op->x, score->row, op->hidden);
        ref_matvec(dev, op->w, op->vocab_n, op->hidden, x, op->logits);
        ref_scale(op->logits, op->vocab_n, op->multiplier);
        struct sample_args args = {
            .logits = op->logits,
            .vocab_n = op->vocab_n,
            .lse = sample_lse(op->logits, op->vocab_n),
        };
        sample_logprobs(&args, score->target, score->top_n, &op->out[i]);
    }
}
