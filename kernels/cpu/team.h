/* A team of threads that share one loop at a time; the caller is member 0.
 *
 * team_each hands out indices one by one and returns when every index is done; it never waits for a
 * member that has not taken any. Between loops of a step members spin for at most 50 us, then
 * sleep; outside a step (team_rest) they sleep. Deliberately absent: barriers, queues, nesting. */
#ifndef KERNELS_CPU_TEAM_H
#define KERNELS_CPU_TEAM_H

#include <stdint.h>

struct team;

typedef void team_fn(void *arg, uint32_t index, uint32_t member);

/* Starts member_n - 1 threads, pinned one to a CPU when is_pinned. Allocates. */
struct team *team_open(uint32_t member_n, int is_pinned);
void team_close(struct team *team);
uint32_t team_size(const struct team *team);

/* A step begins: members wake up and stand by. A step is over: they sleep. The caller's thread. */
void team_wake(struct team *team);
void team_rest(struct team *team);

/* fn(arg, index, member) for every index below n, on any members in any order. */
void team_each(struct team *team, uint32_t n, team_fn *fn, void *arg);

#endif
