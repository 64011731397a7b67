/* See the header. */
#include "boot.h"

#include <string.h>

#include "base/job.h"
#include "base/log.h"
#include "sched/event.h"
#include "sched/request.h"

#define BOOT_JOBS_N 64 /* power of two over LIMIT_ADAPTER_JOBS */

_Static_assert(BOOT_JOBS_N >= 2 * LIMIT_ADAPTER_JOBS, "every job of the engine fits");

/* The engine plans a step only when the ring can hold all that it may cause, and wants room for
 * two: per sequence a start, a token and an end, per row the log-probability of a prompt token, and
 * the end of the step. Beyond that, every request that waits may fail at once. */
static uint32_t events_n(uint32_t sequence_max)
{
    uint32_t want = 2 * (3 * sequence_max + LIMIT_STEP_ROWS + 1) + LIMIT_QUEUE;
    uint32_t n = 1;
    while (n < want) {
        n *= 2;
    }
    return n;
}

void boot_log_init(const struct options *options)
{
    enum log_level level = LOG_INFO;
    log_level_parse(options->log_level, &level);
    log_init(level, strcmp(options->log_format, "json") == 0 ? LOG_JSON : LOG_TEXT);
}

void boot_ports_init(struct ports *ports, uint32_t sequence_max)
{
    memset(ports, 0, sizeof *ports);
    wake_init(&ports->engine_wake);
    wake_init(&ports->egress_wake);
    ring_init(&ports->inbox[INBOX_CQ], sizeof(struct msg), LIMIT_QUEUE);
    ring_init(&ports->inbox[INBOX_EGRESS], sizeof(struct msg), LIMIT_QUEUE);
    ring_init(&ports->inbox[INBOX_LOOP], sizeof(struct msg), BOOT_JOBS_N * 2);
    ring_init(&ports->events, sizeof(struct event), events_n(sequence_max));
    ring_init(&ports->jobs, sizeof(struct job *), BOOT_JOBS_N);
}

void boot_ports_done(struct ports *ports)
{
    for (int i = 0; i < INBOX_N; i++) {
        ring_done(&ports->inbox[i]);
    }
    ring_done(&ports->events);
    ring_done(&ports->jobs);
}

void boot_server_options(const struct options *options, struct ports *ports,
                         struct server_options *out)
{
    *out = (struct server_options){
        .address_n = options->listen.n,
        .is_tcp_open = options->is_tcp_open,
        .drain_timeout_ns = (int64_t)options->drain_timeout_ns,
        .ports = ports,
    };
    for (uint32_t i = 0; i < options->listen.n; i++) {
        out->addresses[i] = options->listen.items[i];
    }
}
