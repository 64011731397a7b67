/* The store: finds adapter folders and prepares versions from them. What every kind needs is done
 * once here: open below the root without following links out of it, read, hash, parse, check
 * values, convert to the held type, pack into one effect block in host memory.
 *
 * A store is immutable after store_open; io workers use it side by side. It knows nothing of names'
 * states: that is the registry's (adapters/registry.h), which the engine thread owns. */
#ifndef ADAPTERS_STORE_H
#define ADAPTERS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "adapters/adapter.h"
#include "base/dtype.h"
#include "base/job.h"

struct kern;
struct model_desc;
struct store;

#define STORE_KINDS_MAX 8

struct store_config {
    const char *root; /* the adapter root; NULL = none: every name is unknown */
    const struct model_desc *desc;
    const struct kern *kern; /* packs the factors */
    enum dtype held;
    /* Tests only, else NULL: called when the kind of `name` is known and nothing was read yet. */
    void (*before_read)(void *arg, const char *name);
    /* Tests only, else NULL: called when the files of `name` were read, before they are compared
     * with what lies on the disk by then. */
    void (*after_read)(void *arg, const char *name);
    void *arg;
};

/* An adapter's content, complete and immutable, in host memory. */
struct version {
    char name[LIMIT_ADAPTER_NAME_BYTES];
    char revision[SHA256_HEX_BYTES]; /* SHA-256 over the names, lengths and bytes of its files */
    const char *kind;                /* static */
    void *block;                     /* kernels/effect.h; NULL once it was freed */
    void *room;                      /* the job's; the block lies there where it fits */
    size_t block_bytes;
    bool has_rows;   /* it changes rows: it is in the batch's segments */
    bool has_scales; /* ... by scale effects, too */
    bool has_states; /* it changes what sequences begin with */
    uint32_t rank_max;
    uint32_t group_rank; /* largest sum of ranks over the sites of one linear group */
    uint32_t modules_applied;
    uint32_t modules_total;
    float conversion_error;
};

/* Order to prepare one version, or to discard one; sent to the loop as a struct job and back. */
struct prepare_job {
    struct job job;
    const struct store *store;
    char name[LIMIT_ADAPTER_NAME_BYTES];
    char known_revision[SHA256_HEX_BYTES]; /* of the version that serves; "" = none */
    void *room; /* lent until the version was discarded, for its block; NULL = none */
    size_t room_bytes;
    /* answer */
    struct version *version; /* NULL on failure and when is_unchanged */
    bool is_unchanged;       /* the folder's content is known_revision */
    struct err err;
};

int store_open(const struct store_config *config, struct store **out, struct err *err);
void store_close(struct store *store);

/* Names of the folders below the root that look like adapters, sorted; the caller frees the array
 * with mem_free. Folders with illegal names are skipped and counted. */
int store_scan(const struct store *store, char (**out_names)[LIMIT_ADAPTER_NAME_BYTES],
               uint32_t *out_n, uint32_t *out_skipped_n, struct err *err);

/* Names of the kinds that the base can have, sorted, into a list of STORE_KINDS_MAX; returns their
 * number. */
uint32_t store_kind_names(const struct store *store, const char **list);

/* Does what a prepare_job asks (its job.run points here). Io worker or test; blocks, allocates.
 * A folder that changes while it is read is read once more, then refused with ERR_CONFLICT. */
void store_prepare(struct job *job);

/* Frees job->version (job.run points here when the registry is done with the host copy; the engine
 * thread may not touch the heap). Any thread that may. */
void store_discard(struct job *job);

void version_free(struct version *version);

#endif
