/* Where the server and the engine meet: rings and numbers that main makes and hands to both.
 *
 * Neither room includes the other. Each inbox has one producer thread; the engine drains them in
 * the order below. Ring capacities are chosen by main from base/limits.h. */
#ifndef SCHED_PORTS_H
#define SCHED_PORTS_H

#include "base/ring.h"
#include "base/wake.h"

enum inbox {
    INBOX_CQ,     /* requests, cancels, adapter ops */
    INBOX_EGRESS, /* stop-string matches, park and resume */
    INBOX_LOOP,   /* finished jobs, drain, quit */
    INBOX_N,
};

struct ports {
    struct ring inbox[INBOX_N];     /* struct msg; consumer: engine */
    struct wake engine_wake;        /* signal after a push into any inbox */
    struct ring events;             /* struct event; producer: engine, consumer: egress */
    struct ring_number saturated;   /* values beyond fp16 so far; the engine sets it */
    struct wake egress_wake;        /* the engine signals once per batch of events */
    struct ring jobs;               /* struct job *; producer: engine, consumer: loop */
    void (*notify_loop)(void *arg); /* the engine calls it after a push into jobs */
    void *notify_arg;
};

#endif
