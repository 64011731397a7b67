/* How a fault is told: what, kernel, block, thread, line, and who else waits. A sanitizer's report
 * has the line and knows nothing of kernels: the rest is told beside it. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/emu/emu_block.h"

#define FAULT_WAITERS 4 /* that are shown */

static void fault_place(const emu_fiber *fiber)
{
    const uint3 b = emu_running.index;
    fprintf(stderr, "kernel %s block (%u,%u,%u)", emu.launch ? emu.launch->name : "none", b.x, b.y,
            b.z);
    if (fiber) {
        fprintf(stderr, " thread (%u,%u,%u)", fiber->tid.x, fiber->tid.y, fiber->tid.z);
    }
}

static void fault_waiters(void)
{
    unsigned shown = 0;
    for (unsigned i = 0; emu.fibers && i < emu.thread_n && shown < FAULT_WAITERS; i++) {
        const emu_fiber *f = &emu.fibers[i];
        if (f->state == EMU_AT_WARP || f->state == EMU_AT_BLOCK) {
            fprintf(stderr, "  thread %u waits at line %d for its %s\n", i, f->line,
                    f->state == EMU_AT_WARP ? "warp" : "block");
            shown++;
        }
    }
}

void emu_die_of(const emu_fiber *fiber, const char *what, int line)
{
    fprintf(stderr, "emu: %s: ", what);
    fault_place(fiber);
    line = line || !fiber ? line : fiber->line;
    if (line) {
        fprintf(stderr, " line %d", line);
    }
    fprintf(stderr, "\n");
    fault_waiters();
    fflush(stderr);
    abort();
}

void emu_die(const char *what, int line)
{
    emu_die_of(emu_self(), what, line);
}

#if defined(EMU_ASAN) || defined(EMU_TSAN)
static void fault_report(void)
{
    if (emu.launch) {
        fprintf(stderr, "emu: the sanitizer's report is of ");
        fault_place(emu_self());
        fprintf(stderr, "\n");
        fflush(stderr);
    }
}

/* The sanitizers call these when they report. */
extern "C" {
void __asan_on_error(void);
void __tsan_on_report(void *report);
void __ubsan_on_report(void);

void __asan_on_error(void)
{
    fault_report();
}

void __tsan_on_report(void *)
{
    fault_report();
}

void __ubsan_on_report(void)
{
    fault_report();
}
}
#endif
