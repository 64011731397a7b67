/* The scheduler alone: pages, order, cuts, preemption and recompute, with steps read at once and
 * with steps read late; then seeded chaos, in which every sequence must be fed each position
 * exactly once between two losses of its pages. */
#include "tests/test.h"

#include "base/base.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/mem.h"
#include "kernels/random.h"
#include "sched/batch.h"
#include "sched/pages.h"
#include "sched/sched.h"

#define PLANS 3

struct bench {
    struct sched sched;
    void *memory;
    struct sched_plan plans[PLANS]; /* in turn: the newest one is `plan` */
    struct sched_plan plan;         /* a view of it */
    uint32_t plan_n;
    uint32_t read_n;
    uint64_t arrival;
};

static void bench_init(struct bench *b, uint32_t slot_n, uint32_t queue_n, uint32_t page_n,
                       uint32_t row_max)
{
    struct sched_config config = {
        .slot_n = slot_n,
        .queue_n = queue_n,
        .page_n = page_n,
        .row_max = row_max,
        .seq_page_max = 64,
    };
    *b = (struct bench){0};
    b->memory = mem_alloc(sched_bytes(&config));
    sched_init(&b->sched, &config, b->memory);
    for (uint32_t i = 0; i < PLANS; i++) {
        b->plans[i].items = mem_zalloc_n(slot_n, sizeof *b->plan.items);
        b->plans[i].started = mem_zalloc_n(slot_n, sizeof *b->plan.started);
        b->plans[i].preempted = mem_zalloc_n(slot_n, sizeof *b->plan.preempted);
    }
}

static void bench_done(struct bench *b)
{
    for (uint32_t i = 0; i < PLANS; i++) {
        mem_free(b->plans[i].items);
        mem_free(b->plans[i].started);
        mem_free(b->plans[i].preempted);
    }
    mem_free(b->memory);
}

static uint32_t bench_add(struct bench *b, uint32_t prompt_n, uint32_t max_tokens)
{
    const uint64_t cache_ns[2] = {0};
    struct sched_want want = {prompt_n, max_tokens, ++b->arrival};
    uint32_t id = SCHED_NONE;
    assert_int_equal(sched_add(&b->sched, &want, &id), 0);
    sched_ready(&b->sched, id, cache_ns);
    return id;
}

static void bench_step(struct bench *b)
{
    struct sched_plan *plan = &b->plans[b->plan_n % PLANS];
    assert_true(b->plan_n - b->read_n < PLANS);
    sched_step(&b->sched, plan);
    b->plan = *plan;
    b->plan_n += plan->row_n > 0;
    sched_check(&b->sched);
}

/* Reads the oldest unread step, and removes what is over and in no other. */
static void bench_answer(struct bench *b)
{
    const struct sched_plan *plan = &b->plans[b->read_n++ % PLANS];
    assert_true(b->read_n <= b->plan_n);
    sched_read(&b->sched, plan);
    for (uint32_t i = 0; i < plan->item_n; i++) {
        const struct sched_seq *seq = &b->sched.seqs[plan->items[i].id];
        if (sched_is_over(seq) && seq->unread_n == 0) {
            sched_remove(&b->sched, plan->items[i].id);
        }
    }
    sched_check(&b->sched);
}

static void assert_item(const struct sched_item *item, uint32_t id, uint32_t pos, uint32_t row_n)
{
    assert_int_equal(item->id, id);
    assert_int_equal(item->pos, pos);
    assert_int_equal(item->row_n, row_n);
}

static void batch_arrays_fit(void **state)
{
    (void)state;
    struct batch_limits limits = {3, 5, 7, 11, 13, 17, 19, 23, 29};
    size_t bytes = batch_bytes(&limits);
    struct batch *batch = mem_zalloc(bytes);
    batch_init(batch, &limits);
    assert_int_equal(batch->bytes, bytes);
    uint32_t at[] = {batch->rows_at,     batch->seqs_at,    batch->pages_at,  batch->segs_at,
                     batch->seg_rows_at, batch->samples_at, batch->biases_at, batch->hist_at,
                     batch->scores_at,   (uint32_t)bytes};
    size_t n[] = {3 * sizeof(struct batch_row),
                  5 * sizeof(struct batch_seq),
                  7 * sizeof(uint32_t),
                  11 * sizeof(struct batch_seg),
                  13 * sizeof(struct batch_seg_row),
                  17 * sizeof(struct batch_sample),
                  19 * sizeof(struct batch_bias),
                  23 * sizeof(uint32_t),
                  29 * sizeof(struct batch_score)};
    assert_true(at[0] >= sizeof *batch);
    for (size_t i = 0; i < ARRAY_N(n); i++) {
        assert_int_equal(at[i] % 64, 0);
        assert_true(at[i] + n[i] <= at[i + 1]);
    }
    assert_ptr_equal(batch_scores(batch), (char *)batch + batch->scores_at);
    batch->row_n = 3;
    batch->score_n = 4;
    batch_clear(batch);
    assert_int_equal(batch->row_n + batch->score_n, 0);
    assert_int_equal(batch->row_max, 3);
    mem_free(batch);
}

static void pages_count_holders(void **state)
{
    (void)state;
    void *memory = mem_alloc(pages_bytes(2));
    struct pages pages;
    uint32_t a;
    uint32_t b;
    uint32_t c = 77;
    pages_init(&pages, 2, memory);
    assert_true(pages_take(&pages, &a));
    assert_true(pages_take(&pages, &b));
    assert_int_not_equal(a, b);
    assert_false(pages_take(&pages, &c));
    assert_int_equal(c, 77);
    pages_mark(&pages, a, PAGE_PROMPT);
    pages_share(&pages, a);
    pages_drop(&pages, a);
    assert_false(pages_next_freed(&pages, &c));
    assert_false(pages_take(&pages, &c));
    assert_int_equal(pages.forms[a], PAGE_PROMPT);
    pages_mark(&pages, a, PAGE_GENERATED);
    assert_int_equal(pages.forms[a], PAGE_PROMPT | PAGE_GENERATED);
    assert_int_equal(pages.forms[b], 0);
    pages_drop(&pages, a);
    assert_true(pages_take(&pages, &c));
    assert_int_equal(c, a);
    assert_int_equal(pages.forms[c], 0); /* forgotten with its rows */
    pages_drop(&pages, c);
    assert_true(pages_next_freed(&pages, &c)); /* once, though it was freed twice */
    assert_int_equal(c, a);
    assert_false(pages_next_freed(&pages, &c));
    pages_drop(&pages, b);
    assert_true(pages_next_freed(&pages, &c));
    assert_int_equal(c, b);
    mem_free(memory);
}

static void prompts_are_cut_at_multiples(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4, 4, 64, 100);
    uint32_t a = bench_add(&b, 150, 3);
    uint32_t c = bench_add(&b, 20, 3);
    bench_step(&b); /* 64 of a's 150 fit 100 rows in whole cuts; c fits what is left */
    assert_int_equal(b.plan.item_n, 2);
    assert_int_equal(b.plan.started_n, 2);
    assert_item(&b.plan.items[0], a, 0, 64);
    assert_item(&b.plan.items[1], c, 0, 20);
    assert_true(b.plan.items[0].is_prompt && !b.plan.items[0].is_sample);
    assert_true(b.plan.items[1].is_sample);
    bench_answer(&b);
    bench_step(&b); /* c generates first, then a's 86 rows: they end with the prompt */
    assert_item(&b.plan.items[0], c, 20, 1);
    assert_false(b.plan.items[0].is_prompt);
    assert_item(&b.plan.items[1], a, 64, 86);
    assert_true(b.plan.items[1].is_sample);
    bench_answer(&b);
    bench_step(&b);
    assert_item(&b.plan.items[0], a, 150, 1);
    assert_item(&b.plan.items[1], c, 21, 1);
    bench_done(&b);
}

static void limits_refuse(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 2, 3, 128);
    struct sched_want big = {150, 43, 100}; /* 193 positions, 4 pages of 3 */
    struct sched_want fits = {150, 42, 101};
    uint32_t id = 7;
    assert_int_equal(sched_add(&b.sched, &big, &id), ERR_KV_MEMORY_EXHAUSTED);
    assert_int_equal(id, 7);
    assert_int_equal(sched_add(&b.sched, &fits, &id), 0); /* held ones count */
    bench_add(&b, 1, 1);
    assert_int_equal(sched_add(&b.sched, &fits, &id), ERR_QUEUE_FULL);
    bench_step(&b);
    assert_int_equal(b.plan.started_n, 1); /* the held one is not ready */
    bench_add(&b, 1, 1);
    bench_done(&b);
}

/* Two sequences share three pages: the younger one gives way, and is recomputed. */
static void youngest_gives_way(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 4, 130);
    uint32_t a = bench_add(&b, 60, 100);
    uint32_t c = bench_add(&b, 60, 70);
    uint32_t step_n = 0;
    do {
        bench_step(&b);
        bench_answer(&b);
        step_n++;
    } while (b.plan.preempted_n == 0);
    /* 4 pages hold 128 positions of each; position 128 is the 69th generated token's row */
    assert_int_equal(step_n, 70);
    assert_int_equal(b.plan.preempted[0], c);
    assert_int_equal(b.plan.item_n, 1);
    assert_int_equal(b.sched.seqs[c].generated_n, 69);
    assert_int_equal(b.sched.seqs[c].page_n, 0);
    assert_int_not_equal(b.sched.seqs[c].slot, SCHED_NONE);
    while (b.sched.seqs[a].state == SCHED_RUNNING) {
        bench_step(&b);
        bench_answer(&b);
    }
    bench_step(&b); /* the prompt first, alone */
    assert_int_equal(b.plan.started_n, 0);
    assert_item(&b.plan.items[0], c, 0, 60);
    assert_true(b.plan.items[0].is_prompt && !b.plan.items[0].is_sample);
    bench_answer(&b);
    bench_step(&b); /* then all generated rows; the last one samples */
    assert_item(&b.plan.items[0], c, 60, 69);
    assert_true(!b.plan.items[0].is_prompt && b.plan.items[0].is_sample);
    bench_answer(&b);
    assert_int_equal(sched_live_n(&b.sched), 0);
    assert_int_equal(b.sched.pages.free_n, 4);
    bench_done(&b);
}

static void parked_ones_give_way_first(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 3, 3, 3, 128);
    uint32_t a = bench_add(&b, 100, 10);
    bench_step(&b);
    bench_answer(&b);
    sched_park(&b.sched, a, true);
    bench_step(&b);
    assert_int_equal(b.plan.row_n, 0);
    uint32_t c = bench_add(&b, 100, 10);
    bench_step(&b);
    assert_int_equal(b.plan.preempted_n, 1);
    assert_int_equal(b.plan.preempted[0], a);
    assert_item(&b.plan.items[0], c, 0, 100);
    bench_answer(&b);
    sched_park(&b.sched, a, false);
    bench_step(&b); /* older, but it does not take pages from one that runs */
    assert_int_equal(b.plan.item_n, 1);
    assert_item(&b.plan.items[0], c, 100, 1);
    bench_answer(&b);
    sched_remove(&b.sched, c);
    bench_step(&b);
    assert_item(&b.plan.items[0], a, 0, 100);
    bench_done(&b);
}

/* The oldest request comes late (its adapter was being read) and finds no slot. */
static void slot_holders_go_on(void **state)
{
    (void)state;
    const uint64_t cache_ns[2] = {0};
    struct bench b;
    bench_init(&b, 2, 3, 3, 128);
    struct sched_want want = {60, 10, ++b.arrival};
    uint32_t late;
    assert_int_equal(sched_add(&b.sched, &want, &late), 0);
    uint32_t a = bench_add(&b, 60, 10);
    uint32_t c = bench_add(&b, 60, 120);
    bench_step(&b);
    bench_answer(&b);
    sched_park(&b.sched, a, true);
    do { /* c grows until a has lost its page */
        bench_step(&b);
        bench_answer(&b);
    } while (b.plan.preempted_n == 0);
    assert_int_equal(b.plan.preempted[0], a);
    sched_park(&b.sched, a, false);
    sched_park(&b.sched, c, true);
    sched_ready(&b.sched, late, cache_ns);
    bench_step(&b);
    assert_int_equal(b.plan.item_n, 1);
    assert_item(&b.plan.items[0], a, 0, 60);
    bench_answer(&b);
    sched_remove(&b.sched, a);
    bench_step(&b);
    assert_item(&b.plan.items[0], late, 0, 60);
    bench_done(&b);
}

/* A step ahead: the next row is planned before the token it is fed with was read, up to the length
 * and no further. */
static void length_is_foreseen(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 4, 130);
    uint32_t a = bench_add(&b, 10, 3);
    bench_step(&b);
    assert_item(&b.plan.items[0], a, 0, 10);
    bench_step(&b);
    assert_item(&b.plan.items[0], a, 10, 1);
    assert_true(b.plan.items[0].is_sample);
    bench_step(&b);
    assert_item(&b.plan.items[0], a, 11, 1);
    bench_answer(&b);
    bench_answer(&b);
    assert_int_equal(b.sched.seqs[a].generated_n, 3);
    bench_step(&b); /* its last token is on its way */
    assert_int_equal(b.plan.row_n, 0);
    assert_int_equal(b.sched.pages.free_n, 3);
    bench_answer(&b);
    assert_int_equal(sched_live_n(&b.sched), 0);
    assert_int_equal(b.sched.pages.free_n, 4);
    bench_done(&b);
}

/* The end of a comes as a surprise: the step after it has a row of a, so what a holds stays until
 * that was read, and whoever waits for a slot waits as long. */
static void stopped_ones_keep_what_is_named(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, 2, 4, 130);
    uint32_t a = bench_add(&b, 10, 30);
    uint32_t c = bench_add(&b, 10, 30);
    bench_step(&b);
    bench_step(&b);
    sched_stop(&b.sched, a);
    bench_answer(&b);
    assert_int_equal(b.sched.seqs[a].unread_n, 1);
    bench_step(&b);
    assert_int_equal(b.plan.row_n, 0);
    assert_int_equal(b.sched.free_slot_n, 0);
    bench_answer(&b);
    assert_int_equal(b.sched.free_slot_n, 1);
    bench_step(&b);
    assert_item(&b.plan.items[0], c, 0, 10);
    bench_done(&b);
}

/* youngest_gives_way with a step ahead: c is named by an unread step when a finds no page. */
static void named_victims_are_waited_for(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, 2, 4, 130);
    uint32_t a = bench_add(&b, 60, 100);
    uint32_t c = bench_add(&b, 60, 70);
    bench_step(&b);
    while (b.sched.seqs[a].fed_n < 128) {
        bench_step(&b);
        assert_int_equal(b.plan.item_n, 2);
        bench_answer(&b);
    }
    assert_int_equal(b.sched.seqs[c].unread_n, 1);
    bench_step(&b); /* neither a nor c, and c has its pages */
    assert_int_equal(b.plan.row_n + b.plan.preempted_n, 0);
    assert_int_equal(b.sched.seqs[c].page_n, 2);
    bench_step(&b); /* however often somebody asks */
    assert_int_equal(b.plan.row_n + b.plan.preempted_n, 0);
    bench_answer(&b);
    bench_step(&b);
    assert_int_equal(b.plan.preempted_n, 1);
    assert_int_equal(b.plan.preempted[0], c);
    assert_int_equal(b.plan.item_n, 1);
    assert_item(&b.plan.items[0], a, 128, 1);
    bench_done(&b);
}

/* a finds no page, but c has all its tokens and is about to give its pages back: the younger d
 * need not give way, and goes on. */
static void over_ones_are_waited_for(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 3, 3, 6, 260);
    uint32_t a = bench_add(&b, 62, 60);
    uint32_t c = bench_add(&b, 63, 3);
    uint32_t d = bench_add(&b, 127, 30);
    bench_step(&b);
    for (uint32_t i = 0; i < 2; i++) {
        bench_step(&b);
        assert_int_equal(b.plan.item_n, 3);
        bench_answer(&b);
    }
    assert_int_equal(b.sched.pages.free_n, 0);
    assert_true(sched_is_over(&b.sched.seqs[c]));
    bench_step(&b);
    assert_int_equal(b.plan.item_n, 1);
    assert_item(&b.plan.items[0], d, 129, 1);
    assert_int_equal(b.plan.preempted_n, 0);
    bench_answer(&b);
    assert_int_equal(b.sched.pages.free_n, 2);
    bench_step(&b);
    assert_int_equal(b.plan.preempted_n, 0);
    assert_item(&b.plan.items[0], a, 64, 1);
    assert_item(&b.plan.items[1], d, 130, 1);
    bench_done(&b);
}

struct chaos {
    struct bench b;
    uint64_t state;
    uint64_t hash;
    uint32_t step_ahead;
    uint32_t fed[64]; /* per id: positions the plans fed since it last lost its pages */
    uint32_t preempt_n;
    uint32_t end_n;
    uint32_t add_n;
};

static uint32_t chaos_pick(struct chaos *c, uint32_t n)
{
    c->state += 0x9E3779B97F4A7C15u;
    return (uint32_t)(kern_mix64(c->state) % n);
}

/* Ends a sequence, at once or as soon as no unread step names it. */
static void chaos_end(struct chaos *c, uint32_t id)
{
    sched_stop(&c->b.sched, id);
    if (c->b.sched.seqs[id].unread_n == 0) {
        sched_remove(&c->b.sched, id);
        c->end_n++;
    }
}

/* The oldest unread step is read. */
static void chaos_read(struct chaos *c)
{
    const struct sched_plan *plan = &c->b.plans[c->b.read_n++ % PLANS];
    sched_read(&c->b.sched, plan);
    for (uint32_t i = 0; i < plan->item_n; i++) {
        uint32_t id = plan->items[i].id;
        if (sched_is_over(&c->b.sched.seqs[id])) {
            chaos_end(c, id);
        }
    }
}

/* What unread steps feed is where they feed it to. */
static void chaos_check_unread(const struct chaos *c)
{
    for (uint32_t k = c->b.read_n; k < c->b.plan_n; k++) {
        const struct sched_plan *plan = &c->b.plans[k % PLANS];
        for (uint32_t i = 0; i < plan->item_n; i++) {
            const struct sched_item *item = &plan->items[i];
            const struct sched_seq *seq = &c->b.sched.seqs[item->id];
            assert_int_equal(seq->state, SCHED_RUNNING);
            assert_int_equal(seq->slot, item->slot);
            assert_true(seq->fed_n >= item->pos + item->row_n);
        }
    }
}

/* Checks each item against the law of order and feeds the model of what must be in the pages. */
static void chaos_check_plan(struct chaos *c)
{
    const struct sched_plan *plan = &c->b.plan;
    for (uint32_t i = 0; i < plan->preempted_n; i++) {
        c->fed[plan->preempted[i]] = 0;
        c->preempt_n++;
    }
    for (uint32_t i = 0; i < plan->started_n; i++) {
        c->fed[plan->started[i]] = 0;
    }
    for (uint32_t i = 0; i < plan->item_n; i++) {
        const struct sched_item *item = &plan->items[i];
        const struct sched_seq *seq = &c->b.sched.seqs[item->id];
        uint32_t end = item->pos + item->row_n;
        assert_true(!seq->is_parked && !seq->is_stopped);
        assert_true(seq->generated_n <= seq->max_tokens);
        assert_int_equal(item->pos, c->fed[item->id]);
        if (item->is_prompt) {
            assert_true(end == seq->prompt_n || end % LIMIT_PROMPT_CUT == 0);
            assert_true(end <= seq->prompt_n);
        } else {
            assert_true(item->pos >= seq->prompt_n);
        }
        c->fed[item->id] = end;
        c->hash = kern_mix64(c->hash ^ item->id) + kern_mix64(item->pos + c->hash);
        c->hash ^= (uint64_t)item->row_n << 32 | sched_pages(&c->b.sched, item->id)[0];
    }
}

static void chaos_turn(struct chaos *c, uint32_t seq_n)
{
    struct sched *sched = &c->b.sched;
    if (c->add_n < seq_n && chaos_pick(c, 3) == 0) {
        struct sched_want want = {1 + chaos_pick(c, 300), 1 + chaos_pick(c, 200), ++c->b.arrival};
        uint32_t id;
        if (sched_add(sched, &want, &id) == 0) {
            c->add_n++;
        }
    }
    for (uint32_t id = 0; id < 12; id++) {
        const struct sched_seq *seq = &sched->seqs[id];
        if (seq->state == SCHED_FREE) {
            continue;
        }
        if (seq->state == SCHED_HELD && chaos_pick(c, 4) == 0) {
            sched_ready(sched, id, (const uint64_t[2]){id, id});
        } else if (chaos_pick(c, 40) == 0) {
            sched_park(sched, id, !seq->is_parked);
        } else if (chaos_pick(c, 400) == 0) {
            chaos_end(c, id);
        }
    }
    bench_step(&c->b);
    chaos_check_plan(c);
    chaos_check_unread(c);
    while (c->b.plan_n - c->b.read_n > c->step_ahead ||
           (c->b.plan_n > c->b.read_n && (c->b.plan.row_n == 0 || chaos_pick(c, 5) == 0))) {
        chaos_read(c);
    }
}

static uint64_t chaos_run(uint64_t seed, uint32_t step_ahead, uint32_t *out_preempt_n)
{
    struct chaos c = {.state = seed, .step_ahead = step_ahead};
    uint32_t turn_n = 0;
    bench_init(&c.b, 4, 8, 9, 4 + 64 + (uint32_t)(seed % 150));
    while (c.end_n < 40) {
        chaos_turn(&c, 40);
        assert_true(++turn_n < 100000);
    }
    assert_int_equal(c.b.sched.pages.free_n, 9);
    assert_int_equal(c.b.sched.free_slot_n, 4);
    bench_done(&c.b);
    *out_preempt_n += c.preempt_n;
    return c.hash;
}

static void chaos_is_sound_and_repeats(void **state)
{
    (void)state;
    uint32_t preempt_n = 0;
    for (uint64_t seed = 1; seed <= 90; seed++) {
        uint32_t step_ahead = (uint32_t)(seed % PLANS);
        uint64_t first = chaos_run(seed, step_ahead, &preempt_n);
        assert_true(first == chaos_run(seed, step_ahead, &preempt_n));
    }
    assert_true(preempt_n > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_arrays_fit),
        cmocka_unit_test(pages_count_holders),
        cmocka_unit_test(prompts_are_cut_at_multiples),
        cmocka_unit_test(limits_refuse),
        cmocka_unit_test(youngest_gives_way),
        cmocka_unit_test(parked_ones_give_way_first),
        cmocka_unit_test(slot_holders_go_on),
        cmocka_unit_test(length_is_foreseen),
        cmocka_unit_test(stopped_ones_keep_what_is_named),
        cmocka_unit_test(named_victims_are_waited_for),
        cmocka_unit_test(over_ones_are_waited_for),
        cmocka_unit_test(chaos_is_sound_and_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
