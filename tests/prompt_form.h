/* Where the environment gives the emulated device a cuBLASLt (GRAFT_EMU_CUBLASLT), a test that ran
 * without it has shown nothing: every shape must have been taken. */
#ifndef TESTS_PROMPT_FORM_H
#define TESTS_PROMPT_FORM_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kern.h"

static inline bool prompt_form_is_asked(const struct kern *kern, const struct kern_dev *dev)
{
    unsigned taken_n = 0;
    unsigned shape_n = 1;
    const char *text = kern->prompt_form(dev);
    if (!getenv("GRAFT_EMU_CUBLASLT") || !kern->is_device) {
        return true;
    }
    bool is_told = sscanf(text, "cuBLASLt %*s for %u of %u", &taken_n, &shape_n) == 2;
    if (!is_told || taken_n != shape_n) {
        fprintf(stderr, "prompts are multiplied by %s\n", text);
    }
    return is_told && taken_n == shape_n;
}

#endif
