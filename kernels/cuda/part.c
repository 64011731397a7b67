/* From the walk's view of a step to parts, and from a part to the records that kernels read: O(rows
 * + segments + samples), and the pages of each sequence compared with what the device holds. */
#include <string.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/cuda_int.h"

#define PART_ALIGN 64
#define PART_NONE  UINT32_MAX

/* What one part may hold of what has no bound by rows; always enough for one row. */
#define PART_CHANGES 4096
#define PART_HIST    65536
#define PART_BIASES  16384

static uint32_t part_change_max(const struct kern_dev *dev)
{
    return MAX(dev->ctx.limits.page_stride, PART_CHANGES);
}

static uint32_t part_hist_max(const struct kern_dev *dev)
{
    return MAX(dev->ctx.limits.page_stride * LIMIT_KV_PAGE, PART_HIST);
}

static uint32_t part_seg_row_max(const struct kern_dev *dev)
{
    return dev->args.row_max * LIMIT_REQUEST_ADAPTERS;
}

void cuda_plan_open(struct kern_dev *dev)
{
    uint32_t n = dev->args.row_max;
    struct cuda_plan *plan = &dev->plan;
    plan->parts = mem_zalloc_n(n + 3, sizeof *plan->parts);
    plan->order = mem_zalloc_n(n, sizeof *plan->order);
    plan->row_part = mem_zalloc_n(n, sizeof *plan->row_part);
    plan->row_index = mem_zalloc_n(n, sizeof *plan->row_index);
    plan->change_n = mem_zalloc_n(n, sizeof *plan->change_n);
    plan->row_seq = mem_zalloc_n(n, sizeof *plan->row_seq);
    plan->row_sample = mem_zalloc_n(n, sizeof *plan->row_sample);
    plan->row_seg_n = mem_zalloc_n(n, sizeof *plan->row_seg_n);
    plan->is_seq_placed = mem_zalloc_n(n, sizeof *plan->is_seq_placed);
    plan->has_prompt = mem_zalloc_n(n, sizeof *plan->has_prompt);
    plan->seg_at = mem_zalloc_n(part_seg_row_max(dev) + 1, sizeof *plan->seg_at);
    plan->seg_cursor = mem_zalloc_n(part_seg_row_max(dev), sizeof *plan->seg_cursor);
}

void cuda_plan_close(struct kern_dev *dev)
{
    struct cuda_plan *plan = &dev->plan;
    mem_free(plan->seg_cursor);
    mem_free(plan->seg_at);
    mem_free(plan->slot_start);
    mem_free(plan->has_prompt);
    mem_free(plan->is_seq_placed);
    mem_free(plan->row_seg_n);
    mem_free(plan->row_sample);
    mem_free(plan->row_seq);
    mem_free(plan->change_n);
    mem_free(plan->row_index);
    mem_free(plan->row_part);
    mem_free(plan->order);
    mem_free(plan->parts);
}

/* Where the sequences of recurrent models begin, by slot. */
static void plan_starts(struct kern_dev *dev)
{
    const struct kern_step *step = &dev->step;
    for (uint32_t s = 0; s < step->seq_n; s++) {
        ASSERT_CMP(step->seqs[s].slot, <, dev->ctx.state.slot_n);
        dev->plan.slot_start[step->seqs[s].slot] = PART_NONE;
    }
    for (uint32_t i = 0; i < step->start_n; i++) {
        ASSERT_CMP(step->starts[i].slot, <, dev->ctx.state.slot_n);
        ASSERT_CMP(step->starts[i].version, <, dev->args.version_max);
        ASSERT(dev->versions[step->starts[i].version]);
        dev->plan.slot_start[step->starts[i].slot] = i;
    }
}

static void plan_index(struct kern_dev *dev)
{
    const struct kern_step *step = &dev->step;
    struct cuda_plan *plan = &dev->plan;
    for (uint32_t r = 0; r < step->row_n; r++) {
        plan->row_seq[r] = PART_NONE;
        plan->row_sample[r] = PART_NONE;
        plan->row_seg_n[r] = 0;
        plan->change_n[r] = 0;
    }
    for (uint32_t s = 0; s < step->seq_n; s++) {
        const struct kern_seq *seq = &step->seqs[s];
        plan->is_seq_placed[s] = false;
        plan->has_prompt[s] = false;
        for (uint32_t r = seq->row_first; r < seq->row_first + seq->row_n; r++) {
            plan->row_seq[r] = s;
            plan->has_prompt[s] |= (step->rows[r].flags & KERN_ROW_PROMPT) != 0;
        }
    }
    for (uint32_t i = 0; i < step->sample_n; i++) {
        ASSERT_CMP(plan->row_sample[step->samples[i].row], ==, PART_NONE);
        plan->row_sample[step->samples[i].row] = i;
    }
    for (uint32_t i = 0; i < step->seg_n; i++) {
        const struct kern_seg *seg = &step->segs[i];
        ASSERT_CMP(seg->version, <, dev->args.version_max);
        ASSERT(dev->versions[seg->version]);
        for (uint32_t r = 0; r < seg->row_n; r++) {
            plan->row_seg_n[step->seg_rows[seg->row_first + r].row]++;
        }
    }
}

/* Entries of a sequence's table that the device does not hold. */
static uint32_t plan_changes(const struct kern_dev *dev, const struct kern_seq *seq)
{
    const uint32_t *held = dev->pages + (size_t)seq->slot * dev->ctx.limits.page_stride;
    const uint32_t *want = dev->step.pages + seq->page_first;
    uint32_t n = 0;
    if (memcmp(held, want, seq->page_n * sizeof *want) == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < seq->page_n; i++) {
        n += held[i] != want[i];
    }
    return n;
}

static void plan_add_sample(const struct kern_dev *dev, uint32_t row, struct cuda_part *part)
{
    if (dev->plan.row_sample[row] != PART_NONE) {
        const struct kern_sample_row *sample = &dev->step.samples[dev->plan.row_sample[row]];
        part->sample_n++;
        part->hist_n += sample->hist_n;
        part->bias_n += sample->bias_n;
    }
}

/* A row with all it brings. */
static struct cuda_part plan_row(struct kern_dev *dev, uint32_t row)
{
    const struct kern_step *step = &dev->step;
    struct cuda_plan *plan = &dev->plan;
    struct cuda_part one = {.row_n = 1, .seg_row_n = plan->row_seg_n[row]};
    uint32_t s = plan->row_seq[row];
    one.split_n = step->rows[row].pos / CUDA_SPLIT + 1;
    one.has_lowrank = one.seg_row_n > 0;
    if (s != PART_NONE && !plan->is_seq_placed[s] && dev->pages) {
        plan->is_seq_placed[s] = true;
        plan->change_n[row] = plan_changes(dev, &step->seqs[s]);
        one.change_n = plan->change_n[row];
    }
    plan_add_sample(dev, row, &one);
    return one;
}

/* What must fit for a prompt's row to be placed: itself, and the rest of its chunk where a
 * recurrent chunk begins with it. A chunk that were cut would round another way. */
static struct cuda_part plan_need(const struct kern_dev *dev, uint32_t row, struct cuda_part need)
{
    uint32_t s = dev->plan.row_seq[row];
    if (!dev->ctx.state.data || s == PART_NONE) {
        return need;
    }
    const struct kern_seq *seq = &dev->step.seqs[s];
    const struct kern_row *rows = dev->step.rows;
    if (row != seq->row_first && rows[row].pos % LIMIT_PROMPT_CUT != 0) {
        return need;
    }
    for (uint32_t r = row + 1; r < seq->row_first + seq->row_n; r++) {
        if (rows[r].pos % LIMIT_PROMPT_CUT == 0) {
            break;
        }
        need.row_n++;
        plan_add_sample(dev, r, &need);
    }
    return need;
}

static bool plan_fits(const struct kern_dev *dev, const struct cuda_part *part,
                      const struct cuda_part *one, bool is_prompt)
{
    bool is_full = is_prompt ? part->row_n + one->row_n > dev->args.row_max
                             : part->row_n + one->row_n > CUDA_PART_ROWS ||
                                   part->split_n + one->split_n > cuda_split_max(&dev->ctx.limits);
    return !is_full && part->sample_n + one->sample_n <= CUDA_PART_ROWS &&
           part->change_n + one->change_n <= part_change_max(dev) &&
           part->hist_n + one->hist_n <= part_hist_max(dev) &&
           part->bias_n + one->bias_n <= PART_BIASES;
}

/* Appends the rows for which `form` says so: 0 generated ones of sequences without prompt rows, 1
 * prompt rows, 2 generated ones whose sequence has prompt rows in this step and needs their keys.
 */
static void plan_form(struct kern_dev *dev, int form, uint32_t *row_n)
{
    struct cuda_plan *plan = &dev->plan;
    struct cuda_part *part = NULL;
    for (uint32_t row = 0; row < dev->step.row_n; row++) {
        uint32_t s = plan->row_seq[row];
        bool is_prompt = (dev->step.rows[row].flags & KERN_ROW_PROMPT) != 0;
        bool is_late = s != PART_NONE && plan->has_prompt[s];
        if ((is_prompt ? 1 : is_late ? 2 : 0) != form) {
            continue;
        }
        struct cuda_part one = plan_row(dev, row);
        struct cuda_part need = is_prompt ? plan_need(dev, row, one) : one;
        if (!part || !plan_fits(dev, part, &need, is_prompt)) {
            part = &plan->parts[plan->part_n++];
            *part = (struct cuda_part){.first = *row_n, .is_prompt = is_prompt};
        }
        plan->row_part[row] = plan->part_n - 1;
        plan->row_index[row] = part->row_n;
        plan->order[(*row_n)++] = row;
        part->row_n++;
        part->has_lowrank |= one.has_lowrank;
        part->sample_n += one.sample_n;
        part->hist_n += one.hist_n;
        part->bias_n += one.bias_n;
        part->change_n += one.change_n;
        part->seg_row_n += one.seg_row_n;
        part->split_n += one.split_n;
    }
}

void cuda_plan_step(struct kern_dev *dev)
{
    struct cuda_plan *plan = &dev->plan;
    uint32_t row_n = 0;
    plan->part_n = 0;
    plan->next = 0;
    plan_index(dev);
    if (dev->ctx.state.data) {
        plan_starts(dev);
    }
    for (int form = 0; form < 3; form++) {
        plan_form(dev, form, &row_n);
    }
    ASSERT_CMP(row_n, ==, dev->step.row_n);
    for (uint32_t i = 0; i < dev->step.score_n; i++) {
        plan->parts[plan->row_part[dev->step.scores[i].row]].score_n++;
    }
}

/* Offsets of the arrays behind the header. Runs are last: their number is known when they were
 * found, and what was laid out for more is not copied. */
struct part_layout {
    size_t rows, tiles, tile_first, seg_rows, changes, samples, sample_out, biases, hist, scores,
        score_out, runs;
    size_t bytes;
};

static size_t layout_take(struct part_layout *layout, size_t n, size_t each)
{
    size_t at = layout->bytes;
    layout->bytes += ROUND_UP(n * each, PART_ALIGN);
    return at;
}

/* A tile has a row at least, so there are no more tiles than segment rows. */
static struct part_layout layout_of(const struct cuda_part *part)
{
    struct part_layout l = {.bytes = ROUND_UP(sizeof(struct cuda_step), PART_ALIGN)};
    uint32_t pass_n = DIV_UP(part->row_n, CUDA_PASS_ROWS);
    l.rows = layout_take(&l, part->row_n, sizeof(struct cuda_row));
    l.tiles = layout_take(&l, part->seg_row_n, sizeof(struct cuda_tile));
    l.tile_first = layout_take(&l, pass_n + 1, sizeof(uint32_t));
    l.seg_rows = layout_take(&l, part->seg_row_n, sizeof(struct kern_seg_row));
    l.changes = layout_take(&l, part->change_n, sizeof(struct cuda_page_change));
    l.samples = layout_take(&l, part->sample_n, sizeof(struct kern_sample_row));
    l.sample_out = layout_take(&l, part->sample_n, sizeof(uint32_t));
    l.biases = layout_take(&l, part->bias_n, sizeof(struct kern_bias));
    l.hist = layout_take(&l, part->hist_n, sizeof(uint32_t));
    l.scores = layout_take(&l, part->score_n, sizeof(struct kern_score_row));
    l.score_out = layout_take(&l, part->score_n, sizeof(uint32_t));
    l.runs = layout_take(&l, part->row_n, sizeof(struct cuda_run));
    return l;
}

size_t cuda_part_bytes_max(const struct kern_dev *dev)
{
    struct cuda_part most = {
        .row_n = dev->args.row_max,
        .is_prompt = true,
        .sample_n = CUDA_PART_ROWS,
        .score_n = dev->args.row_max,
        .hist_n = part_hist_max(dev),
        .bias_n = PART_BIASES,
        .change_n = part_change_max(dev),
        .seg_row_n = part_seg_row_max(dev),
    };
    return layout_of(&most).bytes;
}

static void fill_rows(struct kern_dev *dev, const struct cuda_part *part, char *block,
                      const struct part_layout *l)
{
    struct cuda_row *rows = (struct cuda_row *)(void *)(block + l->rows);
    struct cuda_page_change *changes = (struct cuda_page_change *)(void *)(block + l->changes);
    uint32_t stride = dev->ctx.limits.page_stride;
    for (uint32_t i = 0; i < part->row_n; i++) {
        uint32_t row = dev->plan.order[part->first + i];
        const struct kern_row *r = &dev->step.rows[row];
        rows[i] = (struct cuda_row){r->token, r->slot, r->pos, r->flags, 0};
        if (dev->plan.change_n[row] == 0) {
            continue;
        }
        const struct kern_seq *seq = &dev->step.seqs[dev->plan.row_seq[row]];
        uint32_t *held = dev->pages + (size_t)seq->slot * stride;
        ASSERT_CMP(seq->page_n, <=, stride);
        for (uint32_t p = 0; p < seq->page_n; p++) {
            uint32_t page = dev->step.pages[seq->page_first + p];
            if (held[p] != page) {
                held[p] = page;
                *changes++ = (struct cuda_page_change){seq->slot, p, page};
            }
        }
    }
}

/* What the sequence of a run at position 0 begins with. */
static void fill_start(const struct kern_dev *dev, struct cuda_run *run)
{
    uint32_t i = dev->plan.slot_start[run->slot];
    if (i != PART_NONE) {
        run->start = dev->versions[dev->step.starts[i].version];
        run->weight = dev->step.starts[i].weight;
    }
}

/* Runs of a part's rows, and their tiles where they are of prompts. */
static void fill_runs(const struct kern_dev *dev, struct cuda_part *part, char *block,
                      const struct part_layout *l)
{
    struct cuda_row *rows = (struct cuda_row *)(void *)(block + l->rows);
    struct cuda_run *runs = (struct cuda_run *)(void *)(block + l->runs);
    uint32_t group = cuda_group(&dev->ctx.limits);
    part->tile_n = 0;
    part->run_n = 0;
    for (uint32_t i = 0; i < part->row_n;) {
        struct cuda_run run = {
            .row = i, .slot = rows[i].slot, .pos = rows[i].pos, .tile_first = part->tile_n};
        for (; i < part->row_n && rows[i].slot == run.slot && rows[i].pos == run.pos + run.row_n;
             i++) {
            rows[i].run = part->run_n;
            run.row_n++;
        }
        part->tile_n += part->is_prompt ? DIV_UP(run.row_n * group, CUDA_TILE_PAIRS) : 0;
        if (run.pos == 0 && dev->ctx.state.data) {
            fill_start(dev, &run);
        }
        runs[part->run_n++] = run;
    }
}

/* A segment's rows of this part, ascending: an insertion sort, which costs nothing where they
 * already are, as the engine writes them. Returns their number. */
static uint32_t fill_seg_rows(const struct kern_dev *dev, uint32_t index,
                              const struct kern_seg *seg, struct kern_seg_row *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < seg->row_n; i++) {
        const struct kern_seg_row *from = &dev->step.seg_rows[seg->row_first + i];
        if (dev->plan.row_part[from->row] != index) {
            continue;
        }
        struct kern_seg_row row = {dev->plan.row_index[from->row], from->weight};
        uint32_t at = n++;
        for (; at > 0 && out[at - 1].row > row.row; at--) {
            out[at] = out[at - 1];
        }
        out[at] = row;
    }
    return n;
}

/* Segment rows segment by segment, then tiles pass by pass, those of a pass in segment order. */
static void fill_tiles(const struct kern_dev *dev, uint32_t index, char *block,
                       const struct part_layout *l)
{
    const struct cuda_part *part = &dev->plan.parts[index];
    struct kern_seg_row *seg_rows = (struct kern_seg_row *)(void *)(block + l->seg_rows);
    struct cuda_tile *tiles = (struct cuda_tile *)(void *)(block + l->tiles);
    uint32_t *tile_first = (uint32_t *)(void *)(block + l->tile_first);
    uint32_t pass_n = DIV_UP(part->row_n, CUDA_PASS_ROWS);
    uint32_t *seg_at = dev->plan.seg_at;
    uint32_t *cursor = dev->plan.seg_cursor;
    uint32_t n = 0;
    uint32_t tile_n = 0;
    ASSERT_CMP(dev->step.seg_n, <=, part_seg_row_max(dev));
    for (uint32_t i = 0; i < dev->step.seg_n; i++) {
        seg_at[i] = n;
        n += fill_seg_rows(dev, index, &dev->step.segs[i], seg_rows + n);
    }
    seg_at[dev->step.seg_n] = n;
    memcpy(cursor, seg_at, dev->step.seg_n * sizeof *cursor);
    for (uint32_t pass = 0; pass < pass_n; pass++) {
        tile_first[pass] = tile_n;
        for (uint32_t i = 0; i < dev->step.seg_n && n > 0; i++) {
            const char *version = dev->versions[dev->step.segs[i].version];
            struct cuda_tile tile = {
                .sites = (const struct effect_lowrank *)(const void *)(version + EFFECT_LOWRANK_AT),
                .block = version,
                .seg_row = cursor[i]};
            for (; cursor[i] < seg_at[i + 1] && seg_rows[cursor[i]].row / CUDA_PASS_ROWS == pass;
                 cursor[i]++) {
                tile.mask |= 1u << seg_rows[cursor[i]].row % CUDA_PASS_ROWS;
            }
            if (tile.mask) {
                tiles[tile_n++] = tile;
            }
        }
    }
    tile_first[pass_n] = tile_n;
}

static void fill_samples(const struct kern_dev *dev, uint32_t index, char *block,
                         const struct part_layout *l)
{
    const struct kern_step *step = &dev->step;
    struct kern_sample_row *samples = (struct kern_sample_row *)(void *)(block + l->samples);
    uint32_t *out = (uint32_t *)(void *)(block + l->sample_out);
    struct kern_bias *biases = (struct kern_bias *)(void *)(block + l->biases);
    uint32_t *hist = (uint32_t *)(void *)(block + l->hist);
    uint32_t n = 0;
    uint32_t bias_n = 0;
    uint32_t hist_n = 0;
    for (uint32_t i = 0; i < step->sample_n; i++) {
        const struct kern_sample_row *from = &step->samples[i];
        if (dev->plan.row_part[from->row] != index) {
            continue;
        }
        samples[n] = *from;
        samples[n].row = dev->plan.row_index[from->row];
        samples[n].bias_first = bias_n;
        samples[n].hist_first = hist_n;
        out[n++] = i;
        if (from->bias_n > 0) {
            memcpy(biases + bias_n, step->biases + from->bias_first, from->bias_n * sizeof *biases);
            bias_n += from->bias_n;
        }
        if (from->hist_n > 0) {
            memcpy(hist + hist_n, step->hist + from->hist_first, from->hist_n * sizeof *hist);
            hist_n += from->hist_n;
        }
    }
}

static void fill_scores(const struct kern_dev *dev, uint32_t index, char *block,
                        const struct part_layout *l)
{
    struct kern_score_row *scores = (struct kern_score_row *)(void *)(block + l->scores);
    uint32_t *out = (uint32_t *)(void *)(block + l->score_out);
    uint32_t n = 0;
    for (uint32_t i = 0; i < dev->step.score_n; i++) {
        struct kern_score_row score = dev->step.scores[i];
        if (dev->plan.row_part[score.row] == index) {
            score.row = dev->plan.row_index[score.row];
            scores[n] = score;
            out[n++] = i;
        }
    }
}

size_t cuda_part_fill(struct kern_dev *dev, uint32_t i, char *block, const char *at)
{
    struct cuda_part *part = &dev->plan.parts[i];
    struct part_layout l = layout_of(part);
    ASSERT_CMP(l.bytes, <=, dev->part_bytes);
    struct cuda_step header = {
        .rows = (const struct cuda_row *)(const void *)(at + l.rows),
        .runs = (const struct cuda_run *)(const void *)(at + l.runs),
        .tiles = (const struct cuda_tile *)(const void *)(at + l.tiles),
        .tile_first = (const uint32_t *)(const void *)(at + l.tile_first),
        .seg_rows = (const struct kern_seg_row *)(const void *)(at + l.seg_rows),
        .changes = (const struct cuda_page_change *)(const void *)(at + l.changes),
        .samples = (const struct kern_sample_row *)(const void *)(at + l.samples),
        .sample_out = (const uint32_t *)(const void *)(at + l.sample_out),
        .biases = (const struct kern_bias *)(const void *)(at + l.biases),
        .hist = (const uint32_t *)(const void *)(at + l.hist),
        .scores = (const struct kern_score_row *)(const void *)(at + l.scores),
        .score_out = (const uint32_t *)(const void *)(at + l.score_out),
        .row_n = part->row_n,
        .pass_n = DIV_UP(part->row_n, CUDA_PASS_ROWS),
        .change_n = part->change_n,
        .sample_n = part->sample_n,
        .score_n = part->score_n,
    };
    fill_rows(dev, part, block, &l);
    fill_runs(dev, part, block, &l);
    header.run_n = part->run_n;
    memcpy(block, &header, sizeof header);
    fill_tiles(dev, i, block, &l);
    fill_samples(dev, i, block, &l);
    fill_scores(dev, i, block, &l);
    return l.runs + ROUND_UP(header.run_n * sizeof(struct cuda_run), PART_ALIGN);
}
