/* Requests: immutable parsed work on its way from a client to the engine and back.
 *
 * The server fills a `struct request` and sends its pointer into the engine's inbox. From then on
 * the engine owns it; it comes back with its last event (EVENT_FINISHED or EVENT_FAILED), exactly
 * once, and the server frees it. The part marked "engine" is written by the engine before the event
 * that announces it. Text never reaches the engine: it sees token ids only. */
#ifndef SCHED_REQUEST_H
#define SCHED_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/sha256.h"

/* Sampling of one sequence. All values are finite and checked by the server. */
struct sampling {
    float temperature;        /* 0 = greedy, else > 0 */
    float top_p;              /* (0, 1]; 1 = off */
    float min_p;              /* [0, 1); 0 = off */
    uint32_t top_k;           /* 0 = off */
    float repetition_penalty; /* > 0; 1 = off; over prompt and output tokens */
    float presence_penalty;   /* 0 = off; over output tokens */
    float frequency_penalty;  /* 0 = off; over output tokens */
    uint64_t seed;            /* the random stream is a function of (seed, position) */
};

struct logit_bias {
    uint32_t token;
    float bias; /* added to the logit; -INFINITY forbids the token */
};

struct request_adapter {
    char name[LIMIT_ADAPTER_NAME_BYTES];
    char revision[SHA256_HEX_BYTES]; /* a prefix of the content hash that is wanted; "" = current */
    float weight;                    /* finite; 0 means the adapter changes nothing */
};

enum load_policy {
    LOAD_WAIT,         /* wait until every adapter is loaded */
    LOAD_FAIL_IF_COLD, /* ERR_ADAPTER_LOADING unless all are on the device already */
};

/* What the engine tells about a request's life; nanoseconds. */
struct request_stats {
    int64_t queue_ns;        /* arrival to admission, adapter loading not counted */
    int64_t adapter_load_ns; /* spent waiting for adapters */
    int64_t prefill_ns;      /* admission to first token */
    int64_t first_token_ns;  /* arrival to first token */
    int64_t decode_ns;       /* first to last token */
    uint32_t step_n;         /* steps it took part in */
    uint32_t preempt_n;      /* times it was preempted and recomputed */
    uint32_t token_n;        /* tokens generated (those past a stop string included) */
};

struct request {
    uint64_t key; /* unique while the daemon runs; messages name a request by it */
    char id[LIMIT_REQUEST_ID_BYTES + 1]; /* the client's name for it, unique among the live ones */
    void *owner;                         /* the server's; opaque to everybody else */

    const uint32_t *tokens;                /* prompt [token_n], ids below the vocabulary size */
    uint32_t token_n;                      /* >= 1 */
    uint32_t max_tokens;                   /* >= 1; token_n + max_tokens <= the context */
    uint32_t min_tokens;                   /* eos and stop tokens are forbidden before this many */
    uint32_t eos_tokens[LIMIT_EOS_TOKENS]; /* generation ends after one of these (EOS) */
    uint32_t eos_n;                        /* 0 with ignore_eos */
    uint32_t stop_tokens[LIMIT_REQUEST_STOP_TOKENS]; /* ... or one of these (STOP_TOKEN) */
    uint32_t stop_n;
    struct sampling sampling;
    const struct logit_bias *biases; /* [bias_n], no token twice */
    uint32_t bias_n;
    int32_t top_logprobs;    /* -1 none wanted, else 0..LIMIT_TOP_LOGPROBS alternatives */
    int32_t prompt_logprobs; /* the same for the prompt's tokens */
    struct request_adapter adapters[LIMIT_REQUEST_ADAPTERS]; /* in order of application */
    uint32_t adapter_n;
    enum load_policy load_policy;
    int64_t arrival_ns;
    int64_t deadline_ns; /* CLOCK_NEVER = none */

    /* engine */
    char revisions[LIMIT_REQUEST_ADAPTERS][SHA256_HEX_BYTES]; /* before EVENT_STARTED */
    struct request_stats stats;                               /* before the last event */
    struct err err;                                           /* before EVENT_FAILED */
};

/* Messages into the engine. Each producer thread has a ring of its own (sched/ports.h). */
enum msg_type {
    MSG_REQUEST,    /* ptr: struct request, ownership moves */
    MSG_CANCEL,     /* key: end it with FINISHED/CANCELLED; unknown keys are ignored */
    MSG_STOP,       /* key: a stop string matched: end it with FINISHED/STOP_STRING */
    MSG_PARK,       /* key: its client reads too slowly: stop scheduling it */
    MSG_RESUME,     /* key: schedule it again */
    MSG_ADAPTER_OP, /* ptr: struct adapter_op (adapters/adapter.h), comes back as EVENT_ADAPTER_OP
                     */
    MSG_JOB_DONE,   /* ptr: struct job that the engine sent to the loop and that has run */
    MSG_DRAIN,      /* new requests and loads fail with ERR_DRAINING, what runs goes on */
    MSG_CANCEL_ALL, /* every request ends as cancelled */
    MSG_QUIT,       /* the engine thread returns once nothing is left */
};

struct msg {
    enum msg_type type;
    uint64_t key;
    void *ptr;
};

#endif
