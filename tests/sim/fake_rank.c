/* See fake_rank.h. Checks are cmocka assertions, so that a failure names its seed. */
#include "tests/test.h"

#include "tests/sim/fake_rank.h"

#include "base/base.h"
#include "base/err.h"
#include "base/mem.h"
#include "kernels/random.h"
#include "tests/sim/fake_model.h"

void fake_rank_init(struct fake_rank *rank, const struct sched_config *config, uint32_t step_ahead)
{
    assert_true(step_ahead < FAKE_STEPS && config->slot_n <= FAKE_SLOTS);
    *rank = (struct fake_rank){.config = *config, .step_ahead = step_ahead};
    rank->kv = mem_zalloc_n((size_t)config->page_n * LIMIT_KV_PAGE, sizeof *rank->kv);
    memset(rank->kv, 0xff, (size_t)config->page_n * LIMIT_KV_PAGE * sizeof *rank->kv);
    rank->last_tokens = mem_zalloc_n(config->slot_n, sizeof *rank->last_tokens);
    rank->counts = mem_zalloc_n(config->slot_n, sizeof *rank->counts);
    rank->versions = mem_zalloc_n(LIMIT_VERSIONS, sizeof *rank->versions);
    rank->row_adapters = mem_zalloc_n(config->row_max, sizeof *rank->row_adapters);
}

void fake_rank_done(struct fake_rank *rank)
{
    mem_free(rank->kv);
    mem_free(rank->last_tokens);
    mem_free(rank->counts);
    mem_free(rank->versions);
    mem_free(rank->row_adapters);
}

void fake_rank_discard(struct fake_rank *rank, uint32_t page)
{
    assert_true(page < rank->config.page_n);
    for (uint32_t i = 0; i < rank->unread_n; i++) {
        const struct batch *b = rank->steps[i].cmd.batch;
        for (uint32_t k = 0; k < b->page_n; k++) {
            assert_int_not_equal(batch_pages(b)[k], page);
        }
    }
    memset(rank->kv + (size_t)page * LIMIT_KV_PAGE, 0xff, LIMIT_KV_PAGE * sizeof *rank->kv);
}

/* Rows are written from a page's start on. */
bool fake_rank_is_rubbish(const struct fake_rank *rank, uint32_t page)
{
    return rank->kv[(size_t)page * LIMIT_KV_PAGE] == FAKE_RUBBISH;
}

static void hash_bytes(uint64_t *hash, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) {
        *hash = (*hash ^ bytes[i]) * 0x100000001B3u;
    }
}

static uint64_t hash_batch(uint64_t hash, const struct batch *b)
{
    hash_bytes(&hash, &b->step, sizeof b->step);
    hash_bytes(&hash, batch_rows(b), b->row_n * sizeof(struct batch_row));
    hash_bytes(&hash, batch_seqs(b), b->seq_n * sizeof(struct batch_seq));
    hash_bytes(&hash, batch_pages(b), b->page_n * sizeof(uint32_t));
    hash_bytes(&hash, batch_segs(b), b->seg_n * sizeof(struct batch_seg));
    hash_bytes(&hash, batch_seg_rows(b), b->seg_row_n * sizeof(struct batch_seg_row));
    hash_bytes(&hash, batch_starts(b), b->start_n * sizeof(struct batch_start));
    for (uint32_t i = 0; i < b->sample_n; i++) { /* the record has padding */
        const struct batch_sample *s = &batch_samples(b)[i];
        hash_bytes(&hash, s, offsetof(struct batch_sample, top_k));
        hash_bytes(&hash, &s->seed, sizeof s->seed);
        hash_bytes(&hash, &s->bias_n, sizeof s->bias_n);
        hash_bytes(&hash, &s->hist_n, sizeof s->hist_n);
    }
    hash_bytes(&hash, batch_biases(b), b->bias_n * sizeof(struct batch_bias));
    hash_bytes(&hash, batch_hist(b), b->hist_n * sizeof(uint32_t));
    hash_bytes(&hash, batch_scores(b), b->score_n * sizeof(struct batch_score));
    return hash;
}

static void check_seqs(const struct fake_rank *rank, const struct batch *b)
{
    uint32_t row = 0;
    bool has_slot[64] = {false};
    assert_true(b->row_n > 0 && b->row_n <= rank->config.row_max);
    for (uint32_t i = 0; i < b->seq_n; i++) {
        const struct batch_seq *seq = &batch_seqs(b)[i];
        assert_true(seq->slot < rank->config.slot_n && !has_slot[seq->slot]);
        has_slot[seq->slot] = true;
        assert_int_equal(seq->row_first, row);
        assert_true(seq->row_n > 0);
        for (uint32_t k = 0; k < seq->row_n; k++) {
            const struct batch_row *r = &batch_rows(b)[row + k];
            assert_int_equal(r->slot, seq->slot);
            assert_int_equal(r->pos, batch_rows(b)[row].pos + k);
            assert_int_equal(r->flags & BATCH_ROW_PROMPT,
                             batch_rows(b)[row].flags & BATCH_ROW_PROMPT);
        }
        row += seq->row_n;
        assert_true(seq->page_n * LIMIT_KV_PAGE > batch_rows(b)[row - 1].pos);
        for (uint32_t k = 0; k < seq->page_n; k++) {
            assert_true(batch_pages(b)[seq->page_first + k] < rank->config.page_n);
        }
    }
    assert_int_equal(row, b->row_n);
}

static void check_biases(const struct batch *b)
{
    for (uint32_t i = 0; i < b->sample_n; i++) {
        const struct batch_sample *sample = &batch_samples(b)[i];
        const struct batch_bias *biases = batch_biases(b) + sample->bias_first;
        for (uint32_t k = 0; k < sample->bias_n; k++) {
            for (uint32_t j = 0; j < k; j++) {
                assert_int_not_equal(biases[j].token, biases[k].token);
            }
        }
    }
}

/* What an unread step names nobody else may get: a page that both steps name belongs to one slot,
 * and a slot that both name goes on where it was. */
static void check_shared(const struct fake_rank *rank, const struct batch *older,
                         const struct batch *b)
{
    uint32_t owners[64] = {0}; /* slot + 1 by page */
    assert_true(rank->config.page_n <= ARRAY_N(owners));
    for (uint32_t i = 0; i < older->seq_n; i++) {
        const struct batch_seq *seq = &batch_seqs(older)[i];
        for (uint32_t k = 0; k < seq->page_n; k++) {
            owners[batch_pages(older)[seq->page_first + k]] = seq->slot + 1;
        }
    }
    for (uint32_t i = 0; i < b->seq_n; i++) {
        const struct batch_seq *seq = &batch_seqs(b)[i];
        for (uint32_t k = 0; k < seq->page_n; k++) {
            uint32_t owner = owners[batch_pages(b)[seq->page_first + k]];
            assert_true(owner == 0 || owner == seq->slot + 1);
        }
        for (uint32_t k = 0; k < older->seq_n; k++) {
            const struct batch_seq *was = &batch_seqs(older)[k];
            assert_true(was->slot != seq->slot ||
                        batch_rows(older)[was->row_first + was->row_n - 1].pos + 1 ==
                            batch_rows(b)[seq->row_first].pos);
        }
    }
}

static uint64_t block_content(const struct fake_block *block)
{
    assert_non_null(block);
    for (size_t i = 0; i < ARRAY_N(block->filler); i++) {
        assert_true(block->filler[i] == block->content);
    }
    return block->content;
}

/* Segments are walked in batch order, which must be the requests' order for every row. */
static void run_segs(struct fake_rank *rank, const struct fake_step *step)
{
    const struct batch *b = step->cmd.batch;
    memset(rank->row_adapters, 0, b->row_n * sizeof *rank->row_adapters);
    for (uint32_t i = 0; i < b->seg_n; i++) {
        const struct batch_seg *seg = &batch_segs(b)[i];
        uint64_t content = block_content(step->blocks[i]);
        if (i > 0) {
            const struct batch_seg *before = &batch_segs(b)[i - 1];
            assert_true(before->order < seg->order ||
                        (before->order == seg->order && before->version < seg->version));
        }
        assert_true(seg->row_n > 0);
        for (uint32_t k = 0; k < seg->row_n; k++) {
            const struct batch_seg_row *r = &batch_seg_rows(b)[seg->row_first + k];
            assert_true(r->row < b->row_n && r->weight != 0);
            assert_true(k == 0 || batch_seg_rows(b)[seg->row_first + k - 1].row < r->row);
            rank->row_adapters[r->row] =
                fake_adapters(rank->row_adapters[r->row], content, r->weight);
        }
    }
    rank->mixed_n += b->seg_n > 1;
}

/* A sequence whose first row is at position 0 begins anew: with its start's states, or with none.
 * No other sequence has a start, and none has two. */
static void run_starts(struct fake_rank *rank, const struct fake_step *step)
{
    const struct batch *b = step->cmd.batch;
    uint32_t found_n = 0;
    for (uint32_t i = 0; i < b->seq_n; i++) {
        const struct batch_seq *seq = &batch_seqs(b)[i];
        uint32_t own_n = 0;
        uint64_t state = 0;
        for (uint32_t k = 0; k < b->start_n; k++) {
            const struct batch_start *start = &batch_starts(b)[k];
            if (start->slot == seq->slot) {
                assert_true(start->weight != 0);
                state = fake_state(block_content(step->starts[k]), start->weight);
                own_n++;
            }
        }
        bool is_first = batch_rows(b)[seq->row_first].pos == 0;
        assert_true(own_n <= is_first);
        rank->states[seq->slot] = is_first ? state : rank->states[seq->slot];
        found_n += own_n;
    }
    assert_int_equal(found_n, b->start_n);
    rank->start_n += found_n;
}

static uint64_t *kv_at(const struct fake_rank *rank, const struct batch *b,
                       const struct batch_seq *seq, uint32_t pos)
{
    uint32_t page = batch_pages(b)[seq->page_first + pos / LIMIT_KV_PAGE];
    return &rank->kv[(size_t)page * LIMIT_KV_PAGE + pos % LIMIT_KV_PAGE];
}

static void run_rows(struct fake_rank *rank, const struct batch *b)
{
    for (uint32_t i = 0; i < b->seq_n; i++) {
        const struct batch_seq *seq = &batch_seqs(b)[i];
        for (uint32_t k = seq->row_first; k < seq->row_first + seq->row_n; k++) {
            const struct batch_row *row = &batch_rows(b)[k];
            if (row->pos == 0) {
                rank->counts[row->slot].n = 0; /* another sequence, or this one recomputed */
            }
            bool is_last = row->flags & BATCH_ROW_FROM_SLOT;
            uint32_t token = is_last ? rank->last_tokens[row->slot] : row->token;
            *kv_at(rank, b, seq, row->pos) =
                fake_entry(token, row->pos, rank->row_adapters[k] + rank->states[row->slot]);
        }
    }
}

/* Everything the row at `row` can see. */
static uint64_t row_fold(const struct fake_rank *rank, const struct batch *b, uint32_t row)
{
    const struct batch_seq *seq = batch_seqs(b);
    while (row >= seq->row_first + seq->row_n) {
        seq++;
    }
    uint64_t fold = 0;
    for (uint32_t pos = 0; pos <= batch_rows(b)[row].pos; pos++) {
        uint64_t entry = *kv_at(rank, b, seq, pos);
        assert_true(entry != FAKE_RUBBISH);
        fold = fake_fold(fold, entry);
    }
    return fold;
}

/* The token after a row, with the slot's counts as its history. */
static struct batch_token run_sample(struct fake_rank *rank, const struct batch *b,
                                     const struct batch_sample *sample)
{
    struct fake_counts *counts = &rank->counts[sample->slot];
    struct batch_sample full = *sample;
    bool has_penalty = sample->repetition_penalty != 1 || sample->presence_penalty != 0 ||
                       sample->frequency_penalty != 0;
    bool is_fresh = sample->flags & BATCH_SAMPLE_FRESH;
    assert_true(has_penalty || !is_fresh);
    assert_true(is_fresh ? sample->hist_n == sample->pos : sample->hist_n == 0);
    if (is_fresh) {
        memcpy(counts->tokens, batch_hist(b) + sample->hist_first,
               sample->hist_n * sizeof *counts->tokens);
        counts->n = sample->hist_n;
        counts->prompt_n = sample->hist_prompt_n;
    }
    full.hist_n = has_penalty ? counts->n : 0;
    full.hist_prompt_n = has_penalty ? counts->prompt_n : 0;
    struct batch_token out = fake_sample(row_fold(rank, b, sample->row), &full,
                                         batch_biases(b) + sample->bias_first, counts->tokens);
    if (has_penalty) {
        assert_true(counts->n < FAKE_CONTEXT);
        counts->tokens[counts->n++] = out.token;
    }
    rank->last_tokens[sample->slot] = out.token;
    rank->sample_n++;
    return out;
}

static void run_step(struct fake_rank *rank, const struct fake_step *step)
{
    const struct batch *b = step->cmd.batch;
    struct batch_token *out = step->cmd.tokens;
    check_seqs(rank, b);
    check_biases(b);
    run_segs(rank, step);
    run_starts(rank, step);
    run_rows(rank, b);
    for (uint32_t i = 0; i < b->sample_n; i++) {
        const struct batch_sample *sample = &batch_samples(b)[i];
        assert_int_equal(sample->pos, batch_rows(b)[sample->row].pos + 1);
        *out++ = run_sample(rank, b, sample);
    }
    for (uint32_t i = 0; i < b->score_n; i++) {
        const struct batch_score *score = &batch_scores(b)[i];
        assert_true(batch_rows(b)[score->row].flags & BATCH_ROW_PROMPT);
        *out++ = fake_score(row_fold(rank, b, score->row), score->target, score->top_n);
    }
}

static void fake_set_version(struct fake_rank *rank, const struct rank_cmd *cmd)
{
    assert_true(cmd->version < LIMIT_VERSIONS);
    for (uint32_t i = 0; i < rank->unread_n; i++) {
        const struct batch *b = rank->steps[i].cmd.batch;
        for (uint32_t k = 0; k < b->seg_n; k++) {
            assert_int_not_equal(batch_segs(b)[k].version, cmd->version);
        }
        for (uint32_t k = 0; k < b->start_n; k++) {
            assert_int_not_equal(batch_starts(b)[k].version, cmd->version);
        }
    }
    rank->versions[cmd->version] = cmd->block_dev;
}

static void fake_send_step(struct fake_rank *rank, const struct rank_cmd *cmd)
{
    const struct batch *b = cmd->batch;
    assert_true(rank->unread_n <= rank->step_ahead);
    for (uint32_t i = 0; i < rank->unread_n; i++) {
        assert_ptr_not_equal(rank->steps[i].cmd.batch, b);
        assert_ptr_not_equal(rank->steps[i].cmd.tokens, cmd->tokens);
        check_shared(rank, rank->steps[i].cmd.batch, b);
    }
    rank->ahead_n += rank->unread_n > 0;
    struct fake_step *step = &rank->steps[rank->unread_n++];
    *step = (struct fake_step){.cmd = *cmd, .hash = hash_batch(0, b)};
    assert_true(b->seg_n <= ARRAY_N(step->blocks));
    for (uint32_t i = 0; i < b->seg_n; i++) {
        step->blocks[i] = rank->versions[batch_segs(b)[i].version];
    }
    assert_true(b->start_n <= ARRAY_N(step->starts));
    for (uint32_t i = 0; i < b->start_n; i++) {
        step->starts[i] = rank->versions[batch_starts(b)[i].version];
    }
}

static void fake_send(void *arg, const struct rank_cmd *cmd)
{
    struct fake_rank *rank = arg;
    assert_false(rank->is_quit);
    if (cmd->type == RANK_SET_VERSION) {
        fake_set_version(rank, cmd);
    } else if (cmd->type == RANK_STEP) {
        fake_send_step(rank, cmd);
    } else {
        rank->is_quit = true;
    }
}

bool fake_rank_is_due(const struct fake_rank *rank)
{
    const struct fake_step *step = &rank->steps[0];
    return rank->unread_n > 0 && step->has_due && step->due_ns <= rank->now_ns;
}

static bool fake_receive(void *arg, struct rank_result *out)
{
    struct fake_rank *rank = arg;
    if (!fake_rank_is_due(rank)) {
        return false;
    }
    struct fake_step step = rank->steps[0];
    const struct batch *b = step.cmd.batch;
    memmove(&rank->steps[0], &rank->steps[1], --rank->unread_n * sizeof *rank->steps);
    assert_true(hash_batch(0, b) == step.hash);
    rank->hash = hash_batch(rank->hash, b);
    rank->step_n++;
    *out = (struct rank_result){.step = b->step};
    if (rank->fail_step != 0 && b->step >= rank->fail_step) {
        out->code = ERR_DEVICE_FAILURE;
    } else {
        run_step(rank, &step);
    }
    return true;
}

struct link fake_rank_link(struct fake_rank *rank)
{
    return (struct link){fake_send, fake_receive, rank};
}
