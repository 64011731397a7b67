/* Logits of chosen rows, and what is read off them: sampled tokens and scores. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/sample.h"

struct head_job {
    struct kern_dev *dev;
    struct cpu_product product;
    float multiplier;
    const struct kern_sample *sample;
    const struct kern_score *score;
    uint32_t first; /* score: of the step's scores */
};

static void head_unit(void *arg, uint32_t group, uint32_t member)
{
    const struct head_job *job = arg;
    struct kern_dev *dev = job->dev;
    struct cpu_product p = job->product;
    uint32_t ahead = group + team_size(dev->team);
    const void *next =
        ahead < layout_group_n(p.n) ? layout_group(dev->args.held, p.w, p.k, ahead) : NULL;
    p.spare = dev->scratch[member].tile;
    struct cpu_gemm done = cpu_product_begin(dev, &p, group, next);
    uint32_t n = MIN(p.n - group * LAYOUT_GROUP, LAYOUT_GROUP);
    for (uint32_t r = 0; r < p.row_n && job->multiplier != 1; r++) {
        dev->path->rows->scale(done.out + r * done.stride, job->multiplier, n);
    }
    cpu_product_end(&p, group, &done);
}

/* logits[i] = multiplier * W x[dev->rows[i]] for i < row_n. */
static void head_logits(struct kern_dev *dev, const struct kern_head *op, uint32_t row_n)
{
    struct cpu_pack pack = {op->x, op->hidden, dev->rows, row_n, op->hidden, dev->x};
    struct head_job job = {
        .dev = dev,
        .multiplier = op->multiplier,
        .product = {.x = dev->x,
                    .w = op->w,
                    .n = op->vocab_n,
                    .k = op->hidden,
                    .row_n = row_n,
                    .out = op->logits,
                    .stride = op->vocab_n,
                    .out_n = op->vocab_n},
    };
    cpu_pack_rows(dev, &pack, row_n);
    team_each(dev->team, layout_group_n(op->vocab_n), head_unit, &job);
}

void cpu_head(struct kern_dev *dev, const struct kern_head *op)
{
    uint32_t row_n = dev->step.sample_n;
    if (row_n == 0) {
        return;
    }
    ASSERT_CMP(row_n, <=, dev->args.row_max);
    for (uint32_t i = 0; i < row_n; i++) {
        dev->rows[i] = dev->step.samples[i].row;
    }
    head_logits(dev, op, row_n);
}

static struct sample_args head_args(const struct head_job *job, const float *logits, uint32_t n)
{
    return (struct sample_args){
        .logits = logits,
        .vocab_n = n,
        .lse = job->dev->path->rows->lse(logits, n),
        .biases = job->dev->step.biases,
        .hist = job->dev->step.hist,
    };
}

static void head_sample_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct head_job *job = arg;
    struct kern_dev *dev = job->dev;
    const struct kern_sample *op = job->sample;
    struct sample_args args = head_args(job, op->logits + (size_t)index * op->vocab_n, op->vocab_n);
    args.row = &dev->step.samples[index];
    args.counts = dev->counts + (size_t)args.row->slot * dev->args.vocab_n;
    sample_row(&args, &dev->scratch[member].sampling, &op->out[index]);
}

void cpu_sample(struct kern_dev *dev, const struct kern_sample *op)
{
    struct head_job job = {.dev = dev, .sample = op};
    ASSERT_CMP(op->vocab_n, <=, dev->args.vocab_n);
    team_each(dev->team, dev->step.sample_n, head_sample_unit, &job);
    for (uint32_t i = 0; i < dev->step.sample_n; i++) {
        dev->last_tokens[dev->step.samples[i].slot] = op->out[i].token;
    }
}

static void head_score_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct head_job *job = arg;
    const struct kern_score *op = job->score;
    uint32_t i = job->first + index;
    const struct kern_score_row *row = &job->dev->step.scores[i];
    struct sample_args args = head_args(job, op->logits + (size_t)index * op->vocab_n, op->vocab_n);
    (void)member;
    sample_logprobs(&args, row->target, row->top_n, &op->out[i]);
}

void cpu_score(struct kern_dev *dev, const struct kern_score *op)
{
    struct kern_head head = {op->x, op->w, op->vocab_n, op->hidden, op->multiplier, op->logits};
    uint32_t piece = MIN(op->logit_rows, dev->args.row_max);
    for (uint32_t first = 0; first < dev->step.score_n; first += piece) {
        uint32_t n = MIN(piece, dev->step.score_n - first);
        struct head_job job = {.dev = dev, .score = op, .first = first};
        for (uint32_t i = 0; i < n; i++) {
            dev->rows[i] = dev->step.scores[first + i].row;
        }
        head_logits(dev, &head, n);
        team_each(dev->team, n, head_score_unit, &job);
    }
}
