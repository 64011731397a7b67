/* Hand-overs through libgrpc, told to ThreadSanitizer.
 *
 * The library is not instrumented, so the order it gives (a tag comes out of the queue after its
 * batch was started) is invisible to the tool. In other builds these are nothing. */
#ifndef RPC_TSAN_H
#define RPC_TSAN_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RPC_HAS_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define RPC_HAS_TSAN 1
#endif

#ifdef RPC_HAS_TSAN
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define RPC_TSAN_ACQUIRE(p) __tsan_acquire(p)
#define RPC_TSAN_RELEASE(p) __tsan_release(p)
#else
#define RPC_TSAN_ACQUIRE(p) ((void)(p))
#define RPC_TSAN_RELEASE(p) ((void)(p))
#endif

#endif
