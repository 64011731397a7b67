/* An engine without a model, for the server's own tests: it speaks the protocol of sched/ports.h
 * from a thread of its own, answers a request with its prompt's tokens over and over, and keeps a
 * table of made-up adapters.
 *
 * Adapters: "alpha" and "beta" serve, "slow" takes a job on the loop to load, "broken" is refused.
 * Every token counts ECHO_SATURATED values beyond fp16. */
#ifndef TESTS_ECHO_ENGINE_H
#define TESTS_ECHO_ENGINE_H

#include <stdint.h>

#include "sched/ports.h"

#define ECHO_SATURATED (1ull << 32)

struct echo_engine;

struct echo_options {
    struct ports *ports;
    int64_t step_ns;     /* pause between steps */
    uint32_t active_max; /* sequences in a step; others wait */
};

struct echo_engine *echo_engine_start(const struct echo_options *options);

/* After the server has stopped: this thread is then the producer of INBOX_LOOP. */
void echo_engine_stop(struct echo_engine *engine);

#endif
