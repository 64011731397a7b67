/* Load attempts: from the wish for a version to its host copy's end. A load slot carries one job
 * record back and forth: first to prepare the version, then to discard what it held on the host. */
#include "adapters/registry_int.h"

#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "kernels/effect.h"

static void queue_push(struct registry *r, uint32_t entry)
{
    r->entries[entry].queue_next = NONE;
    if (r->queue_tail == NONE) {
        r->queue_head = entry;
    } else {
        r->entries[r->queue_tail].queue_next = entry;
    }
    r->queue_tail = entry;
}

static void queue_remove(struct registry *r, uint32_t entry)
{
    uint32_t prev = NONE;
    uint32_t i = r->queue_head;
    while (i != entry) {
        ASSERT(i != NONE);
        prev = i;
        i = r->entries[i].queue_next;
    }
    uint32_t next = r->entries[entry].queue_next;
    if (prev == NONE) {
        r->queue_head = next;
    } else {
        r->entries[prev].queue_next = next;
    }
    if (r->queue_tail == entry) {
        r->queue_tail = prev;
    }
}

void attempt_start(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    ASSERT(e->phase == PHASE_IDLE);
    e->attempt++;
    e->phase = PHASE_QUEUED;
    queue_push(r, entry);
    entry_refresh(r, entry);
    r->is_dirty = true;
}

void attempt_join(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    if (e->phase == PHASE_IDLE) {
        attempt_start(r, entry);
    }
    e->is_abandoned = false;
}

/* Answers the ops that waited for attempt number `attempt`. */
static void attempt_answer(struct registry *r, uint32_t entry, const struct adapter_op *answer)
{
    struct entry *e = &r->entries[entry];
    struct adapter_op **at = &r->ops;
    while (*at) {
        struct adapter_op *op = *at;
        if (op->attempt != answer->attempt || strcmp(op->name, e->pub.name) != 0) {
            at = &op->next;
            continue;
        }
        *at = op->next;
        e->op_n--;
        op->err = answer->err;
        op->is_unchanged = answer->is_unchanged;
        op->out_n = answer->err.code ? 0 : MIN(op->out_max, 1u);
        if (op->out_n) {
            op->out[0] = e->pub;
        }
        op_answer(r, op);
    }
}

/* Back to rest, or straight into the next attempt that somebody has asked for. */
static void attempt_end(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    e->phase = PHASE_IDLE;
    e->load = NONE;
    e->is_abandoned = false;
    if (e->is_again) {
        e->is_again = false;
        attempt_start(r, entry);
    } else {
        entry_refresh(r, entry);
    }
    r->is_dirty = true;
}

void attempt_succeed(struct registry *r, uint32_t entry, bool is_unchanged)
{
    struct entry *e = &r->entries[entry];
    struct adapter_op answer = {.attempt = e->attempt, .is_unchanged = is_unchanged};
    e->is_failed = false;
    e->is_gone = false;
    e->pub.last_error[0] = '\0';
    attempt_end(r, entry);
    attempt_answer(r, entry, &answer);
    r->has_news = true;
}

void attempt_fail(struct registry *r, uint32_t entry, const struct err *err)
{
    struct entry *e = &r->entries[entry];
    struct adapter_op answer = {.attempt = e->attempt, .err = *err};
    e->is_failed = true;
    e->is_gone = err->code == ERR_ADAPTER_NOT_FOUND;
    memcpy(e->pub.last_error, err->text, sizeof e->pub.last_error);
    waiters_fail(r, entry, err);
    attempt_end(r, entry);
    attempt_answer(r, entry, &answer);
    r->has_news = true;
    entry_forget_if_gone(r, entry);
}

void attempt_drop(struct registry *r, uint32_t entry)
{
    struct entry *e = &r->entries[entry];
    if (e->phase == PHASE_READING) {
        e->is_abandoned = true; /* its job cannot be called back */
        return;
    }
    if (e->phase == PHASE_QUEUED) {
        queue_remove(r, entry);
    } else {
        struct load *load = &r->loads[e->load];
        uint32_t version = e->phase == PHASE_COPYING ? load->version : NONE;
        load_discard(r, load);
        attempt_end(r, entry);
        if (version != NONE) {
            r->copying_n--;
            placed_free(r, version);
        }
        return;
    }
    attempt_end(r, entry);
}

void load_discard(struct registry *r, struct load *load)
{
    load->use = load->job.version ? LOAD_DUE : LOAD_FREE;
    load->entry = NONE;
    load->version = NONE;
    r->is_dirty = true;
}

static bool load_submit(struct registry *r, struct load *load, enum load_use use,
                        void (*run)(struct job *job))
{
    load->job.job.run = run;
    if (!r->config.submit(r->config.arg, &load->job)) {
        return false;
    }
    load->use = use;
    r->job_n++;
    return true;
}

bool loads_discard_due(struct registry *r)
{
    bool is_all_sent = true;
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        struct load *load = &r->loads[i];
        if (load->use != LOAD_DUE) {
            continue;
        }
        /* What was dropped on its way may still be read. */
        if (!r->config.kern->is_brought(r->config.dev, load->ticket)) {
            is_all_sent = false;
        } else if (!load_submit(r, load, LOAD_DISCARDING, store_discard)) {
            return false;
        }
    }
    return is_all_sent;
}

/* The queued entry that the oldest waits for. Those that nobody waits for any more are dropped. */
static uint32_t queue_best(struct registry *r)
{
    uint32_t best = NONE;
    uint32_t next;
    for (uint32_t i = r->queue_head; i != NONE; i = next) {
        next = r->entries[i].queue_next;
        uint64_t priority = entry_priority(r, i);
        if (priority == NOBODY) {
            attempt_drop(r, i);
            entry_forget_if_gone(r, i);
        } else if (best == NONE || priority < entry_priority(r, best)) {
            best = i;
        }
    }
    return best;
}

/* A free load slot, or NULL. When all are taken by versions that wait for memory on behalf of
 * younger waiters, the youngest of them gives way: it will be read again. Without this the oldest
 * waiter's load could wait for slots whose holders wait for the oldest waiter's memory. */
static struct load *load_find_free(struct registry *r, uint64_t priority)
{
    struct load *youngest = NULL;
    bool is_one_coming = false;
    for (uint32_t i = 0; i < LIMIT_ADAPTER_JOBS; i++) {
        struct load *load = &r->loads[i];
        if (load->use == LOAD_FREE) {
            return load;
        }
        is_one_coming = is_one_coming || load->use == LOAD_DUE || load->use == LOAD_DISCARDING;
        if (load->use == LOAD_STAGED && entry_priority(r, load->entry) > priority &&
            (!youngest || entry_priority(r, load->entry) > entry_priority(r, youngest->entry))) {
            youngest = load;
        }
    }
    if (youngest && !is_one_coming) {
        uint32_t entry = youngest->entry;
        load_discard(r, youngest);
        r->entries[entry].phase = PHASE_QUEUED;
        r->entries[entry].load = NONE;
        queue_push(r, entry);
        entry_refresh(r, entry);
    }
    return NULL;
}

/* A room that no load has, or NULL. */
static char *room_find(const struct registry *r)
{
    for (uint32_t i = 0; r->config.rooms && i < r->config.room_n; i++) {
        char *room = r->config.rooms + i * r->config.room_bytes;
        uint32_t k = 0;
        while (k < LIMIT_ADAPTER_JOBS &&
               (r->loads[k].use == LOAD_FREE || r->loads[k].job.room != room)) {
            k++;
        }
        if (k == LIMIT_ADAPTER_JOBS) {
            return room;
        }
    }
    return NULL;
}

void loads_start(struct registry *r)
{
    for (;;) {
        uint32_t entry = queue_best(r);
        if (entry == NONE) {
            return;
        }
        struct entry *e = &r->entries[entry];
        struct load *load = load_find_free(r, entry_priority(r, entry));
        if (!load) {
            return;
        }
        *load = (struct load){.entry = entry,
                              .version = NONE,
                              .job = {.store = r->config.store,
                                      .room = room_find(r),
                                      .room_bytes = r->config.room_bytes}};
        memcpy(load->job.name, e->pub.name, sizeof load->job.name);
        memcpy(load->job.known_revision, e->pub.revision, sizeof load->job.known_revision);
        if (!load_submit(r, load, LOAD_READING, store_prepare)) {
            load->entry = NONE;
            r->is_dirty = true; /* tried again in the next pass */
            return;
        }
        queue_remove(r, entry);
        e->phase = PHASE_READING;
        e->load = (uint32_t)(load - r->loads);
        entry_refresh(r, entry);
    }
}

/* Refuses what can never be placed. */
static int version_check(const struct registry *r, const struct version *v, struct err *err)
{
    if (ROUND_UP(v->block_bytes, EFFECT_ALIGN) > r->pool.bytes) {
        return err_set(err, ERR_ADAPTER_MEMORY_EXHAUSTED,
                       "could not load adapter \"%s\": it takes %zu bytes, the adapter pool has "
                       "%zu (--adapter-memory)",
                       v->name, v->block_bytes, r->pool.bytes);
    }
    if (r->config.rank_max > 0 && v->group_rank > r->config.rank_max) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "could not load adapter \"%s\": its ranks in one group of linears add up to "
                       "%u, limit is %u",
                       v->name, v->group_rank, r->config.rank_max);
    }
    return 0;
}

/* The version of this name in memory that has the same content, or NONE. */
static uint32_t version_find(const struct registry *r, uint32_t entry, const char *revision)
{
    const struct entry *e = &r->entries[entry];
    if (e->current != NONE && strcmp(r->placed[e->current].revision, revision) == 0) {
        return e->current;
    }
    for (uint32_t i = 0; e->pub.retiring_n > 0 && i < LIMIT_VERSIONS; i++) {
        if (r->placed[i].entry == entry && strcmp(r->placed[i].revision, revision) == 0) {
            return i;
        }
    }
    return NONE;
}

static void prepared(struct registry *r, struct load *load, int64_t now_ns)
{
    uint32_t entry = load->entry;
    struct entry *e = &r->entries[entry];
    struct err err = {0};
    uint32_t same = version_find(r, entry, load->job.version->revision);
    if (same != NONE) {
        /* Content that still lies in memory for running sequences serves again. */
        bool is_unchanged = e->current == same;
        if (!is_unchanged) {
            placed_flip(r, same, now_ns);
        }
        load_discard(r, load);
        attempt_succeed(r, entry, is_unchanged);
    } else if (version_check(r, load->job.version, &err)) {
        load_discard(r, load);
        attempt_fail(r, entry, &err);
    } else {
        load->use = LOAD_STAGED;
        e->phase = PHASE_STAGED;
        entry_refresh(r, entry);
    }
}

void registry_job_done(struct registry *r, struct prepare_job *job, int64_t now_ns)
{
    THREAD_ASSERT(THREAD_ENGINE);
    struct load *load = CONTAINER_OF(job, struct load, job);
    ASSERT(load >= r->loads && load < r->loads + LIMIT_ADAPTER_JOBS);
    ASSERT(load->use == LOAD_READING || load->use == LOAD_DISCARDING);
    r->job_n--;
    r->is_dirty = true;
    if (load->use == LOAD_DISCARDING) {
        load->use = LOAD_FREE;
        return;
    }
    uint32_t entry = load->entry;
    struct entry *e = &r->entries[entry];
    ASSERT(e->phase == PHASE_READING && &r->loads[e->load] == load);
    if (e->is_abandoned) {
        load_discard(r, load);
        attempt_end(r, entry);
        entry_forget_if_gone(r, entry);
    } else if (job->err.code) {
        ASSERT(!job->version);
        load->use = LOAD_FREE;
        attempt_fail(r, entry, &job->err);
    } else if (!job->is_unchanged) {
        prepared(r, load, now_ns);
    } else {
        load->use = LOAD_FREE;
        if (e->current != NONE && strcmp(e->pub.revision, job->known_revision) == 0) {
            attempt_succeed(r, entry, true);
        } else {
            /* What it was compared with has been evicted since: read it after all. */
            e->phase = PHASE_QUEUED;
            e->load = NONE;
            queue_push(r, entry);
            entry_refresh(r, entry);
        }
    }
}
