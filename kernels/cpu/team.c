/* DESIGN. One 64-bit word holds (generation, next index). A member takes an index by compare and
 * swap on it, so a late one either joins the loop that runs now or nothing. The loop's description
 * (fn, arg, n) is written before the word that opens its generation and cannot change while an
 * index of it is out: whoever wins the swap has read the right one. Finished indices are counted in
 * `done`; the caller returns when all are.
 *
 * Sleeping: `epoch` moves with every loop; a member sleeps on it only after it has announced
 * itself in `sleeper_n`, and the caller looks there after moving it (the order of base/wake.c). */
#include "kernels/cpu/team.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#define TEAM_SPIN_NS    50000
#define TEAM_SPIN_BURST 64 /* pauses between looks at the clock */

struct team_member {
    struct thread thread;
    struct team *team;
    uint32_t index;
    int cpu; /* -1 = not pinned */
};

struct team {
    _Alignas(64) _Atomic uint64_t word; /* generation << 32 | next index */
    _Alignas(64) _Atomic uint32_t done;
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t epoch;
    _Atomic uint32_t sleeper_n;
    _Atomic int is_stepping;
    _Atomic int is_closing;
    _Alignas(64) team_fn *_Atomic fn;
    void *_Atomic arg;
    _Atomic uint32_t n;
    uint32_t member_n;
    struct team_member *members;
};

static inline void team_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void team_futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void team_futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Moves the epoch and wakes who sleeps on it. */
static void team_signal(struct team *team)
{
    atomic_fetch_add(&team->epoch, 1);
    if (atomic_load(&team->sleeper_n) > 0) {
        team_futex_wake(&team->epoch, INT_MAX);
    }
}

/* Takes and does indices until the current loop has none left. */
static void team_work(struct team *team, uint32_t member)
{
    uint64_t word = atomic_load_explicit(&team->word, memory_order_acquire);
    for (;;) {
        team_fn *fn = atomic_load_explicit(&team->fn, memory_order_acquire);
        void *arg = atomic_load_explicit(&team->arg, memory_order_acquire);
        uint32_t n = atomic_load_explicit(&team->n, memory_order_acquire);
        if ((uint32_t)word >= n) {
            break;
        }
        if (!atomic_compare_exchange_weak_explicit(&team->word, &word, word + 1,
                                                   memory_order_acq_rel, memory_order_acquire)) {
            continue;
        }
        fn(arg, (uint32_t)word, member);
        if (atomic_fetch_add(&team->done, 1) + 1 == n && atomic_load(&team->caller_sleeps)) {
            team_futex_wake(&team->done, 1);
        }
        word = atomic_load_explicit(&team->word, memory_order_acquire);
    }
}

/* Spins until *word is no longer `seen`, the step ends or the time is up. */
static bool team_spin(struct team *team, _Atomic uint32_t *word, uint32_t seen, bool is_caller)
{
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < TEAM_SPIN_BURST; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) {
                return true;
            }
            if (!is_caller && !atomic_load_explicit(&team->is_stepping, memory_order_relaxed)) {
                return false;
            }
            team_pause();
        }
        int64_t now = clock_now_ns();
        until = until ? until : now + TEAM_SPIN_NS;
        if (now > until) {
            return false;
        }
    }
}

static void team_member_main(void *arg)
{
    struct team_member *member = arg;
    struct team *team = member->team;
    uint32_t seen = 0;
    if (member->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(member->cpu, &set);
        sched_setaffinity(0, sizeof set, &set); /* a refusal costs speed only */
    }
    mem_seal();
    while (!atomic_load(&team->is_closing)) {
        if (!team_spin(team, &team->epoch, seen, false)) {
            atomic_fetch_add(&team->sleeper_n, 1);
            team_futex_wait(&team->epoch, seen);
            atomic_fetch_sub(&team->sleeper_n, 1);
        }
        seen = atomic_load_explicit(&team->epoch, memory_order_acquire);
        team_work(team, member->index);
    }
}

/* The CPU of the affinity mask that member `index` is pinned to. */
static int team_cpu(uint32_t index)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return -1;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set) && index-- == 0) {
            return cpu;
        }
    }
    return -1;
}

struct team *team_open(uint32_t member_n, int is_pinned)
{
    struct team *team = mem_zalloc(sizeof *team);
    team->member_n = member_n;
    team->members = mem_zalloc_n(member_n, sizeof *team->members);
    for (uint32_t i = 1; i < member_n; i++) {
        struct team_member *member = &team->members[i];
        char name[16];
        member->team = team;
        member->index = i;
        member->cpu = is_pinned ? team_cpu(i) : -1;
        snprintf(name, sizeof name, "team-%u", i);
        thread_start(&member->thread, THREAD_RANK, name, team_member_main, member);
    }
    return team;
}

void team_close(struct team *team)
{
    if (!team) {
        return;
    }
    atomic_store(&team->is_closing, 1);
    team_signal(team);
    for (uint32_t i = 1; i < team->member_n; i++) {
        thread_join(&team->members[i].thread);
    }
    mem_free(team->members);
    mem_free(team);
}

uint32_t team_size(const struct team *team)
{
    return team->member_n;
}

void team_wake(struct team *team)
{
    atomic_store(&team->is_stepping, 1);
    if (team->member_n > 1) {
        team_signal(team);
    }
}

void team_rest(struct team *team)
{
    atomic_store(&team->is_stepping, 0);
}

void team_each(struct team *team, uint32_t n, team_fn *fn, void *arg)
{
    if (n <= 1 || team->member_n == 1) {
        for (uint32_t i = 0; i < n; i++) {
            fn(arg, i, 0);
        }
        return;
    }
    uint64_t generation = (atomic_load_explicit(&team->word, memory_order_relaxed) >> 32) + 1;
    /* Shut the word first: who sees any of the new description fails to swap on the old one. */
    atomic_store_explicit(&team->word, generation << 32 | UINT32_MAX, memory_order_relaxed);
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    atomic_store_explicit(&team->fn, fn, memory_order_release);
    atomic_store_explicit(&team->arg, arg, memory_order_release);
    atomic_store_explicit(&team->n, n, memory_order_release);
    atomic_store_explicit(&team->word, generation << 32, memory_order_release);
    team_signal(team);
    team_work(team, 0);
    for (;;) {
        uint32_t done = atomic_load_explicit(&team->done, memory_order_acquire);
        if (done == n) {
            return;
        }
        if (!team_spin(team, &team->done, done, true)) {
            atomic_store(&team->caller_sleeps, 1);
            done = atomic_load(&team->done);
            if (done != n) {
                team_futex_wait(&team->done, done);
            }
            atomic_store(&team->caller_sleeps, 0);
        }
    }
}
