/* What a step begins and ends with, and the two ops on the residual: embed and join. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/effect.h"
#include "kernels/fmath.h"

#define STEP_ROWS 8u /* rows of one piece of row work */

struct step_job {
    struct kern_dev *dev;
    const struct kern_embed *embed;
    const struct kern_join *join;
};

static uint32_t step_piece_n(const struct kern_dev *dev)
{
    return DIV_UP(dev->step.row_n, STEP_ROWS);
}

static void step_rope_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct step_job *job = arg;
    const struct kern_dev *dev = job->dev;
    const struct kern_step *step = &dev->step;
    uint32_t half = step->rotary_n / 2;
    (void)member;
    for (uint32_t r = index * STEP_ROWS; r < MIN((index + 1) * STEP_ROWS, step->row_n); r++) {
        float *cos_sin = dev->cos_sin + (size_t)r * step->rotary_n;
        for (uint32_t i = 0; i < half; i++) {
            float sine;
            float cosine;
            fmath_sincos((float)step->rows[r].pos * step->inv_freq[i], &sine, &cosine);
            cos_sin[i] = cosine * step->rope_scale;
            cos_sin[half + i] = sine * step->rope_scale;
        }
    }
}

/* Cuts each sequence's rows where a page of positions ends. */
static void step_spans(struct kern_dev *dev)
{
    const struct kern_step *step = &dev->step;
    dev->span_n = 0;
    for (uint32_t r = 0; r < step->row_n; r++) {
        dev->row_page[r] = UINT32_MAX;
    }
    for (uint32_t s = 0; s < step->seq_n; s++) {
        const struct kern_seq *seq = &step->seqs[s];
        struct cpu_span *span = NULL;
        for (uint32_t r = seq->row_first; r < seq->row_first + seq->row_n; r++) {
            uint32_t page = step->rows[r].pos / LIMIT_KV_PAGE;
            ASSERT_CMP(page, <, seq->page_n);
            dev->row_page[r] = step->pages[seq->page_first + page];
            dev->is_row_last[r] = r + 1 == seq->row_first + seq->row_n;
            if (!span || span->row_n == CPU_ATTEND_ROWS ||
                step->rows[r - 1].pos / LIMIT_KV_PAGE != page) {
                span = &dev->spans[dev->span_n++];
                *span = (struct cpu_span){.seq = s, .row_first = r};
            }
            span->row_n++;
        }
    }
}

void cpu_begin_step(struct kern_dev *dev, const struct kern_step *step)
{
    struct step_job job = {.dev = dev};
    ASSERT_CMP(step->row_n, <=, dev->args.row_max);
    ASSERT_CMP(step->rotary_n, <=, LIMIT_HEAD_DIM);
    dev->step = *step;
    team_wake(dev->team);
    step_spans(dev);
    dev->has_scales = false;
    for (uint32_t i = 0; i < step->seg_n; i++) {
        const struct kern_seg *seg = &step->segs[i];
        ASSERT_CMP(seg->version, <, dev->args.version_max);
        ASSERT(dev->versions[seg->version]);
        dev->has_scales = dev->has_scales || effect_scale_at(dev->versions[seg->version], 0);
        ASSERT_CMP(seg->row_first + seg->row_n, <=, dev->args.row_max * LIMIT_REQUEST_ADAPTERS);
        for (uint32_t r = seg->row_first; r < seg->row_first + seg->row_n; r++) {
            dev->seg_rows[r] = step->seg_rows[r].row;
        }
    }
    team_each(dev->team, step_piece_n(dev), step_rope_unit, &job);
}

bool cpu_next_part(struct kern_dev *dev, struct kern_part *out)
{
    return kern_only_part(&dev->step, &dev->is_part_given, out);
}

void cpu_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n)
{
    team_rest(dev->team);
    dev->step = (struct kern_step){0};
    dev->is_part_given = false;
    kern_unread_put(&dev->unread, results, result_n);
}

int cpu_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting)
{
    (void)is_waiting;
    kern_unread_take(&dev->unread, out);
    return 0;
}

static void step_embed_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct step_job *job = arg;
    struct kern_dev *dev = job->dev;
    const struct kern_embed *op = job->embed;
    (void)member;
    for (uint32_t r = index * STEP_ROWS; r < MIN((index + 1) * STEP_ROWS, dev->step.row_n); r++) {
        const struct kern_row *row = &dev->step.rows[r];
        uint32_t token = row->flags & KERN_ROW_FROM_SLOT ? dev->last_tokens[row->slot] : row->token;
        float *h = op->h + (size_t)r * op->hidden;
        ASSERT_CMP(token, <, op->vocab_n);
        layout_read_column(dev->args.held, op->w, op->vocab_n, op->hidden, token, h);
        dev->path->rows->scale(h, op->multiplier, op->hidden);
    }
}

void cpu_embed(struct kern_dev *dev, const struct kern_embed *op)
{
    struct step_job job = {.dev = dev, .embed = op};
    team_each(dev->team, step_piece_n(dev), step_embed_unit, &job);
}

static void step_join_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct step_job *job = arg;
    struct kern_dev *dev = job->dev;
    const struct kern_join *op = job->join;
    size_t stride = cpu_part_stride(op->hidden);
    size_t bytes = dtype_bytes(dev->args.held);
    (void)member;
    for (uint32_t r = index * STEP_ROWS; r < MIN((index + 1) * STEP_ROWS, dev->step.row_n); r++) {
        struct cpu_join_row row = {
            .h = op->h + (size_t)r * op->hidden,
            .p0 = op->part_n > 0 ? (const float *)op->parts[0] + r * stride : NULL,
            .p1 = op->part_n > 1 ? (const float *)op->parts[1] + r * stride : NULL,
            .m0 = op->multipliers[0],
            .m1 = op->multipliers[1],
            .gain = op->gain,
            .eps = op->eps,
            .n = op->hidden,
            .x = (char *)op->x + (size_t)r * op->hidden * bytes,
        };
        dev->path->rows->join(dev->args.held, &row);
    }
}

void cpu_join(struct kern_dev *dev, const struct kern_join *op)
{
    struct step_job job = {.dev = dev, .join = op};
    ASSERT_CMP(op->part_n, <=, 2);
    team_each(dev->team, step_piece_n(dev), step_join_unit, &job);
}
