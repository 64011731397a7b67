/* The launch and block that run now, shared by the files of the emulator's device half. */
#ifndef KERNELS_EMU_EMU_BLOCK_H
#define KERNELS_EMU_EMU_BLOCK_H

#include "kernels/emu/emu_fiber.h"

#define EMU_WARPS_MAX (EMU_THREADS_MAX / 32)
#define EMU_MEETINGS  8 /* masks of one warp at once */

/* Lanes of one warp that gather under one mask. */
struct emu_meeting {
    unsigned mask, here;
    emu_op op;
    int line;
    void *edge;
    void *args[32];
};

struct emu_device {
    emu_fiber host;
    emu_fiber *sets[EMU_SETS]; /* [fiber_n] each */
    unsigned fiber_n;
    emu_fiber *fibers; /* of this block's set */
    const emu_launch *launch;
    unsigned set;
    unsigned odd;        /* parity of launches */
    uint64_t block_n;    /* blocks of all launches, this one included */
    unsigned order;      /* this block's place in the launch's order */
    unsigned order_step; /* block of place i: (i * order_step + order_first) mod their number */
    unsigned order_first;
    unsigned thread_n, warp_n, live_n;
    unsigned at_barrier_n;
    int barrier_line;
    unsigned barrier_phase;
    unsigned phase[EMU_SETS]; /* blocks that each set has run */
    unsigned ready[EMU_WARPS_MAX], alive[EMU_WARPS_MAX], full[EMU_WARPS_MAX];
    unsigned warp_phase[EMU_WARPS_MAX];
    emu_meeting meetings[EMU_WARPS_MAX][EMU_MEETINGS]; /* the first is the whole warp's */
    uint32_t random;
    bool is_ordered; /* the next launch does not overlap what ran before */
};

extern emu_device emu;

/* Happens-before edges of the race build; nothing elsewhere. */
#ifdef EMU_TSAN
extern "C" {
void __tsan_acquire(void *p);
void __tsan_release(void *p);
}

static inline void emu_release(void *p)
{
    __tsan_release(p);
}

static inline void emu_acquire(void *p)
{
    __tsan_acquire(p);
}
#else
static inline void emu_release(void *)
{
}

static inline void emu_acquire(void *)
{
}
#endif

static inline emu_fiber *emu_self(void)
{
    return static_cast<emu_fiber *>(emu_current);
}

static inline unsigned emu_block_total(void)
{
    return emu.launch->grid.x * emu.launch->grid.y * emu.launch->grid.z;
}

/* The block at a place of the launch's order. */
uint3 emu_block_at(unsigned order);

/* As emu_die, of a thread other than the running one. */
[[noreturn]] void emu_die_of(const emu_fiber *fiber, const char *what, int line);

/* emu_order.cc: what edges of the race build hang on, at the points where CUDA has them. */
void emu_edge_launch(void); /* before the blocks of a launch */
void emu_edge_done(void);   /* after them */
void emu_edge_thread_start(void);
void emu_edge_thread_end(void);
void *emu_edge_barrier(void); /* of the barrier that the block comes to */
void *emu_edge_warp(unsigned warp);

/* emu_shared.cc. */
void emu_shared_launch(void); /* before the blocks of a launch */
void emu_shared_block(void);  /* before a block */
void emu_shared_done(void);

/* The race build's shared memory, one arena per set of fibers. */
#define EMU_ARENA ((size_t)256 << 10)
#ifdef EMU_TSAN
extern unsigned char emu_arenas[EMU_SETS][EMU_ARENA];
#endif

/* emu_shadow.cc, nothing but in the race build: nobody has written these bytes of shared memory. */
void emu_shadow_clear(const void *p, size_t bytes);

#endif
