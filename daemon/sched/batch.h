/* The batch: one step as plain data. Flat, without pointers, so that it can be sent, dumped and
 * replayed; written by the engine, read by every rank.
 *
 * A batch is one block of memory: this header, then arrays at byte offsets from its start (`*_at`).
 * Rows of one sequence are contiguous and ascend in position. Generated positions are always fed as
 * rows without BATCH_ROW_PROMPT, also when they are recomputed after preemption; prompt chunks end
 * at absolute multiples of LIMIT_PROMPT_CUT or at the prompt's end. Both are the law of order
 * (kernels/kern.h): with them the bits of a sequence do not depend on how it was batched.
 * The records equal those of kernels/kern.h field by field (model/walk.c asserts it). */
#ifndef SCHED_BATCH_H
#define SCHED_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

enum batch_row_flags {
    BATCH_ROW_FROM_SLOT = 1, /* the input token is the last one sampled for the slot */
    BATCH_ROW_PROMPT = 2,    /* a prompt position (chunked form), else a generated one */
};

struct batch_row {
    uint32_t token; /* literal id; ignored with BATCH_ROW_FROM_SLOT */
    uint32_t slot;  /* sequence slot, < seq_max */
    uint32_t pos;   /* absolute position in the sequence */
    uint32_t flags;
};

/* One sequence's part in the step: rows [row_first, row_first + row_n). Its page table is
 * pages[page_first ..+page_n): the page of position p is entry p / LIMIT_KV_PAGE. */
struct batch_seq {
    uint32_t slot;
    uint32_t row_first;
    uint32_t row_n;
    uint32_t page_first;
    uint32_t page_n;
};

enum batch_seg_flags {
    BATCH_SEG_SCALES = 1, /* the version has scale effects (kernels/effect.h) */
};

/* One adapter version at one place of the requests' lists: its rows, ascending, each with its
 * weight. Segments are sorted by (order, version); a row may lie in several segments, never twice
 * in one. */
struct batch_seg {
    uint32_t version;   /* version slot */
    uint32_t order;     /* position in the request's adapter list */
    uint32_t row_first; /* into seg_rows */
    uint32_t row_n;
    uint32_t flags; /* enum batch_seg_flags */
};

struct batch_seg_row {
    uint32_t row;
    float weight; /* never 0 */
};

/* A sequence whose first row of this step is at position 0 and whose recurrent layers begin with
 * weight times the states of a version; it is in no later step's list, unless it begins anew. */
struct batch_start {
    uint32_t slot;
    uint32_t version; /* version slot */
    float weight;     /* never 0 */
};

enum batch_sample_flags {
    BATCH_SAMPLE_FRESH = 1, /* the slot's counts begin anew, with hist */
};

/* A row whose next token is wanted. While a penalty is on, the rank counts the tokens of the slot:
 * hist travels once, with the first sample of a sequence in its slot. */
struct batch_sample {
    uint32_t row;
    uint32_t slot; /* the token becomes the slot's last token */
    uint32_t pos;  /* position of the new token; counter of the random stream */
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint64_t seed;
    int32_t top_logprobs; /* -1 none */
    uint32_t flags;       /* enum batch_sample_flags */
    uint32_t bias_first;  /* into biases */
    uint32_t bias_n;
    uint32_t hist_first; /* into hist: the sequence so far, with BATCH_SAMPLE_FRESH only */
    uint32_t hist_n;
    uint32_t hist_prompt_n; /* the first so many of them are prompt tokens */
};

struct batch_bias {
    uint32_t token;
    float bias;
};

/* A prompt row whose next prompt token's probability is wanted. */
struct batch_score {
    uint32_t row;
    uint32_t target;
    uint32_t top_n; /* alternatives wanted, <= LIMIT_TOP_LOGPROBS */
};

struct batch {
    uint64_t step;       /* counts up from 1 */
    uint32_t model;      /* 0: one model per engine for now */
    uint32_t weight_set; /* 0: the resident base */
    uint32_t bytes;      /* capacity of the whole block */
    uint32_t row_n, row_max, rows_at;
    uint32_t seq_n, seq_max, seqs_at;
    uint32_t page_n, page_max, pages_at; /* uint32_t each */
    uint32_t seg_n, seg_max, segs_at;
    uint32_t seg_row_n, seg_row_max, seg_rows_at;
    uint32_t sample_n, sample_max, samples_at;
    uint32_t bias_n, bias_max, biases_at;
    uint32_t hist_n, hist_max, hist_at; /* uint32_t each */
    uint32_t score_n, score_max, scores_at;
    uint32_t start_n, start_max, starts_at;
};

/* Capacities; each a sum or product stated by its owner (daemon/engine). */
struct batch_limits {
    uint32_t row_max, seq_max, page_max, seg_max, seg_row_max;
    uint32_t sample_max, bias_max, hist_max, score_max, start_max;
};

size_t batch_bytes(const struct batch_limits *limits);
void batch_init(struct batch *batch, const struct batch_limits *limits);
void batch_clear(struct batch *batch); /* forgets contents, keeps capacities */

/* Array accessors: batch_rows(b)[i] and so on. */
#define BATCH_ARRAY(name, type, field)                                                             \
    static inline type *batch_##name(const struct batch *b)                                        \
    {                                                                                              \
        return (type *)((uintptr_t)b + b->field);                                                  \
    }
BATCH_ARRAY(rows, struct batch_row, rows_at)
BATCH_ARRAY(seqs, struct batch_seq, seqs_at)
BATCH_ARRAY(pages, uint32_t, pages_at)
BATCH_ARRAY(segs, struct batch_seg, segs_at)
BATCH_ARRAY(seg_rows, struct batch_seg_row, seg_rows_at)
BATCH_ARRAY(samples, struct batch_sample, samples_at)
BATCH_ARRAY(biases, struct batch_bias, biases_at)
BATCH_ARRAY(hist, uint32_t, hist_at)
BATCH_ARRAY(scores, struct batch_score, scores_at)
BATCH_ARRAY(starts, struct batch_start, starts_at)

/* What a step gives back: one record per sample, then one per score, in the batch's order. */
struct batch_token {
    uint32_t token; /* sampled id; for a score its target */
    float logprob;
    uint32_t top_n;
    uint32_t top_tokens[LIMIT_TOP_LOGPROBS];
    float top_logprobs[LIMIT_TOP_LOGPROBS];
};

#endif
