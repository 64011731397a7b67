/* Sleeping until somebody has work for us: one futex word per sleeping thread.
 *
 * The sleeper:                          Anyone with news:
 *     uint32_t ticket = wake_ticket(w);     ring_push(...);
 *     if (nothing in any ring)              wake_signal(w);
 *         wake_wait(w, ticket, timeout);
 * A signal after the ticket was taken makes wake_wait return at once, so no wake-up is lost. A
 * signal costs a system call only when the sleeper really sleeps. */
#ifndef BASE_WAKE_H
#define BASE_WAKE_H

#include <stdatomic.h>
#include <stdint.h>

struct wake {
    _Alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t sleeper_n;
};

void wake_init(struct wake *wake);

/* Any thread. */
void wake_signal(struct wake *wake);

/* The sleeper. timeout_ns < 0 waits for ever; may return early for no reason. */
uint32_t wake_ticket(struct wake *wake);
void wake_wait(struct wake *wake, uint32_t ticket, int64_t timeout_ns);

#endif
