/* Names: the sorted table, each name's state and public record, and the questions asked about them.
 * Loads are registry_load.c, device memory registry_place.c, requests registry_lease.c. */
#include "adapters/registry_int.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "kernels/effect.h"

/* Allowed moves of a name's state, as bits of the states that may follow. */
#define TO(state) (1u << (state))
static const uint32_t state_moves[] = {
    [0] = TO(ADAPTER_REGISTERED),
    [ADAPTER_REGISTERED] = TO(ADAPTER_LOADING),
    [ADAPTER_LOADING] = TO(ADAPTER_HOST) | TO(ADAPTER_DEVICE) | TO(ADAPTER_FAILED) |
                        TO(ADAPTER_RETIRING) | TO(ADAPTER_REGISTERED),
    [ADAPTER_HOST] = TO(ADAPTER_DEVICE) | TO(ADAPTER_LOADING) | TO(ADAPTER_FAILED) |
                     TO(ADAPTER_RETIRING) | TO(ADAPTER_REGISTERED),
    /* a newer version may be on its way, or have failed, when the serving one goes */
    [ADAPTER_DEVICE] = TO(ADAPTER_RETIRING) | TO(ADAPTER_REGISTERED) | TO(ADAPTER_LOADING) |
                       TO(ADAPTER_HOST) | TO(ADAPTER_FAILED),
    [ADAPTER_RETIRING] = TO(ADAPTER_LOADING) | TO(ADAPTER_REGISTERED),
    [ADAPTER_FAILED] = TO(ADAPTER_LOADING) | TO(ADAPTER_REGISTERED) | TO(ADAPTER_RETIRING),
};

static enum adapter_state entry_state(const struct entry *e)
{
    if (e->current != NONE) {
        return ADAPTER_DEVICE;
    }
    if (e->phase == PHASE_QUEUED || e->phase == PHASE_READING) {
        return ADAPTER_LOADING;
    }
    if (e->phase != PHASE_IDLE) {
        return ADAPTER_HOST;
    }
    if (e->is_failed) {
        return ADAPTER_FAILED;
    }
    return e->pub.retiring_n > 0 ? ADAPTER_RETIRING : ADAPTER_REGISTERED;
}

void entry_refresh(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    enum adapter_state state = entry_state(e);
    ASSERT(state == e->pub.state || (state_moves[e->pub.state] & TO(state)));
    e->pub.state = state;
    e->pub.is_loading = e->phase != PHASE_IDLE;
    bool is_on_host = e->phase == PHASE_STAGED || e->phase == PHASE_COPYING;
    e->pub.host_bytes = is_on_host ? r->loads[e->load].job.version->block_bytes : 0;
    e->pub.etag = ++r->etag;
}

int64_t registry_unix_ms(const struct registry *r, int64_t now_ns)
{
    return r->unix_offset_ms + now_ns / CLOCK_NS_PER_MS;
}

/* Index in `sorted` of the first name that is not smaller. */
static uint32_t sorted_at(const struct registry *r, const char *name)
{
    uint32_t low = 0;
    uint32_t high = r->entry_n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (strcmp(r->entries[r->sorted[mid]].pub.name, name) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

uint32_t entry_find(const struct registry *r, const char *name)
{
    uint32_t at = sorted_at(r, name);
    if (at == r->entry_n || strcmp(r->entries[r->sorted[at]].pub.name, name) != 0) {
        return NONE;
    }
    return r->sorted[at];
}

uint32_t entry_add(struct registry *r, const char *name, struct err *err)
{
    if (!adapter_name_is_valid(name)) {
        err_set(err, ERR_INVALID_PARAMETER, "\"%.80s\" is not an adapter name", name);
        return NONE;
    }
    if (r->free_entry == NONE) {
        err_set(err, ERR_ADAPTER_MEMORY_EXHAUSTED,
                "could not load adapter \"%s\": %u adapters are known, limit is %u", name,
                r->entry_n, (unsigned)LIMIT_ADAPTERS);
        return NONE;
    }
    uint32_t entry = r->free_entry;
    struct entry *e = &r->entries[entry];
    uint32_t at = sorted_at(r, name);
    r->free_entry = e->queue_next;
    /* Until a load has found the folder, the name is only a guess. */
    *e = (struct entry){.is_used = true,
                        .is_gone = true,
                        .current = NONE,
                        .load = NONE,
                        .queue_next = NONE,
                        .pub.registered_unix_ms = clock_unix_ms()};
    snprintf(e->pub.name, sizeof e->pub.name, "%s", name);
    memmove(&r->sorted[at + 1], &r->sorted[at], (r->entry_n - at) * sizeof r->sorted[0]);
    r->sorted[at] = entry;
    r->entry_n++;
    entry_refresh(r, entry);
    return entry;
}

bool entry_forget_if_gone(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    if (!e->is_gone || e->current != NONE || e->phase != PHASE_IDLE || e->ref_n > 0 ||
        e->op_n > 0 || e->pub.retiring_n > 0) {
        return false;
    }
    uint32_t at = sorted_at(r, e->pub.name);
    ASSERT(r->sorted[at] == entry);
    r->entry_n--;
    memmove(&r->sorted[at], &r->sorted[at + 1], (r->entry_n - at) * sizeof r->sorted[0]);
    e->is_used = false;
    e->queue_next = r->free_entry;
    r->free_entry = entry;
    return true;
}

static void registry_init_lists(struct registry *r)
{
    r->free_entry = r->free_placed = r->free_waiter = NONE;
    r->idle_head = r->idle_tail = NONE;
    r->queue_head = r->queue_tail = NONE;
    r->waiter_head = r->waiter_tail = NONE;
    for (uint32_t i = LIMIT_ADAPTERS; i-- > 0;) {
        r->entries[i].queue_next = r->free_entry;
        r->free_entry = i;
    }
    for (uint32_t i = LIMIT_VERSIONS; i-- > 0;) {
        r->placed[i].entry = NONE;
        r->placed[i].free_next = r->free_placed;
        r->free_placed = i;
    }
    for (uint32_t i = LIMIT_QUEUE; i-- > 0;) {
        r->waiters[i].next = r->free_waiter;
        r->free_waiter = i;
    }
}

int registry_new(const struct registry_config *config, struct registry **out, struct err *err)
{
    if ((uintptr_t)config->pool % EFFECT_ALIGN != 0) {
        return err_set(err, ERR_INTERNAL, "the adapter pool is not aligned to %d bytes",
                       EFFECT_ALIGN);
    }
    ASSERT(config->copy_bytes_max > 0);
    struct registry *r = mem_zalloc(sizeof *r);
    r->config = *config;
    r->unix_offset_ms = clock_unix_ms() - clock_now_ns() / CLOCK_NS_PER_MS;
    r->entries = mem_zalloc_n(LIMIT_ADAPTERS, sizeof *r->entries);
    r->sorted = mem_zalloc_n(LIMIT_ADAPTERS, sizeof *r->sorted);
    r->placed = mem_zalloc_n(LIMIT_VERSIONS, sizeof *r->placed);
    r->changes = mem_zalloc_n(LIMIT_VERSIONS, sizeof *r->changes);
    r->waiters = mem_zalloc_n(LIMIT_QUEUE, sizeof *r->waiters);
    pool_init(&r->pool, config->pool_bytes, LIMIT_VERSIONS);
    registry_init_lists(r);
    *out = r;
    return 0;
}

void registry_free(struct registry *r)
{
    if (!r) {
        return;
    }
    ASSERT_CMP(r->job_n, ==, 0);
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        if (r->loads[i].use != LOAD_FREE) {
            version_free(r->loads[i].job.version);
        }
    }
    pool_done(&r->pool);
    mem_free(r->entries);
    mem_free(r->sorted);
    mem_free(r->placed);
    mem_free(r->changes);
    mem_free(r->waiters);
    mem_free(r);
}

int registry_add(struct registry *r, const char *name, struct err *err)
{
    uint32_t entry = entry_find(r, name);
    if (entry == NONE) {
        struct err local = {0};
        entry = entry_add(r, name, &local);
        if (entry == NONE) {
            return err_set(err, local.code, "%s", local.text);
        }
    }
    r->entries[entry].is_gone = false;
    return 0;
}

void op_answer(struct registry *r, struct adapter_op *op)
{
    op->next = NULL;
    if (r->answered_tail) {
        r->answered_tail->next = op;
    } else {
        r->answered_head = op;
    }
    r->answered_tail = op;
}

struct adapter_op *registry_answered(struct registry *r)
{
    struct adapter_op *op = r->answered_head;
    if (op) {
        r->answered_head = op->next;
        r->answered_tail = r->answered_head ? r->answered_tail : NULL;
        op->next = NULL;
    }
    return op;
}

static void ask_list(const struct registry *r, struct adapter_op *op)
{
    op->out_n = MIN(op->out_max, r->entry_n);
    for (uint32_t i = 0; i < op->out_n; i++) {
        op->out[i] = r->entries[r->sorted[i]].pub;
    }
}

static void ask_load(struct registry *r, struct adapter_op *op)
{
    uint32_t entry = entry_find(r, op->name);
    if (entry == NONE) {
        entry = entry_add(r, op->name, &op->err);
    }
    if (entry == NONE) {
        op_answer(r, op);
        return;
    }
    struct entry *e = &r->entries[entry];
    if (e->phase == PHASE_IDLE) {
        attempt_start(r, entry);
    }
    /* A read that may have begun already may have seen older content than the asker has. */
    e->is_again = e->is_again || e->phase != PHASE_QUEUED;
    op->attempt = e->attempt + (e->phase != PHASE_QUEUED);
    op->arrival = ++r->arrival;
    op->next = r->ops;
    r->ops = op;
    e->op_n++;
    r->is_dirty = true;
}

/* What serves goes now; what is being loaded goes too unless somebody waits for it. */
static void unload(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    e->is_failed = false;
    if (e->current != NONE) {
        r->has_news = r->has_news || e->ref_n > 0;
        placed_retire(r, e->current);
    }
    if (e->phase != PHASE_IDLE && e->ref_n == 0 && e->op_n == 0) {
        attempt_drop(r, entry);
    }
    entry_refresh(r, entry);
    r->is_dirty = true;
}

void registry_ask(struct registry *r, struct adapter_op *op, int64_t now_ns)
{
    THREAD_ASSERT(THREAD_ENGINE);
    (void)now_ns;
    op->out_n = 0;
    op->is_unchanged = false;
    op->err = (struct err){0};
    if (op->type == ADAPTER_OP_LOAD) {
        ask_load(r, op);
        return;
    }
    if (op->type == ADAPTER_OP_LIST) {
        ask_list(r, op);
        op_answer(r, op);
        return;
    }
    uint32_t entry = entry_find(r, op->name);
    if (entry == NONE) {
        err_set(&op->err, ERR_ADAPTER_NOT_FOUND, "adapter \"%.80s\" is not known", op->name);
    } else {
        if (op->type == ADAPTER_OP_UNLOAD) {
            unload(r, entry);
        }
        op->out_n = MIN(op->out_max, 1u);
        if (op->out_n) {
            op->out[0] = r->entries[entry].pub;
        }
        entry_forget_if_gone(r, entry);
    }
    op_answer(r, op);
}

void registry_cancel(struct registry *r, uint64_t op_key)
{
    THREAD_ASSERT(THREAD_ENGINE);
    for (struct adapter_op **at = &r->ops; *at; at = &(*at)->next) {
        struct adapter_op *op = *at;
        if (op->key == op_key) {
            *at = op->next;
            r->entries[entry_find(r, op->name)].op_n--;
            err_set(&op->err, ERR_CANCELLED, "the wait for adapter \"%s\" was cancelled", op->name);
            op_answer(r, op);
            r->is_dirty = true;
            return;
        }
    }
}

bool registry_progress(struct registry *r, int64_t now_ns, bool *out_busy)
{
    THREAD_ASSERT(THREAD_ENGINE);
    if (r->is_dirty) {
        r->is_dirty = false;
        waiters_rank(r);
        plan_places(r);
        loads_start(r);
    }
    copy_some(r, now_ns);
    bool is_all_sent = loads_discard_due(r);
    *out_busy = r->is_dirty || (r->copying_n > 0 && !r->is_copy_waiting) || !is_all_sent;
    bool has_news = r->has_news;
    r->has_news = false;
    return has_news;
}

size_t registry_pool_used(const struct registry *r)
{
    return r->pool.used;
}

bool registry_is_copying(const struct registry *r)
{
    return r->copying_n > 0;
}

uint32_t registry_pin_n(const struct registry *r)
{
    return r->pin_n;
}

uint32_t registry_job_n(const struct registry *r)
{
    return r->job_n;
}
