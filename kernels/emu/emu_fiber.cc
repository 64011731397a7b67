/* The switch saves what the ABI calls callee-saved on the old stack and takes it from the new one:
 * a tenth of the price of ucontext, which makes a system call each time. */
#include "kernels/emu/emu_fiber.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef EMU_ASAN
#define EMU_STACK ((size_t)256 << 10)
#else
#define EMU_STACK ((size_t)64 << 10)
#endif
#ifdef EMU_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void *__tsan_get_current_fiber(void);
}
#endif

#define EMU_GUARD    ((size_t)4096)
#define EMU_STAGGER  ((size_t)192) /* bytes; a multiple of 16 */
#define EMU_STAGGERS 21            /* in a page */

#if defined(__x86_64__)
#define EMU_SAVED 6 /* registers on the stack below the return address */
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n"
    ".size emu_switch,.-emu_switch\n");
#elif defined(__aarch64__)
#define EMU_SAVED 20 /* x19 to x30 and d8 to d15 */
asm(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
    " sub sp,sp,#160\n"
    " stp x19,x20,[sp,#0]\n stp x21,x22,[sp,#16]\n stp x23,x24,[sp,#32]\n"
    " stp x25,x26,[sp,#48]\n stp x27,x28,[sp,#64]\n stp x29,x30,[sp,#80]\n"
    " stp d8,d9,[sp,#96]\n stp d10,d11,[sp,#112]\n stp d12,d13,[sp,#128]\n stp d14,d15,[sp,#144]\n"
    " mov x2,sp\n str x2,[x0]\n mov sp,x1\n"
    " ldp x19,x20,[sp,#0]\n ldp x21,x22,[sp,#16]\n ldp x23,x24,[sp,#32]\n"
    " ldp x25,x26,[sp,#48]\n ldp x27,x28,[sp,#64]\n ldp x29,x30,[sp,#80]\n"
    " ldp d8,d9,[sp,#96]\n ldp d10,d11,[sp,#112]\n ldp d12,d13,[sp,#128]\n ldp d14,d15,[sp,#144]\n"
    " add sp,sp,#160\n ret\n"
    ".size emu_switch,.-emu_switch\n");
#else
#error "the emulation needs a switch for this processor"
#endif

/* The stack looks as if `main` had been about to return into itself. Stacks lie a multiple of a
 * page apart: without a stagger the tops of all would share a few lines of the cache. */
static void *fiber_first_sp(emu_fiber *fiber, void (*main)(void))
{
    static size_t made;
    size_t stagger = made++ % EMU_STAGGERS * EMU_STAGGER;
    void **sp = reinterpret_cast<void **>(fiber->stack + EMU_STACK - 64 - stagger);
#if defined(__x86_64__)
    *--sp = NULL; /* main never returns; keeps the stack aligned as after a call */
    *--sp = reinterpret_cast<void *>(main);
    for (int i = 0; i < EMU_SAVED; i++) {
        *--sp = NULL;
    }
#else
    sp -= EMU_SAVED;
    for (int i = 0; i < EMU_SAVED; i++) {
        sp[i] = NULL;
    }
    sp[11] = reinterpret_cast<void *>(main); /* x30 */
#endif
    return sp;
}

void emu_fiber_init(emu_fiber *fiber, void (*main)(void))
{
    void *memory = mmap(NULL, EMU_STACK + EMU_GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, EMU_GUARD, PROT_NONE)) {
        emu_die("no memory for a thread's stack", 0);
    }
    fiber->stack = static_cast<char *>(memory) + EMU_GUARD;
    fiber->stack_bytes = EMU_STACK;
    fiber->sp = fiber_first_sp(fiber, main);
#ifdef EMU_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
}

void emu_fiber_host(emu_fiber *fiber)
{
#ifdef EMU_TSAN
    fiber->tsan = __tsan_get_current_fiber();
#endif
    if (fiber->stack) {
        return; /* launches all run on one thread */
    }
    pthread_attr_t attr;
    void *stack;
    pthread_getattr_np(pthread_self(), &attr);
    pthread_attr_getstack(&attr, &stack, &fiber->stack_bytes);
    pthread_attr_destroy(&attr);
    fiber->stack = static_cast<char *>(stack);
}

void emu_fiber_started(void)
{
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
}
