/* A part of a step as kernels see it: a block of records in device memory, its header first.
 *
 * A step has one or more parts, run one after the other on one stream: generated rows (at most 256
 * a part), prompt rows, and generated rows whose sequence has prompt rows in the same step. The
 * host lays a part out in a pinned block in O(rows + segments); it is copied to the one place the
 * header ever has, so that a captured graph replays for whatever was copied there. A kernel gets
 * the header's address; what it must know at launch is in cuda_ctx, all else it reads here.
 *
 * A pass is 32 consecutive rows of a part; a tile is what one segment has in one pass. Tiles of a
 * pass stand in segment order, so a row meets its adapters in the order of its request. */
#ifndef KERNELS_CUDA_STEP_H
#define KERNELS_CUDA_STEP_H

#include "base/dtype.h"
#include "kernels/effect.h"
#include "kernels/kern_step.h"

#define CUDA_PASS_ROWS 32
#define CUDA_SPLIT     256 /* keys that one piece of attention reads */
#define CUDA_TILE_PAIRS                                                                            \
    64 /* pairs (row, query head of one KV head) of a prompt's tile in attention */
#define CUDA_PART_ROWS 256 /* rows of a part of generated rows, and samples of any part */

struct cuda_row {
    uint32_t token;
    uint32_t slot;
    uint32_t pos;
    uint32_t flags; /* enum kern_row_flags */
    uint32_t run;   /* that it lies in */
};

/* Row 32 * pass + i of the part, for bit i of the mask, has weight seg_rows[seg_row + bits set
 * below i].weight. */
struct cuda_tile {
    const struct effect_lowrank *sites; /* device: of the version's block, by site */
    const char *block;                  /* device: what a_at and b_at count from */
    uint32_t mask;
    uint32_t seg_row;
};

/* Rows [row ..+row_n) of a part: one sequence's at consecutive positions from pos on. In a prompt
 * part their pairs are cut into tiles, row by row and head by head; tile_first: tiles of the runs
 * before. A sequence that begins (pos 0) has the version in `start`, whose states times weight its
 * recurrent layers begin with. */
struct cuda_run {
    uint32_t row;
    uint32_t row_n;
    uint32_t slot;
    uint32_t pos;
    uint32_t tile_first;
    float weight;
    const char *start; /* device: an effect block, or NULL */
};

/* page_table[slot * page_stride + entry] becomes page, before anything else of the part runs. */
struct cuda_page_change {
    uint32_t slot;
    uint32_t entry;
    uint32_t page;
};

/* The pointers name device memory; arrays stand behind the header in the same block. */
struct cuda_step {
    const struct cuda_row *rows; /* [row_n] */
    const struct cuda_tile *tiles;
    const uint32_t *tile_first;          /* [pass_n + 1] */
    const struct kern_seg_row *seg_rows; /* rows ascending within a segment, .row within the part */
    const struct cuda_page_change *changes;
    const struct kern_sample_row *samples; /* [sample_n], .row within the part */
    const uint32_t *sample_out;            /* [sample_n]: place in the step's results */
    const struct kern_bias *biases;
    const uint32_t *hist;
    const struct kern_score_row *scores; /* [score_n], .row within the part */
    const uint32_t *score_out;           /* [score_n]: place in the step's scores */
    const struct cuda_run *runs;         /* [run_n] */
    uint32_t row_n;
    uint32_t pass_n;
    uint32_t change_n;
    uint32_t sample_n;
    uint32_t score_n;
    uint32_t run_n;
};

/* Paged KV: [layer][page][K or V][kv_head][LIMIT_KV_PAGE][head_dim] of 16-bit elements (fp8 later:
 * the element type is a field). The page of slot s, position p is page_table[s * page_stride + p /
 * LIMIT_KV_PAGE]; entries behind a sequence's last page hold anything. */
struct cuda_kv {
    void *data;
    uint32_t *page_table; /* device [slot_max][page_stride] */
    uint32_t page_stride;
    uint32_t page_n; /* of a layer */
    uint32_t kv_head_n;
    uint32_t head_dim;
    enum dtype dtype;
};

/* Recurrent states, fp32: [layer][slot][state_n, then the convolution's history] as
 * kern_recurrent.h has them. */
struct cuda_state {
    float *data; /* device */
    uint32_t slot_n;
    uint32_t state_n;
    uint32_t conv_n;
    uint64_t start_stride; /* bytes from one layer's states to the next in an effect block */
};

#endif
