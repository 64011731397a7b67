/* For implementers of adapter kinds: one on-disk format each, turned into effects.
 *
 * A kind is one file that exports a `const struct adapter_kind` and is listed in store.c. It
 * touches no scheduler and no kernel. Every tensor of an adapter must map to a site or the load is
 * refused with the tensor's name. All functions run on an io worker; they may block and allocate.
 */
#ifndef ADAPTERS_KIND_H
#define ADAPTERS_KIND_H

#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/file.h"
#include "kernels/kern.h"

struct model_desc;

/* A file of the adapter's folder, already read. `data` is private memory that cannot change while
 * it is parsed; it is what the content hash was taken over. */
struct adapter_file {
    const char *name; /* "adapter_config.json" */
    const unsigned char *data;
    size_t n;
};

struct adapter_source {
    const struct adapter_file *files;
    uint32_t file_n;
};

/* One low-rank effect as parsed: A [rank, in] and B [out, rank] on the host, any dtype. The
 * matrices are borrowed from the source's files or from the arena. */
struct parsed_lowrank {
    uint32_t site;
    uint32_t rank;
    float scale;
    struct kern_matrix a;
    struct kern_matrix b;
    const char *a_name; /* tensor names, for errors about values */
    const char *b_name;
};

/* Vectors over one linear's inputs or outputs as parsed: fp32, in the arena. */
struct parsed_scale {
    uint32_t site;
    const float *in;  /* [k], or NULL */
    const float *out; /* [n], or NULL */
};

/* What parse emits. The store calls arena_init before parse and arena_done when it is through,
 * also after a failure. */
struct parsed_adapter {
    struct arena arena;
    struct parsed_lowrank *lowranks; /* at most one per site */
    uint32_t lowrank_n;
    struct parsed_scale *scales; /* at most one per site */
    uint32_t scale_n;
    /* [state_layer_n]: what each recurrent layer begins with, scaled, in kern_recurrent.h's layout;
     * NULL when the adapter has no states. */
    const float **states;
    uint32_t modules_total; /* modules the files name */
};

struct adapter_kind {
    const char *name;  /* "lora" */
    bool is_recurrent; /* only bases that have recurrent layers can have it */
    /* The files of a folder this kind is recognised by, and those it reads (NULL-terminated). */
    const char *const *marker_files;
    const char *const *files;
    const char *const *optional_files; /* read where they are there; NULL-terminated */
    /* The same content in a format that is not read because it can run code: a folder that has
     * one of these instead of a file above is told so. NULL-terminated. */
    const char *const *unsafe_files;
    /* Whether the files, which another kind has as well, are of this one; NULL where no other has
     * them. */
    bool (*is_of)(const struct adapter_source *source);
    /* Every file of `files` is there. Errors name the file or the tensor; the store puts the
     * adapter's name before them. */
    int (*parse)(const struct adapter_source *source, const struct model_desc *desc,
                 struct parsed_adapter *out, struct err *err);
};

extern const struct adapter_kind kind_lora;
extern const struct adapter_kind kind_ia3;
extern const struct adapter_kind kind_s0;

const struct adapter_file *adapter_source_file(const struct adapter_source *source,
                                               const char *name);

#endif
