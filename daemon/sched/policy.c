/* First come, first served. The oldest sequence is never preempted by a younger one, and one that
 * alone fits all pages is always the oldest at some time, so everything ends. */
#include "sched/policy.h"

#include "sched/sched.h"

bool policy_is_before(const struct sched_seq *a, const struct sched_seq *b)
{
    return a->arrival < b->arrival;
}

/* While every slot is taken, those that kept theirs when they lost their pages may go on: nobody
 * who waits for a slot gets it sooner by holding them up. */
static bool policy_may_start(const struct sched *sched, const struct sched_seq *seq)
{
    return !seq->is_parked && !seq->is_stopped &&
           (seq->slot != SCHED_NONE || sched->free_slot_n > 0);
}

uint32_t policy_next(const struct sched *sched)
{
    uint32_t id = sched->waiting.head;
    while (id != SCHED_NONE && !policy_may_start(sched, &sched->seqs[id])) {
        id = sched->seqs[id].next;
    }
    return id;
}

uint32_t policy_reserve(const struct sched *sched)
{
    /* A page of growth for each: without it a newcomer would take the page that its neighbour
     * needs next, and be preempted before it has done anything. */
    return sched->running.n;
}

uint32_t policy_victim(const struct sched *sched)
{
    uint32_t id = sched->running.tail;
    while (id != SCHED_NONE && !sched_is_over(&sched->seqs[id])) {
        id = sched->seqs[id].prev;
    }
    id = id != SCHED_NONE ? id : policy_victim_parked(sched);
    return id != SCHED_NONE ? id : sched->running.tail;
}

uint32_t policy_victim_parked(const struct sched *sched)
{
    uint32_t id = sched->running.tail;
    while (id != SCHED_NONE && !sched->seqs[id].is_parked) {
        id = sched->seqs[id].prev;
    }
    return id;
}
