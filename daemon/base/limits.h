/* Every maximum of the daemon, in one place, with the relations between them proved below.
 * A value that a person can exceed is checked where it enters and named in the error. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#include <assert.h>

/* Requests */
#define LIMIT_REQUEST_ID_BYTES    128
#define LIMIT_REQUEST_ADAPTERS    8
#define LIMIT_REQUEST_STOPS       16  /* stop strings of a request */
#define LIMIT_STOP_BYTES          256 /* of one stop string */
#define LIMIT_REQUEST_STOP_TOKENS 64
#define LIMIT_REQUEST_BIASES      1024 /* logit_bias entries */
#define LIMIT_TOP_LOGPROBS        20
#define LIMIT_EOS_TOKENS          16
#define LIMIT_MESSAGE_BYTES       (16u << 20) /* one gRPC message received */

/* Scheduling */
#define LIMIT_SEQUENCES  1024 /* --max-sequences */
#define LIMIT_QUEUE      4096 /* requests waiting in the engine */
#define LIMIT_STEP_ROWS  4096 /* rows of one step, prompt and generated together */
#define LIMIT_PROMPT_CUT 64   /* prompt chunks end at multiples of this (the law of order) */
#define LIMIT_KV_PAGE    64   /* positions of a KV page */
#define LIMIT_CONTEXT    (1u << 20)
#define LIMIT_KV_PAGES   (1u << 22)

/* Adapters */
#define LIMIT_ADAPTER_NAME_BYTES 65   /* 64 characters and a NUL */
#define LIMIT_ADAPTERS           4096 /* names known */
#define LIMIT_VERSIONS           8192 /* versions in memory, retiring ones included */
#define LIMIT_LOWRANK_RANK       4096
#define LIMIT_ADAPTER_JOBS       16 /* versions being read or waiting in host memory */
#define LIMIT_ADAPTER_OVERTAKES  64 /* requests let past one that waits for adapter memory */
#define LIMIT_ADAPTER_FILE_BYTES (4ull << 30)

/* Models */
#define LIMIT_LAYERS      256
#define LIMIT_HIDDEN      65536
#define LIMIT_HEAD_GROUP  256 /* query heads that share a key/value head */
#define LIMIT_HEAD_DIM    256
#define LIMIT_STATE_DIM   256 /* either side of a recurrent state of one head */
#define LIMIT_CONV_TAPS   4   /* of the convolution before a recurrent mixer; no other number */
#define LIMIT_VOCAB       (1u << 20)
#define LIMIT_TENSOR_NAME 256
#define LIMIT_FFN         (1u << 18)

/* Text */
#define LIMIT_TEXT_BYTES        (16u << 20) /* one text to encode */
#define LIMIT_PATTERN_BYTES     65536       /* a regular expression of a tokenizer file */
#define LIMIT_PATTERN_STEPS     20000000    /* of one search: about a second at the worst */
#define LIMIT_PRE_TOKENIZERS    8           /* steps of a pre-tokenizer */
#define LIMIT_ADDED_TOKENS      65536
#define LIMIT_ADDED_TOKEN_BYTES 1024
#define LIMIT_MERGES            (4u << 20)
#define LIMIT_TEMPLATE_TOKENS   64 /* ids that a post-processor puts on one side */
#define LIMIT_CHAT_ROLE_BYTES   16
#define LIMIT_CHAT_MESSAGES     16384

/* Files */
#define LIMIT_CONFIG_JSON_BYTES    (1u << 20)
#define LIMIT_TOKENIZER_JSON_BYTES (256u << 20)
#define LIMIT_SAFETENSORS_HEADER   (100u << 20)
#define LIMIT_TENSOR_INDEX_BYTES   (16u << 20) /* model.safetensors.index.json */
#define LIMIT_TENSOR_FILES         1024        /* files of one checkpoint */

/* Server */
#define LIMIT_CONNECTIONS      4096
#define LIMIT_CALL_BUFFER      (64u << 10)  /* bytes of output waiting for one slow client */
#define LIMIT_LIVE             8192         /* requests and adapter operations in the daemon */
#define LIMIT_LIVE_BYTES       (1ull << 30) /* of messages and prompts that live requests hold */
#define LIMIT_SESSION_LANES    1024         /* unfinished requests of one Session */
#define LIMIT_SESSION_REFUSALS 1024         /* that its client has not read */
#define LIMIT_REFUSALS         8192         /* the same, of all sessions */
#define LIMIT_ABORT_IDS        1024
#define LIMIT_ADDRESSES        8 /* --listen */
#define LIMIT_PARK_NS                                                                              \
    60000000000 /* nanoseconds that a slow client may hold a slot without reading */
#define LIMIT_THREADS 256

/* Devices */
#define LIMIT_DEVICE_SILENCE_NS                                                                    \
    10000000000 /* nanoseconds without progress after which a device counts as lost */

static_assert(LIMIT_KV_PAGE % LIMIT_PROMPT_CUT == 0, "a prompt chunk ends on a page border");
static_assert(LIMIT_STEP_ROWS >= LIMIT_SEQUENCES + LIMIT_PROMPT_CUT,
              "a step holds a row of every sequence and one prompt chunk");
static_assert((LIMIT_LIVE & (LIMIT_LIVE - 1)) == 0, "rings are sized by it");
static_assert(LIMIT_LIVE >= LIMIT_QUEUE + LIMIT_SEQUENCES,
              "the engine's queue is what fills up, not the server's table");
static_assert(LIMIT_REFUSALS + LIMIT_SESSION_LANES <= 2 * LIMIT_LIVE,
              "what egress gives back to cq fits its ring");
static_assert(LIMIT_VERSIONS >= 2 * LIMIT_ADAPTERS, "every name may have a retiring version");

#endif
