/* A launch: block after block, each until all its fibers end.
 *
 * Order: blocks and lanes ascending, the rest of the running warp first; a seed permutes blocks,
 * warps and lanes. For the race build there is a set of fibers per launch parity and block modulo
 * three, each ordered after its own past only, so neighbouring blocks and launches race unless a
 * flag, pdl_wait or the end of a launch orders them. */
#include <stdlib.h>

#include "kernels/emu/emu_block.h"
#include "kernels/emu/emu_knobs.h"

#define EMU_BLOCK_SETS (EMU_SETS / 2 + EMU_SETS % 2)

emu_thread *emu_current;
emu_block emu_running;
emu_device emu;

/* Arguments of the running launch: not the queue's copy, whose maker the race build saw write it
 * and would want an edge to. */
alignas(16) static unsigned char block_args[EMU_ARGS_MAX];

static uint32_t block_random(void)
{
    emu.random = emu.random * 1664525u + 1013904223u;
    return emu.random >> 16;
}

static unsigned bit_at(unsigned mask, unsigned index)
{
    for (; index > 0; index--) {
        mask &= mask - 1;
    }
    return (unsigned)__builtin_ctz(mask);
}

static emu_fiber *block_any_ready(void)
{
    uint32_t draw = block_random();
    for (unsigned i = 0; i < emu.warp_n; i++) {
        unsigned w = (i + draw) % emu.warp_n;
        unsigned mask = emu.ready[w];
        if (mask) {
            return &emu.fibers[w * 32 +
                               bit_at(mask, (draw >> 3) % (unsigned)__builtin_popcount(mask))];
        }
    }
    return &emu.host;
}

/* The next runnable fiber, the host when there is none. */
static emu_fiber *block_next(const emu_fiber *me)
{
    if (emu_knobs.lane_seed) {
        return block_any_ready();
    }
    unsigned w = me == &emu.host ? 0 : me->warp;
    unsigned above = me == &emu.host || me->lane == 31 ? 0 : ~((2u << me->lane) - 1);
    unsigned mask = emu.ready[w] & above ? emu.ready[w] & above : emu.ready[w];
    for (unsigned i = 0; i < emu.warp_n && !mask; i++) {
        w = w + 1 == emu.warp_n ? 0 : w + 1;
        mask = emu.ready[w];
    }
    return mask ? &emu.fibers[w * 32 + (unsigned)__builtin_ctz(mask)] : &emu.host;
}

static void block_switch(emu_fiber *from, emu_fiber *to)
{
    emu_current = to == &emu.host ? NULL : to;
    emu_fiber_switch(from, to);
}

/* The first thread that waits: its line is where the fault is. */
[[noreturn]] static void block_deadlock(void)
{
    for (unsigned i = 0; i < emu.thread_n; i++) {
        const emu_fiber *f = &emu.fibers[i];
        if (f->state == EMU_AT_WARP) {
            emu_die_of(f, "waits for lanes that never come (every live thread waits)", f->line);
        }
    }
    for (unsigned i = 0; i < emu.thread_n; i++) {
        if (emu.fibers[i].state == EMU_AT_BLOCK) {
            emu_die_of(&emu.fibers[i], "waits for threads that never come", emu.fibers[i].line);
        }
    }
    emu_die("deadlock", 0);
}

/* Gives way until somebody makes this thread ready. */
static void block_wait(emu_fiber *f, emu_fiber_state state, int line)
{
    f->state = state;
    f->line = line;
    emu.ready[f->warp] &= ~(1u << f->lane);
    emu_fiber *to = block_next(f);
    if (to == &emu.host) {
        block_deadlock();
    }
    block_switch(f, to);
    f->state = EMU_READY;
}

void emu_barrier(int line)
{
    void *edge = emu_edge_barrier();
    if (emu.at_barrier_n == 0) {
        emu.barrier_line = line;
    }
    if (line != emu.barrier_line) {
        emu_die("threads of a block meet at different barriers", line);
    }
    if (emu.live_n < emu.thread_n) {
        emu_die("a thread left the kernel before a barrier that others come to", line);
    }
    emu_release(edge);
    if (++emu.at_barrier_n == emu.thread_n) {
        emu.at_barrier_n = 0;
        emu.barrier_phase++;
        emu_self()->line = line;
        for (unsigned w = 0; w < emu.warp_n; w++) {
            emu.ready[w] = emu.alive[w];
        }
    } else {
        block_wait(emu_self(), EMU_AT_BLOCK, line);
    }
    emu_acquire(edge);
}

static emu_meeting *block_meeting(unsigned warp, unsigned mask)
{
    emu_meeting *meetings = emu.meetings[warp];
    if (mask == emu.full[warp]) {
        return meetings;
    }
    emu_meeting *spare = NULL;
    for (unsigned i = 1; i < EMU_MEETINGS; i++) {
        if (meetings[i].mask == mask) {
            return &meetings[i];
        }
        spare = !meetings[i].mask && !spare ? &meetings[i] : spare;
    }
    return spare;
}

static emu_meeting *block_meet_begin(emu_fiber *f, unsigned mask, emu_op op, int line)
{
    if (!(mask >> f->lane & 1)) {
        emu_die("a lane calls a warp function with a mask that leaves it out", line);
    }
    if (mask & ~emu.alive[f->warp]) {
        emu_die("a mask names a lane that has left the kernel", line);
    }
    emu_meeting *m = block_meeting(f->warp, mask);
    if (!m) {
        emu_die("too many masks at once in a warp", line);
    }
    if (!m->mask) {
        m->mask = mask;
        m->here = 0;
        m->op = op;
        m->line = line;
        m->edge = op == EMU_SYNCWARP ? emu_edge_warp(f->warp) : NULL;
    } else if (m->op != op || m->line != line) {
        emu_die("lanes of one warp meet in different warp functions", line);
    }
    return m;
}

void emu_meet(unsigned mask, emu_op op, int line, void *arg, emu_warp_fn fn)
{
    emu_fiber *f = emu_self();
    mask &= emu.full[f->warp];
    emu_meeting *m = block_meet_begin(f, mask, op, line);
    void *edge = m->edge;
    m->args[f->lane] = arg;
    m->here |= 1u << f->lane;
    if (edge) {
        emu_release(edge);
    }
    if (m->here == mask) {
        f->line = line;
        if (fn) {
            fn(m->args, mask);
        }
        m->mask = 0;
        emu.ready[f->warp] |= mask;
    } else {
        block_wait(f, EMU_AT_WARP, line);
    }
    if (edge) {
        emu_acquire(edge);
    }
}

/* Lanes that wait for the one that leaves. */
static void fiber_check_warp(const emu_fiber *f)
{
    for (unsigned i = 0; i < EMU_MEETINGS; i++) {
        const emu_meeting *m = &emu.meetings[f->warp][i];
        if (m->mask >> f->lane & 1) {
            unsigned lane = (unsigned)__builtin_ctz(m->here);
            emu_die_of(&emu.fibers[f->warp * 32 + lane],
                       "a lane of the mask left the kernel while others wait for it", m->line);
        }
    }
}

static void fiber_end(emu_fiber *f)
{
    if (emu.launch->is_pdl && f->wait_n == 0) {
        emu_die("a thread of a kernel launched to overlap ends without pdl_wait", 0);
    }
    if (f->copy_n) {
        emu_die("cp_async16 without a wait before the kernel's end", f->copies[0].line);
    }
    emu_edge_thread_end();
    f->state = EMU_DONE;
    emu.live_n--;
    emu.alive[f->warp] &= ~(1u << f->lane);
    emu.ready[f->warp] &= ~(1u << f->lane);
    fiber_check_warp(f);
    if (emu.at_barrier_n) {
        emu_die("a thread left the kernel before a barrier that others wait at", emu.barrier_line);
    }
}

static void fiber_main(void)
{
    emu_fiber_started();
    for (;;) {
        emu_edge_thread_start();
        emu.launch->call(block_args);
        emu_fiber *f = emu_self();
        fiber_end(f);
        emu_fiber *to = block_next(f);
        if (to == &emu.host && emu.live_n) {
            block_deadlock();
        }
        block_switch(f, to);
    }
}

static void block_threads(const dim3 &dim)
{
    for (unsigned i = 0; i < emu.thread_n; i++) {
        emu_fiber *f = &emu.fibers[i];
        f->tid = {i % dim.x, i / dim.x % dim.y, i / dim.x / dim.y};
        f->lane = i % 32;
        f->warp = i / 32;
        f->state = EMU_READY;
        f->line = 0;
        f->wait_n = f->copy_n = f->group = 0;
    }
    for (unsigned w = 0; w < emu.warp_n; w++) {
        unsigned n = emu.thread_n - w * 32;
        emu.full[w] = n >= 32 ? 0xffffffffu : (1u << n) - 1;
        emu.ready[w] = emu.alive[w] = emu.full[w];
    }
}

static unsigned gcd(unsigned a, unsigned b)
{
    return b ? gcd(b, a % b) : a;
}

static void block_order(void)
{
    unsigned n = emu_block_total();
    emu.order_step = 1;
    emu.order_first = 0;
    if (emu_knobs.lane_seed && n > 1) {
        emu.random = emu_knobs.lane_seed;
        emu.order_first = block_random() % n;
        do {
            emu.order_step = 1 + block_random() % (n - 1);
        } while (gcd(emu.order_step, n) != 1);
    }
}

uint3 emu_block_at(unsigned order)
{
    const dim3 &grid = emu.launch->grid;
    uint64_t n = emu_block_total();
    unsigned i = (unsigned)(((uint64_t)order * emu.order_step + emu.order_first) % n);
    return {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
}

static void block_run(unsigned order)
{
    const emu_launch &launch = *emu.launch;
    emu.set = (emu.odd * EMU_BLOCK_SETS + (unsigned)(emu.block_n % EMU_BLOCK_SETS)) % EMU_SETS;
    emu.fibers = emu.sets[emu.set];
    emu.phase[emu.set]++;
    emu.block_n++;
    emu.order = order;
    emu.live_n = emu.thread_n;
    emu.random = emu_knobs.lane_seed + order;
    emu_running = {emu_block_at(order), launch.block, launch.grid};
    emu_shared_block();
    block_threads(launch.block);
    block_switch(&emu.host, block_next(&emu.host));
}

/* The race build makes all fibers before the first launch, since a new one inherits its maker's
 * clock, and only as many as the knob says, since one costs more than a megabyte there. */
static void block_make_fibers(void)
{
#ifdef EMU_TSAN
    unsigned n = emu_knobs.threads_max < EMU_THREADS_MAX ? emu_knobs.threads_max : EMU_THREADS_MAX;
#else
    unsigned n = EMU_THREADS_MAX;
#endif
    if (emu.fiber_n) {
        return;
    }
    for (unsigned s = 0; s < EMU_SETS; s++) {
        emu.sets[s] = static_cast<emu_fiber *>(calloc(n, sizeof(emu_fiber)));
        for (unsigned i = 0; emu.sets[s] && i < n; i++) {
            emu_fiber_init(&emu.sets[s][i], fiber_main);
        }
        if (!emu.sets[s]) {
            emu_die("no memory for threads", 0);
        }
    }
    emu.fiber_n = n;
}

void emu_run(const emu_launch &launch)
{
    emu.launch = &launch;
    emu.thread_n = launch.block.x * launch.block.y * launch.block.z;
    emu.warp_n = (emu.thread_n + 31) / 32;
    emu.odd ^= 1;
    emu_fiber_host(&emu.host);
    block_make_fibers();
    if (emu.thread_n < 1 || emu.thread_n > emu.fiber_n) {
        emu_die("a block of this size is not emulated", 0);
    }
    for (size_t i = 0; i < launch.args_bytes; i++) {
        static_cast<volatile unsigned char *>(block_args)[i] = launch.args[i];
    }
    emu_count_launch(launch);
    emu_edge_launch();
    emu_shared_launch();
    block_order();
    for (unsigned i = 0; i < emu_block_total(); i++) {
        block_run(i);
    }
    emu_shared_done();
    emu_edge_done();
    emu.launch = NULL;
    emu.fibers = NULL;
    emu_current = NULL;
}
