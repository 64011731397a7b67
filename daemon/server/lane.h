/* A lane is one generate request from its validation to its last byte; a stream is the Generate or
 * Session call that carries one or many of them.
 *
 * Parts marked cq and egress belong to that thread alone. A lane is made on the cq thread, travels
 * as its request through the engine to egress, and comes back to the cq thread to be freed. */
#ifndef SERVER_LANE_H
#define SERVER_LANE_H

#include "base/arena.h"
#include "base/buf.h"
#include "rpc/call.h"
#include "sched/event.h"
#include "sched/request.h"
#include "text/detok.h"
#include "text/stop.h"

enum call_kind { CALL_STREAM, CALL_ADAPTER_OP, CALL_WATCH, CALL_REFLECTION };

/* First member of whatever hangs on an rpc_call. */
struct call_user {
    enum call_kind kind;
    struct rpc_call *call;
};

/* Why a session ends before its client has ended it. */
enum session_break {
    SESSION_WHOLE,
    SESSION_MALFORMED,       /* a message could not be decoded */
    SESSION_REFUSALS,        /* its client does not read that its requests were refused */
    SESSION_REFUSALS_OF_ALL, /* one more refusal, and the server holds too many */
};

struct stream {
    struct call_user user;
    bool is_session;

    /* cq */
    struct lane *lanes;  /* unfinished ones */
    uint32_t lane_n;     /* in that list */
    uint32_t rejected_n; /* refused ones that egress still has */
    uint32_t total_n;    /* ever begun, rejected ones included */
    bool is_closed;      /* cancelled or broken: begins no more lanes */
    bool is_refused; /* a Generate that was answered on the cq thread: egress never hears of it */

    /* egress */
    struct lane *open; /* lanes it has heard of and not sent the end of */
    uint32_t ended_n;  /* lanes whose end was sent or dropped */
    uint32_t expected_n;
    bool is_half_closed;       /* expected_n is known */
    bool is_known;             /* counted in egress.stream_n, in its list */
    bool is_over;              /* finished or dropped: nothing is sent any more */
    bool is_dirty;             /* in egress.dirty */
    bool is_urgent;            /* flush without waiting for the end of the step */
    bool is_parked;            /* some lane was parked */
    enum session_break broken; /* unless WHOLE, no lane can begin or end any more */
    uint64_t step;
    struct stream *next_dirty;
    struct stream *prev, *next; /* all known ones */
};

/* Log-probabilities that wait to be sent: arrays of uint32 or float. */
struct logprob_list {
    struct buf tokens, values, top_n, top_tokens, top_values;
};

struct lane_output {
    struct lane *prev, *next; /* stream->open */
    struct detok detok;
    struct buf text;
    struct buf tokens; /* uint32 */
    struct logprob_list logprobs, prompt_logprobs;
    uint32_t token_n; /* counted ones */
    uint32_t last_token;
    int stop_index;     /* which stop string matched, -1 = none */
    bool is_open;       /* in the stream's list */
    bool has_started;   /* `started` waits to be sent */
    bool is_text_ended; /* a stop string matched: later tokens are dropped */
    bool is_parked;
    bool has_ended; /* reason or error is set */
    enum finish_reason reason;
};

struct lane {
    struct request request;
    struct arena arena;      /* the decoded message and what the request points to */
    struct token_vec tokens; /* of text and chat */
    struct stream *stream;   /* holds a reference on its call */
    uint32_t stream_id;      /* of a Session */
    bool want_text, want_tokens, want_echo;
    const char *echo_text; /* the client's text; NULL: what the prompt's tokens decode to */
    struct stop_match stops;
    bool is_submitted;      /* the engine has or had it */
    struct rpc_error error; /* code 0 = none; before or instead of the engine's */

    /* cq */
    size_t bytes;             /* counted in live.bytes */
    struct lane *prev, *next; /* stream->lanes */
    struct lane *next_by_id;
    bool is_live; /* in the tables */
    bool is_cancel_sent;

    /* egress */
    struct lane_output out;
};

/* cq thread. A lane of the stream, which it keeps alive. */
struct lane *lane_new(struct stream *stream);

/* Any thread that owns it: frees what was decoded; what is left is enough to tell its error. */
void lane_shrink(struct lane *lane);

/* Any thread that owns it. */
void lane_free(struct lane *lane);

static inline struct lane *lane_of(struct request *request)
{
    return CONTAINER_OF(request, struct lane, request);
}

#endif
