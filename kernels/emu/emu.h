/* The emulated device, inside: a launch as data, the running block, and how a fault is told.
 *
 * A CUDA thread is a fiber on the emulated device's one OS thread. Blocks run one after another,
 * launches in the order emu_stream.cc gives them. The words that kernels use are in emu_dev.h. */
#ifndef KERNELS_EMU_EMU_H
#define KERNELS_EMU_EMU_H

#ifndef __cplusplus
#error "the emulation is C++; tests use emu_knobs.h"
#endif

#include <stddef.h>
#include <stdint.h>

#define EMU_THREADS_MAX 1024u
#define EMU_ARGS_MAX    4096u

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};

struct dev_stream;

/* A kernel with its arguments: `call` runs one thread of it over `args`. */
struct emu_launch {
    const char *name;
    dim3 grid, block;
    size_t smem;
    bool is_pdl;
    void (*call)(const void *args);
    size_t args_bytes;
    alignas(16) unsigned char args[EMU_ARGS_MAX];
};

/* The thread that runs now, as kernels see it. */
struct emu_thread {
    uint3 tid;
    unsigned lane, warp;
};

struct emu_block {
    uint3 index;
    dim3 dim, grid;
};

extern emu_thread *emu_current;
extern emu_block emu_running;

/* emu_stream.cc: queues a copy of the launch on a stream, or records it under capture. */
void emu_queue(dev_stream *stream, const emu_launch &launch);

/* emu_block.cc: runs a whole launch on the calling thread, which is always the device's. */
void emu_run(const emu_launch &launch);

/* Told of a copy or fill that ran: the next launch starts after it, even one that may overlap. */
void emu_order(void);

/* emu_fault.cc: tells a fault with kernel, block, thread and line, and aborts. Line 0: the line at
 * which the thread last met others. */
[[noreturn]] void emu_die(const char *what, int line);

/* emu_shared.cc: one instance per block and key, filled with 0xff at its first use. */
void *emu_shared(const void *key, size_t bytes);
void *emu_dyn_shared(void);

void emu_barrier(int line);

/* The lanes of `mask` meet: `fn` runs once, by the last to arrive, over all their arguments. */
enum emu_op { EMU_SHFL, EMU_BALLOT, EMU_SYNCWARP, EMU_MMA_BF16, EMU_MMA_F16, EMU_LDMATRIX };
typedef void (*emu_warp_fn)(void **args, unsigned mask);
void emu_meet(unsigned mask, emu_op op, int line, void *arg, emu_warp_fn fn);

/* emu_shadow.cc: a kernel wrote shared memory by a word the compiler does not show us. */
void emu_shadow_written(const void *p, size_t bytes);

/* emu_stats.cc: what the running kernel has read and multiplied. */
void emu_count_bytes(unsigned cls, size_t bytes);
void emu_count_mma(void);
void emu_count_launch(const emu_launch &launch);

#endif
