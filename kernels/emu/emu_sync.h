/* The emulation's half of dev.h: who a thread is and how it meets others. Include dev.h, never
 * this.
 *
 * The default argument of a word is its caller's line. */
#ifndef KERNELS_EMU_EMU_SYNC_H
#define KERNELS_EMU_EMU_SYNC_H

#include <string.h>
#include <type_traits>

#include "kernels/emu/emu.h"

#define threadIdx (emu_current->tid)
#define blockIdx  (emu_running.index)
#define blockDim  (emu_running.dim)
#define gridDim   (emu_running.grid)

/* Shared memory: a reference to this block's instance. */
#define SHARED(type, name, dims)                                                                   \
    using name##_shared = type dims;                                                               \
    static char name##_key;                                                                        \
    name##_shared &name =                                                                          \
        *static_cast<name##_shared *>(emu_shared(&name##_key, sizeof(name##_shared)))
#define DYN_SHARED(type, name) type *name = static_cast<type *>(emu_dyn_shared())

/* Barriers and warps. */
static inline void __syncthreads(int line = __builtin_LINE())
{
    emu_barrier(line);
}
void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE());
unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE());

struct emu_shfl {
    uint64_t in, out;
    int source;
};
void emu_shfl_meet(unsigned mask, struct emu_shfl *arg, int line);

template <class V> static inline V emu_shuffle(unsigned mask, V v, int source, int line)
{
    static_assert(sizeof(V) == 4 || sizeof(V) == 8, "shuffles move 4 or 8 bytes");
    struct emu_shfl arg = {0, 0, source};
    memcpy(&arg.in, &v, sizeof v);
    emu_shfl_meet(mask, &arg, line);
    memcpy(&v, &arg.out, sizeof v);
    return v;
}
template <class V>
static inline V __shfl_sync(unsigned mask, V v, int lane, int line = __builtin_LINE())
{
    return emu_shuffle(mask, v, lane & 31, line);
}
template <class V>
static inline V __shfl_xor_sync(unsigned mask, V v, int lanes, int line = __builtin_LINE())
{
    return emu_shuffle(mask, v, (int)emu_current->lane ^ lanes, line);
}
template <class V>
static inline V __shfl_up_sync(unsigned mask, V v, unsigned n, int line = __builtin_LINE())
{
    return emu_shuffle(mask, v, (int)emu_current->lane - (int)n, line);
}
template <class V>
static inline V __shfl_down_sync(unsigned mask, V v, unsigned n, int line = __builtin_LINE())
{
    return emu_shuffle(mask, v, (int)(emu_current->lane + n), line);
}
static inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return __ballot_sync(mask, predicate, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return __ballot_sync(mask, !predicate, line) == 0;
}

/* Integer atomics: they order nothing, as on a GPU. */
static inline void emu_atomic_wrote(const void *p, size_t bytes)
{
#ifdef __SANITIZE_THREAD__
    emu_shadow_written(p, bytes);
#endif
    (void)p;
    (void)bytes;
}

static inline void __threadfence(void)
{
}
static inline void __threadfence_system(void)
{
    /* publish_u64 is the edge to the host */
}
template <class V> static inline V atomicAdd(V *p, V v)
{
    static_assert(std::is_integral<V>::value, "no floating-point atomics");
    emu_atomic_wrote(p, sizeof v);
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class V> static inline V atomicOr(V *p, V v)
{
    emu_atomic_wrote(p, sizeof v);
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class V> static inline V atomicExch(V *p, V v)
{
    emu_atomic_wrote(p, sizeof v);
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class V, class F> static inline V emu_atomic(V *p, F next)
{
    emu_atomic_wrote(p, sizeof *p);
    V old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, next(old), false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return old;
}
template <class V> static inline V atomicMax(V *p, V v)
{
    return emu_atomic(p, [v](V old) { return old < v ? v : old; });
}
template <class V> static inline V atomicMin(V *p, V v)
{
    return emu_atomic(p, [v](V old) { return v < old ? v : old; });
}
static inline unsigned atomicInc(unsigned *p, unsigned top)
{
    return emu_atomic(p, [top](unsigned old) { return old >= top ? 0 : old + 1; });
}

/* Order between blocks, and between launches that overlap. */
void flag_signal(unsigned *p);
static inline void publish_u64(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
void flag_wait(unsigned *p, unsigned n, int line = __builtin_LINE());
bool flag_join(unsigned *p, unsigned n);
unsigned ticket_next(unsigned *p, unsigned unit_n, unsigned stride);
void pdl_wait(int line = __builtin_LINE());
void pdl_trigger(int line = __builtin_LINE());

#endif
