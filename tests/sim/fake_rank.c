/* See fake_rank.h. Checks are cmocka assertions, so that a failure names its seed. */
#include "tests/test.h"

#include "tests/sim/fake_rank.h"

#include "base/base.h"
#include "base/err.h"
#include "base/mem.h"
#include "kernels/random.h"
#include "tests/sim/fake_model.h"

void fake_rank_init(struct fake_rank *rank, const struct sched_config *config)
{
    *rank = (struct fake_rank){.config = *config};
    rank->kv = mem_zalloc_n((size_t)config->page_n * LIMIT_KV_PAGE, sizeof *rank->kv);
    rank->last_tokens = mem_zalloc_n(config->slot_n, sizeof *rank->last_tokens);
    rank->versions = mem_zalloc_n(LIMIT_VERSIONS, sizeof *rank->versions);
    rank->row_adapters = mem_zalloc_n(config->row_max, sizeof *rank->row_adapters);
}

void fake_rank_done(struct fake_rank *rank)
{
    mem_free(rank->kv);
    mem_free(rank->last_tokens);
    mem_free(rank->versions);
    mem_free(rank->row_adapters);
}

static void hash_bytes(struct fake_rank *rank, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) {
        rank->hash = (rank->hash ^ bytes[i]) * 0x100000001B3u;
    }
}

static void hash_batch(struct fake_rank *rank, const struct batch *b)
{
    hash_bytes(rank, &b->step, sizeof b->step);
    hash_bytes(rank, batch_rows(b), b->row_n * sizeof(struct batch_row));
    hash_bytes(rank, batch_seqs(b), b->seq_n * sizeof(struct batch_seq));
    hash_bytes(rank, batch_pages(b), b->page_n * sizeof(uint32_t));
    hash_bytes(rank, batch_segs(b), b->seg_n * sizeof(struct batch_seg));
    hash_bytes(rank, batch_seg_rows(b), b->seg_row_n * sizeof(struct batch_seg_row));
    for (uint32_t i = 0; i < b->sample_n; i++) { /* the record has padding */
        const struct batch_sample *s = &batch_samples(b)[i];
        hash_bytes(rank, s, offsetof(struct batch_sample, top_k));
        hash_bytes(rank, &s->seed, sizeof s->seed);
        hash_bytes(rank, &s->bias_n, sizeof s->bias_n);
        hash_bytes(rank, &s->hist_n, sizeof s->hist_n);
    }
    hash_bytes(rank, batch_biases(b), b->bias_n * sizeof(struct batch_bias));
    hash_bytes(rank, batch_hist(b), b->hist_n * sizeof(uint32_t));
    hash_bytes(rank, batch_scores(b), b->score_n * sizeof(struct batch_score));
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

static uint64_t block_content(const struct fake_rank *rank, uint32_t version)
{
    const struct fake_block *block = rank->versions[version];
    assert_non_null(block);
    for (size_t i = 0; i < ARRAY_N(block->filler); i++) {
        assert_true(block->filler[i] == block->content);
    }
    return block->content;
}

/* Segments are walked in batch order, which must be the requests' order for every row. */
static void run_segs(struct fake_rank *rank, const struct batch *b)
{
    memset(rank->row_adapters, 0, b->row_n * sizeof *rank->row_adapters);
    for (uint32_t i = 0; i < b->seg_n; i++) {
        const struct batch_seg *seg = &batch_segs(b)[i];
        uint64_t content = block_content(rank, seg->version);
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
            bool is_last = row->flags & BATCH_ROW_FROM_SLOT;
            uint32_t token = is_last ? rank->last_tokens[row->slot] : row->token;
            *kv_at(rank, b, seq, row->pos) = fake_entry(token, row->pos, rank->row_adapters[k]);
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
        fold = fake_fold(fold, *kv_at(rank, b, seq, pos));
    }
    return fold;
}

static void run_step(struct fake_rank *rank)
{
    const struct batch *b = rank->step.batch;
    struct batch_token *out = rank->step.tokens;
    check_seqs(rank, b);
    check_biases(b);
    run_segs(rank, b);
    run_rows(rank, b);
    for (uint32_t i = 0; i < b->sample_n; i++) {
        const struct batch_sample *sample = &batch_samples(b)[i];
        assert_int_equal(sample->pos, batch_rows(b)[sample->row].pos + 1);
        *out =
            fake_sample(row_fold(rank, b, sample->row), sample,
                        batch_biases(b) + sample->bias_first, batch_hist(b) + sample->hist_first);
        rank->last_tokens[sample->slot] = out->token;
        out++;
    }
    for (uint32_t i = 0; i < b->score_n; i++) {
        const struct batch_score *score = &batch_scores(b)[i];
        assert_true(batch_rows(b)[score->row].flags & BATCH_ROW_PROMPT);
        *out++ = fake_score(row_fold(rank, b, score->row), score->target, score->top_n);
    }
}

static void fake_send(void *arg, const struct rank_cmd *cmd)
{
    struct fake_rank *rank = arg;
    assert_false(rank->is_running || rank->is_quit);
    if (cmd->type == RANK_SET_VERSION) {
        assert_true(cmd->version < LIMIT_VERSIONS);
        rank->versions[cmd->version] = cmd->block_dev;
        return;
    }
    rank->is_quit = cmd->type == RANK_QUIT;
    rank->is_running = cmd->type == RANK_STEP;
    rank->is_new = rank->is_running;
    rank->step = *cmd;
}

static bool fake_receive(void *arg, struct rank_result *out)
{
    struct fake_rank *rank = arg;
    if (!rank->is_running || rank->now_ns < rank->due_ns) {
        return false;
    }
    uint64_t step = rank->step.batch->step;
    hash_batch(rank, rank->step.batch);
    rank->is_running = false;
    rank->step_n++;
    *out = (struct rank_result){.step = step};
    if (step == rank->fail_step) {
        out->code = ERR_DEVICE_FAILURE;
    } else {
        run_step(rank);
    }
    return true;
}

struct link fake_rank_link(struct fake_rank *rank)
{
    return (struct link){fake_send, fake_receive, rank};
}
