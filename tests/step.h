/* A step by hand, for tests that call ops without a walk: one part, read at once. */
#ifndef TESTS_STEP_H
#define TESTS_STEP_H

#include "base/base.h"
#include "kernels/kern.h"

/* Begins a step that is a single part: all rows are of prompts, or none is. */
static inline void step_begin(const struct kern *kern, struct kern_dev *dev,
                              const struct kern_step *step)
{
    struct kern_part part;
    kern->begin_step(dev, step);
    bool is_given = kern->next_part(dev, &part);
    ASSERT(is_given);
    ASSERT_CMP(part.row_n, ==, step->row_n);
}

/* Ends it and waits; the results stay in device memory. */
static inline int step_end(const struct kern *kern, struct kern_dev *dev)
{
    struct kern_part part;
    bool is_given = kern->next_part(dev, &part);
    ASSERT(!is_given);
    kern->end_step(dev, NULL, 0);
    return kern->read_step(dev, NULL, true);
}

#endif
