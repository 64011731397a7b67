/* Pairwise selection: each row starts from a pair that is still uncovered, then every other factor
 * takes the level that covers most. */
#include "tests/parity/pairwise.h"

#include <string.h>

#include "base/base.h"

#define PAIRWISE_FREE UINT32_MAX

void pairwise_init(struct pairwise *p, const uint32_t *level_n, uint32_t factor_n, bool is_full)
{
    *p = (struct pairwise){.factor_n = factor_n, .is_full = is_full};
    memcpy(p->level_n, level_n, factor_n * sizeof *level_n);
    for (uint32_t a = 0; a < factor_n; a++) {
        ASSERT_CMP(level_n[a], <=, PAIRWISE_LEVELS);
        for (uint32_t i = 0; i < level_n[a]; i++) {
            for (uint32_t b = 0; b < factor_n; b++) {
                p->uncovered[a][i][b] = a == b ? 0 : (1ull << level_n[b]) - 1;
            }
        }
    }
}

static bool pairwise_next_full(struct pairwise *p, uint32_t *levels)
{
    uint32_t rest = p->next++;
    for (uint32_t a = 0; a < p->factor_n; a++) {
        levels[a] = rest % p->level_n[a];
        rest /= p->level_n[a];
    }
    return rest == 0;
}

static bool pairwise_seed(const struct pairwise *p, uint32_t *levels)
{
    for (uint32_t a = 0; a < p->factor_n; a++) {
        for (uint32_t i = 0; i < p->level_n[a]; i++) {
            for (uint32_t b = 0; b < p->factor_n; b++) {
                if (p->uncovered[a][i][b] != 0) {
                    levels[a] = i;
                    levels[b] = (uint32_t)__builtin_ctzll(p->uncovered[a][i][b]);
                    return true;
                }
            }
        }
    }
    return false;
}

/* Pairs that level i of factor a would cover beside the levels chosen so far. */
static uint32_t pairwise_gain(const struct pairwise *p, const uint32_t *levels, uint32_t a,
                              uint32_t i)
{
    uint32_t gain = 0;
    for (uint32_t b = 0; b < p->factor_n; b++) {
        if (levels[b] != PAIRWISE_FREE) {
            gain += (uint32_t)(p->uncovered[a][i][b] >> levels[b] & 1);
        }
    }
    return gain;
}

bool pairwise_next(struct pairwise *p, uint32_t levels[PAIRWISE_FACTORS])
{
    if (p->is_full) {
        return pairwise_next_full(p, levels);
    }
    for (uint32_t a = 0; a < PAIRWISE_FACTORS; a++) {
        levels[a] = PAIRWISE_FREE;
    }
    if (!pairwise_seed(p, levels)) {
        return false;
    }
    for (uint32_t a = 0; a < p->factor_n; a++) {
        if (levels[a] != PAIRWISE_FREE) {
            continue;
        }
        /* ties turn with the row, or the first levels would fill most rows */
        uint32_t best = p->next % p->level_n[a];
        for (uint32_t i = 0; i < p->level_n[a]; i++) {
            if (pairwise_gain(p, levels, a, i) > pairwise_gain(p, levels, a, best)) {
                best = i;
            }
        }
        levels[a] = best;
    }
    for (uint32_t a = 0; a < p->factor_n; a++) {
        for (uint32_t b = 0; b < p->factor_n; b++) {
            p->uncovered[a][levels[a]][b] &= ~(1ull << levels[b]);
        }
    }
    p->next++;
    return true;
}
