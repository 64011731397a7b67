/* Scale effects (effect.h): of a linear's inputs, in place before they are packed, and of a group
 * of its outputs behind the bias. Only steps with such an effect come here. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/effect.h"

#define SCALE_ROWS 8u /* rows of one piece of work */

struct scale_job {
    const struct kern_dev *dev;
    const struct kern_linear *op;
};

/* Whether the segment's version scales anything at the site; its vectors' places. */
static bool scale_find(const struct kern_dev *dev, const struct kern_seg *seg, uint32_t site,
                       struct effect_scale *out)
{
    const struct effect_scale *scale = effect_scale_at(dev->versions[seg->version], site);
    if (scale) {
        *out = *scale;
    }
    return scale && (scale->in_at || scale->out_at);
}

static const float *scale_vector(const struct kern_dev *dev, const struct kern_seg *seg,
                                 uint64_t at)
{
    return (const float *)(const void *)((const char *)dev->versions[seg->version] + at);
}

/* Index into seg_rows of the segment's first row from `row` on; rows ascend. */
static uint32_t scale_first(const struct kern_dev *dev, const struct kern_seg *seg, uint32_t row)
{
    uint32_t low = seg->row_first;
    uint32_t high = seg->row_first + seg->row_n;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (dev->step.seg_rows[middle].row < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void scale_input_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct scale_job *job = arg;
    const struct kern_dev *dev = job->dev;
    const struct kern_linear *op = job->op;
    size_t bytes = op->k * dtype_bytes(dev->args.held);
    (void)member;
    for (uint32_t row = index * SCALE_ROWS; row < MIN((index + 1) * SCALE_ROWS, dev->step.row_n);
         row++) {
        struct cpu_factors factors = {0};
        for (uint32_t s = 0; s < dev->step.seg_n; s++) {
            const struct kern_seg *seg = &dev->step.segs[s];
            struct effect_scale scale;
            uint32_t i = scale_first(dev, seg, row);
            if (i < seg->row_first + seg->row_n && dev->step.seg_rows[i].row == row &&
                scale_find(dev, seg, op->sites[0].site, &scale) && scale.in_at) {
                ASSERT_CMP(factors.n, <, LIMIT_REQUEST_ADAPTERS);
                factors.v[factors.n] = scale_vector(dev, seg, scale.in_at);
                factors.weight[factors.n++] = dev->step.seg_rows[i].weight;
            }
        }
        if (factors.n > 0) {
            dev->path->rows->scale_held(dev->args.held, (char *)op->x + row * bytes, &factors,
                                        op->k);
        }
    }
}

void cpu_scale_inputs(struct kern_dev *dev, const struct kern_linear *op)
{
    struct scale_job job = {dev, op};
    bool is_any = false;
    for (uint32_t s = 0; s < dev->step.seg_n; s++) {
        struct effect_scale scale;
        is_any = is_any ||
                 (scale_find(dev, &dev->step.segs[s], op->sites[0].site, &scale) && scale.in_at);
    }
    if (is_any) {
        team_each(dev->team, DIV_UP(dev->step.row_n, SCALE_ROWS), scale_input_unit, &job);
    }
}

void cpu_scale_outputs(const struct kern_dev *dev, uint32_t site, uint32_t row_first,
                       uint32_t row_n, uint32_t column, const struct cpu_columns *columns)
{
    for (uint32_t s = 0; s < dev->step.seg_n; s++) {
        const struct kern_seg *seg = &dev->step.segs[s];
        struct effect_scale scale;
        if (!scale_find(dev, seg, site, &scale) || !scale.out_at) {
            continue;
        }
        const float *v = scale_vector(dev, seg, scale.out_at) + column;
        for (uint32_t i = scale_first(dev, seg, row_first); i < seg->row_first + seg->row_n; i++) {
            const struct kern_seg_row *row = &dev->step.seg_rows[i];
            if (row->row >= row_first + row_n) {
                break;
            }
            dev->path->rows->scale_by(columns->out + (row->row - row_first) * columns->stride, v,
                                      row->weight, columns->n);
        }
    }
}
