/* What a lane has to say: events pile up as text, ids and log-probabilities until they are packed.
 * egress thread. */
#ifndef SERVER_OUTPUT_H
#define SERVER_OUTPUT_H

#include "server/lane.h"
#include "server/server.h"

struct Graft__V1__GenerateResponse; /* graft/v1/inference.pb-c.h */

/* EVENT_STARTED: makes `started` and the echo ready. */
void output_start(const struct server_model *model, struct lane *lane);

void output_add_prompt_token(struct lane *lane, const struct event *event);

/* Takes one generated token. True when a stop string matched with it: tell the engine. */
bool output_add_token(struct lane *lane, const struct event *event);

/* EVENT_FINISHED: gives out what was held back. */
void output_end(struct lane *lane, enum finish_reason reason);

/* Bytes that wait, about; 0 when there is nothing to say. */
size_t output_bytes(const struct lane *lane);

/* The next message: borrows from the lane and the arena until output_clear. */
struct Graft__V1__GenerateResponse *output_pack(const struct server_model *model, struct lane *lane,
                                                struct arena *arena);
void output_clear(struct lane *lane);

#endif
