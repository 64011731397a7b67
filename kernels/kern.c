/* The words for instruction sets, as options and the start line write them. */
#include "kernels/kern.h"

#include <string.h>

static const char *const kern_isa_words[KERN_ISA_N] = {
    [KERN_ISA_AUTO] = "auto",     [KERN_ISA_PORTABLE] = "portable",     [KERN_ISA_AVX2] = "avx2",
    [KERN_ISA_AVX512] = "avx512", [KERN_ISA_AVX512BF16] = "avx512bf16", [KERN_ISA_AMX] = "amx",
};

enum kern_isa kern_isa_parse(const char *word)
{
    enum kern_isa isa = KERN_ISA_AUTO;
    while (isa < KERN_ISA_N && strcmp(word, kern_isa_words[isa]) != 0) {
        isa++;
    }
    return isa;
}

const char *kern_isa_word(enum kern_isa isa)
{
    ASSERT(isa < KERN_ISA_N);
    return kern_isa_words[isa];
}
