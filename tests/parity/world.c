/* Worlds into steps: rows, sequences and segments of a range. */
#include "tests/parity/world.h"

#include "base/base.h"
#include "kernels/random.h"

struct world_seq *world_add(struct world *world, uint32_t start, uint32_t row_n, bool is_prompt)
{
    ASSERT_CMP(world->seq_n, <, WORLD_SEQS);
    struct world_seq *seq = &world->seqs[world->seq_n++];
    *seq = (struct world_seq){
        .row_first = world->row_n, .row_n = row_n, .start = start, .is_prompt = is_prompt};
    world->row_n += row_n;
    return seq;
}

/* Gives two sequences whose first page no row of the world writes the same first page, as a shared
 * prompt would. */
static void world_share_page(struct world *world)
{
    const struct world_seq *owner = NULL;
    for (uint32_t i = 0; i < world->seq_n; i++) {
        const struct world_seq *seq = &world->seqs[i];
        if (seq->start >= LIMIT_KV_PAGE && owner) {
            world->pages[seq->page_first] = world->pages[owner->page_first];
            return;
        }
        owner = seq->start >= LIMIT_KV_PAGE ? seq : owner;
    }
}

void world_deal_pages(struct world *world, uint64_t seed, struct arena *arena)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < world->seq_n; i++) {
        struct world_seq *seq = &world->seqs[i];
        seq->page_first = used;
        seq->page_n = DIV_UP(seq->start + seq->row_n, LIMIT_KV_PAGE);
        used += seq->page_n;
    }
    world->page_n = used + 3;
    world->pages = arena_alloc(arena, world->page_n * sizeof *world->pages);
    for (uint32_t i = 0; i < world->page_n; i++) {
        uint32_t at = (uint32_t)(kern_mix64(seed + i) % (i + 1));
        world->pages[i] = world->pages[at];
        world->pages[at] = i;
    }
    world_share_page(world);
}

const struct world_seq *world_seq_of(const struct world *world, uint32_t row)
{
    const struct world_seq *seq = world->seqs;
    while (row >= seq->row_first + seq->row_n) {
        seq++;
    }
    return seq;
}

/* Sequences and their rows. */
static void world_view_rows(const struct world *world, struct arena *arena, struct world_view *view)
{
    struct kern_row *rows = arena_alloc(arena, view->row_n * sizeof *rows);
    struct kern_seq *seqs = arena_alloc(arena, world->seq_n * sizeof *seqs);
    uint32_t seq_n = 0;
    for (uint32_t row = 0; row < view->row_n; row++) {
        const struct world_seq *from = world_seq_of(world, view->first + row);
        uint32_t slot = (uint32_t)(from - world->seqs);
        if (seq_n == 0 || seqs[seq_n - 1].slot != slot) {
            seqs[seq_n++] = (struct kern_seq){.slot = slot,
                                              .row_first = row,
                                              .page_first = from->page_first,
                                              .page_n = from->page_n};
        }
        seqs[seq_n - 1].row_n++;
        rows[row] = (struct kern_row){.token = view->first + row,
                                      .slot = slot,
                                      .pos = from->start + view->first + row - from->row_first,
                                      .flags = from->is_prompt ? KERN_ROW_PROMPT : 0};
    }
    view->step.rows = rows;
    view->step.row_n = view->row_n;
    view->step.seqs = seqs;
    view->step.seq_n = seq_n;
    view->step.pages = world->pages;
}

/* Segments by (order, version), as the scheduler sorts them. */
static void world_view_segs(const struct world *world, struct arena *arena, struct world_view *view)
{
    uint32_t seg_max = WORLD_ADAPTERS * world->version_n;
    struct kern_seg *segs = arena_alloc(arena, seg_max * sizeof *segs);
    struct kern_seg_row *rows = arena_alloc(arena, WORLD_ADAPTERS * view->row_n * sizeof *rows);
    uint32_t seg_n = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < seg_max; i++) {
        struct kern_seg seg = {
            .version = i % world->version_n, .order = i / world->version_n, .row_first = n};
        seg.flags = world->scales >> seg.version & 1 ? KERN_SEG_SCALES : 0;
        for (uint32_t row = 0; row < view->row_n; row++) {
            const struct world_seq *seq = world_seq_of(world, view->first + row);
            if (seg.order < seq->adapter_n && seq->versions[seg.order] == seg.version) {
                rows[n++] = (struct kern_seg_row){.row = row, .weight = seq->weights[seg.order]};
            }
        }
        seg.row_n = n - seg.row_first;
        if (seg.row_n > 0) {
            segs[seg_n++] = seg;
        }
    }
    view->step.segs = segs;
    view->step.seg_n = seg_n;
    view->step.seg_rows = rows;
}

/* Beginnings of the sequences that have their position 0 in the view. */
static void world_view_starts(const struct world *world, struct arena *arena,
                              struct world_view *view)
{
    struct kern_step *step = &view->step;
    struct kern_start *starts = arena_alloc(arena, world->seq_n * sizeof *starts);
    for (uint32_t i = 0; i < step->seq_n; i++) {
        const struct world_seq *seq = &world->seqs[step->seqs[i].slot];
        if (seq->has_state && step->rows[step->seqs[i].row_first].pos == 0) {
            starts[step->start_n++] = (struct kern_start){.slot = step->seqs[i].slot,
                                                          .version = seq->state_version,
                                                          .weight = seq->state_weight};
        }
    }
    step->starts = starts;
}

void world_view(const struct world *world, uint32_t first, uint32_t row_n, struct arena *arena,
                struct world_view *out)
{
    *out = (struct world_view){.first = first, .row_n = row_n};
    world_view_rows(world, arena, out);
    world_view_segs(world, arena, out);
    world_view_starts(world, arena, out);
    struct kern_step *step = &out->step;
    step->inv_freq = world->inv_freq;
    step->rotary_n = world->rotary_n;
    step->rope_scale = world->rope_scale;
    if (world->samples) {
        struct kern_sample_row *samples = arena_alloc(arena, row_n * sizeof *samples);
        for (uint32_t i = 0; i < row_n; i++) {
            uint32_t row = row_n - 1 - i;
            samples[i] = world->samples[first + row];
            samples[i].row = row;
            samples[i].slot = step->rows[row].slot;
        }
        step->samples = samples;
        step->sample_n = row_n;
        step->biases = world->biases;
        step->hist = world->hist;
    }
    if (world->scores) {
        struct kern_score_row *scores = arena_alloc(arena, row_n * sizeof *scores);
        for (uint32_t i = 0; i < row_n; i++) {
            uint32_t row = row_n - 1 - i;
            scores[i] = world->scores[first + row];
            scores[i].row = row;
        }
        step->scores = scores;
        step->score_n = row_n;
    }
}

void world_view_set_form(struct world_view *view, enum parity_form form)
{
    struct kern_row *rows = (struct kern_row *)(uintptr_t)view->step.rows; /* the view's own */
    for (uint32_t i = 0; i < view->row_n && form != PARITY_AS_GIVEN; i++) {
        rows[i].flags &= ~(uint32_t)KERN_ROW_PROMPT;
        rows[i].flags |= form == PARITY_PROMPT ? KERN_ROW_PROMPT : 0;
    }
}
