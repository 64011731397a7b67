/* The paths of kernels/cpu that this machine can run, stand-ins included, for its unit tests. */
#ifndef TESTS_UNIT_CPU_PATHS_H
#define TESTS_UNIT_CPU_PATHS_H

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/cpu_int.h"

struct cpu_paths_entry {
    const char *name;
    const struct cpu_path *path;
    bool is_chain; /* held bf16 products are fp32 chains too: all such paths have equal bits */
};

/* Fills out[8]; returns how many. */
static inline uint32_t cpu_paths(struct cpu_paths_entry *out)
{
    const char *missing;
    uint32_t n = 0;
    out[n++] = (struct cpu_paths_entry){"portable", &cpu_path_portable, true};
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_ISA_N; isa++) {
        if (cpu_isa_is_present(isa, &missing)) {
            out[n++] = (struct cpu_paths_entry){kern_isa_word(isa), cpu_isa_path(isa, false),
                                                isa <= KERN_ISA_AVX512};
        }
        if (isa >= KERN_ISA_AVX512BF16) {
            out[n++] = (struct cpu_paths_entry){"stand-in", cpu_isa_path(isa, true), false};
        }
    }
    return n;
}

/* A seeded stream of numbers. */
static inline uint32_t cpu_paths_draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static inline float cpu_paths_float(uint64_t *state)
{
    return ((float)(cpu_paths_draw(state) >> 7) - 8388608.0f) * 0x1p-23f;
}

#endif
