/* A futex word that counts signals; waiting compares it under the kernel's lock. */
#include "base/wake.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

void wake_init(struct wake *wake)
{
    atomic_init(&wake->word, 0);
    atomic_init(&wake->sleeper_n, 0);
}

void wake_signal(struct wake *wake)
{
    atomic_fetch_add(&wake->word, 1);
    if (atomic_load(&wake->sleeper_n) > 0) {
        syscall(SYS_futex, &wake->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

uint32_t wake_ticket(struct wake *wake)
{
    return atomic_load(&wake->word);
}

void wake_wait(struct wake *wake, uint32_t ticket, int64_t timeout_ns)
{
    struct timespec ts = {timeout_ns / CLOCK_NS_PER_S, timeout_ns % CLOCK_NS_PER_S};
    atomic_fetch_add(&wake->sleeper_n, 1);
    /* The kernel compares the word again under its lock: a signal in between is not lost. */
    syscall(SYS_futex, &wake->word, FUTEX_WAIT_PRIVATE, ticket, timeout_ns < 0 ? NULL : &ts, NULL,
            0);
    atomic_fetch_sub(&wake->sleeper_n, 1);
}
