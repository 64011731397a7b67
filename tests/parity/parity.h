/* The parity table: what a case is, and what the driver does with it.
 *
 * A case runs against every implementation that opens on this machine. Its outputs must lie within
 * their bounds of ref's, and, the law of order, be equal bit for bit with 1, 2 and 3 threads and
 * when its rows are run piece by piece. */
#ifndef TESTS_PARITY_PARITY_H
#define TESTS_PARITY_PARITY_H

#include "tests/parity/rig.h"
#include "tests/parity/world.h"

#define PARITY_STREAMS 64

struct parity_case {
    char text[200];
    uint64_t seed;
    struct kern_open open; /* isa, is_stand_in and thread_n are the driver's */
    struct world world;
    const void *args;
    bool has_free_rows; /* a row needs no other row: pieces are single rows, else sequences */
    bool is_cut_lawful; /* never cut a prompt but at multiples of LIMIT_PROMPT_CUT */
    /* Whether a backend has the op; NULL = every one has. */
    bool (*is_present)(const struct kern *kern);
    /* Once per device, before the first run: weights, versions, KV. May be NULL. */
    void (*prepare)(struct rig *rig, const struct parity_case *c);
    /* Runs the op on a view and leaves outputs with one row per row of the view. */
    void (*run)(struct rig *rig, const struct parity_case *c, const struct world_view *view);
    struct arena arena;
    const float *streams[PARITY_STREAMS];
};

/* A case with its arena and limits that no op minds; parity_case_done after parity_check. */
void parity_case_init(struct parity_case *c, enum dtype held, uint64_t seed);
void parity_case_done(struct parity_case *c);

/* n seeded numbers in (-scale, scale), the same for every call with this stream of the case. They
 * are bf16 values, so that both held types see the same inputs. */
const float *parity_floats(const struct parity_case *c, uint32_t stream, size_t n, float scale);

/* An integer below n, from (case seed, i). */
uint32_t parity_draw(const struct parity_case *c, uint32_t i, uint32_t n);

/* A seeded [n, k] weight matrix whose products with inputs in (-1, 1) are about as large. */
struct kern_matrix parity_matrix(const struct parity_case *c, uint32_t stream, uint32_t n,
                                 uint32_t k);

/* Runs the case everywhere; counts failures. */
void parity_check(struct parity_case *c);

/* True under GRAFT_LONG=1 without a sanitizer: products instead of pairwise selections, every row
 * alone. */
bool parity_is_long(void);

/* Groups of cases; each calls parity_check many times. */
void parity_linear(void);
void parity_join(void);
void parity_heads(void);
void parity_ranks(void); /* heads with low-rank effects */
void parity_attend(void);
void parity_gdn(void);
void parity_ssd(void);
void parity_embed(void);
void parity_head(void);
void parity_sample(void);
void parity_score(void);
void parity_random(void);

#endif
