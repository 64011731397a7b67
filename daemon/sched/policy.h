/* The policy: in which order sequences are served, and who gives way. One file, policy.c; private
 * to this room. Today: first come, first served. */
#ifndef SCHED_POLICY_H
#define SCHED_POLICY_H

#include <stdbool.h>
#include <stdint.h>

struct sched;
struct sched_seq;

/* The order of both lists: true when a is to be served before b. */
bool policy_is_before(const struct sched_seq *a, const struct sched_seq *b);

/* The waiting sequence to start next, which has a slot or finds one free, or SCHED_NONE. */
uint32_t policy_next(const struct sched *sched);

/* Pages that must stay free when a sequence starts beside those that run. */
uint32_t policy_reserve(const struct sched *sched);

/* The running sequence that gives up its pages so that another can grow: one that is over and will
 * give them back by itself, else a parked one, else the one that is served last. */
uint32_t policy_victim(const struct sched *sched);

/* The running sequence that gives up its pages so that a waiting one can start, or SCHED_NONE. */
uint32_t policy_victim_parked(const struct sched *sched);

#endif
