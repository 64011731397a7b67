/* Layout of the batch block: the header, then each array at a 64-byte border, in the order of the
 * header's fields. The contents are the engine's business. */
#include "sched/batch.h"

#include "base/base.h"

#define BATCH_ALIGN 64

static uint32_t batch_place(size_t *at, uint32_t n, size_t bytes_each)
{
    size_t start = *at;
    *at = ROUND_UP(start + n * bytes_each, BATCH_ALIGN);
    ASSERT_CMP(*at, <=, UINT32_MAX);
    return (uint32_t)start;
}

/* Fills a header; its `bytes` is the size of the block. */
static struct batch batch_layout(const struct batch_limits *limits)
{
    size_t at = ROUND_UP(sizeof(struct batch), BATCH_ALIGN);
    struct batch b = {
        .row_max = limits->row_max,
        .seq_max = limits->seq_max,
        .page_max = limits->page_max,
        .seg_max = limits->seg_max,
        .seg_row_max = limits->seg_row_max,
        .sample_max = limits->sample_max,
        .bias_max = limits->bias_max,
        .hist_max = limits->hist_max,
        .score_max = limits->score_max,
        .start_max = limits->start_max,
    };
    b.rows_at = batch_place(&at, b.row_max, sizeof(struct batch_row));
    b.seqs_at = batch_place(&at, b.seq_max, sizeof(struct batch_seq));
    b.pages_at = batch_place(&at, b.page_max, sizeof(uint32_t));
    b.segs_at = batch_place(&at, b.seg_max, sizeof(struct batch_seg));
    b.seg_rows_at = batch_place(&at, b.seg_row_max, sizeof(struct batch_seg_row));
    b.samples_at = batch_place(&at, b.sample_max, sizeof(struct batch_sample));
    b.biases_at = batch_place(&at, b.bias_max, sizeof(struct batch_bias));
    b.hist_at = batch_place(&at, b.hist_max, sizeof(uint32_t));
    b.scores_at = batch_place(&at, b.score_max, sizeof(struct batch_score));
    b.starts_at = batch_place(&at, b.start_max, sizeof(struct batch_start));
    b.bytes = (uint32_t)at;
    return b;
}

size_t batch_bytes(const struct batch_limits *limits)
{
    return batch_layout(limits).bytes;
}

void batch_init(struct batch *batch, const struct batch_limits *limits)
{
    *batch = batch_layout(limits);
}

void batch_clear(struct batch *batch)
{
    batch->step = 0;
    batch->row_n = 0;
    batch->seq_n = 0;
    batch->page_n = 0;
    batch->seg_n = 0;
    batch->seg_row_n = 0;
    batch->sample_n = 0;
    batch->bias_n = 0;
    batch->hist_n = 0;
    batch->score_n = 0;
    batch->start_n = 0;
}
