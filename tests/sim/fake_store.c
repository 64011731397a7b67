/* Stands in for adapters/store.c: the functions that the registry links to are defined here. */
#include "tests/test.h"

#include "tests/sim/fake_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/mem.h"
#include "tests/sim/fake_rank.h"

static int64_t version_n;

int64_t fake_store_version_n(void)
{
    return version_n;
}

/* The registry's job.run; the simulation looks at which one it is and calls neither. */
void store_prepare(struct job *job)
{
    (void)job;
    abort();
}

void store_discard(struct job *job)
{
    (void)job;
    abort();
}

void version_free(struct version *version)
{
    if (version) {
        version_n--;
        mem_free(version->block);
        mem_free(version);
    }
}

static void fake_prepare(struct fake_store *store, struct prepare_job *job)
{
    uint32_t index = (uint32_t)strtoul(job->name + 1, NULL, 10);
    assert_true(index < CLIENT_NAMES);
    uint64_t content = store->content[index];
    if (content == 0) {
        err_set(&job->err, ERR_ADAPTER_NOT_FOUND, "could not load adapter \"%s\"", job->name);
        return;
    }
    if (dice_one_in(&store->dice, store->fail_one_in)) {
        err_set(&job->err, ERR_BAD_FILE, "could not load adapter \"%s\"", job->name);
        return;
    }
    struct version *version = mem_zalloc(sizeof *version);
    snprintf(version->name, sizeof version->name, "%s", job->name);
    snprintf(version->revision, sizeof version->revision, "%016" PRIx64, content);
    if (strcmp(version->revision, job->known_revision) == 0) {
        job->is_unchanged = true;
        mem_free(version); /* it was never counted */
        return;
    }
    version->kind = "fake";
    version->has_rows = client_has_rows(job->name);
    version->has_states = client_has_states(job->name);
    version->block_bytes = sizeof(struct fake_block) * (1 + content % 3);
    version->block = mem_zalloc(version->block_bytes);
    struct fake_block *block = version->block;
    block->content = content;
    for (size_t i = 0; i < ARRAY_N(block->filler); i++) {
        block->filler[i] = content;
    }
    job->version = version;
    version_n++;
}

void fake_store_run(struct fake_store *store, struct job *job)
{
    struct prepare_job *prepare = CONTAINER_OF(job, struct prepare_job, job);
    if (job->run == store_discard) {
        version_free(prepare->version);
        prepare->version = NULL;
    } else {
        assert_true(job->run == store_prepare);
        fake_prepare(store, prepare);
    }
}
