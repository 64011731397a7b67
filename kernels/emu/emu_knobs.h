/* What a test may set on the emulated device, and what it counts. Plain C.
 *
 * Set before the first word of kernels/cuda/host.h is used, or while the device is idle. The
 * environment gives first values: GRAFT_EMU_SEED (of lanes and of streams), GRAFT_EMU_STRICT (0 or
 * 1), GRAFT_EMU_THREADS (256), GRAFT_EMU_LAG_US, GRAFT_EMU_SILENCE_MS (600000), GRAFT_EMU_DEVICES,
 * GRAFT_EMU_SMS, GRAFT_EMU_CAPABILITY (90), GRAFT_EMU_SHARED (bytes a block may have, by default
 * the capability's limit), GRAFT_EMU_MEMORY (bytes), GRAFT_EMU_FAIL, GRAFT_EMU_HANG and
 * GRAFT_EMU_KERNEL (see fail_op, hang_op, op_kernel), GRAFT_EMU_CUBLASLT (see cublaslt). */
#ifndef KERNELS_EMU_EMU_KNOBS_H
#define KERNELS_EMU_EMU_KNOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emu_knobs {
    uint32_t lane_seed;   /* order of blocks, warps and lanes; 0 = ascending */
    bool is_strict;       /* race build: a read of shared memory that nobody wrote is a fault */
    uint32_t threads_max; /* race build: of a block; their fibers are all made at once */
    uint32_t order_seed;  /* order of streams; 0 = as late as legal */
    uint64_t lag_ns;      /* until queued work starts that no host asks for */
    uint64_t silence_ns;  /* without progress, after which the host takes the device for lost */
    uint32_t device_n;    /* 0 or 1 */
    uint32_t sm_n;
    uint32_t major, minor;
    size_t shared_per_block;
    size_t memory_bytes;
    /* This launch, copy or fill fails, or never ends: counted from 1 in the order they run, 0 =
     * none. With op_kernel only that kernel's launches count. */
    uint64_t fail_op, hang_op;
    const char *op_kernel;
    /* What dev_cublaslt finds (emu_cublaslt.cc): NULL = nothing; "fine"; or one with a fault:
     * "create", "find", "workspace", "split", "twice", "place", "neighbour", "wrong", "late";
     * "second": of two algorithms the first is wrong. */
    const char *cublaslt;
};
extern struct emu_knobs emu_knobs;

/* Forgets queued work, a failure or a hang, and what was counted here; restarts the order from
 * order_seed. Streams, memory and graphs stay. No other thread uses the words meanwhile. */
void emu_reset(void);

/* Words of host.h so far, and what they asked for: what a steady state may do is a test on these.
 */
struct emu_words {
    uint64_t allocs, frees; /* of device and of pinned memory */
    uint64_t waits;         /* calls that wait for a stream: sync, copies to pageable memory */
    uint64_t queries;
    uint64_t copies, copy_bytes; /* queued, fills included; those of a graph at its replay */
    uint64_t launches;           /* queued; those of a graph at its replay */
    uint64_t replays;
};
void emu_words_get(struct emu_words *out);

/* Of one kernel, or of all for NULL. Bytes by class: weights, adapters, KV, states (ld_class). */
struct emu_stats {
    uint64_t launches;
    uint64_t blocks;
    uint64_t mma;
    uint64_t bytes[4];
};
void emu_stats_get(const char *kernel, struct emu_stats *out);
void emu_stats_reset(void);

/* Names of the kernels that have run; the i-th, or NULL. */
const char *emu_stats_name(uint32_t i);

#ifdef __cplusplus
}
#endif

#endif
