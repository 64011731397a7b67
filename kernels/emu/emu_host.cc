/* The host words on the emulated device: its thread, its failure, what it is; the rest is in
 * emu_memory.cc, emu_stream.cc and emu_graph.cc.
 *
 * A launch that ran at the call could never show a missing wait, a pinned block reused early or
 * memory freed in flight. So queued work waits for the device's thread, which takes it as late as
 * is legal (emu_stream.cc says when). The thread is made once and lives as long as the process:
 * fibers and sanitizers know it by its stack. */
#include "kernels/emu/emu_host.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAG_NS       ((uint64_t)200000)
#define SILENCE_NS   ((uint64_t)600000000000)
#define NS_PER_S     1000000000LL
#define MEMORY_BYTES ((size_t)512 << 20)
#define CAPABILITY   90
#define THREADS_MAX  256u

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool is_started;
    bool is_hung;
    bool is_reset; /* asked for; the device's thread answers by clearing it */
    bool is_failed;
    uint32_t waiter_n;
    uint64_t op_n; /* operations of fail_op and hang_op so far */
    char failure[ERR_TEXT_BYTES];
} host = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

struct emu_words emu_words_n;

static uint64_t knob_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

/* What a block may ask for on the targets there are. */
static size_t shared_of(uint64_t capability)
{
    size_t kib = capability == 80 ? 163 : capability == 89 || capability >= 120 ? 99 : 227;
    return kib << 10;
}

struct emu_knobs emu_knobs = {
    .lane_seed = (uint32_t)knob_of("GRAFT_EMU_SEED", 0),
    .is_strict = knob_of("GRAFT_EMU_STRICT", 0) != 0,
    .threads_max = (uint32_t)knob_of("GRAFT_EMU_THREADS", THREADS_MAX),
    .order_seed = (uint32_t)knob_of("GRAFT_EMU_SEED", 0),
    .lag_ns = knob_of("GRAFT_EMU_LAG_US", LAG_NS / 1000) * 1000,
    .silence_ns = knob_of("GRAFT_EMU_SILENCE_MS", SILENCE_NS / 1000000) * 1000000,
    .device_n = (uint32_t)knob_of("GRAFT_EMU_DEVICES", 1),
    .sm_n = (uint32_t)knob_of("GRAFT_EMU_SMS", 4),
    .major = (uint32_t)knob_of("GRAFT_EMU_CAPABILITY", CAPABILITY) / 10,
    .minor = (uint32_t)knob_of("GRAFT_EMU_CAPABILITY", CAPABILITY) % 10,
    .shared_per_block =
        knob_of("GRAFT_EMU_SHARED", shared_of(knob_of("GRAFT_EMU_CAPABILITY", CAPABILITY))),
    .memory_bytes = knob_of("GRAFT_EMU_MEMORY", MEMORY_BYTES),
    .fail_op = knob_of("GRAFT_EMU_FAIL", 0),
    .hang_op = knob_of("GRAFT_EMU_HANG", 0),
    .op_kernel = getenv("GRAFT_EMU_KERNEL"),
    .cublaslt = getenv("GRAFT_EMU_CUBLASLT"),
};

void emu_lock(void)
{
    pthread_mutex_lock(&host.lock);
}

void emu_unlock(void)
{
    pthread_mutex_unlock(&host.lock);
}

int64_t emu_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* The finaliser of splitmix64: neighbouring seeds give unrelated orders. */
uint64_t emu_hash(uint64_t v)
{
    v += 0x9E3779B97F4A7C15u;
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9u;
    v = (v ^ v >> 27) * 0x94D049BB133111EBu;
    return v ^ v >> 31;
}

void emu_wake(void)
{
    pthread_cond_signal(&host.work);
}

void emu_await(void)
{
    host.waiter_n++;
    pthread_cond_wait(&host.done, &host.lock);
    host.waiter_n--;
}

void emu_progress(void)
{
    if (host.waiter_n) {
        pthread_cond_broadcast(&host.done);
    }
}

bool emu_is_failed(void)
{
    return host.is_failed;
}

const char *emu_failure(void)
{
    return host.failure;
}

void emu_fail(const char *fmt, ...)
{
    if (host.is_failed) {
        return;
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(host.failure, sizeof host.failure, fmt, args);
    va_end(args);
    host.is_failed = true;
    emu_progress();
    if (host.is_started) {
        emu_wake();
    }
}

bool emu_op_starts(const char *kernel)
{
    bool is_counted = !emu_knobs.op_kernel || (kernel && strcmp(kernel, emu_knobs.op_kernel) == 0);
    host.op_n += is_counted;
    if (is_counted && host.op_n == emu_knobs.fail_op) {
        emu_fail("the emulated device failed at operation %llu, as asked",
                 (unsigned long long)host.op_n);
    }
    if (is_counted && host.op_n == emu_knobs.hang_op) {
        host.is_hung = true;
        while (host.is_hung) {
            pthread_cond_wait(&host.work, &host.lock);
        }
    }
    return !host.is_failed && !host.is_reset;
}

static void device_sleep(int64_t until_ns)
{
    if (until_ns == EMU_NEVER) {
        pthread_cond_wait(&host.work, &host.lock);
        return;
    }
    struct timespec until = {};
    until.tv_sec = until_ns / NS_PER_S;
    until.tv_nsec = until_ns % NS_PER_S;
    pthread_cond_timedwait(&host.work, &host.lock, &until);
}

static void *device_main(void *)
{
    emu_lock();
    for (;;) {
        int64_t at_ns = EMU_NEVER;
        if (host.is_failed || host.is_reset) {
            emu_streams_drop();
            host.is_reset = false;
            emu_progress();
        }
        if (!emu_stream_step(&at_ns)) {
            device_sleep(at_ns);
        }
    }
    return NULL;
}

void emu_start(void)
{
    if (host.is_started) {
        return;
    }
    host.is_started = true;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&host.work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    /* A program's signals are for its own threads. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, device_main, NULL);
    ASSERT_CMP(rc, ==, 0);
    pthread_setname_np(thread, "emulated");
    pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void emu_reset(void)
{
    emu_lock();
    emu_start();
    host.is_reset = true;
    host.is_hung = false;
    emu_wake();
    while (host.is_reset) {
        emu_await();
    }
    host.is_failed = false;
    host.failure[0] = '\0';
    host.op_n = 0;
    emu_words_n = {};
    emu_unlock();
}

void emu_words_get(struct emu_words *out)
{
    emu_lock();
    *out = emu_words_n;
    emu_unlock();
}

const char *dev_failure(void)
{
    emu_lock();
    const char *text = host.is_failed ? host.failure : "";
    emu_unlock();
    return text;
}

void dev_fail(const char *why)
{
    emu_lock();
    emu_fail("%s", why);
    emu_unlock();
}

void *dev_stream_native(dev_stream *stream)
{
    return stream;
}

int dev_count(uint32_t *out_n, struct err *err)
{
    if (emu_knobs.device_n == 0) {
        return err_set(err, ERR_NO_DEVICE, "the emulation has no device");
    }
    *out_n = 1;
    return 0;
}

int dev_use(uint32_t index, struct err *err)
{
    if (index >= emu_knobs.device_n) {
        return err_set(err, ERR_NO_DEVICE, "there is no emulated device %u", index);
    }
    return 0;
}

int dev_describe(uint32_t index, struct dev_info *out, struct err *err)
{
    int rc = dev_use(index, err);
    if (rc) {
        return rc;
    }
    *out = dev_info();
    snprintf(out->name, sizeof out->name, "emulated");
    out->major = emu_knobs.major;
    out->minor = emu_knobs.minor;
    out->sm_n = emu_knobs.sm_n;
    out->shared_per_block = emu_knobs.shared_per_block;
    out->memory_bytes = emu_knobs.memory_bytes;
    emu_lock();
    out->free_bytes = emu_memory_left();
    emu_unlock();
    out->silence_ns = (int64_t)emu_knobs.silence_ns;
    out->is_emulated = true;
    return 0;
}
