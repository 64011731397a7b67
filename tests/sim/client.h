/* Simulated clients: random requests, and what each must be told, computed from the request alone.
 */
#ifndef TESTS_SIM_CLIENT_H
#define TESTS_SIM_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "sched/event.h"
#include "sched/request.h"

#define CLIENT_PROMPT_MAX 180
#define CLIENT_TOKENS_MAX 200
#define CLIENT_NAMES      8 /* adapter names that requests draw from */

/* A seeded stream of numbers. */
struct dice {
    uint64_t state;
};

uint64_t dice_u64(struct dice *dice);
uint32_t dice_below(struct dice *dice, uint32_t n);
bool dice_one_in(struct dice *dice, uint32_t n);

struct client {
    struct request request;
    uint32_t prompt[CLIENT_PROMPT_MAX];
    struct logit_bias biases[4];
    uint32_t history[CLIENT_PROMPT_MAX + CLIENT_TOKENS_MAX];
    bool is_sent;
    bool is_started;
    bool is_ended;
    bool is_parked;
    bool is_cancelled; /* by a message */
    bool is_stopped;
    uint32_t prompt_seen_n;
    uint32_t token_seen_n;
    uint64_t adapters; /* what its adapters with rows add up to */
    uint64_t state;    /* what the one with states begins it with, 0 = nothing */
    uint64_t fold;     /* over the first folded_n positions */
    uint32_t folded_n;
};

/* "a0".."a7"; the last one has no folder. */
void client_adapter_name(uint32_t index, char name[LIMIT_ADAPTER_NAME_BYTES]);

/* What an adapter of that name changes: rows, what sequences begin with, or both. */
bool client_has_rows(const char *name);
bool client_has_states(const char *name);

/* A random request with this key, at this time. */
void client_make(struct client *client, struct dice *dice, uint64_t key, int64_t now_ns);

/* An event of this client's request; asserts that it is the one that must come. */
void client_check(struct client *client, const struct event *event);

#endif
