/* Scores: the head over the rows that want them, in pieces of bounded memory, and what is read off.
 * Prompt parts only, which are never captured: their number is known when the pieces are queued. */
#include "kernels/cuda/logits.h"
#include "kernels/cuda/ops.h"

/* A block per score of the piece. */
static __global__ void __launch_bounds__(BLOCK_THREADS)
    score_piece(const cuda_step *step, kern_score op, uint32_t first)
{
    pdl_wait();
    uint32_t i = first + blockIdx.x;
    if (i >= step->score_n) {
        return;
    }
    kern_score_row row = step->scores[i];
    const float *l = op.logits + (size_t)blockIdx.x * op.vocab_n;
    logits_sum sum = logits_reduce(l, op.vocab_n);
    logits_tell(l, op.vocab_n, sum.lse, row.target, row.top_n, op.out + step->score_out[i]);
    pdl_trigger();
}

void cuda_score(const struct cuda_ctx *ctx, const struct kern_score *op)
{
    for (uint32_t first = 0; first < ctx->score_n; first += op->logit_rows) {
        uint32_t n = op->logit_rows < ctx->score_n - first ? op->logit_rows : ctx->score_n - first;
        struct cuda_gather gather = {op->x, op->w, op->vocab_n,    op->hidden, CUDA_GATHER_SCORES,
                                     first, n,     op->multiplier, op->logits};
        launch_cfg cfg = {dim3(n), dim3(BLOCK_THREADS), 0, false, ctx->stream};
        cuda_logits(ctx, &gather);
        launch(cfg, score_piece, ctx->step, *op, first);
    }
}
