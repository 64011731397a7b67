/* A model of a shape on the GPU, or on the emulated one: random weights, adapters of rank 16 on
 * every linear, batches. For benches: no server, no checkpoint, no scheduler. A failure ends the
 * process with status 1 and a sentence. */
#ifndef PERF_GPU_RIG_H
#define PERF_GPU_RIG_H

#include "model/model.h"
#include "model/walk.h"
#include "perf/gpu_measure.h"
#include "sched/batch.h"
#include "tests/emu/tables.h"

#define RIG_ADAPTERS 8

struct rig_sizes {
    uint32_t row_max; /* of a step */
    uint32_t seq_max; /* sequences, each with pages for context_max positions */
    uint32_t context_max;
};

struct gpu_rig {
    const struct tables_shape *shape;
    struct rig_sizes sizes;
    struct model model;
    struct walk walk;
    struct batch *batches[2]; /* a step is filled while the one before runs */
    struct batch_token *tokens;
    void *adapters[RIG_ADAPTERS]; /* device: effect blocks; version i is adapter i */
    void *block;                  /* host: such a block, for loads */
    size_t block_bytes;
    void *spare; /* device: room for one more */
    double capture_s;
    size_t capture_bytes; /* of device memory that graphs took */
};

enum rig_mix {
    RIG_BASE,
    RIG_ONE,      /* every sequence has adapter 0 */
    RIG_DISTINCT, /* sequence i has adapter i modulo 8 */
    RIG_BUT_FIRST /* the same, but sequence 0 has none */
};

/* Of sequences seq_first.. on: one generated row each, at the last position of the context, or the
 * first prompt_n rows. */
struct rig_step {
    uint32_t seq_first, seq_n;
    uint32_t context;
    uint32_t prompt_n; /* 0: generated */
    enum rig_mix mix;
};

/* Bytes that open will take, about. */
size_t rig_bytes(const struct tables_shape *shape, const struct rig_sizes *sizes);

void rig_open(struct gpu_rig *rig, const struct tables_shape *shape, const struct rig_sizes *sizes);
void rig_close(struct gpu_rig *rig);

/* Fills the KV pages of all sequences, in steps of as many rows as fit. */
void rig_prefill(struct gpu_rig *rig);

/* Adapters known to the device, or none of them. */
void rig_register(struct gpu_rig *rig, bool is_there);

/* Runs the step n times, each queued while the one before runs. gaps_s [n], or NULL: seconds from
 * result to result. Returns seconds a step. The results of the last one are in rig->tokens. */
double rig_seconds(struct gpu_rig *rig, const struct rig_step *step, uint32_t n, double *gaps_s);

/* The block to the spare room: seconds until it is there. */
double rig_bring(struct gpu_rig *rig);

/* Kernels of the graph of a generated step. */
uint32_t rig_launches(const struct gpu_rig *rig, uint32_t row_n, bool has_adapters);

#endif
