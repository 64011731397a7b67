/* What backends share whose ops run as they are called: a step is one part, its results are there
 * when it ends, and a copy has arrived when it was begun. */
#ifndef KERNELS_IMMEDIATE_H
#define KERNELS_IMMEDIATE_H

#include <string.h>

#include "base/base.h"
#include "kernels/kern.h"

/* The results of a step that has ended and was not read. */
struct kern_unread {
    const struct kern_token *results;
    uint32_t n;
    bool is_there;
};

/* failure: there is no device that could. */
static inline const char *kern_fails_never(const struct kern_dev *dev)
{
    (void)dev;
    return "";
}

/* The whole step, once. */
static inline bool kern_only_part(const struct kern_step *step, bool *is_given,
                                  struct kern_part *out)
{
    if (*is_given) {
        return false;
    }
    *is_given = true;
    *out = (struct kern_part){step->row_n, step->sample_n, step->score_n};
    return true;
}

static inline size_t kern_bring_now(struct kern_dev *dev, void *to_dev, const void *from,
                                    size_t bytes, uint64_t *out_ticket)
{
    (void)dev;
    *out_ticket = 0;
    memcpy(to_dev, from, bytes);
    return bytes;
}

static inline bool kern_is_brought_now(struct kern_dev *dev, uint64_t ticket)
{
    (void)dev;
    (void)ticket;
    return true;
}

static inline void kern_discard_nothing(struct kern_dev *dev, void *at_dev, size_t bytes)
{
    (void)dev;
    (void)at_dev;
    (void)bytes;
}

/* reserve_host: nothing to gain. */
static inline void *kern_no_host(struct kern_dev *dev, size_t bytes)
{
    (void)dev;
    (void)bytes;
    return NULL;
}

static inline void kern_kv_discard_nothing(struct kern_dev *dev, uint32_t page)
{
    (void)dev;
    (void)page;
}

/* saturated_n: nothing is held in fp16. */
static inline uint64_t kern_saturates_nothing(const struct kern_dev *dev)
{
    (void)dev;
    return 0;
}

/* next_capture: nothing is replayed. */
static inline int kern_no_capture(struct kern_dev *dev, const struct kern_step *model,
                                  struct kern_part *out, struct err *err)
{
    (void)dev;
    (void)model;
    (void)err;
    *out = (struct kern_part){0};
    return 0;
}

static inline void kern_unread_put(struct kern_unread *unread, const struct kern_token *results,
                                   uint32_t n)
{
    ASSERT(!unread->is_there);
    *unread = (struct kern_unread){results, n, true};
}

static inline void kern_unread_take(struct kern_unread *unread, struct kern_token *out)
{
    ASSERT(unread->is_there);
    if (unread->n > 0) {
        memcpy(out, unread->results, unread->n * sizeof *out);
    }
    unread->is_there = false;
}

#endif
