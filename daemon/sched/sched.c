/* A step is planned in three passes over the running list, in policy order:
 *   grow   every sequence whose only unfed token is its newest gets one row, and a page if it
 *          enters one; whoever finds none takes it from the policy's victim
 *   start  waiting sequences get a slot and pages for all they know, while there are enough
 *   chunk  what is left of the step's rows goes to prompts and recomputed tokens
 * Only the first pass can run out of pages, and it visits victims after those they give way to, so
 * a plan never holds rows of a sequence that has lost its pages. A victim that an unread step names
 * keeps them for now: it and the one that waits for a page are left out of the plan, and nobody
 * starts, so that it is still the victim when that step has been read. */
#include "sched/sched.h"

#include <string.h>

#include "base/base.h"
#include "base/err.h"
#include "base/limits.h"
#include "sched/policy.h"

static uint32_t sched_seq_max(const struct sched_config *config)
{
    return config->slot_n + config->queue_n;
}

/* Prompt and generated tokens, the newest of which may still be unfed. */
static uint32_t seq_known_n(const struct sched_seq *seq)
{
    return seq->prompt_n + seq->generated_n;
}

static struct sched_seq *sched_seq(const struct sched *sched, uint32_t id)
{
    ASSERT_CMP(id, <, sched_seq_max(&sched->config));
    ASSERT_CMP(sched->seqs[id].state, !=, SCHED_FREE);
    return &sched->seqs[id];
}

size_t sched_bytes(const struct sched_config *config)
{
    size_t seq_n = sched_seq_max(config);
    size_t table_n = (size_t)config->slot_n * config->seq_page_max;
    return seq_n * sizeof(struct sched_seq)    /* sequences */
           + seq_n * sizeof(uint32_t)          /* free ids */
           + config->slot_n * sizeof(uint32_t) /* free slots */
           + table_n * sizeof(uint32_t)        /* page tables */
           + pages_bytes(config->page_n);
}

void sched_init(struct sched *sched, const struct sched_config *config, void *memory)
{
    uint32_t seq_n = sched_seq_max(config);
    size_t table_n = (size_t)config->slot_n * config->seq_page_max;
    ASSERT_CMP(config->slot_n, >, 0);
    ASSERT_CMP(config->row_max, >=, config->slot_n + LIMIT_PROMPT_CUT);
    memset(memory, 0, sched_bytes(config));
    *sched = (struct sched){.config = *config};
    sched->seqs = memory;
    sched->free_ids = (uint32_t *)(sched->seqs + seq_n);
    sched->free_slots = sched->free_ids + seq_n;
    sched->tables = sched->free_slots + config->slot_n;
    pages_init(&sched->pages, config->page_n, sched->tables + table_n);
    for (uint32_t i = 0; i < seq_n; i++) {
        sched->free_ids[i] = seq_n - 1 - i;
    }
    for (uint32_t i = 0; i < config->slot_n; i++) {
        sched->free_slots[i] = config->slot_n - 1 - i;
    }
    sched->free_id_n = seq_n;
    sched->free_slot_n = config->slot_n;
    sched->waiting = (struct sched_list){SCHED_NONE, SCHED_NONE, 0};
    sched->running = (struct sched_list){SCHED_NONE, SCHED_NONE, 0};
}

/* Keeps policy order; searches from the end, where newcomers belong. */
static void list_insert(struct sched *sched, struct sched_list *list, uint32_t id)
{
    struct sched_seq *seq = &sched->seqs[id];
    uint32_t before = list->tail;
    while (before != SCHED_NONE && policy_is_before(seq, &sched->seqs[before])) {
        before = sched->seqs[before].prev;
    }
    uint32_t after = before == SCHED_NONE ? list->head : sched->seqs[before].next;
    seq->prev = before;
    seq->next = after;
    *(before == SCHED_NONE ? &list->head : &sched->seqs[before].next) = id;
    *(after == SCHED_NONE ? &list->tail : &sched->seqs[after].prev) = id;
    list->n++;
}

static void list_take(struct sched *sched, struct sched_list *list, uint32_t id)
{
    const struct sched_seq *seq = &sched->seqs[id];
    *(seq->prev == SCHED_NONE ? &list->head : &sched->seqs[seq->prev].next) = seq->next;
    *(seq->next == SCHED_NONE ? &list->tail : &sched->seqs[seq->next].prev) = seq->prev;
    list->n--;
}

int sched_add(struct sched *sched, const struct sched_want *want, uint32_t *out_id)
{
    uint64_t positions = (uint64_t)want->prompt_n + want->max_tokens;
    uint64_t pages = DIV_UP(positions, LIMIT_KV_PAGE);
    ASSERT(want->prompt_n > 0 && want->max_tokens > 0);
    ASSERT_CMP(pages, <=, sched->config.seq_page_max);
    if (pages > sched->config.page_n) {
        return ERR_KV_MEMORY_EXHAUSTED;
    }
    if (sched->held_n + sched->waiting.n >= sched->config.queue_n) {
        return ERR_QUEUE_FULL;
    }
    ASSERT_CMP(sched->free_id_n, >, 0);
    uint32_t id = sched->free_ids[--sched->free_id_n];
    sched->seqs[id] = (struct sched_seq){
        .state = SCHED_HELD,
        .slot = SCHED_NONE,
        .prompt_n = want->prompt_n,
        .max_tokens = want->max_tokens,
        .arrival = want->arrival,
    };
    sched->held_n++;
    *out_id = id;
    return 0;
}

void sched_ready(struct sched *sched, uint32_t id, const uint64_t cache_ns[2])
{
    struct sched_seq *seq = sched_seq(sched, id);
    ASSERT_CMP(seq->state, ==, SCHED_HELD);
    seq->cache_ns[0] = cache_ns[0];
    seq->cache_ns[1] = cache_ns[1];
    seq->state = SCHED_WAITING;
    sched->held_n--;
    list_insert(sched, &sched->waiting, id);
}

void sched_park(struct sched *sched, uint32_t id, bool is_parked)
{
    sched_seq(sched, id)->is_parked = is_parked;
}

void sched_stop(struct sched *sched, uint32_t id)
{
    sched_seq(sched, id)->is_stopped = true;
}

static uint32_t *seq_table(const struct sched *sched, const struct sched_seq *seq)
{
    ASSERT_CMP(seq->slot, <, sched->config.slot_n);
    return sched->tables + (size_t)seq->slot * sched->config.seq_page_max;
}

static void seq_drop_pages(struct sched *sched, struct sched_seq *seq)
{
    while (seq->page_n > 0) {
        pages_drop(&sched->pages, seq_table(sched, seq)[--seq->page_n]);
    }
    seq->fed_n = 0;
}

void sched_remove(struct sched *sched, uint32_t id)
{
    struct sched_seq *seq = sched_seq(sched, id);
    ASSERT_CMP(seq->unread_n, ==, 0);
    sched->yield_n -= seq->is_yielding;
    if (seq->state == SCHED_HELD) {
        sched->held_n--;
    } else if (seq->state == SCHED_WAITING) {
        list_take(sched, &sched->waiting, id);
    } else {
        list_take(sched, &sched->running, id);
        seq_drop_pages(sched, seq);
    }
    if (seq->slot != SCHED_NONE) {
        sched->free_slots[sched->free_slot_n++] = seq->slot;
    }
    *seq = (struct sched_seq){.state = SCHED_FREE};
    sched->free_ids[sched->free_id_n++] = id;
}

static void sched_preempt(struct sched *sched, uint32_t id, struct sched_plan *plan)
{
    struct sched_seq *seq = sched_seq(sched, id);
    ASSERT_CMP(seq->state, ==, SCHED_RUNNING);
    ASSERT(seq->unread_n == 0 && !sched_is_over(seq));
    list_take(sched, &sched->running, id);
    seq_drop_pages(sched, seq);
    seq->state = SCHED_WAITING;
    list_insert(sched, &sched->waiting, id);
    ASSERT_CMP(plan->preempted_n, <, sched->config.slot_n);
    plan->preempted[plan->preempted_n++] = id;
}

static void seq_yield(struct sched *sched, struct sched_seq *seq)
{
    sched->yield_n += !seq->is_yielding;
    seq->is_yielding = true;
}

/* Makes sure that the page of its next position is there. False when it lost its own pages, or has
 * to wait for those of a victim. */
static bool seq_grow(struct sched *sched, uint32_t id, struct sched_plan *plan)
{
    struct sched_seq *seq = &sched->seqs[id];
    if (seq->fed_n / LIMIT_KV_PAGE < seq->page_n) {
        return true;
    }
    uint32_t page;
    while (!pages_take(&sched->pages, &page)) {
        uint32_t victim = policy_victim(sched);
        if (sched->seqs[victim].unread_n > 0) {
            seq_yield(sched, &sched->seqs[victim]);
            seq_yield(sched, seq);
            return false;
        }
        sched_preempt(sched, victim, plan);
        if (victim == id) {
            return false;
        }
    }
    ASSERT_CMP(seq->page_n, <, sched->config.seq_page_max);
    seq_table(sched, seq)[seq->page_n++] = page;
    return true;
}

/* Puts the next n rows of a sequence into the plan. */
static void plan_rows(struct sched *sched, uint32_t id, uint32_t n, struct sched_plan *plan)
{
    struct sched_seq *seq = &sched->seqs[id];
    struct sched_item *item = &plan->items[plan->item_n++];
    *item = (struct sched_item){
        .id = id,
        .slot = seq->slot,
        .pos = seq->fed_n,
        .row_n = n,
        .is_prompt = seq->fed_n < seq->prompt_n,
        .is_sample = seq->fed_n + n == seq_known_n(seq),
    };
    for (uint32_t i = seq->fed_n / LIMIT_KV_PAGE; i * LIMIT_KV_PAGE < seq->fed_n + n; i++) {
        pages_mark(&sched->pages, seq_table(sched, seq)[i],
                   item->is_prompt ? PAGE_PROMPT : PAGE_GENERATED);
    }
    seq->fed_n += n;
    seq->unread_n++;
    plan->row_n += n;
    ASSERT_CMP(DIV_UP(seq->fed_n, LIMIT_KV_PAGE), <=, seq->page_n);
}

static bool seq_may_run(const struct sched_seq *seq)
{
    return !seq->is_parked && !seq->is_yielding && !sched_is_over(seq);
}

static void sched_pass_grow(struct sched *sched, struct sched_plan *plan)
{
    uint32_t id = sched->running.head;
    while (id != SCHED_NONE) {
        const struct sched_seq *seq = &sched->seqs[id];
        ASSERT_CMP(seq->fed_n, <, seq_known_n(seq));
        ASSERT(seq->unread_n > 0 || !sched_is_over(seq));
        bool is_growing =
            seq_may_run(seq) && seq->generated_n > 0 && seq->fed_n + 1 == seq_known_n(seq);
        if (is_growing && seq_grow(sched, id, plan)) {
            plan_rows(sched, id, 1, plan);
        }
        if (seq->state != SCHED_RUNNING) {
            break; /* it gave way itself, so it was served last: nobody is behind it */
        }
        id = seq->next; /* read last: victims behind it have left the list */
    }
}

/* Gives a waiting sequence its slot, of which one is free, and its pages; false when there are not
 * enough. */
static bool sched_start(struct sched *sched, uint32_t id, struct sched_plan *plan)
{
    struct sched_seq *seq = &sched->seqs[id];
    uint32_t need = DIV_UP(seq_known_n(seq), LIMIT_KV_PAGE);
    while (sched->pages.free_n < need + policy_reserve(sched)) {
        uint32_t victim = policy_victim_parked(sched);
        if (victim == SCHED_NONE || sched->seqs[victim].unread_n > 0) {
            return false;
        }
        sched_preempt(sched, victim, plan);
    }
    list_take(sched, &sched->waiting, id);
    if (seq->slot == SCHED_NONE) {
        seq->slot = sched->free_slots[--sched->free_slot_n];
        plan->started[plan->started_n++] = id;
    }
    seq->state = SCHED_RUNNING;
    seq->fed_n = 0;
    for (uint32_t i = 0; i < need; i++) {
        bool is_taken = pages_take(&sched->pages, &seq_table(sched, seq)[i]);
        ASSERT(is_taken);
        seq->page_n++;
    }
    list_insert(sched, &sched->running, id);
    return true;
}

static void sched_pass_start(struct sched *sched, struct sched_plan *plan)
{
    if (plan->preempted_n > 0 || sched->yield_n > 0) {
        return; /* pages are short: whoever lost them would take them back at once */
    }
    uint32_t id = policy_next(sched);
    while (id != SCHED_NONE && sched_start(sched, id, plan)) {
        id = policy_next(sched);
    }
}

/* Rows a sequence may feed within a budget; the law of order cuts prompts. */
static uint32_t seq_chunk(const struct sched_seq *seq, uint32_t budget)
{
    bool is_prompt = seq->fed_n < seq->prompt_n;
    uint32_t end = is_prompt ? seq->prompt_n : seq_known_n(seq);
    if (end - seq->fed_n > budget) {
        end = seq->fed_n + budget;
        end = is_prompt ? end / LIMIT_PROMPT_CUT * LIMIT_PROMPT_CUT : end;
    }
    return end > seq->fed_n ? end - seq->fed_n : 0;
}

static void sched_pass_chunk(struct sched *sched, struct sched_plan *plan)
{
    for (uint32_t id = sched->running.head; id != SCHED_NONE; id = sched->seqs[id].next) {
        const struct sched_seq *seq = &sched->seqs[id];
        /* Those with a row from the first pass have nothing left to feed. */
        uint32_t n = !seq_may_run(seq) || seq->fed_n == seq_known_n(seq)
                         ? 0
                         : seq_chunk(seq, sched->config.row_max - plan->row_n);
        if (n > 0) {
            plan_rows(sched, id, n, plan);
        }
    }
}

/* Whoever yielded has been left out of one plan; the new one finds its own victims. */
static void sched_forget_yields(struct sched *sched)
{
    for (uint32_t id = sched->running.head; id != SCHED_NONE && sched->yield_n > 0;
         id = sched->seqs[id].next) {
        sched->yield_n -= sched->seqs[id].is_yielding;
        sched->seqs[id].is_yielding = false;
    }
    ASSERT_CMP(sched->yield_n, ==, 0);
}

void sched_step(struct sched *sched, struct sched_plan *out_plan)
{
    out_plan->item_n = 0;
    out_plan->started_n = 0;
    out_plan->preempted_n = 0;
    out_plan->row_n = 0;
    sched_forget_yields(sched);
    sched_pass_grow(sched, out_plan);
    sched_pass_start(sched, out_plan);
    sched_pass_chunk(sched, out_plan);
    ASSERT_CMP(out_plan->row_n, <=, sched->config.row_max);
    for (uint32_t i = 0; i < out_plan->item_n; i++) {
        sched->seqs[out_plan->items[i].id].generated_n += out_plan->items[i].is_sample;
    }
}

void sched_read(struct sched *sched, const struct sched_plan *plan)
{
    for (uint32_t i = 0; i < plan->item_n; i++) {
        struct sched_seq *seq = sched_seq(sched, plan->items[i].id);
        ASSERT_CMP(seq->unread_n, >, 0);
        seq->unread_n--;
    }
}

bool sched_next_freed(struct sched *sched, uint32_t *out_page)
{
    return pages_next_freed(&sched->pages, out_page);
}

const uint32_t *sched_pages(const struct sched *sched, uint32_t id)
{
    return seq_table(sched, sched_seq(sched, id));
}

uint32_t sched_live_n(const struct sched *sched)
{
    return sched->held_n + sched->waiting.n + sched->running.n;
}

/* A list's order and links, and that its members are in the state it stands for. */
static void sched_check_list(const struct sched *sched, const struct sched_list *list,
                             enum sched_state state)
{
    uint32_t n = 0;
    uint32_t last = SCHED_NONE;
    for (uint32_t id = list->head; id != SCHED_NONE; id = sched->seqs[id].next) {
        const struct sched_seq *seq = sched_seq(sched, id);
        ASSERT_CMP(seq->state, ==, state);
        ASSERT_CMP(seq->prev, ==, last);
        ASSERT(last == SCHED_NONE || policy_is_before(&sched->seqs[last], seq));
        last = id;
        n++;
    }
    ASSERT_CMP(list->tail, ==, last);
    ASSERT_CMP(list->n, ==, n);
}

/* What must have been written into the page of a sequence's table entry. */
static uint8_t sched_page_forms(const struct sched_seq *seq, uint32_t entry)
{
    uint32_t first = entry * LIMIT_KV_PAGE;
    uint32_t end = MIN(first + LIMIT_KV_PAGE, seq->fed_n);
    uint8_t forms = 0;
    if (first < MIN(end, seq->prompt_n)) {
        forms |= PAGE_PROMPT;
    }
    if (end > first && end > seq->prompt_n) {
        forms |= PAGE_GENERATED;
    }
    return forms;
}

void sched_check(const struct sched *sched)
{
    uint32_t seq_n = sched_seq_max(&sched->config);
    uint32_t slot_n = 0;
    uint64_t holder_n = 0;
    uint64_t ref_n = 0;
    uint32_t used_n = 0;
    uint32_t yield_n = 0;
    sched_check_list(sched, &sched->waiting, SCHED_WAITING);
    sched_check_list(sched, &sched->running, SCHED_RUNNING);
    for (uint32_t id = 0; id < seq_n; id++) {
        const struct sched_seq *seq = &sched->seqs[id];
        ASSERT(seq->state == SCHED_RUNNING || seq->page_n == 0);
        ASSERT(seq->state == SCHED_RUNNING || seq->fed_n == 0);
        ASSERT(seq->state == SCHED_RUNNING || seq->unread_n == 0);
        yield_n += seq->is_yielding;
        slot_n += seq->state != SCHED_FREE && seq->slot != SCHED_NONE;
        holder_n += seq->page_n;
        for (uint32_t i = 0; i < seq->page_n; i++) {
            uint32_t page = seq_table(sched, seq)[i];
            ASSERT_CMP(sched->pages.refs[page], >, 0);
            ASSERT_CMP(sched->pages.forms[page], ==, sched_page_forms(seq, i));
        }
    }
    for (uint32_t i = 0; i < sched->pages.page_n; i++) {
        ref_n += sched->pages.refs[i];
        used_n += sched->pages.refs[i] > 0;
        ASSERT(sched->pages.refs[i] > 0 || sched->pages.forms[i] == 0);
    }
    ASSERT_CMP(yield_n, ==, sched->yield_n);
    ASSERT_CMP(holder_n, ==, ref_n);
    ASSERT_CMP(used_n + sched->pages.free_n, ==, sched->pages.page_n);
    ASSERT_CMP(slot_n + sched->free_slot_n, ==, sched->config.slot_n);
    ASSERT_CMP(sched_live_n(sched) + sched->free_id_n, ==, seq_n);
}
