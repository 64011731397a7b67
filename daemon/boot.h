/* Small steps of main's start and stop. */
#ifndef BOOT_H
#define BOOT_H

#include "options.h"
#include "sched/ports.h"
#include "server/server.h"

void boot_log_init(const struct options *options);

/* Capacities: a ring holds what its producer can be ahead of its consumer. */
void boot_ports_init(struct ports *ports, uint32_t sequence_max);
void boot_ports_done(struct ports *ports);

void boot_server_options(const struct options *options, struct ports *ports,
                         struct server_options *out);

#endif
