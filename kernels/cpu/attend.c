/* Ragged causal attention. A piece of work is the rows of one sequence whose positions lie in one
 * page (at most CPU_ATTEND_ROWS) and one KV head with all its query heads.
 *
 * Order per row and head: pages in order of position; in a page the scores, the page's maximum and
 * sum (path_rows.h), earlier sums times the change, then one chain over the page's visible
 * positions. What a row sees is a function of its position alone, so neither rows nor their
 * grouping meet in any bit. Queries, scores, weights and sums are fp32; keys and values are read
 * where they lie. Bound: KV memory for generated rows, math for prompts. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_int.h"

struct attend_job {
    struct kern_dev *dev;
    const struct kern_attend *op;
};

/* Rows [row_first, +row_n) of one page of positions, one KV head. */
struct attend_piece {
    struct kern_dev *dev;
    const struct kern_attend *op;
    const struct cpu_scratch *scratch;
    const struct cpu_mm *mm;
    uint32_t row_first;
    uint32_t row_n;
    uint32_t kv_head;
    uint32_t per_kv; /* query heads of a KV head */
    const uint32_t *pages;
    float largest[CPU_ATTEND_HEADS];
    float sum[CPU_ATTEND_HEADS];
};

static size_t attend_o_stride(const struct kern_attend *op)
{
    return ROUND_UP((size_t)op->head_dim, 16);
}

static void attend_pack(const struct cpu_mm *mm, const struct cpu_pack *pack)
{
    for (uint32_t b = 0; b < DIV_UP(pack->row_n, mm->row_block); b++) {
        mm->pack(pack, b);
    }
}

static void attend_pack_queries(struct attend_piece *a)
{
    uint32_t rows[CPU_ATTEND_HEADS];
    for (uint32_t i = 0; i < a->row_n * a->per_kv; i++) {
        rows[i] =
            (a->row_first + i / a->per_kv) * a->op->head_n + a->kv_head * a->per_kv + i % a->per_kv;
    }
    struct cpu_pack pack = {.src = a->op->q,
                            .stride = a->op->head_dim,
                            .rows = rows,
                            .row_n = a->row_n * a->per_kv,
                            .k = a->op->head_dim,
                            .out = a->scratch->q};
    attend_pack(a->mm, &pack);
}

/* s[query][0..64) = q . k for the page; columns beyond `valid` may stay unwritten. */
static void attend_scores(const struct attend_piece *a, uint32_t page, uint32_t valid)
{
    enum dtype held = a->dev->args.held;
    uint32_t dim = a->op->head_dim;
    const char *k = cpu_kv_k(a->dev, a->op->kv_layer, page, a->kv_head);
    for (uint32_t g = 0; g < DIV_UP(valid, LAYOUT_GROUP); g++) {
        a->mm->run(&(struct cpu_gemm){
            .x = a->scratch->q,
            .w = layout_group(held, k, dim, g),
            .row_n = a->row_n * a->per_kv,
            .k = dim,
            .k_layout = dim,
            .tile_n = 2,
            .out = a->scratch->s + (size_t)g * LAYOUT_GROUP,
            .stride = LIMIT_KV_PAGE,
        });
    }
}

/* o[query] += p . v over the first `valid` positions, for queries [first, first + n). */
static void attend_values(const struct attend_piece *a, uint32_t page, uint32_t first, uint32_t n,
                          uint32_t valid)
{
    enum dtype held = a->dev->args.held;
    uint32_t dim = a->op->head_dim;
    size_t stride = attend_o_stride(a->op);
    const char *v = cpu_kv_v(a->dev, a->op->kv_layer, page, a->kv_head);
    struct cpu_pack pack = {.src = a->scratch->s + (size_t)first * LIMIT_KV_PAGE,
                            .stride = LIMIT_KV_PAGE,
                            .row_n = n,
                            .k = valid,
                            .out = a->scratch->p};
    attend_pack(a->mm, &pack);
    for (uint32_t g = 0; g < layout_group_n(dim); g++) {
        a->mm->run(&(struct cpu_gemm){
            .x = a->scratch->p,
            .w = layout_group(held, v, LIMIT_KV_PAGE, g),
            .row_n = n,
            .k = valid,
            .k_layout = LIMIT_KV_PAGE,
            .tile_n = layout_tile_n(dim, g),
            .out = a->scratch->o + first * stride + (size_t)g * LAYOUT_GROUP,
            .stride = stride,
            .is_add = true,
        });
    }
}

static uint32_t attend_visible(const struct attend_piece *a, uint32_t row)
{
    return a->dev->step.rows[a->row_first + row].pos % LIMIT_KV_PAGE + 1;
}

/* One page for all rows; on their own (the last) page each row sees its own number of positions. */
static void attend_page(struct attend_piece *a, uint32_t page, bool is_last)
{
    const struct cpu_rows *rows = a->dev->path->rows;
    size_t stride = attend_o_stride(a->op);
    attend_scores(a, page, is_last ? attend_visible(a, a->row_n - 1) : LIMIT_KV_PAGE);
    for (uint32_t i = 0; i < a->row_n * a->per_kv; i++) {
        float factor = rows->softmax(&(struct cpu_softmax){
            .s = a->scratch->s + (size_t)i * LIMIT_KV_PAGE,
            .valid = is_last ? attend_visible(a, i / a->per_kv) : LIMIT_KV_PAGE,
            .scale = a->op->scale,
            .largest = &a->largest[i],
            .sum = &a->sum[i],
        });
        rows->scale(a->scratch->o + i * stride, factor, (uint32_t)stride);
    }
    if (!is_last) {
        attend_values(a, page, 0, a->row_n * a->per_kv, LIMIT_KV_PAGE);
        return;
    }
    for (uint32_t r = 0; r < a->row_n; r++) {
        attend_values(a, page, r * a->per_kv, a->per_kv, attend_visible(a, r));
    }
}

static void attend_rows(struct attend_piece *a)
{
    const struct kern_attend *op = a->op;
    enum dtype held = a->dev->args.held;
    size_t stride = attend_o_stride(op);
    uint32_t query_n = a->row_n * a->per_kv;
    uint32_t page_last = a->dev->step.rows[a->row_first].pos / LIMIT_KV_PAGE;
    attend_pack_queries(a);
    memset(a->scratch->o, 0, query_n * stride * sizeof(float));
    for (uint32_t i = 0; i < query_n; i++) {
        a->largest[i] = -INFINITY;
        a->sum[i] = 0;
    }
    for (uint32_t p = 0; p <= page_last; p++) {
        attend_page(a, a->pages[p], p == page_last);
    }
    for (uint32_t i = 0; i < query_n; i++) {
        size_t row = a->row_first + i / a->per_kv;
        size_t head = a->kv_head * a->per_kv + i % a->per_kv;
        size_t at = (row * op->head_n + head) * op->head_dim;
        if (op->gate) {
            a->dev->path->rows->gate(a->scratch->o + i * stride, op->gate + at, op->head_dim);
        }
        a->dev->path->rows->to_held(held, a->scratch->o + i * stride, 1.0f / a->sum[i],
                                    op->head_dim, (char *)op->out + at * dtype_bytes(held));
    }
}

static void attend_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct attend_job *job = arg;
    struct kern_dev *dev = job->dev;
    const struct kern_attend *op = job->op;
    const struct cpu_span *span = &dev->spans[index / op->kv_head_n];
    struct attend_piece piece = {
        .dev = dev,
        .op = op,
        .scratch = &dev->scratch[member],
        .mm = dev->path->exact[dev->args.held],
        .kv_head = index % op->kv_head_n,
        .per_kv = op->head_n / op->kv_head_n,
        .pages = dev->step.pages + dev->step.seqs[span->seq].page_first,
    };
    uint32_t row_max = MAX(CPU_ATTEND_HEADS / piece.per_kv, 1u);
    for (uint32_t r = 0; r < span->row_n; r += row_max) {
        piece.row_first = span->row_first + r;
        piece.row_n = MIN(row_max, span->row_n - r);
        attend_rows(&piece);
    }
}

void cpu_attend(struct kern_dev *dev, const struct kern_attend *op)
{
    struct attend_job job = {dev, op};
    ASSERT_CMP(op->head_dim, <=, LIMIT_HEAD_DIM);
    ASSERT_CMP(op->head_n / op->kv_head_n, <=, CPU_ATTEND_HEADS);
    team_each(dev->team, dev->span_n * op->kv_head_n, attend_unit, &job);
}
