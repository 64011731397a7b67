/* Everything an operator can set: one typed table behind the flags, the configuration file and
 * --dump-config.
 *
 * Order of authority: the command line, then drop-ins (FILE.d, sorted, the last one wins), then
 * FILE, then the defaults. Keys in files are the flags without their dashes, in sections. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/limits.h"

#define OPTIONS_CONFIG_FILE "/etc/graftd/graftd.conf"

enum options_action {
    OPTIONS_RUN,
    OPTIONS_CHECK,        /* print what this machine offers */
    OPTIONS_CHECK_CONFIG, /* say whether the configuration is sound */
    OPTIONS_DUMP_CONFIG,  /* print the configuration in force, as a file */
    OPTIONS_VERSION,
    OPTIONS_HELP,
};

struct options_list {
    const char *items[LIMIT_ADDRESSES];
    uint32_t n;
    uint32_t rank; /* of the source that set it; a higher one replaces the whole list */
};

struct options {
    enum options_action action;
    const char *config;     /* --config; NULL = OPTIONS_CONFIG_FILE where it exists */
    const char *model;      /* directory */
    const char *model_name; /* NULL = the directory's last component */
    const char *adapters;   /* directory; NULL = none */
    const char *weights;    /* "checkpoint", "random:SEED" */
    const char *backend;    /* "auto", "cpu", "cuda", "ref" */
    const char *devices;    /* "0", or several: "0,1" */
    const char *isa;        /* "auto", "portable", "avx2", "avx512", "avx512bf16", "amx" */
    const char *dtype;      /* "auto", "bf16", "f32" */
    const char *log_level;
    const char *log_format;
    struct options_list listen; /* never empty once parsed */
    bool is_tcp_open;
    uint64_t thread_n;      /* 0 = what the affinity mask and the quota allow */
    const char *gpu_memory; /* options_gpu_memory reads it */
    uint64_t kv_bytes;      /* 0 = the plan's share of what is left after the weights */
    uint64_t adapter_bytes; /* the same */
    uint64_t sequence_max;
    uint64_t context_max; /* 0 = what the model has */
    uint64_t drain_timeout_ns;
    struct arena arena; /* owns the strings */
};

/* Reads the command line and the files it leads to. The caller frees with options_done, also after
 * a failure. Errors (INVALID_PARAMETER, IO_FAILURE) name the flag, or file and line. */
int options_read(int argc, char **argv, struct options *out, struct err *err);
void options_done(struct options *options);

/* The defaults. */
void options_init(struct options *options);

/* One file's text; `label` is for errors, a higher rank replaces lists of a lower one. */
int options_parse_text(const char *label, const char *text, size_t n, uint32_t rank,
                       struct options *options, struct err *err);

/* One setting by its key. Errors do not name the source: the caller prefixes it. */
int options_set(struct options *options, const char *key, const char *value, uint32_t rank,
                struct err *err);

/* Bytes that a value of gpu-memory names: a share of `free_bytes`, or a size. False for neither. */
bool options_gpu_memory(const char *text, uint64_t free_bytes, uint64_t *out);

/* SEED of weights = random:SEED; false for another value. */
bool options_random_seed(const char *text, uint64_t *out);

/* The section a key belongs to; NULL for an unknown key. */
const char *options_section(const char *key);

void options_dump(const struct options *options, FILE *out);
void options_help(FILE *out);

#endif
