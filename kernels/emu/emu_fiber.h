/* Fibers: a CUDA thread's stack and its register switch, announced to the sanitizers. */
#ifndef KERNELS_EMU_EMU_FIBER_H
#define KERNELS_EMU_EMU_FIBER_H

#include "kernels/emu/emu.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
/* The emulator itself is never instrumented; the build says what the kernels are. */
#if defined(EMU_BUILD_ASAN) && !defined(EMU_ASAN)
#define EMU_ASAN 1
#endif
#if defined(EMU_BUILD_TSAN)
#define EMU_TSAN 1
#endif

#ifdef EMU_TSAN
#define EMU_SETS 6u
#else
#define EMU_SETS 1u
#endif

#define EMU_COPIES_MAX 128 /* cp_async16 of one thread in flight */

enum emu_fiber_state { EMU_READY, EMU_AT_WARP, EMU_AT_BLOCK, EMU_DONE };

/* An asynchronous copy: read when it is issued, written when it is waited for. */
struct emu_copy {
    void *to;
    uint32_t value[4];
    unsigned group;
    int line;
};

struct emu_fiber : emu_thread {
    void *sp;
    char *stack;
    size_t stack_bytes;
    emu_fiber_state state;
    int line;
    unsigned wait_n; /* pdl_wait so far */
    unsigned copy_n, group;
    emu_copy copies[EMU_COPIES_MAX];
#ifdef EMU_ASAN
    void *fake;
#endif
#ifdef EMU_TSAN
    void *tsan;
#endif
};

/* Makes a fiber that starts in `main` at its first switch. */
void emu_fiber_init(emu_fiber *fiber, void (*main)(void));

/* The calling thread as a fiber: where the first switch comes from. */
void emu_fiber_host(emu_fiber *fiber);

extern "C" {
/* Saves what the ABI asks for on this stack, its place in *save, and goes on at another's. */
void emu_switch(void **save, void *to);
#ifdef EMU_ASAN
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *size);
#endif
#ifdef EMU_TSAN
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#endif
}

static inline void emu_fiber_switch(emu_fiber *from, emu_fiber *to)
{
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to->tsan, 1); /* 1: the switch itself orders nothing */
#endif
    emu_switch(&from->sp, to->sp);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

/* First thing a new fiber does. */
void emu_fiber_started(void);

#endif
