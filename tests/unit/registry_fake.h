/* A world round a registry: device memory is host memory, jobs run when the test says so, and the
 * content of every folder is a pattern that the test can recognise in the pool. */
#ifndef TESTS_UNIT_REGISTRY_FAKE_H
#define TESTS_UNIT_REGISTRY_FAKE_H

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "adapters/registry.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/immediate.h"

#define FAKE_NAMES 40
#define FAKE_JOBS  64

struct fake_folder {
    uint32_t bytes;   /* 0: there is no such folder */
    uint32_t content; /* changes with every new content */
    int fail;         /* != 0: loading fails with this code */
    bool has_states;
    bool has_no_rows;
    bool has_scales;
};

struct fake {
    struct registry *registry;
    struct kern kern;
    void *pool;
    size_t pool_bytes;
    struct fake_folder folders[FAKE_NAMES];
    struct prepare_job *jobs[FAKE_JOBS];
    uint32_t job_n;
    bool is_refusing; /* submit takes nothing */
    uint32_t prepared_n;
    const void *blocks[LIMIT_VERSIONS]; /* what set_version was told */
    int64_t now_ns;
};

static inline void fake_name(uint32_t i, char *name)
{
    snprintf(name, LIMIT_ADAPTER_NAME_BYTES, "a%02u", i);
}

static inline void fake_revision(uint32_t i, uint32_t content, char *revision)
{
    snprintf(revision, SHA256_HEX_BYTES, "%08x%056x", content, i);
}

static inline bool fake_submit(void *arg, struct prepare_job *job)
{
    struct fake *f = arg;
    if (f->is_refusing || f->job_n == FAKE_JOBS) {
        return false;
    }
    f->jobs[f->job_n++] = job;
    return true;
}

/* rooms: two of room_bytes each, or NULL. */
static inline void fake_start_rooms(struct fake *f, size_t pool_bytes, size_t copy_bytes,
                                    char *rooms, size_t room_bytes)
{
    *f = (struct fake){.pool_bytes = pool_bytes,
                       .kern = {.bring = kern_bring_now,
                                .is_brought = kern_is_brought_now,
                                .discard = kern_discard_nothing}};
    f->pool = aligned_alloc(EFFECT_ALIGN, ROUND_UP(pool_bytes, EFFECT_ALIGN));
    struct registry_config config = {.kern = &f->kern,
                                     .pool = f->pool,
                                     .pool_bytes = pool_bytes,
                                     .rooms = rooms,
                                     .room_bytes = room_bytes,
                                     .room_n = 2,
                                     .submit = fake_submit,
                                     .arg = f,
                                     .copy_bytes_max = copy_bytes,
                                     .rank_max = 100};
    assert_int_equal(registry_new(&config, &f->registry, NULL), 0);
}

static inline void fake_start(struct fake *f, size_t pool_bytes, size_t copy_bytes)
{
    fake_start_rooms(f, pool_bytes, copy_bytes, NULL, 0);
}

static inline void fake_prepare(struct fake *f, struct prepare_job *job)
{
    uint32_t i = (uint32_t)atoi(job->name + 1);
    const struct fake_folder *folder = &f->folders[i];
    char revision[SHA256_HEX_BYTES];
    job->version = NULL;
    job->is_unchanged = false;
    job->err = (struct err){0};
    f->prepared_n++;
    if (folder->bytes == 0) {
        err_set(&job->err, ERR_ADAPTER_NOT_FOUND, "no folder %s", job->name);
        return;
    }
    if (folder->fail) {
        err_set(&job->err, folder->fail, "folder %s is bad", job->name);
        return;
    }
    fake_revision(i, folder->content, revision);
    job->is_unchanged = strcmp(revision, job->known_revision) == 0;
    if (job->is_unchanged) {
        return;
    }
    struct version *v = mem_zalloc(sizeof *v);
    memcpy(v->name, job->name, sizeof v->name);
    memcpy(v->revision, revision, sizeof v->revision);
    v->kind = "lora";
    v->has_rows = !folder->has_no_rows;
    v->has_scales = folder->has_scales;
    v->has_states = folder->has_states;
    v->block_bytes = folder->bytes;
    v->room = job->room;
    v->block = v->room;
    if (!v->room || job->room_bytes < v->block_bytes) {
        assert_int_equal(mem_pages_alloc(v->block_bytes, &v->block, NULL), 0);
    }
    memset(v->block, (int)(folder->content * 13 + i), v->block_bytes);
    v->rank_max = 8;
    v->group_rank = 24;
    v->modules_applied = 3;
    v->modules_total = 3;
    job->version = v;
}

/* Runs and returns job number `at` of those that are out. */
static inline void fake_run_job(struct fake *f, uint32_t at)
{
    struct prepare_job *job = f->jobs[at];
    f->jobs[at] = f->jobs[--f->job_n];
    if (job->job.run == store_prepare) {
        fake_prepare(f, job);
    } else {
        assert_ptr_equal(job->job.run, store_discard);
        store_discard(&job->job);
    }
    registry_job_done(f->registry, job, f->now_ns);
}

/* One round between two steps. */
static inline bool fake_progress(struct fake *f, bool *out_busy)
{
    bool has_news = registry_progress(f->registry, f->now_ns, out_busy);
    uint32_t version;
    const void *block;
    while (registry_next_change(f->registry, &version, &block)) {
        f->blocks[version] = block;
    }
    return has_news;
}

/* Runs everything until nothing moves. Returns whether there was news. */
static inline bool fake_settle(struct fake *f)
{
    bool has_news = false;
    bool is_busy = true;
    for (int i = 0; i < 10000 && (is_busy || f->job_n > 0); i++) {
        has_news = fake_progress(f, &is_busy) || has_news;
        while (f->job_n > 0) {
            fake_run_job(f, 0);
            is_busy = true;
        }
    }
    assert_false(is_busy);
    return has_news;
}

static inline void fake_stop(struct fake *f)
{
    fake_settle(f);
    assert_int_equal(registry_job_n(f->registry), 0);
    registry_free(f->registry);
    free(f->pool);
}

static inline struct lease_want fake_want(const char *a, const char *b)
{
    struct lease_want want = {.n = b ? 2 : 1, .names = {a, b}};
    return want;
}

#endif
