/* What orders threads, blocks and launches: the edges that the race build sees, flags, tickets.
 *
 * An edge is an address: whoever acquires it is after all who released it before. There is one
 * only where CUDA has one: barriers, __syncwarp, flags, pdl_wait, the end of a launch. Those within
 * a block belong to the block's set of fibers, else neighbouring blocks would look ordered. */
#include "kernels/cuda/dev.h"
#include "kernels/emu/emu_block.h"

#define EDGE_WARP_PHASES 4

/* Launches: this one's, that before which all is ordered even for a launch that overlaps, ends. */
static char edge_launch, edge_before, edge_done;
static char edge_barrier[EMU_SETS][2], edge_set[EMU_SETS][2];
static char edge_warp[EMU_SETS][EMU_WARPS_MAX][EDGE_WARP_PHASES];

void emu_order(void)
{
    emu.is_ordered = true;
}

void emu_edge_launch(void)
{
    if (!emu.launch->is_pdl || emu.is_ordered) {
        emu_release(&edge_before);
    }
    emu.is_ordered = false;
    emu_release(&edge_launch);
}

void emu_edge_done(void)
{
    emu_acquire(&edge_done);
}

/* A set's threads come after the set's last block, not after each other. */
void emu_edge_thread_start(void)
{
    emu_acquire(&edge_set[emu.set][(emu.phase[emu.set] ^ 1) & 1]);
    emu_acquire(emu.launch->is_pdl ? &edge_before : &edge_launch);
}

void emu_edge_thread_end(void)
{
    emu_release(&edge_done);
    emu_release(&edge_set[emu.set][emu.phase[emu.set] & 1]);
}

/* Two in turn: a thread that is early at the next barrier must not pass as ordered at this one. */
void *emu_edge_barrier(void)
{
    return &edge_barrier[emu.set][emu.barrier_phase & 1];
}

void *emu_edge_warp(unsigned warp)
{
    return &edge_warp[emu.set][warp][emu.warp_phase[warp]++ % EDGE_WARP_PHASES];
}

void pdl_wait(int line)
{
    if (emu.launch->is_pdl && emu_self()->wait_n > 0) {
        emu_die("pdl_wait twice in one thread", line);
    }
    emu_self()->wait_n++;
    emu_acquire(&edge_launch);
}

void pdl_trigger(int line)
{
    if (emu.launch->is_pdl && emu_self()->wait_n == 0) {
        emu_die("pdl_trigger before pdl_wait", line);
    }
}

/* A block waits only for work with a lower ticket, and that has run. */
void flag_signal(unsigned *p)
{
    emu_release(p);
    __atomic_fetch_add(p, 1u, __ATOMIC_RELAXED);
}

void flag_wait(unsigned *p, unsigned n, int line)
{
    if ((int)(__atomic_load_n(p, __ATOMIC_RELAXED) - n) < 0) {
        emu_die("waits for work that has a higher ticket and would hang", line);
    }
    emu_acquire(p);
}

bool flag_join(unsigned *p, unsigned n)
{
    emu_release(p);
    unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, old >= n - 1 ? 0 : old + 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    if (old == n - 1) {
        emu_acquire(p);
    }
    return old == n - 1;
}

/* Whether no later block of the launch draws from this block's counter: one for each x modulo the
 * stride, and for each y and z. */
static bool ticket_is_last(unsigned stride)
{
    for (unsigned i = emu.order + 1; i < emu_block_total(); i++) {
        const uint3 other = emu_block_at(i);
        if (other.x % stride == emu_running.index.x % stride && other.y == emu_running.index.y &&
            other.z == emu_running.index.z) {
            return false;
        }
    }
    return true;
}

/* A block's share ends early, else the first one would do all the work. */
unsigned ticket_next(unsigned *p, unsigned unit_n, unsigned stride)
{
    static struct {
        uint64_t block;
        unsigned n;
        bool is_last;
    } share;
    if (share.block != emu.block_n) {
        share.block = emu.block_n;
        share.n = 0;
        share.is_last = ticket_is_last(stride);
    }
    unsigned sharers = (emu_block_total() + stride - 1) / stride;
    unsigned quota = (unit_n + sharers - 1) / sharers;
    if (!share.is_last && share.n >= quota) {
        return unit_n;
    }
    share.n++;
    return __atomic_fetch_add(p, 1u, __ATOMIC_RELAXED);
}
