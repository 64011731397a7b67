/* Versions in device memory: finding room, evicting, copying in bounded pieces, flipping the name's
 * pointer, pins.
 *
 * Room is made for those who wait in order of arrival. A version without pins may go when nobody
 * older, nor the same request, waits for it: first what nobody waits for, least recently used
 * first, then what the youngest waits for. Nothing is evicted unless that makes a hole that is
 * large enough; where pinned blocks split the free bytes, the one who needs room waits until pins
 * are given back. */
#include "adapters/registry_int.h"

#include <stdio.h>
#include <string.h>

#include "kernels/effect.h"

static void idle_push(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    ASSERT(!p->is_idle && p->pins == 0 && p->is_ready && !p->is_retiring);
    p->is_idle = true;
    p->idle_prev = r->idle_tail;
    p->idle_next = NONE;
    if (r->idle_tail == NONE) {
        r->idle_head = version;
    } else {
        r->placed[r->idle_tail].idle_next = version;
    }
    r->idle_tail = version;
}

static void idle_remove(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    ASSERT(p->is_idle);
    p->is_idle = false;
    if (p->idle_prev == NONE) {
        r->idle_head = p->idle_next;
    } else {
        r->placed[p->idle_prev].idle_next = p->idle_next;
    }
    if (p->idle_next == NONE) {
        r->idle_tail = p->idle_prev;
    } else {
        r->placed[p->idle_next].idle_prev = p->idle_prev;
    }
}

static void change_push(struct registry *r, uint32_t version)
{
    if (!r->placed[version].is_changed) {
        r->placed[version].is_changed = true;
        r->changes[(r->change_head + r->change_n) % LIMIT_VERSIONS] = version;
        r->change_n++;
    }
}

bool registry_next_change(struct registry *r, uint32_t *out_version, const void **out_block_dev)
{
    if (r->change_n == 0) {
        return false;
    }
    uint32_t version = r->changes[r->change_head];
    struct placed *p = &r->placed[version];
    r->change_head = (r->change_head + 1) % LIMIT_VERSIONS;
    r->change_n--;
    p->is_changed = false;
    bool is_there = p->entry != NONE && p->is_ready;
    *out_version = version;
    *out_block_dev = is_there ? (const char *)r->config.pool + r->pool.nodes[p->node].at : NULL;
    return true;
}

/* The name's record describes no version any more. */
static void entry_clear_current(struct entry *e)
{
    e->current = NONE;
    e->pub.revision[0] = '\0';
    e->pub.rank_max = 0;
    e->pub.modules_applied = 0;
    e->pub.modules_total = 0;
    e->pub.conversion_error = 0;
}

void placed_free(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    uint32_t entry = p->entry;
    struct entry *e = &r->entries[entry];
    ASSERT(entry != NONE && p->pins == 0);
    if (p->is_idle) {
        idle_remove(r, version);
    }
    if (e->current == version) {
        entry_clear_current(e);
    }
    e->pub.retiring_n -= p->is_retiring;
    const struct pool_node *node = &r->pool.nodes[p->node];
    e->pub.device_bytes -= node->bytes;
    r->config.kern->discard(r->config.dev, (char *)r->config.pool + node->at, node->bytes);
    pool_free(&r->pool, p->node);
    if (p->is_ready) {
        change_push(r, version);
    }
    p->entry = NONE;
    p->is_ready = false;
    p->is_retiring = false;
    p->free_next = r->free_placed;
    r->free_placed = version;
    r->is_dirty = true;
    entry_refresh(r, entry);
}

void placed_pin(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    if (p->is_idle) {
        idle_remove(r, version);
    }
    p->pins++;
    r->pin_n++;
    r->entries[p->entry].pub.active_n++;
}

void placed_unpin(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    uint32_t entry = p->entry;
    ASSERT(p->pins > 0 && r->pin_n > 0);
    p->pins--;
    r->pin_n--;
    r->entries[entry].pub.active_n--;
    if (p->pins > 0) {
        return;
    }
    r->is_dirty = true;
    if (p->is_retiring) {
        placed_free(r, version);
        entry_forget_if_gone(r, entry);
    } else {
        idle_push(r, version);
    }
}

void placed_retire(struct registry *r, uint32_t version)
{
    struct placed *p = &r->placed[version];
    struct entry *e = &r->entries[p->entry];
    ASSERT(e->current == version);
    if (p->pins == 0) {
        placed_free(r, version);
        return;
    }
    entry_clear_current(e);
    p->is_retiring = true;
    e->pub.retiring_n++;
    entry_refresh(r, p->entry);
}

void placed_flip(struct registry *r, uint32_t version, int64_t now_ns)
{
    struct placed *p = &r->placed[version];
    struct entry *e = &r->entries[p->entry];
    uint32_t old = e->current;
    e->current = version; /* before the old one goes, so that the name never looks empty */
    if (p->is_retiring) {
        p->is_retiring = false;
        e->pub.retiring_n--;
    }
    if (p->pins == 0) {
        idle_push(r, version);
    }
    if (old != NONE && r->placed[old].pins == 0) {
        placed_free(r, old);
    } else if (old != NONE) {
        r->placed[old].is_retiring = true;
        e->pub.retiring_n++;
    }
    memcpy(e->pub.revision, p->revision, sizeof e->pub.revision);
    snprintf(e->pub.kind, sizeof e->pub.kind, "%s", p->kind);
    e->pub.rank_max = p->rank_max;
    e->pub.modules_applied = p->modules_applied;
    e->pub.modules_total = p->modules_total;
    e->pub.conversion_error = p->conversion_error;
    e->pub.loaded_unix_ms = registry_unix_ms(r, now_ns);
    e->pub.load_n++;
}

uint64_t entry_priority(const struct registry *r, uint32_t entry)
{
    const struct entry *e = &r->entries[entry];
    return e->pass == r->pass ? e->priority : NOBODY;
}

/* On whose behalf room is made. */
struct evictor {
    const struct registry *r;
    uint32_t entry;
    uint64_t priority;
    /* For the oldest, with no pins and no copies under way, even what the same request waits for
     * may go: its parts fit together, but may lie so that the last one does not; placed afresh they
     * lie close. */
    bool is_last_resort;
};

static bool is_evictable(void *arg, uint32_t version)
{
    const struct evictor *ev = arg;
    const struct placed *p = &ev->r->placed[version];
    if (!p->is_idle) {
        return false;
    }
    uint64_t priority = entry_priority(ev->r, p->entry);
    return p->entry == ev->entry || priority > ev->priority ||
           (ev->is_last_resort && priority == ev->priority);
}

static void evict_one(struct registry *r, struct evictor *ev)
{
    uint32_t victim = NONE;
    for (uint32_t i = r->idle_head; i != NONE; i = r->placed[i].idle_next) {
        uint64_t priority = entry_priority(r, r->placed[i].entry);
        if (is_evictable(ev, i) &&
            (victim == NONE || priority > entry_priority(r, r->placed[victim].entry))) {
            victim = i;
            if (priority == NOBODY) {
                break;
            }
        }
    }
    ASSERT(victim != NONE);
    uint32_t entry = r->placed[victim].entry;
    r->has_news = r->has_news || r->entries[entry].ref_n > 0; /* they have to ask again */
    placed_free(r, victim);
    entry_forget_if_gone(r, entry);
}

/* Gives a staged version its place and begins to copy it. */
static bool place(struct registry *r, struct load *load, uint64_t priority)
{
    const struct version *v = load->job.version;
    size_t bytes = ROUND_UP(v->block_bytes, EFFECT_ALIGN);
    uint32_t entry = load->entry;
    uint32_t version = r->free_placed;
    uint32_t node = version == NONE ? NONE : pool_alloc(&r->pool, bytes, version);
    struct evictor ev = {.r = r,
                         .entry = entry,
                         .priority = priority,
                         .is_last_resort =
                             r->pin_n == 0 && r->copying_n == 0 && priority == r->oldest};
    if (node == NONE &&
        (priority == NOBODY || !pool_would_fit(&r->pool, bytes, is_evictable, &ev))) {
        return false;
    }
    while (node == NONE) {
        evict_one(r, &ev);
        version = r->free_placed;
        node = pool_alloc(&r->pool, bytes, version);
    }
    struct placed *p = &r->placed[version];
    r->free_placed = p->free_next;
    *p = (struct placed){.entry = entry,
                         .node = node,
                         .is_changed = p->is_changed,
                         .kind = v->kind,
                         .has_rows = v->has_rows,
                         .has_scales = v->has_scales,
                         .has_states = v->has_states,
                         .rank_max = v->rank_max,
                         .group_rank = v->group_rank,
                         .modules_applied = v->modules_applied,
                         .modules_total = v->modules_total,
                         .conversion_error = v->conversion_error};
    memcpy(p->revision, v->revision, sizeof p->revision);
    r->entries[entry].pub.device_bytes += bytes;
    r->entries[entry].phase = PHASE_COPYING;
    load->use = LOAD_COPYING;
    load->version = version;
    load->copied = 0;
    load->order = ++r->copy_order;
    r->copying_n++;
    entry_refresh(r, entry);
    return true;
}

static struct load *next_staged(struct registry *r)
{
    struct load *best = NULL;
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        struct load *load = &r->loads[i];
        if (load->use == LOAD_STAGED && !load->is_tried &&
            (!best || entry_priority(r, load->entry) < entry_priority(r, best->entry))) {
            best = load;
        }
    }
    return best;
}

void plan_places(struct registry *r)
{
    uint64_t blocked = 0;
    struct load *load;
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        r->loads[i].is_tried = false;
    }
    while ((load = next_staged(r)) != NULL) {
        uint32_t entry = load->entry;
        uint64_t priority = entry_priority(r, entry);
        load->is_tried = true;
        if (place(r, load, priority)) {
            continue;
        }
        if (priority == NOBODY) {
            attempt_drop(r, entry);
            entry_forget_if_gone(r, entry);
            continue;
        }
        blocked = blocked ? blocked : priority;
        if (blocked == r->blocked && overtakes_are_spent(r)) {
            break; /* what becomes free now is for the one who has waited longest */
        }
    }
    if (blocked != r->blocked) {
        r->has_news = r->has_news || r->blocked != 0;
        r->blocked = blocked;
        r->overtake_n = 0;
    }
}

/* The first in order whose bytes the device has, or has not, taken completely. */
static struct load *next_copying(struct registry *r, bool is_taken)
{
    struct load *best = NULL;
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        struct load *load = &r->loads[i];
        if (load->use == LOAD_COPYING &&
            (load->copied == load->job.version->block_bytes) == is_taken &&
            (!best || load->order < best->order)) {
            best = load;
        }
    }
    return best;
}

/* Versions whose last byte is there serve from now on. */
static void copies_arrive(struct registry *r, int64_t now_ns)
{
    struct load *load = next_copying(r, true);
    while (load && r->config.kern->is_brought(r->config.dev, load->ticket)) {
        uint32_t version = load->version;
        struct placed *p = &r->placed[version];
        uint32_t entry = p->entry;
        p->is_ready = true;
        change_push(r, version);
        r->copying_n--;
        placed_flip(r, version, now_ns);
        load_discard(r, load);
        attempt_succeed(r, entry, false);
        load = next_copying(r, true);
    }
}

void copy_some(struct registry *r, int64_t now_ns)
{
    size_t budget = r->config.copy_bytes_max;
    struct load *load = next_copying(r, false);
    bool has_room = true;
    while (load && budget > 0 && has_room) {
        const struct version *v = load->job.version;
        size_t n = MIN(budget, v->block_bytes - load->copied);
        char *to = (char *)r->config.pool + r->pool.nodes[r->placed[load->version].node].at;
        size_t taken =
            r->config.kern->bring(r->config.dev, to + load->copied,
                                  (const char *)v->block + load->copied, n, &load->ticket);
        load->copied += taken;
        budget -= taken;
        has_room = taken == n;
        load = next_copying(r, false);
    }
    copies_arrive(r, now_ns);
    r->is_copy_waiting = r->copying_n > 0 && (!load || !has_room);
}
