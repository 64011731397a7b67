/* Requests: all-or-none pins, and the line of those who cannot have theirs yet.
 *
 * The oldest waiter always gets on: versions it needs are read first, placed first, and not evicted
 * for others; when pins keep it from getting room, a bounded number of younger requests passes,
 * then all wait behind it until running sequences have given back enough. */
#include "adapters/registry_int.h"

#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "kernels/effect.h"

static struct waiter *waiter_push(struct registry *r)
{
    uint32_t i = r->free_waiter;
    if (i == NONE) {
        return NULL;
    }
    struct waiter *w = &r->waiters[i];
    r->free_waiter = w->next;
    *w = (struct waiter){.arrival = ++r->arrival, .prev = r->waiter_tail, .next = NONE};
    if (r->waiter_tail == NONE) {
        r->waiter_head = i;
    } else {
        r->waiters[r->waiter_tail].next = i;
    }
    r->waiter_tail = i;
    return w;
}

static void waiter_remove(struct registry *r, struct waiter *w)
{
    uint32_t i = (uint32_t)(w - r->waiters);
    for (uint32_t k = 0; k < w->n; k++) {
        struct entry *e = &r->entries[w->entry[k]];
        e->ref_n--;
        e->pub.queued_n -= w->attempt[k] != 0;
        entry_forget_if_gone(r, w->entry[k]);
    }
    if (w->prev == NONE) {
        r->waiter_head = w->next;
    } else {
        r->waiters[w->prev].next = w->next;
    }
    if (w->next == NONE) {
        r->waiter_tail = w->prev;
    } else {
        r->waiters[w->next].prev = w->prev;
    }
    w->arrival = 0;
    w->next = r->free_waiter;
    r->free_waiter = i;
    r->is_dirty = true;
}

void waiters_fail(struct registry *r, uint32_t entry, const struct err *err)
{
    const struct entry *e = &r->entries[entry];
    for (uint32_t i = r->waiter_head; i != NONE; i = r->waiters[i].next) {
        struct waiter *w = &r->waiters[i];
        for (uint32_t k = 0; k < w->n && !w->err.code; k++) {
            if (w->entry[k] == entry && w->attempt[k] == e->attempt) {
                w->err = *err;
            }
        }
    }
}

/* Bytes in the pool, or on the way to it, of what a name gives; 0 while that is not known. */
static size_t entry_bytes(const struct registry *r, uint32_t entry)
{
    const struct entry *e = &r->entries[entry];
    if (e->current != NONE) {
        return r->pool.nodes[r->placed[e->current].node].bytes;
    }
    if (e->phase == PHASE_STAGED || e->phase == PHASE_COPYING) {
        return ROUND_UP(r->loads[e->load].job.version->block_bytes, EFFECT_ALIGN);
    }
    return 0;
}

/* A request whose adapters can never lie in the pool together would wait for ever. */
static void waiter_check_fit(struct registry *r, struct waiter *w)
{
    size_t bytes = 0;
    for (uint32_t k = 0; k < w->n; k++) {
        bool is_repeated = false;
        for (uint32_t j = 0; j < k; j++) {
            is_repeated = is_repeated || w->entry[j] == w->entry[k];
        }
        bytes += is_repeated ? 0 : entry_bytes(r, w->entry[k]);
    }
    if (bytes > r->pool.bytes) {
        err_set(&w->err, ERR_ADAPTER_MEMORY_EXHAUSTED,
                "the request's %u adapters take %zu bytes together, the adapter pool has %zu "
                "(--adapter-memory)",
                w->n, bytes, r->pool.bytes);
        r->has_news = true;
    }
}

static void entry_want(struct registry *r, uint32_t entry, uint64_t arrival)
{
    struct entry *e = &r->entries[entry];
    if (e->pass != r->pass || arrival < e->priority) {
        e->pass = r->pass;
        e->priority = arrival;
    }
    r->oldest = MIN(r->oldest, arrival);
}

void waiters_rank(struct registry *r)
{
    r->pass++;
    r->oldest = NOBODY;
    for (uint32_t i = r->waiter_head; i != NONE; i = r->waiters[i].next) {
        struct waiter *w = &r->waiters[i];
        if (!w->err.code) {
            waiter_check_fit(r, w);
        }
        for (uint32_t k = 0; k < w->n && !w->err.code; k++) {
            entry_want(r, w->entry[k], w->arrival);
        }
    }
    for (const struct adapter_op *op = r->ops; op; op = op->next) {
        entry_want(r, entry_find(r, op->name), op->arrival);
    }
}

bool overtakes_are_spent(const struct registry *r)
{
    return r->blocked != 0 && r->overtake_n >= LIMIT_ADAPTER_OVERTAKES;
}

/* May a request take pins now although an older one waits for memory? */
static bool may_pass(struct registry *r, const struct waiter *w)
{
    if (r->blocked == 0 || (w && w->arrival <= r->blocked)) {
        return true;
    }
    if (overtakes_are_spent(r)) {
        return false;
    }
    r->overtake_n++;
    return true;
}

/* A sequence begins with one state: a second adapter that has states is refused. */
static int lease_look_state(const struct registry *r, const struct lease_want *want, uint32_t i,
                            struct lease *lease, struct err *err)
{
    const struct placed *p = &r->placed[lease->version[i]];
    lease->has_rows[i] = p->has_rows;
    lease->has_scales[i] = p->has_scales;
    if (!p->has_states) {
        return 0;
    }
    if (lease->state < LIMIT_REQUEST_ADAPTERS) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "adapters \"%s\" and \"%s\" both hold initial states, a request can have "
                       "one",
                       want->names[lease->state], want->names[i]);
    }
    lease->state = i;
    return 0;
}

/* Fills lease->version with what serves now and counts what does not. */
static int lease_look(const struct registry *r, const struct lease_want *want, struct lease *lease,
                      uint32_t *out_missing_n, struct err *err)
{
    uint32_t ranks = 0;
    lease->state = LIMIT_REQUEST_ADAPTERS;
    *out_missing_n = 0;
    for (uint32_t i = 0; i < want->n; i++) {
        const char *revision = want->revisions[i] ? want->revisions[i] : "";
        uint32_t entry = entry_find(r, want->names[i]);
        if (entry == NONE || r->entries[entry].current == NONE) {
            if (want->fail_if_cold) {
                return entry == NONE ? err_set(err, ERR_ADAPTER_NOT_FOUND,
                                               "adapter \"%.80s\" is not known", want->names[i])
                                     : err_set(err, ERR_ADAPTER_LOADING,
                                               "adapter \"%s\" is not in device memory and the "
                                               "request does not wait",
                                               want->names[i]);
            }
            lease->version[i] = NONE;
            (*out_missing_n)++;
            continue;
        }
        lease->version[i] = r->entries[entry].current;
        const struct placed *p = &r->placed[lease->version[i]];
        ranks += p->group_rank;
        if (strncmp(p->revision, revision, strlen(revision)) != 0) {
            return err_set(err, ERR_ADAPTER_NOT_FOUND,
                           "adapter \"%s\" is at revision %.12s, %.64s was asked for",
                           want->names[i], p->revision, revision);
        }
        int rc = lease_look_state(r, want, i, lease, err);
        if (rc) {
            return rc;
        }
    }
    if (r->config.rank_max > 0 && ranks > r->config.rank_max) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "the ranks of the request's %u adapters add up to %u, limit is %u", want->n,
                       ranks, r->config.rank_max);
    }
    return 0;
}

/* Enters the line. */
static struct waiter *lease_wait(struct registry *r, const struct lease_want *want,
                                 struct lease *lease, struct err *err)
{
    uint32_t entries[LIMIT_REQUEST_ADAPTERS];
    struct waiter *w = NULL;
    uint32_t n = 0;
    for (; n < want->n; n++) {
        entries[n] = entry_find(r, want->names[n]);
        entries[n] = entries[n] != NONE ? entries[n] : entry_add(r, want->names[n], err);
        if (entries[n] == NONE) {
            break;
        }
    }
    if (n == want->n) {
        w = waiter_push(r);
    }
    if (!w) {
        if (n == want->n) {
            err_set(err, ERR_QUEUE_FULL, "%u requests wait for adapters, that is the limit",
                    (unsigned)LIMIT_QUEUE);
        }
        for (uint32_t i = 0; i < n; i++) {
            /* A name wanted twice may have been forgotten by the first round. */
            if (r->entries[entries[i]].is_used) {
                entry_forget_if_gone(r, entries[i]);
            }
        }
        return NULL;
    }
    w->n = n;
    for (uint32_t i = 0; i < n; i++) {
        w->entry[i] = entries[i];
        r->entries[entries[i]].ref_n++;
    }
    lease->waiter = (uint32_t)(w - r->waiters) + 1;
    r->is_dirty = true;
    return w;
}

static void lease_hold(struct registry *r, struct lease *lease, uint32_t n, int64_t now_ns,
                       struct lease_answer *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct placed *p = &r->placed[lease->version[i]];
        placed_pin(r, lease->version[i]);
        r->entries[p->entry].pub.last_used_unix_ms = registry_unix_ms(r, now_ns);
        memcpy(out->revisions[i], p->revision, sizeof out->revisions[i]);
    }
    if (lease->waiter) {
        waiter_remove(r, &r->waiters[lease->waiter - 1]);
    }
    lease->waiter = 0;
    lease->n = n;
    lease->is_held = true;
}

static int lease_fail(struct registry *r, struct lease *lease, int64_t now_ns,
                      const struct err *err)
{
    int code = err->code;
    registry_release(r, lease, now_ns);
    return code;
}

int registry_acquire(struct registry *r, const struct lease_want *want, struct lease *lease,
                     int64_t now_ns, struct lease_answer *out)
{
    THREAD_ASSERT(THREAD_ENGINE);
    ASSERT(want->n <= LIMIT_REQUEST_ADAPTERS && !lease->is_held);
    struct waiter *w = lease->waiter ? &r->waiters[lease->waiter - 1] : NULL;
    uint32_t missing_n;
    *out = (struct lease_answer){0};
    ASSERT(!w || (w->arrival != 0 && w->n == want->n));
    if (w && w->err.code) {
        out->err = w->err;
        return lease_fail(r, lease, now_ns, &out->err);
    }
    if (lease_look(r, want, lease, &missing_n, &out->err)) {
        return lease_fail(r, lease, now_ns, &out->err);
    }
    if (missing_n == 0 && (want->n == 0 || may_pass(r, w))) {
        lease_hold(r, lease, want->n, now_ns, out);
        return 0;
    }
    if (want->fail_if_cold) {
        err_set(&out->err, ERR_ADAPTER_LOADING,
                "older requests wait for adapter memory and the request does not wait");
        return lease_fail(r, lease, now_ns, &out->err);
    }
    if (!w) {
        w = lease_wait(r, want, lease, &out->err);
    }
    if (!w) {
        return lease_fail(r, lease, now_ns, &out->err);
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (lease->version[i] == NONE) {
            struct entry *e = &r->entries[w->entry[i]];
            attempt_join(r, w->entry[i]);
            e->pub.queued_n += w->attempt[i] == 0;
            w->attempt[i] = e->attempt;
        }
    }
    return err_set(&out->err, ERR_ADAPTER_LOADING, "waiting for adapters");
}

void registry_release(struct registry *r, struct lease *lease, int64_t now_ns)
{
    THREAD_ASSERT(THREAD_ENGINE);
    if (lease->waiter) {
        waiter_remove(r, &r->waiters[lease->waiter - 1]);
    }
    for (uint32_t i = 0; i < (lease->is_held ? lease->n : 0); i++) {
        struct entry *e = &r->entries[r->placed[lease->version[i]].entry];
        e->pub.last_used_unix_ms = registry_unix_ms(r, now_ns);
        placed_unpin(r, lease->version[i]);
    }
    *lease = (struct lease){0};
}
