/* Pairwise selection: rows of level numbers such that every pair of levels of every two factors
 * occurs in at least one row. Greedy, seedless, always the same. */
#ifndef TESTS_PARITY_PAIRWISE_H
#define TESTS_PARITY_PAIRWISE_H

#include <stdbool.h>
#include <stdint.h>

#define PAIRWISE_FACTORS 8
#define PAIRWISE_LEVELS  16

struct pairwise {
    uint32_t factor_n;
    uint32_t level_n[PAIRWISE_FACTORS];
    bool is_full; /* the full product instead */
    uint32_t next;
    uint64_t uncovered[PAIRWISE_FACTORS][PAIRWISE_LEVELS][PAIRWISE_FACTORS]; /* level bits */
};

void pairwise_init(struct pairwise *p, const uint32_t *level_n, uint32_t factor_n, bool is_full);

/* The next row; false when there is none. */
bool pairwise_next(struct pairwise *p, uint32_t out_levels[PAIRWISE_FACTORS]);

#endif
