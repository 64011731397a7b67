/* From a plan to a batch: rows, page tables, samples with their biases and histories, scores, and
 * the adapter segments. All loops are over what the step has, never over what the daemon could. */
#include <math.h>

#include "engine/core_int.h"

/* A request's biases, and while it is younger than min_tokens also its ending tokens, forbidden.
 * No token twice: an ending token's own bias is left out, it is forbidden anyway. */
static void build_biases(struct batch *batch, const struct request *request, uint32_t generated_n,
                         struct batch_sample *sample)
{
    struct batch_bias *biases = batch_biases(batch);
    uint32_t first = batch->bias_n;
    uint32_t n = first;
    uint32_t ending_n = request->eos_n + request->stop_n;
    if (generated_n >= request->min_tokens) {
        ending_n = 0;
    }
    for (uint32_t i = 0; i < ending_n; i++) {
        uint32_t token =
            i < request->eos_n ? request->eos_tokens[i] : request->stop_tokens[i - request->eos_n];
        bool is_new = true;
        for (uint32_t j = first; j < n; j++) {
            is_new = is_new && biases[j].token != token;
        }
        if (is_new) {
            biases[n++] = (struct batch_bias){token, -INFINITY};
        }
    }
    uint32_t forbidden_n = n - first;
    for (uint32_t i = 0; i < request->bias_n; i++) {
        bool is_new = true;
        for (uint32_t j = first; j < first + forbidden_n; j++) {
            is_new = is_new && biases[j].token != request->biases[i].token;
        }
        if (is_new) {
            biases[n++] = (struct batch_bias){request->biases[i].token, request->biases[i].bias};
        }
    }
    sample->bias_first = first;
    sample->bias_n = n - first;
    batch->bias_n = n;
    ASSERT_CMP(n, <=, batch->bias_max);
}

/* The sequence so far, when a penalty looks at it and the rank has not counted it: with its first
 * sample, and with the first one after a preemption. All its tokens were read then. */
static void build_hist(struct core *core, struct batch *batch, const struct sched_item *item,
                       struct batch_sample *sample)
{
    struct seq *seq = &core->seqs[item->id];
    const struct request *request = seq->request;
    const struct sampling *s = &request->sampling;
    bool has_penalty =
        s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    sample->hist_first = batch->hist_n;
    if (!has_penalty || seq->is_counted) {
        return;
    }
    ASSERT_CMP(request->token_n + seq->token_n, ==, sample->pos);
    ASSERT_CMP(batch->hist_n + sample->pos, <=, batch->hist_max);
    uint32_t *hist = batch_hist(batch) + batch->hist_n;
    sample->flags = BATCH_SAMPLE_FRESH;
    sample->hist_n = sample->pos;
    sample->hist_prompt_n = request->token_n;
    batch->hist_n += sample->hist_n;
    memcpy(hist, request->tokens, request->token_n * sizeof *hist);
    memcpy(hist + request->token_n, core_tokens(core, item->slot), seq->token_n * sizeof *hist);
    seq->is_counted = true;
}

static void build_sample(struct core *core, struct batch *batch, const struct sched_item *item)
{
    const struct request *request = core->seqs[item->id].request;
    const struct sampling *s = &request->sampling;
    ASSERT_CMP(batch->sample_n, <, batch->sample_max);
    struct batch_sample *sample = &batch_samples(batch)[batch->sample_n++];
    *sample = (struct batch_sample){
        .row = batch->row_n - 1,
        .slot = item->slot,
        .pos = item->pos + item->row_n,
        .temperature = s->temperature,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .top_k = s->top_k,
        .repetition_penalty = s->repetition_penalty,
        .presence_penalty = s->presence_penalty,
        .frequency_penalty = s->frequency_penalty,
        .seed = s->seed,
        .top_logprobs = request->top_logprobs,
    };
    build_biases(batch, request, sample->pos - request->token_n, sample);
    build_hist(core, batch, item, sample);
}

/* The prompt row at pos tells the probability of the prompt's next token, unless that has been
 * sent already (before a preemption). */
static bool build_score(struct batch *batch, const struct seq *seq, uint32_t pos)
{
    const struct request *request = seq->request;
    if (request->prompt_logprobs < 0 || pos + 1 >= request->token_n || pos < seq->scored_n) {
        return false;
    }
    ASSERT_CMP(batch->score_n, <, batch->score_max);
    batch_scores(batch)[batch->score_n++] = (struct batch_score){
        .row = batch->row_n - 1,
        .target = request->tokens[pos + 1],
        .top_n = (uint32_t)request->prompt_logprobs,
    };
    return true;
}

/* The token of a generated row. The newest one may not have been read yet; the rank knows it: it is
 * what it sampled last for this slot, which the sequence has had since it started. */
static void build_generated(const struct core *core, const struct sched_item *item,
                            struct batch_row *row)
{
    const struct seq *seq = &core->seqs[item->id];
    bool is_newest = item->is_sample && row->pos + 1 == item->pos + item->row_n;
    if (is_newest) {
        row->flags = BATCH_ROW_FROM_SLOT;
    } else {
        uint32_t index = row->pos - seq->request->token_n;
        ASSERT_CMP(index, <, seq->token_n);
        row->token = core_tokens(core, item->slot)[index];
    }
}

static void build_rows(struct core *core, struct core_step *step, uint32_t item_index)
{
    struct batch *batch = step->batch;
    const struct sched_item *item = &step->plan.items[item_index];
    const struct seq *seq = &core->seqs[item->id];
    step->item_score_n[item_index] = 0;
    for (uint32_t pos = item->pos; pos < item->pos + item->row_n; pos++) {
        struct batch_row row = {.slot = item->slot, .pos = pos};
        if (item->is_prompt) {
            row.token = seq->request->tokens[pos];
            row.flags = BATCH_ROW_PROMPT;
        } else {
            build_generated(core, item, &row);
        }
        ASSERT_CMP(batch->row_n, <, batch->row_max);
        batch_rows(batch)[batch->row_n++] = row;
        if (item->is_prompt && build_score(batch, seq, pos)) {
            step->item_score_n[item_index]++;
        }
    }
}

static void build_seq(struct core *core, struct batch *batch, const struct sched_item *item)
{
    const uint32_t *table = sched_pages(&core->sched, item->id);
    uint32_t page_n = DIV_UP(item->pos + item->row_n, LIMIT_KV_PAGE);
    ASSERT_CMP(batch->seq_n, <, batch->seq_max);
    batch_seqs(batch)[batch->seq_n++] = (struct batch_seq){
        .slot = item->slot,
        .row_first = batch->row_n,
        .row_n = item->row_n,
        .page_first = batch->page_n,
        .page_n = page_n,
    };
    ASSERT_CMP(batch->page_n + page_n, <=, batch->page_max);
    memcpy(batch_pages(batch) + batch->page_n, table, page_n * sizeof *table);
    batch->page_n += page_n;
}

/* Shell sort: small, in place, and the keys are unique. */
static void build_sort(uint64_t *keys, uint32_t n)
{
    for (uint32_t gap = n / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) {
        for (uint32_t i = gap; i < n; i++) {
            uint64_t key = keys[i];
            uint32_t j = i;
            for (; j >= gap && keys[j - gap] > key; j -= gap) {
                keys[j] = keys[j - gap];
            }
            keys[j] = key;
        }
    }
}

/* Rows of one sequence into the segment of its version, which is opened when it changes. */
static void build_seg_rows(struct batch *batch, const struct batch_seg *seg, float weight,
                           const struct batch_seq *rows)
{
    struct batch_seg *segs = batch_segs(batch);
    uint32_t last = batch->seg_n - 1;
    if (batch->seg_n == 0 || segs[last].order != seg->order || segs[last].version != seg->version) {
        last = batch->seg_n;
        ASSERT_CMP(last, <, batch->seg_max);
        segs[last] = *seg;
        segs[last].row_first = batch->seg_row_n;
        batch->seg_n++;
    }
    ASSERT_CMP(batch->seg_row_n + rows->row_n, <=, batch->seg_row_max);
    for (uint32_t i = 0; i < rows->row_n; i++) {
        batch_seg_rows(batch)[batch->seg_row_n++] =
            (struct batch_seg_row){rows->row_first + i, weight};
    }
    segs[last].row_n += rows->row_n;
}

/* What a sequence begins with, at its first row only: after that its states are its own. */
static void build_start(const struct core *core, struct batch *batch, const struct sched_item *item)
{
    const struct seq *seq = &core->seqs[item->id];
    uint32_t at = seq->lease.state;
    if (item->pos > 0 || at >= seq->request->adapter_n || seq->request->adapters[at].weight == 0) {
        return;
    }
    ASSERT_CMP(batch->start_n, <, batch->start_max);
    batch_starts(batch)[batch->start_n++] =
        (struct batch_start){.slot = item->slot,
                             .version = seq->lease.version[at],
                             .weight = seq->request->adapters[at].weight};
}

/* Segments sorted by (order, version); an adapter of weight 0, or without rows, is in none. */
static void build_segs(struct core *core, const struct core_step *step)
{
    const struct sched_plan *plan = &step->plan;
    for (uint32_t order = 0; order < LIMIT_REQUEST_ADAPTERS; order++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < plan->item_n; i++) {
            const struct seq *seq = &core->seqs[plan->items[i].id];
            if (order < seq->request->adapter_n && seq->lease.has_rows[order] &&
                seq->request->adapters[order].weight != 0) {
                core->sort_keys[n++] = (uint64_t)seq->lease.version[order] << 32 | i;
            }
        }
        build_sort(core->sort_keys, n);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t index = (uint32_t)core->sort_keys[i];
            const struct seq *seq = &core->seqs[plan->items[index].id];
            struct batch_seg seg = {.version = seq->lease.version[order],
                                    .order = order,
                                    .flags = seq->lease.has_scales[order] ? BATCH_SEG_SCALES : 0};
            build_seg_rows(step->batch, &seg, seq->request->adapters[order].weight,
                           &batch_seqs(step->batch)[index]);
        }
    }
}

void build_batch(struct core *core, struct core_step *step)
{
    batch_clear(step->batch);
    step->batch->step = core->step;
    for (uint32_t i = 0; i < step->plan.item_n; i++) {
        const struct sched_item *item = &step->plan.items[i];
        build_seq(core, step->batch, item);
        build_rows(core, step, i);
        build_start(core, step->batch, item);
        if (item->is_sample) {
            build_sample(core, step->batch, item);
        }
    }
    build_segs(core, step);
}
