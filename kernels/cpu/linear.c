/* The linear op: pack x once, shrink the low-rank effects, then one band of rows and one
 * column group at a time: base product, bias, effects, post, while the group's sums are in cache.
 *
 * Order per output element: the chain over k; + bias; times scales; then each low-rank effect of
 * the row in segment order, its chain over the rank going on from that sum. It is the same for
 * every number of rows. */
#include "kernels/cpu/cpu_int.h"

struct linear_job {
    struct kern_dev *dev;
    const struct kern_linear *op;
    uint32_t unit_first[5]; /* first unit of each site within a band, then their number */
    uint32_t unit_n;        /* of one band */
    uint32_t band_rows;
};

#define LINEAR_POST_ROWS 4u

/* Columns of the sites before `site` in a row of what STORE writes; of all, with site_n. */
static uint32_t linear_columns(const struct kern_linear *op, uint32_t site)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < site; s++) {
        n += op->sites[s].n;
    }
    return n;
}

/* Row r of q, k, v lies in dev->acc; sites follow one another, padded to whole tiles. */
static size_t linear_acc_stride(const struct kern_linear *op)
{
    size_t stride = 0;
    for (uint32_t s = 0; s < op->site_n; s++) {
        stride += cpu_part_stride(op->sites[s].n);
    }
    return stride;
}

static struct cpu_product linear_product(const struct linear_job *job, uint32_t site, uint32_t band,
                                         uint32_t member)
{
    struct kern_dev *dev = job->dev;
    const struct kern_linear *op = job->op;
    uint32_t n = op->sites[site].n;
    uint32_t first = band * job->band_rows;
    struct cpu_product p = {
        .x = cpu_packed_rows(dev, first, op->k),
        .w = op->sites[site].w,
        .n = n,
        .k = op->k,
        .row_n = MIN(job->band_rows, dev->step.row_n - first),
        .spare = dev->scratch[member].tile,
    };
    switch (op->post) {
    case KERN_POST_STORE:
        p.out = (float *)op->out + linear_columns(op, site);
        p.stride = linear_columns(op, op->site_n);
        p.out_n = n;
        break;
    case KERN_POST_PART:
        p.out = op->out;
        p.stride = cpu_part_stride(n);
        p.out_n = (uint32_t)p.stride;
        break;
    case KERN_POST_HEADS:
        p.out = dev->acc;
        for (uint32_t s = 0; s < site; s++) {
            p.out += cpu_part_stride(op->sites[s].n);
        }
        p.stride = linear_acc_stride(op);
        p.out_n = (uint32_t)cpu_part_stride(n);
        break;
    case KERN_POST_ACT_MUL:
        p.spare += site * (size_t)p.row_n * LAYOUT_GROUP;
        return p;
    }
    p.out += first * p.stride;
    return p;
}

/* Base product, bias and effects of one group of one site. */
static struct cpu_gemm linear_group(const struct linear_job *job, const struct cpu_product *p,
                                    uint32_t site, uint32_t band, uint32_t group)
{
    struct kern_dev *dev = job->dev;
    uint32_t first = group * LAYOUT_GROUP;
    uint32_t ahead = group + team_size(dev->team);
    const void *next =
        ahead < layout_group_n(p->n) ? layout_group(dev->args.held, p->w, p->k, ahead) : NULL;
    cpu_lowrank_prefetch(dev, site, group);
    struct cpu_gemm done = cpu_product_begin(dev, p, group, next);
    if (job->op->sites[site].bias) {
        uint32_t n = MIN(p->n - first, LAYOUT_GROUP);
        for (uint32_t r = 0; r < p->row_n; r++) {
            dev->path->rows->add(done.out + r * done.stride, job->op->sites[site].bias + first, n);
        }
    }
    if (dev->has_scales) {
        struct cpu_columns columns = {done.out, done.stride, MIN(p->n - first, LAYOUT_GROUP)};
        cpu_scale_outputs(dev, job->op->sites[site].site, band * job->band_rows, p->row_n, first,
                          &columns);
    }
    cpu_lowrank_expand(dev, site, band, p->n, group, &done);
    return done;
}

static void linear_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct linear_job *job = arg;
    uint32_t band = index / job->unit_n;
    uint32_t unit = index % job->unit_n;
    uint32_t site = 0;
    while (unit >= job->unit_first[site + 1]) {
        site++;
    }
    uint32_t group = unit - job->unit_first[site];
    struct cpu_product p = linear_product(job, site, band, member);
    struct cpu_gemm done = linear_group(job, &p, site, band, group);
    cpu_product_end(&p, group, &done);
}

static void linear_act_mul_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct linear_job *job = arg;
    struct kern_dev *dev = job->dev;
    uint32_t band = index / job->unit_n;
    uint32_t group = index % job->unit_n;
    struct cpu_product gate = linear_product(job, 0, band, member);
    struct cpu_product up = linear_product(job, 1, band, member);
    struct cpu_gemm g = linear_group(job, &gate, 0, band, group);
    struct cpu_gemm u = linear_group(job, &up, 1, band, group);
    uint32_t first = group * LAYOUT_GROUP;
    uint32_t n = MIN(gate.n - first, LAYOUT_GROUP);
    size_t bytes = dtype_bytes(dev->args.held);
    for (uint32_t r = 0; r < gate.row_n; r++) {
        size_t row = (size_t)band * job->band_rows + r;
        char *out = (char *)job->op->out + (row * gate.n + first) * bytes;
        dev->path->rows->act_mul(dev->args.held, g.out + r * g.stride, job->op->gate_multiplier,
                                 u.out + r * u.stride, n, out);
    }
}

/* Norm, rotary embedding and the way to memory of all heads of one row. */
static void linear_heads_row(struct kern_dev *dev, const struct kern_linear *op, uint32_t row)
{
    const struct kern_heads *heads = &op->heads;
    const struct cpu_rows *rows = dev->path->rows;
    uint32_t dim = heads->head_dim;
    uint32_t half = dev->step.rotary_n / 2;
    const float *cos_sin = dev->cos_sin + (size_t)row * dev->step.rotary_n;
    float *q = dev->acc + row * linear_acc_stride(op);
    float *k = q + cpu_part_stride(op->sites[0].n);
    float *v = k + cpu_part_stride(op->sites[1].n);
    uint32_t q_each = (heads->gate_out ? 2 : 1) * dim; /* a query head, and its gate */
    for (uint32_t h = 0; h < heads->head_n + heads->kv_head_n; h++) {
        bool is_q = h < heads->head_n;
        float *head = is_q ? q + h * q_each : k + (h - heads->head_n) * dim;
        const float *gain = is_q ? heads->q_norm : heads->k_norm;
        size_t at = ((size_t)row * heads->head_n + h) * dim;
        if (gain) {
            rows->norm(head, gain, heads->norm_eps, dim);
        }
        rows->rope(head, cos_sin, half);
        if (is_q) {
            memcpy(heads->q_out + at, head, dim * sizeof *head);
        }
        if (is_q && heads->gate_out) {
            memcpy(heads->gate_out + at, head + dim, dim * sizeof *head);
        }
    }
    cpu_kv_write(dev, heads, row, k, v);
}

static void linear_heads_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct linear_job *job = arg;
    uint32_t first = index * LINEAR_POST_ROWS;
    (void)member;
    for (uint32_t r = first; r < MIN(first + LINEAR_POST_ROWS, job->dev->step.row_n); r++) {
        linear_heads_row(job->dev, job->op, r);
    }
}

void cpu_linear(struct kern_dev *dev, const struct kern_linear *op)
{
    struct linear_job job = {.dev = dev, .op = op};
    struct cpu_pack pack = {op->x, op->k, NULL, dev->step.row_n, op->k, dev->x};
    if (dev->step.row_n == 0) {
        return;
    }
    ASSERT_CMP(op->k, <=, dev->args.k_max);
    for (uint32_t s = 0; s < op->site_n; s++) {
        job.unit_first[s + 1] = job.unit_first[s] + layout_group_n(op->sites[s].n);
    }
    job.band_rows = cpu_band_rows(dev, op->k);
    uint32_t band_n = DIV_UP(dev->step.row_n, job.band_rows);
    if (dev->has_scales && op->site_n == 1) {
        cpu_scale_inputs(dev, op);
    }
    cpu_pack_rows(dev, &pack, job.band_rows);
    cpu_lowrank_shrink(dev, op);
    if (op->post == KERN_POST_ACT_MUL) {
        ASSERT(op->site_n == 2 && op->sites[0].n == op->sites[1].n);
        job.unit_n = job.unit_first[1];
        team_each(dev->team, band_n * job.unit_n, linear_act_mul_unit, &job);
        return;
    }
    job.unit_n = job.unit_first[op->site_n];
    team_each(dev->team, band_n * job.unit_n, linear_unit, &job);
    if (op->post == KERN_POST_HEADS) {
        ASSERT_CMP(linear_acc_stride(op), <=, dev->acc_stride_max);
        team_each(dev->team, DIV_UP(dev->step.row_n, LINEAR_POST_ROWS), linear_heads_unit, &job);
    }
}
