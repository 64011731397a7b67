/* One open device of the cpu backend, and the files that work on it. Private to kernels/cpu. */
#ifndef KERNELS_CPU_CPU_INT_H
#define KERNELS_CPU_CPU_INT_H

#include "kernels/cpu/layout.h"
#include "kernels/cpu/path.h"
#include "kernels/cpu/team.h"
#include "kernels/immediate.h"
#include "kernels/kern.h"
#include "kernels/sample.h"

#define CPU_CHUNK_ROWS   48u  /* rows of one piece of low-rank work */
#define CPU_ATTEND_ROWS  16u  /* rows of one piece of attention: of one page of positions */
#define CPU_ATTEND_HEADS 256u /* query vectors of one pass over a KV head */

/* One member's scratch. Each part is used within one index of a loop. */
struct cpu_scratch {
    char *x;     /* packed rows of one low-rank chunk */
    float *u;    /* low-rank chunk [CPU_CHUNK_ROWS, rank] */
    float *tile; /* two column groups of all rows */
    float *q;    /* attend: packed queries [CPU_ATTEND_HEADS, head_dim] */
    float *p;    /* attend: packed weights */
    float *s;    /* attend: scores [CPU_ATTEND_HEADS, LIMIT_KV_PAGE] */
    float *o;    /* attend: sums [CPU_ATTEND_HEADS, head_dim] */
    struct sample_scratch sampling;
};

/* A low-rank effect of one segment at one site of the linear at hand. */
struct cpu_effect {
    const void *a;
    const void *b;
    float scale;
    uint32_t rank;
    uint32_t site;      /* index within the linear */
    uint32_t row_first; /* into seg_rows */
    uint32_t row_n;
    float *u; /* packed, chunk after chunk */
};

/* A piece of low-rank work: some rows of one effect. */
struct cpu_piece {
    uint32_t effect;
    uint32_t band;  /* of the linear's rows: all its rows lie in it */
    uint32_t first; /* row within the effect's rows */
    uint32_t n;
};

/* Rows of one sequence whose positions lie in one page. */
struct cpu_span {
    uint32_t seq;
    uint32_t row_first;
    uint32_t row_n;
};

struct kern_dev {
    struct kern_open args;
    const struct cpu_path *path;
    struct team *team;
    struct cpu_scratch *scratch; /* [team size] */
    struct kern_step step;
    bool is_part_given;
    bool has_scales; /* a version of the step has scale effects */
    struct kern_unread unread;

    char *workspace; /* everything below, one mapping */
    size_t workspace_bytes;
    char *scratch_memory;
    size_t scratch_bytes;
    void *x;    /* packed rows of the linear at hand */
    float *acc; /* [row_max, n_max padded]: q, k, v before their post */
    size_t acc_stride_max;
    float *u; /* packed low-rank activations */
    size_t u_bytes;
    float *cos_sin;      /* [row_max, rotary_n] */
    uint32_t *row_page;  /* page of each row's position; UINT32_MAX: in no sequence */
    bool *is_row_last;   /* of its sequence in the step */
    uint32_t *seg_rows;  /* rows of step.seg_rows */
    uint32_t *band_rows; /* the same, counted from the start of their band */
    uint32_t *rows;      /* rows of a head or score piece */
    struct cpu_span *spans;
    uint32_t span_n;
    struct cpu_effect *effects;
    uint32_t effect_n;
    struct cpu_piece *pieces;
    uint32_t piece_n;
    uint32_t *last_tokens; /* [slot_max] */
    uint16_t *counts;      /* [slot_max, vocab_n]: tokens so far (kernels/sample.h) */
    const void **versions; /* [version_max] effect blocks */

    struct kern_kv kv;
    char *kv_memory;
    size_t kv_memory_bytes;

    struct kern_state state;
    float *state_memory;
    size_t state_memory_bytes;

    struct cpu_block *blocks; /* what reserve handed out */
};

/* Paths and machine: isa.c. */
bool cpu_isa_is_present(enum kern_isa isa, const char **out_missing);
const struct cpu_path *cpu_isa_path(enum kern_isa isa, bool is_stand_in);
int cpu_isa_choose(const struct kern_open *args, const struct cpu_path **out, struct err *err);

/* Rows go through a product in bands: as many as stay in a core's cache while weights stream by. */
uint32_t cpu_band_rows(const struct kern_dev *dev, uint32_t k);

/* Low rank, at the linear at hand: lowrank.c. Expand and prefetch are for one band of rows. */
void cpu_lowrank_shrink(struct kern_dev *dev, const struct kern_linear *op);
void cpu_lowrank_expand(struct kern_dev *dev, uint32_t site, uint32_t band, uint32_t n,
                        uint32_t group, const struct cpu_gemm *base);
void cpu_lowrank_prefetch(const struct kern_dev *dev, uint32_t site, uint32_t group);

/* Scale effects: scale.c. The outputs are those of a group of columns from `column` on, of rows
 * [row_first, +row_n) of the step. */
struct cpu_columns {
    float *out; /* of the first row */
    size_t stride;
    uint32_t n;
};
void cpu_scale_inputs(struct kern_dev *dev, const struct kern_linear *op);
void cpu_scale_outputs(const struct kern_dev *dev, uint32_t site, uint32_t row_first,
                       uint32_t row_n, uint32_t column, const struct cpu_columns *columns);

/* Products over a band of rows, one column group at a time: product.c. */
struct cpu_product {
    const void *x; /* the band's packed rows */
    const void *w; /* packed [n, k] */
    uint32_t n, k;
    uint32_t row_n;
    float *out; /* the band's first row, column 0 */
    size_t stride;
    uint32_t out_n; /* columns that may be written in a row of out; 0 = always take spare */
    float *spare;   /* [row_n, 32]: takes the group when its tiles do not fit out */
};

/* Packs rows into dev->x, band by band, on the whole team when it is worth it. */
void cpu_pack_rows(struct kern_dev *dev, const struct cpu_pack *pack, uint32_t band_rows);

/* Packed rows from row `first` on (the start of a band). */
const void *cpu_packed_rows(const struct kern_dev *dev, uint32_t first, uint32_t k);

/* Multiplies the band with one group. Returns where the result is (first row, first column of the
 * group) for what has to be added; cpu_product_end then moves it to out if it is in spare.
 * `next` is the memory that will probably be read after it, or NULL. */
struct cpu_gemm cpu_product_begin(struct kern_dev *dev, const struct cpu_product *product,
                                  uint32_t group, const void *next);
void cpu_product_end(const struct cpu_product *product, uint32_t group,
                     const struct cpu_gemm *done);

/* KV: kv.c. Element addresses are those of layout.h: K [64 positions, head_dim], V [head_dim, 64].
 */
size_t cpu_kv_bytes(enum dtype held, const struct kern_kv *kv);
char *cpu_kv_k(const struct kern_dev *dev, uint32_t layer, uint32_t page, uint32_t head);
char *cpu_kv_v(const struct kern_dev *dev, uint32_t layer, uint32_t page, uint32_t head);
void cpu_kv_write(struct kern_dev *dev, const struct kern_heads *heads, uint32_t row,
                  const float *k, const float *v);

/* Ops: step.c, embed.c, linear.c, attend.c, recurrent.c, head.c. */
void cpu_begin_step(struct kern_dev *dev, const struct kern_step *step);
bool cpu_next_part(struct kern_dev *dev, struct kern_part *out);
void cpu_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n);
int cpu_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting);
void cpu_embed(struct kern_dev *dev, const struct kern_embed *op);
void cpu_join(struct kern_dev *dev, const struct kern_join *op);
void cpu_linear(struct kern_dev *dev, const struct kern_linear *op);
void cpu_attend(struct kern_dev *dev, const struct kern_attend *op);
void cpu_gdn(struct kern_dev *dev, const struct kern_gdn *op);
void cpu_ssd(struct kern_dev *dev, const struct kern_ssd *op);
void cpu_head(struct kern_dev *dev, const struct kern_head *op);
void cpu_sample(struct kern_dev *dev, const struct kern_sample *op);
void cpu_score(struct kern_dev *dev, const struct kern_score *op);

/* Floats per row of a part of n columns. */
static inline size_t cpu_part_stride(uint32_t n)
{
    return ROUND_UP((size_t)n, 16);
}

#endif
