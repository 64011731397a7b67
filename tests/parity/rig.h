/* The rig of the parity table: one open device of one implementation, device buffers between guard
 * bytes, and the outputs of a run as floats with the bound they are compared under.
 *
 * Fresh device memory is filled with NaNs, as the guards are, so that an output left unwritten and
 * an input read too far both show. All host memory of a rig dies with it. */
#ifndef TESTS_PARITY_RIG_H
#define TESTS_PARITY_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kern.h"
#include "tests/parity/world.h"

#define RIG_OUTS 8

/* One line of the table of implementations. */
struct parity_impl {
    const char *name;
    const struct kern *kern;
    enum kern_isa isa;
    bool is_stand_in;
    enum parity_form form;
    bool is_16_bit; /* holds bf16 cases in bf16 and f32 cases in f16 */
};

/* |a - b| <= relative * max(largest |a| of the row, floor), and one unit of the larger one more
 * where the output is rounded to 16 bits; but where both are, only a sixteenth of the elements may
 * differ at all, or a wrong rounding would pass (unless has_flips: inputs differ by roundings
 * already). floor is about the standard deviation that outputs of the seeded inputs have: a row of
 * one element that cancels to nothing has no scale of its own. */
struct rig_bound {
    float relative;
    float floor;
    bool has_flips;
};

struct rig_out {
    const char *name;
    uint32_t row_n;
    uint32_t col_n;
    float *values;      /* [row_n, col_n] */
    const uint32_t *at; /* of rig_out_some */
    struct rig_bound bound;
    enum dtype rounded; /* what it was rounded to; DTYPE_F32: not at all */
};

struct rig_buf;

struct rig {
    const struct kern *kern;
    struct kern_dev *dev;
    enum dtype held;
    enum parity_form form;
    struct arena arena;
    struct rig_buf *bufs;
    void *state; /* what a case's prepare left for its run */
    struct rig_out outs[RIG_OUTS];
    uint32_t out_n;
};

int rig_open(struct rig *rig, const struct parity_impl *impl, const struct kern_open *args,
             uint32_t thread_n, struct err *err);
void rig_close(struct rig *rig);

/* Device memory aligned to EFFECT_ALIGN, between guards. */
void *rig_take(struct rig *rig, size_t bytes);
void *rig_put(struct rig *rig, const void *data, size_t bytes);
void *rig_put_held(struct rig *rig, const float *values, size_t n);
void *rig_weight(struct rig *rig, const struct kern_matrix *matrix);

/* Fetches an output; bound.relative 0 demands equal bits. */
void rig_out_f32(struct rig *rig, const char *name, const void *dev, const uint32_t shape[2],
                 struct rig_bound bound);
void rig_out_held(struct rig *rig, const char *name, const void *dev, const uint32_t shape[2],
                  struct rig_bound bound);
void rig_out_tokens(struct rig *rig, const struct kern_token *dev, uint32_t n,
                    struct rig_bound bound);

/* An output that only some of the row_n rows have: row i's is at[i] of values, or it has none
 * (UINT32_MAX). Both arrays live as long as the rig. */
void rig_out_some(struct rig *rig, const struct rig_out *out);

/* Turns the rows of all outputs round: samples and scores stand in reverse order of their rows. */
void rig_flip_rows(struct rig *rig);

/* False when any guard byte changed. */
bool rig_is_intact(const struct rig *rig);

/* Rows [first, first + b's rows) of a against b; prints the first difference. With is_exact the
 * bits must be equal, else the bound of a decides. */
bool rig_outs_match(const struct rig *a, uint32_t first, const struct rig *b, bool is_exact);

#endif
