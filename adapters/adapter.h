/* Adapters as the rest of the daemon sees them: plain data, and the questions one may ask.
 *
 * The engine thread owns the registry. A `struct adapter_op` travels to it like a request: the
 * server fills the question, sends MSG_ADAPTER_OP, and owns the record again when EVENT_ADAPTER_OP
 * brings it back with the answer. */
#ifndef ADAPTERS_ADAPTER_H
#define ADAPTERS_ADAPTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/sha256.h"

/* registered -> loading -> host -> device -> retiring -> registered or gone;
 * loading -> failed -> loading. The table of allowed moves is asserted in adapters/registry.c. */
enum adapter_state {
    ADAPTER_REGISTERED = 1, /* its folder is known, nothing is in memory */
    ADAPTER_LOADING,        /* a worker reads it */
    ADAPTER_HOST,           /* complete in host memory, on its way to the device */
    ADAPTER_DEVICE,         /* ready */
    ADAPTER_RETIRING,       /* unloaded, sequences still run on it */
    ADAPTER_FAILED,         /* the last load failed and no version serves */
};

/* The current version of a name. While a newer version loads or has failed to load, state is that
 * of the version that serves and last_error tells about the newer one. */
struct adapter {
    char name[LIMIT_ADAPTER_NAME_BYTES];
    char kind[16];                   /* "lora"; "" before the first load */
    char revision[SHA256_HEX_BYTES]; /* content hash; "" when nothing is loaded */
    enum adapter_state state;
    bool is_loading;          /* a (newer) version is being prepared */
    uint64_t host_bytes;      /* of a version on its way to the device */
    uint64_t device_bytes;    /* all its versions in device memory, retiring ones included */
    uint32_t rank_max;        /* largest low rank; 0 when it has none */
    uint32_t modules_applied; /* sites changed */
    uint32_t modules_total;   /* sites its files name: equal, or the load was refused */
    float conversion_error;   /* largest |change| / largest |value| of a factor, all tensors */
    uint32_t active_n;        /* sequences running on any of its versions */
    uint32_t queued_n;        /* requests waiting for it */
    uint32_t retiring_n;      /* older versions kept by running sequences */
    int64_t registered_unix_ms;
    int64_t loaded_unix_ms;    /* 0 = never */
    int64_t last_used_unix_ms; /* 0 = never */
    uint64_t load_n;           /* successful loads since the start */
    uint64_t etag;             /* changes with every change of this record but counts and times */
    char last_error[ERR_TEXT_BYTES]; /* "" = none since the last successful load */
};

enum adapter_op_type {
    ADAPTER_OP_LOAD,   /* (re)load the folder `name`; waits for the outcome of a read that began
                        * after the question came, so that a change made before it is seen */
    ADAPTER_OP_UNLOAD, /* free its memory as soon as no sequence runs on it; answers at once */
    ADAPTER_OP_GET,
    ADAPTER_OP_LIST, /* all, sorted by name */
};

struct adapter_op {
    enum adapter_op_type type;
    char name[LIMIT_ADAPTER_NAME_BYTES];
    uint64_t key; /* unique, as for requests: MSG_CANCEL with it ends a waiting load's op */
    void *owner;
    /* room for the answer, made by the asker: out_max records (1, or LIMIT_ADAPTERS for LIST) */
    struct adapter *out;
    uint32_t out_max;
    /* answer */
    uint32_t out_n;
    bool is_unchanged; /* LOAD: the content was already serving; nothing was done */
    struct err err;    /* code 0 = success */
    /* the registry's while it has the op */
    struct adapter_op *next;
    uint64_t attempt;
    uint64_t arrival;
};

/* True when s is a legal name: [a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])? */
bool adapter_name_is_valid(const char *s);

const char *adapter_state_name(enum adapter_state state);

#endif
