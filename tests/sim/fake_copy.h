/* The device's side of copies, for the simulation: it takes some bytes of what it is given and
 * shows them in memory some looks later; what is discarded becomes rubbish at once. */
#ifndef TESTS_SIM_FAKE_COPY_H
#define TESTS_SIM_FAKE_COPY_H

#include <string.h>

#include "kernels/kern.h"
#include "tests/sim/client.h"

#define FAKE_COPY_BYTES 128
#define FAKE_COPY_N     3

struct fake_copy {
    struct {
        const void *from; /* read when it arrives */
        char *to;
        size_t n;
    } pieces[FAKE_COPY_N]; /* oldest first */
    uint32_t piece_n;
    uint64_t begun_n, arrived_n; /* pieces, ever */
    bool is_late;                /* else all arrives at once */
    struct dice dice;
};

static inline struct fake_copy *fake_copy_of(struct kern_dev *dev)
{
    return (struct fake_copy *)(void *)dev;
}

/* The oldest piece arrives, or not yet. */
static inline void fake_copy_look(struct fake_copy *copy)
{
    if (copy->piece_n > 0 && dice_one_in(&copy->dice, 3)) {
        memcpy(copy->pieces[0].to, copy->pieces[0].from, copy->pieces[0].n);
        copy->arrived_n++;
        copy->piece_n--;
        memmove(&copy->pieces[0], &copy->pieces[1], copy->piece_n * sizeof copy->pieces[0]);
    }
}

static inline size_t fake_copy_bring(struct kern_dev *dev, void *to_dev, const void *from,
                                     size_t bytes, uint64_t *out_ticket)
{
    struct fake_copy *copy = fake_copy_of(dev);
    if (!copy->is_late) {
        memcpy(to_dev, from, bytes);
        *out_ticket = 0;
        return bytes;
    }
    fake_copy_look(copy);
    *out_ticket = copy->begun_n;
    if (copy->piece_n == FAKE_COPY_N || dice_one_in(&copy->dice, 4)) {
        return 0;
    }
    size_t n = bytes < FAKE_COPY_BYTES ? bytes : FAKE_COPY_BYTES;
    n = dice_one_in(&copy->dice, 3) ? 1 + n / 2 : n;
    n = n < bytes ? n : bytes;
    copy->pieces[copy->piece_n].to = to_dev;
    copy->pieces[copy->piece_n].n = n;
    copy->pieces[copy->piece_n++].from = from;
    *out_ticket = ++copy->begun_n;
    return n;
}

static inline bool fake_copy_is_brought(struct kern_dev *dev, uint64_t ticket)
{
    struct fake_copy *copy = fake_copy_of(dev);
    fake_copy_look(copy);
    return copy->arrived_n >= ticket;
}

static inline void fake_copy_discard(struct kern_dev *dev, void *at_dev, size_t bytes)
{
    (void)dev;
    memset(at_dev, 0xff, bytes);
}

#endif
