/* The layer list, gone down once per step: embed; per layer join, mixers, join, feed-forward;
 * the last join with the final norm; then scores and samples through the head.
 *
 * Every buffer is a piece of one reservation, sized in walk_layout. The records of a batch are
 * those of kern_step, proved below, so a step is a set of pointers into the batch. */
#include "model/walk_int.h"

#include "base/base.h"
#include "model/layers.h"

#define WALK_ALIGN 64
#define WALK_SCORE_LOGIT_ROWS                                                                      \
    64 /* rows of logits that scores are computed in at a time, at most                            \
        */

#define WALK_SAME_SIZE(a, b) _Static_assert(sizeof(struct a) == sizeof(struct b), #a " is " #b)
#define WALK_SAME(a, b, field)                                                                     \
    _Static_assert(offsetof(struct a, field) == offsetof(struct b, field) &&                       \
                       sizeof(((struct a *)0)->field) == sizeof(((struct b *)0)->field),           \
                   #a "." #field " is " #b "." #field)

WALK_SAME_SIZE(batch_row, kern_row);
WALK_SAME(batch_row, kern_row, token);
WALK_SAME(batch_row, kern_row, slot);
WALK_SAME(batch_row, kern_row, pos);
WALK_SAME(batch_row, kern_row, flags);
_Static_assert((int)BATCH_ROW_FROM_SLOT == (int)KERN_ROW_FROM_SLOT, "row flags are the same");
_Static_assert((int)BATCH_ROW_PROMPT == (int)KERN_ROW_PROMPT, "row flags are the same");
WALK_SAME_SIZE(batch_seq, kern_seq);
WALK_SAME(batch_seq, kern_seq, slot);
WALK_SAME(batch_seq, kern_seq, row_first);
WALK_SAME(batch_seq, kern_seq, row_n);
WALK_SAME(batch_seq, kern_seq, page_first);
WALK_SAME(batch_seq, kern_seq, page_n);
WALK_SAME_SIZE(batch_seg, kern_seg);
WALK_SAME(batch_seg, kern_seg, version);
WALK_SAME(batch_seg, kern_seg, order);
WALK_SAME(batch_seg, kern_seg, row_first);
WALK_SAME(batch_seg, kern_seg, row_n);
WALK_SAME(batch_seg, kern_seg, flags);
_Static_assert((int)BATCH_SEG_SCALES == (int)KERN_SEG_SCALES, "segment flags are the same");
WALK_SAME_SIZE(batch_seg_row, kern_seg_row);
WALK_SAME(batch_seg_row, kern_seg_row, row);
WALK_SAME(batch_seg_row, kern_seg_row, weight);
WALK_SAME_SIZE(batch_start, kern_start);
WALK_SAME(batch_start, kern_start, slot);
WALK_SAME(batch_start, kern_start, version);
WALK_SAME(batch_start, kern_start, weight);
WALK_SAME_SIZE(batch_sample, kern_sample_row);
WALK_SAME(batch_sample, kern_sample_row, row);
WALK_SAME(batch_sample, kern_sample_row, slot);
WALK_SAME(batch_sample, kern_sample_row, pos);
WALK_SAME(batch_sample, kern_sample_row, temperature);
WALK_SAME(batch_sample, kern_sample_row, top_p);
WALK_SAME(batch_sample, kern_sample_row, min_p);
WALK_SAME(batch_sample, kern_sample_row, top_k);
WALK_SAME(batch_sample, kern_sample_row, repetition_penalty);
WALK_SAME(batch_sample, kern_sample_row, presence_penalty);
WALK_SAME(batch_sample, kern_sample_row, frequency_penalty);
WALK_SAME(batch_sample, kern_sample_row, seed);
WALK_SAME(batch_sample, kern_sample_row, top_logprobs);
WALK_SAME(batch_sample, kern_sample_row, flags);
WALK_SAME(batch_sample, kern_sample_row, bias_first);
WALK_SAME(batch_sample, kern_sample_row, bias_n);
WALK_SAME(batch_sample, kern_sample_row, hist_first);
WALK_SAME(batch_sample, kern_sample_row, hist_n);
WALK_SAME(batch_sample, kern_sample_row, hist_prompt_n);
WALK_SAME_SIZE(batch_bias, kern_bias);
WALK_SAME(batch_bias, kern_bias, token);
WALK_SAME(batch_bias, kern_bias, bias);
WALK_SAME_SIZE(batch_score, kern_score_row);
WALK_SAME(batch_score, kern_score_row, row);
WALK_SAME(batch_score, kern_score_row, target);
WALK_SAME(batch_score, kern_score_row, top_n);
WALK_SAME_SIZE(batch_token, kern_token);
WALK_SAME(batch_token, kern_token, token);
WALK_SAME(batch_token, kern_token, logprob);
WALK_SAME(batch_token, kern_token, top_n);
WALK_SAME(batch_token, kern_token, top_tokens);
WALK_SAME(batch_token, kern_token, top_logprobs);

/* Hands out the next `bytes` of the reservation at *at; only counts while base is NULL. */
static void *walk_take(char *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += ROUND_UP(bytes, WALK_ALIGN);
    return p;
}

static uint32_t walk_logit_rows(const struct walk *walk)
{
    uint32_t part_max = walk->model->kern->part_sample_max;
    uint32_t sample_max = part_max ? MIN(walk->sample_max, part_max) : walk->sample_max;
    return MAX(sample_max, MIN(walk->score_max, WALK_SCORE_LOGIT_ROWS));
}

static size_t walk_logits_size(const struct walk *walk)
{
    return (size_t)walk_logit_rows(walk) * walk->model->desc.vocab_n * sizeof(float);
}

/* Points the buffers into `base` (or only adds up) and returns the bytes of all. */
static size_t walk_layout(struct walk *walk, char *base)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    size_t rows = walk->row_max;
    size_t q_row = (size_t)desc->head_n * desc->head_dim;
    size_t mixed_row = MAX(q_row, layers_mixer_out(desc));
    size_t part_bytes = model->kern->part_bytes(walk->row_max, desc->hidden);
    size_t each = dtype_bytes(model->held);
    size_t at = 0;
    walk->h = walk_take(base, &at, rows * desc->hidden * sizeof(float));
    walk->q = walk_take(base, &at, rows * q_row * sizeof(float));
    walk->logits = walk_take(base, &at, walk_logits_size(walk));
    walk->x = walk_take(base, &at, rows * desc->hidden * each);
    walk->mixed = walk_take(base, &at, rows * mixed_row * each);
    walk->act = walk_take(base, &at, rows * desc->ffn * each);
    walk->parts[0] = walk_take(base, &at, part_bytes);
    if (desc->has_attention_gate) {
        walk->gate = walk_take(base, &at, rows * q_row * sizeof(float));
    }
    if (desc->state_layer_n > 0) {
        walk->mixer = walk_take(base, &at, rows * layers_mixer_n(desc) * sizeof(float));
    }
    if (desc->ssd.head_n > 0) {
        walk->parts[1] = walk_take(base, &at, part_bytes);
    }
    walk->tokens =
        walk_take(base, &at, ((size_t)walk->sample_max + walk->score_max) * sizeof *walk->tokens);
    return at;
}

size_t walk_bytes(const struct model *model, uint32_t row_max, uint32_t sample_max,
                  uint32_t score_max)
{
    struct walk walk = {
        .model = model, .row_max = row_max, .sample_max = sample_max, .score_max = score_max};
    return walk_layout(&walk, NULL);
}

size_t walk_logit_bytes(const struct model *model, uint32_t sample_max, uint32_t score_max)
{
    struct walk walk = {.model = model, .sample_max = sample_max, .score_max = score_max};
    return ROUND_UP(walk_logits_size(&walk), WALK_ALIGN);
}

struct kern_step walk_view(const struct walk *walk, const struct batch *batch)
{
    const struct model_desc *desc = &walk->model->desc;
    return (struct kern_step){
        .rows = (const struct kern_row *)batch_rows(batch),
        .row_n = batch->row_n,
        .seqs = (const struct kern_seq *)batch_seqs(batch),
        .seq_n = batch->seq_n,
        .pages = batch_pages(batch),
        .segs = (const struct kern_seg *)batch_segs(batch),
        .seg_n = batch->seg_n,
        .seg_rows = (const struct kern_seg_row *)batch_seg_rows(batch),
        .samples = (const struct kern_sample_row *)batch_samples(batch),
        .sample_n = batch->sample_n,
        .biases = (const struct kern_bias *)batch_biases(batch),
        .hist = batch_hist(batch),
        .scores = (const struct kern_score_row *)batch_scores(batch),
        .score_n = batch->score_n,
        .starts = (const struct kern_start *)batch_starts(batch),
        .start_n = batch->start_n,
        .inv_freq = desc->inv_freq,
        .rotary_n = desc->rotary_n,
        .rope_scale = desc->rope_scale,
    };
}

/* h += parts times their multipliers, then x = norm(h); without parts the norm alone. */
static void walk_join(const struct walk *walk, uint32_t part_n, const float multipliers[2],
                      const float *gain)
{
    const struct model *model = walk->model;
    struct kern_join op = {
        .h = walk->h,
        .hidden = model->desc.hidden,
        .part_n = part_n,
        .parts = {walk->parts[0], walk->parts[1]},
        .gain = gain,
        .eps = model->desc.norm_eps,
        .x = walk->x,
    };
    memcpy(op.multipliers, multipliers, sizeof op.multipliers);
    model->kern->join(model->dev, &op);
}

void walk_sites(const struct walk *walk, uint32_t layer, enum site_place first,
                struct kern_linear *op)
{
    const struct model *model = walk->model;
    const struct layer_weights *w = &model->layers[layer];
    for (uint32_t i = 0; i < op->site_n; i++) {
        uint32_t site = model->desc.layers[layer].site[first + i];
        op->sites[i] = (struct kern_linear_site){.site = site,
                                                 .n = model->desc.sites[site].n,
                                                 .w = w->w[first + i],
                                                 .bias = w->bias[first + i]};
    }
}

void walk_part(const struct walk *walk, uint32_t layer, enum site_place place, void *x, void *part)
{
    const struct model *model = walk->model;
    uint32_t site = model->desc.layers[layer].site[place];
    struct kern_linear op = {
        .x = x, .k = model->desc.sites[site].k, .site_n = 1, .post = KERN_POST_PART, .out = part};
    walk_sites(walk, layer, place, &op);
    model->kern->linear(model->dev, &op);
}

/* The mixers of a layer; returns the number of parts they leave. */
static uint32_t walk_mix(const struct walk *walk, uint32_t layer)
{
    switch (walk->model->desc.layers[layer].mixer) {
    case MIXER_GDN:
        block_gdn(walk, layer);
        return 1;
    case MIXER_ATTENTION_SSD:
        /* in this order: a scale effect at Mamba-2's way in changes x, which both read */
        block_attention(walk, layer);
        block_ssd(walk, layer);
        return 2;
    default:
        block_attention(walk, layer);
        return 1;
    }
}

static void walk_layers(const struct walk *walk)
{
    const struct model *model = walk->model;
    model->kern->embed(model->dev, &(struct kern_embed){
                                       .w = model->embed,
                                       .vocab_n = model->desc.vocab_n,
                                       .hidden = model->desc.hidden,
                                       .multiplier = model->desc.embed_multiplier,
                                       .h = walk->h,
                                   });
    const float mixers[2] = {model->desc.attention_multiplier, model->desc.ssd_multiplier};
    const float mlp[2] = {model->desc.mlp_multiplier};
    for (uint32_t l = 0; l < model->desc.layer_n; l++) {
        walk_join(walk, l > 0 ? 1 : 0, mlp, model->layers[l].input_norm);
        uint32_t part_n = walk_mix(walk, l);
        walk_join(walk, part_n, mixers, model->layers[l].post_norm);
        block_mlp(walk, l);
    }
    walk_join(walk, 1, mlp, model->final_norm);
}

/* Scores first: both use the logits, and those of the samples then stay to be looked at. Score and
 * sample write where the step's results stand, whichever part of the step has them. */
static void walk_results(const struct walk *walk, const struct kern_part *part, uint32_t sample_n)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    if (part->score_n > 0) {
        model->kern->score(model->dev, &(struct kern_score){
                                           .x = walk->x,
                                           .w = model->head,
                                           .vocab_n = desc->vocab_n,
                                           .hidden = desc->hidden,
                                           .multiplier = desc->head_multiplier,
                                           .logits = walk->logits,
                                           .logit_rows = walk_logit_rows(walk),
                                           .out = walk->tokens + sample_n,
                                       });
    }
    if (part->sample_n > 0) {
        model->kern->head(model->dev, &(struct kern_head){
                                          .x = walk->x,
                                          .w = model->head,
                                          .vocab_n = desc->vocab_n,
                                          .hidden = desc->hidden,
                                          .multiplier = desc->head_multiplier,
                                          .logits = walk->logits,
                                      });
        model->kern->sample(model->dev, &(struct kern_sample){
                                            .logits = walk->logits,
                                            .vocab_n = desc->vocab_n,
                                            .out = walk->tokens,
                                        });
    }
}

int walk_capture(const struct walk *walk, struct err *err)
{
    const struct model *model = walk->model;
    struct batch nobody = {0};
    struct kern_step step = walk_view(walk, &nobody);
    struct kern_part part = {0};
    int rc = model->kern->next_capture(model->dev, &step, &part, err);
    while (rc == 0 && part.row_n > 0) {
        walk_layers(walk);
        walk_results(walk, &part, 0);
        rc = model->kern->next_capture(model->dev, &step, &part, err);
    }
    return rc;
}

int walk_init(struct walk *walk, const struct model *model, uint32_t row_max, uint32_t sample_max,
              uint32_t score_max, struct err *err)
{
    void *memory = NULL;
    ASSERT_CMP(row_max, >=, 1);
    ASSERT_CMP(sample_max, >=, 1);
    int rc = model->kern->reserve(model->dev, walk_bytes(model, row_max, sample_max, score_max),
                                  &memory, err);
    if (rc) {
        return rc;
    }
    *walk = (struct walk){
        .model = model, .row_max = row_max, .sample_max = sample_max, .score_max = score_max};
    walk_layout(walk, memory);
    return 0;
}

void walk_submit(struct walk *walk, const struct batch *batch)
{
    const struct model *model = walk->model;
    struct kern_step step = walk_view(walk, batch);
    struct kern_part part;
    ASSERT_CMP(batch->row_n, <=, walk->row_max);
    ASSERT_CMP(batch->sample_n, <=, walk->sample_max);
    ASSERT_CMP(batch->score_n, <=, walk->score_max);
    model->kern->begin_step(model->dev, &step);
    while (model->kern->next_part(model->dev, &part)) {
        walk_layers(walk);
        walk_results(walk, &part, batch->sample_n);
    }
    model->kern->end_step(model->dev, walk->tokens, batch->sample_n + batch->score_n);
}

int walk_read(struct walk *walk, struct batch_token *out, bool is_waiting)
{
    const struct model *model = walk->model;
    return model->kern->read_step(model->dev, (struct kern_token *)out, is_waiting);
}

int walk_step(struct walk *walk, const struct batch *batch, struct batch_token *out)
{
    walk_submit(walk, batch);
    return walk_read(walk, out, true);
}
