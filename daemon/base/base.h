/* The few compiler words and macros that every room uses. Nothing here knows of inference.
 *
 * ASSERT is for programmer errors only, is on in every build, and aborts; a file, a request or a
 * client can never reach one. */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_FMT(fmt_index, arg_index) __attribute__((format(printf, fmt_index, arg_index)))
#define NORETURN                         __attribute__((noreturn))
#define UNUSED                           __attribute__((unused))
#define ALWAYS_INLINE                    inline __attribute__((always_inline))
#define LIKELY(x)                        __builtin_expect(!!(x), 1)
#define UNLIKELY(x)                      __builtin_expect(!!(x), 0)

#define ARRAY_N(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)  ((a) < (b) ? (a) : (b))
#define MAX(a, b)  ((a) > (b) ? (a) : (b))

/* The object that holds `member` at address `ptr`. */
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Rounds n up to a multiple of `unit` (any positive unit). */
#define ROUND_UP(n, unit) (((n) + (unit)-1) / (unit) * (unit))
#define DIV_UP(n, unit)   (((n) + (unit)-1) / (unit))

#define ASSERT(cond)                                                                               \
    do {                                                                                           \
        if (UNLIKELY(!(cond))) {                                                                   \
            base_assert_failed(__FILE__, __LINE__, #cond);                                         \
        }                                                                                          \
    } while (0)

/* Compares two integers and prints both on failure: ASSERT_CMP(n, <=, limit). */
#define ASSERT_CMP(a, op, b)                                                                       \
    do {                                                                                           \
        long long assert_a_ = (long long)(a);                                                      \
        long long assert_b_ = (long long)(b);                                                      \
        if (UNLIKELY(!(assert_a_ op assert_b_))) {                                                 \
            base_assert_cmp_failed(__FILE__, __LINE__, #a " " #op " " #b, assert_a_, assert_b_);   \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
extern "C" {
#endif
void base_assert_failed(const char *file, int line, const char *what) NORETURN;
void base_assert_cmp_failed(const char *file, int line, const char *what, long long a,
                            long long b) NORETURN;
#ifdef __cplusplus
}
#endif

#endif
