/* Which bytes of shared memory the running block has written, in the race build.
 *
 * There the compiler puts a call before every access of a kernel, and the linker (--wrap) puts
 * these functions before the sanitizer's own. With the knob is_strict a read of a byte that nobody
 * wrote, or that an asynchronous copy still owes, is told with its line. Other builds see such a
 * value as the NaN it is, in what the kernel computes from it. */
#include "kernels/emu/emu_block.h"

#ifndef EMU_TSAN
void emu_shadow_clear(const void *, size_t)
{
}

void emu_shadow_written(const void *, size_t)
{
}

#else
#include <stdlib.h>

#include "kernels/emu/emu_knobs.h"

/* Volatile: a compiler that saw a loop of stores would call memset, which the sanitizer watches. */
static volatile unsigned char written[EMU_SETS][EMU_ARENA];

/* Whether the access is to the running block's shared memory, and where. */
static bool shadow_find(const void *p, size_t bytes, size_t *out_at)
{
    size_t at = (size_t)(static_cast<const unsigned char *>(p) - emu_arenas[emu.set]);
    *out_at = at;
    return emu_current && at < EMU_ARENA && bytes <= EMU_ARENA - at;
}

static void shadow_set(const void *p, size_t bytes, unsigned char value)
{
    size_t at;
    if (shadow_find(p, bytes, &at)) {
        for (size_t i = 0; i < bytes; i++) {
            written[emu.set][at + i] = value;
        }
    }
}

void emu_shadow_clear(const void *p, size_t bytes)
{
    shadow_set(p, bytes, 0);
}

void emu_shadow_written(const void *p, size_t bytes)
{
    shadow_set(p, bytes, 1);
}

extern "C" void __sanitizer_symbolize_pc(void *pc, const char *format, char *out, size_t bytes);

[[noreturn]] static void shadow_die(void *pc)
{
    char text[32] = "";
    __sanitizer_symbolize_pc(static_cast<char *>(pc) - 1, "%l", text, sizeof text);
    emu_die("reads shared memory that nobody wrote", atoi(text));
}

static void shadow_read(const void *p, size_t bytes, void *pc)
{
    size_t at;
    if (!emu_knobs.is_strict || !shadow_find(p, bytes, &at)) {
        return;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (!written[emu.set][at + i]) {
            shadow_die(pc);
        }
    }
}

/* The sanitizer's function is a tail call: it takes its caller's line from the stack. */
#define SHADOW(name, call)                                                                         \
    extern "C" void __real___tsan_##name(void *p);                                                 \
    extern "C" void __wrap___tsan_##name(void *p);                                                 \
    void __wrap___tsan_##name(void *p)                                                             \
    {                                                                                              \
        call;                                                                                      \
        __real___tsan_##name(p);                                                                   \
    }
#define SHADOW_READ(name, bytes)  SHADOW(name, shadow_read(p, bytes, __builtin_return_address(0)))
#define SHADOW_WRITE(name, bytes) SHADOW(name, shadow_set(p, bytes, 1))

SHADOW_READ(read1, 1)
SHADOW_READ(read2, 2)
SHADOW_READ(read4, 4)
SHADOW_READ(read8, 8)
SHADOW_READ(read16, 16)
SHADOW_READ(unaligned_read2, 2)
SHADOW_READ(unaligned_read4, 4)
SHADOW_READ(unaligned_read8, 8)
SHADOW_READ(unaligned_read16, 16)
SHADOW_WRITE(write1, 1)
SHADOW_WRITE(write2, 2)
SHADOW_WRITE(write4, 4)
SHADOW_WRITE(write8, 8)
SHADOW_WRITE(write16, 16)
SHADOW_WRITE(unaligned_write2, 2)
SHADOW_WRITE(unaligned_write4, 4)
SHADOW_WRITE(unaligned_write8, 8)
SHADOW_WRITE(unaligned_write16, 16)

extern "C" {
void __real___tsan_read_range(void *p, size_t bytes);
void __wrap___tsan_read_range(void *p, size_t bytes);
void __real___tsan_write_range(void *p, size_t bytes);
void __wrap___tsan_write_range(void *p, size_t bytes);
void *__real_memset(void *p, int value, size_t bytes);
void *__wrap_memset(void *p, int value, size_t bytes);
void *__real_memcpy(void *to, const void *from, size_t bytes);
void *__wrap_memcpy(void *to, const void *from, size_t bytes);
}

void __wrap___tsan_read_range(void *p, size_t bytes)
{
    shadow_read(p, bytes, __builtin_return_address(0));
    __real___tsan_read_range(p, bytes);
}

void __wrap___tsan_write_range(void *p, size_t bytes)
{
    shadow_set(p, bytes, 1);
    __real___tsan_write_range(p, bytes);
}

void *__wrap_memset(void *p, int value, size_t bytes)
{
    shadow_set(p, bytes, 1);
    return __real_memset(p, value, bytes);
}

void *__wrap_memcpy(void *to, const void *from, size_t bytes)
{
    shadow_read(from, bytes, __builtin_return_address(0));
    shadow_set(to, bytes, 1);
    return __real_memcpy(to, from, bytes);
}
#endif
