/* The side of the daemon that computes: tokenizer, model, device, adapters and engine, as one thing
 * that main opens, starts and closes. It meets the server through ports and a plain description.
 *
 * main is the only caller; everything here runs on the main thread and may block. */
#ifndef WORLD_H
#define WORLD_H

#include <stdio.h>

#include "options.h"
#include "sched/ports.h"
#include "server/server.h"

struct world;

/* Reads the model named by the options, checks that everything fits (prints the memory table to the
 * log, and refuses with it when it does not), and starts the engine on the ports. `ports` and
 * `options` are borrowed until world_close. Errors: BAD_FILE, NOT_IMPLEMENTED, NO_MEMORY,
 * IO_FAILURE, INVALID_PARAMETER. */
int world_open(const struct options *options, struct ports *ports, struct world **out,
               struct err *err);

/* Stops the engine (MSG_QUIT through INBOX_LOOP: the server has stopped) and frees everything. */
void world_close(struct world *world);

/* What the server needs to know; lives as long as the world. */
const struct server_model *world_model(const struct world *world);

/* Folders found in the adapter root. */
uint32_t world_adapter_n(const struct world *world);

/* A step failed for good: exit with ENGINE_EXIT_DEVICE_LOST so that a supervisor starts anew. */
bool world_is_lost(const struct world *world);

/* Prints what this machine offers: threads, instruction sets, memory, devices; where the options
 * name a model, also what would serve it, and the memory table. The error that it would not start
 * with. */
int world_check(const struct options *options, FILE *out);

#endif
