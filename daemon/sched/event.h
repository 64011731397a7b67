/* Events: what the engine tells the server, by value, in order per request.
 *
 *   EVENT_STARTED  EVENT_PROMPT_TOKEN*  EVENT_TOKEN*  EVENT_FINISHED | EVENT_FAILED
 * EVENT_FAILED may also come first and alone. Several tokens of one step are several events with
 * the same step number. After EVENT_FINISHED or EVENT_FAILED the request belongs to the receiver.
 */
#ifndef SCHED_EVENT_H
#define SCHED_EVENT_H

#include <stdint.h>

#include "base/limits.h"

struct request;
struct adapter_op;

enum event_type {
    EVENT_STARTED,      /* admitted: request->revisions are set */
    EVENT_PROMPT_TOKEN, /* logprob of one prompt token (position 1.. in order), if asked for */
    EVENT_TOKEN,        /* one generated token (eos and stop tokens too) */
    EVENT_FINISHED,     /* reason */
    EVENT_FAILED,       /* request->err */
    EVENT_ADAPTER_OP,   /* op: answered, belongs to the receiver again */
    EVENT_STEP_END,     /* no request: everything of this step has been sent; flush */
    EVENT_DRAINED,      /* no request: a drain was asked for and nothing is left to run, no job
                         * either; the loop may end: no job is sent to it from now on */
};

enum finish_reason {
    FINISH_EOS,
    FINISH_STOP_TOKEN,
    FINISH_STOP_STRING,
    FINISH_LENGTH,
    FINISH_CANCELLED,
};

struct token_logprob {
    uint32_t token;
    float logprob; /* natural log of the model's own probability, before bias and temperature */
};

struct event {
    enum event_type type;
    enum finish_reason reason;
    uint64_t step;
    struct request *request;
    struct adapter_op *op;
    struct token_logprob token;                   /* logprob is 0 unless it was asked for */
    uint32_t top_n;                               /* alternatives that follow, best first */
    struct token_logprob top[LIMIT_TOP_LOGPROBS]; /* ties by smaller token id */
};

#endif
