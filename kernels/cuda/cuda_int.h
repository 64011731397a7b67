/* The open device of the CUDA backend. Private to kernels/cuda.
 *
 * One stream carries the steps, another the bytes that come while steps run (copies.c). A step is
 * cut into parts (part.c); a part's records are laid out in a pinned block and copied to the one
 * place in device memory that kernels read them from; a part of generated rows is captured once per
 * row bucket and replayed (run.c). */
#ifndef KERNELS_CUDA_CUDA_INT_H
#define KERNELS_CUDA_CUDA_INT_H

#include "kernels/cuda/host.h"
#include "kernels/cuda/ops.h"
#include "kernels/kern.h"

#define CUDA_STEP_AHEAD 3                     /* two plans of the engine, two steps each */
#define CUDA_STEPS      (CUDA_STEP_AHEAD + 1) /* begun and not read */
#define CUDA_BLOCKS     8                     /* pinned blocks; a step has two or three parts */
#define CUDA_BUCKETS    6                     /* rows of a captured part: 8, 16, ... 256 */

struct cuda_memory; /* one reserved piece of device memory */

/* One part of the step that is being submitted: rows order[first ..+row_n) of the step. */
struct cuda_part {
    uint32_t first;
    uint32_t row_n;
    bool is_prompt;
    enum cuda_effects effects;
    uint32_t sample_n;
    uint32_t score_n;
    uint32_t hist_n;
    uint32_t bias_n;
    uint32_t change_n;
    uint32_t seg_row_n;
    uint32_t split_n; /* attention's splits of all its rows */
    uint32_t tile_n;  /* attention's tiles of a prompt part, known when it was filled */
    uint32_t run_n;   /* the same of its runs */
};

struct cuda_pinned {
    char *data;
    struct dev_event *copied; /* the block may be written again */
    bool is_used;
};

#define CUDA_STAGES      4
#define CUDA_STAGE_BYTES ((size_t)1 << 20)

/* Bytes that bring() took, from pinned memory to the device on a stream of their own. The engine's
 * thread. */
struct cuda_copies {
    struct dev_stream *stream;
    struct cuda_pinned stages[CUDA_STAGES];
    char *host; /* pinned: copied from in place, a stage's event says when it was */
    size_t host_bytes;
    uint64_t begun_n, ended_n; /* stages in use ever, and those of them that have arrived */
    bool is_lost;
};

/* How a step is cut, and where its rows went. Sized at open. */
struct cuda_plan {
    struct cuda_part *parts; /* [row_max + 3] */
    uint32_t part_n;
    uint32_t next;        /* part to be given out */
    uint32_t *order;      /* [row_max]: step rows, part after part */
    uint32_t *row_part;   /* [row_max]: by step row */
    uint32_t *row_index;  /* [row_max]: by step row, within its part */
    uint32_t *change_n;   /* [row_max]: by step row, page changes that it brings for its sequence */
    uint32_t *row_seq;    /* [row_max]: by step row, index of its sequence */
    uint32_t *row_sample; /* [row_max]: by step row, UINT32_MAX = none */
    uint32_t *row_seg_n;  /* [row_max]: by step row, segments it lies in */
    enum cuda_effects *row_effects; /* [row_max]: by step row, the most of its segments */
    bool *is_seq_placed;            /* [row_max]: by sequence, a row of it is in a part */
    bool *has_prompt;               /* [row_max]: by sequence */
    uint32_t *slot_start; /* [slot_max]: index of the slot's start, of slots with a sequence */
    uint32_t *seg_at;     /* [row_max * LIMIT_REQUEST_ADAPTERS + 1]: a part's segment rows */
    uint32_t *seg_cursor; /* the same, while tiles are cut */
};

struct kern_dev {
    struct kern_open args;
    struct dev_info info;
    char isa[48]; /* "sm_90", "emulated sm_90" */
    struct cuda_ctx ctx;
    struct cuda_copies copies;
    struct cuda_memory *memories; /* newest first */
    char *arena;                  /* of args.reserve_bytes; NULL = piece by piece */
    size_t arena_used;
    void *gemm_staging;                 /* dev, of gemm_staging_bytes */
    const void **versions;              /* [version_max]: effect blocks in device memory */
    float inv_freq[LIMIT_HEAD_DIM / 2]; /* what ctx.inv_freq holds */

    struct kern_step step; /* the one that is being submitted */
    bool is_stepping;
    struct cuda_plan plan;
    uint32_t kv_layer_n;
    uint32_t *pages; /* [slot_max][page_stride]: what the device's table holds */

    size_t part_bytes; /* of a block */
    struct cuda_pinned pinned[CUDA_BLOCKS];
    uint32_t pinned_next;

    struct dev_graph *graphs[CUDA_BUCKETS][CUDA_EFFECTS_N];
    bool is_capturing;
    uint32_t capture_n; /* kinds of parts that were captured, or are being */

    struct kern_token *results; /* mapped [CUDA_STEPS][result_max] */
    uint32_t result_max;
    uint32_t result_n[CUDA_STEPS];
    uint64_t *numbers;   /* mapped [CUDA_STEPS]: written by the device, read with acquire */
    uint64_t *saturated; /* mapped: the device's count, of 32 bits */
    uint64_t saturated_n;
    uint64_t submitted_n, read_n;
    int64_t
        silent_ns; /* since when the oldest step has not been there; 0 = it was not looked for */
    int64_t queried_ns; /* when the stream was asked last */
    bool is_lost;       /* nothing may be asked of the device any more */
};

/* part.c */
void cuda_plan_open(struct kern_dev *dev);
void cuda_plan_close(struct kern_dev *dev);
void cuda_plan_step(struct kern_dev *dev);
size_t cuda_part_bytes_max(const struct kern_dev *dev);
/* Lays part i out in `block`, which the device will read at `at`; returns the bytes used. */
size_t cuda_part_fill(struct kern_dev *dev, uint32_t i, char *block, const char *at);

/* copies.c */
int cuda_copies_open(struct kern_dev *dev, struct err *err);
void cuda_copies_close(struct kern_dev *dev);
void *cuda_reserve_host(struct kern_dev *dev, size_t bytes);
size_t cuda_bring(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes,
                  uint64_t *out_ticket);
bool cuda_is_brought(struct kern_dev *dev, uint64_t ticket);

/* run.c */
/* Waits for the stream; DEVICE_FAILURE with the reason. */
int cuda_sync(struct kern_dev *dev, struct err *err);

int cuda_next_capture(struct kern_dev *dev, const struct kern_step *model, struct kern_part *out,
                      struct err *err);
void cuda_begin_step(struct kern_dev *dev, const struct kern_step *step);
bool cuda_next_part(struct kern_dev *dev, struct kern_part *out);
void cuda_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n);
int cuda_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting);

#endif
