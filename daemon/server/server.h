/* The gRPC face of the daemon: accepts, validates, turns calls into requests and events into
 * messages. It meets the engine only through struct ports.
 *
 * Three threads of its own: loop (sockets, signals, jobs), cq (calls in), egress (answers out). The
 * listeners open with server_start; until server_ready everything but health and reflection is
 * answered UNAVAILABLE (STARTING). HTTP other than gRPC gets a 404. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/err.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "sched/ports.h"
#include "sched/request.h"

struct server;
struct tokenizer;

struct server_options {
    const char *addresses[LIMIT_ADDRESSES]; /* unix:PATH or tcp://HOST:PORT; borrowed */
    uint32_t address_n;
    bool is_tcp_open;         /* TCP may bind other addresses than loopback */
    int64_t drain_timeout_ns; /* how long running requests may go on after the first signal */
    struct ports *ports;      /* borrowed; notify_loop and notify_arg are filled in by the server */
};

/* What the server tells and checks about the model; plain data, filled by main. Strings are
 * borrowed and live as long as the server. */
struct server_model {
    const char *name; /* what requests may call it */
    const char *fingerprint;
    const char *architecture;
    const char *family;
    const char *dtype;
    const char *backend;
    const char *isa;
    uint32_t vocab_n;
    uint32_t context_max; /* positions of one sequence */
    uint32_t thread_n;
    uint64_t kv_tokens;
    uint64_t weight_bytes;
    uint64_t adapter_bytes;
    const char *const *adapter_kinds; /* borrowed */
    uint32_t adapter_kind_n;
    uint32_t sequence_max;
    uint32_t eos_tokens[LIMIT_EOS_TOKENS];
    uint32_t eos_n;
    struct sampling sampling;          /* what unset fields mean; its seed is ignored */
    const struct tokenizer *tokenizer; /* borrowed */
};

/* Binds every address, takes up gRPC, starts the three threads, and blocks SIGTERM and SIGINT in
 * the calling thread (the loop thread reads them). Call it before any other thread starts.
 * Errors: INVALID_PARAMETER for an address, CONFLICT for one that is in use, IO_FAILURE. */
int server_start(const struct server_options *options, struct server **out, struct err *err);

/* Address i as it was bound, its port included; borrowed. NULL behind the last one. Any thread. */
const char *server_address(const struct server *server, uint32_t i);

/* The model is loaded and the engine runs: health turns SERVING. Main thread, once. */
void server_ready(struct server *server, const struct server_model *model);

/* Blocks until a signal has been answered and everything that ran has ended (or was cancelled). */
void server_wait(struct server *server);

/* Closes the listeners, cancels the calls that are left, joins the threads, removes the sockets.
 * The engine, if there is one, must still be running. Main thread. */
void server_stop(struct server *server);

#endif
