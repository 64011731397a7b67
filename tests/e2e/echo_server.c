/* The server room with the echo engine behind it: a daemon without a model, for tests.
 *
 * echo_server MODEL_DIR STEP_US WAITS DRAIN_MS ACTIVE ADDRESS...
 * MODEL_DIR needs a tokenizer.json only. With WAITS 1 it is ready once MODEL_DIR/go is there. Exit
 * codes as graftd's. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "echo_engine.h"
#include "sched/event.h"
#include "sched/request.h"
#include "server/server.h"
#include "text/tokenizer.h"

#define ECHO_EXIT_BUSY   75
#define ECHO_EXIT_CONFIG 78
#define ECHO_LOOK_NS     (10 * CLOCK_NS_PER_MS)

static void ports_init(struct ports *ports)
{
    memset(ports, 0, sizeof *ports);
    wake_init(&ports->engine_wake);
    wake_init(&ports->egress_wake);
    for (int i = 0; i < INBOX_N; i++) {
        ring_init(&ports->inbox[i], sizeof(struct msg), 1024);
    }
    ring_init(&ports->events, sizeof(struct event), 4096);
    ring_init(&ports->jobs, sizeof(void *), 64);
}

static void ports_done(struct ports *ports)
{
    for (int i = 0; i < INBOX_N; i++) {
        ring_done(&ports->inbox[i]);
    }
    ring_done(&ports->events);
    ring_done(&ports->jobs);
}

static struct server_model echo_model(const struct tokenizer *tokenizer)
{
    struct server_model model = {
        .name = "echo",
        .fingerprint = "0000000000000000000000000000000000000000000000000000000000000000",
        .architecture = "EchoForCausalLM",
        .family = "echo",
        .dtype = "f32",
        .backend = "echo",
        .isa = "portable",
        .vocab_n = tokenizer_vocab_n(tokenizer),
        .context_max = 100000,
        .thread_n = 1,
        .kv_tokens = 1 << 20,
        .sequence_max = 64,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .tokenizer = tokenizer,
    };
    model.eos_n = tokenizer_token_id(tokenizer, "<|end|>", &model.eos_tokens[0]) ? 1 : 0;
    return model;
}

static void wait_for_go(const char *model_dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/go", model_dir);
    while (access(path, F_OK)) {
        nanosleep(&(struct timespec){.tv_nsec = ECHO_LOOK_NS}, NULL);
    }
}

static int echo_run(const struct server_options *options, struct echo_options *echo,
                    const char *model_dir, bool is_waiting)
{
    struct err err = {0};
    struct server *server;
    struct tokenizer *tokenizer;
    if (server_start(options, &server, &err)) {
        log_msg(LOG_ERROR, "%s", err.text);
        return err.code == ERR_CONFLICT ? ECHO_EXIT_BUSY : ECHO_EXIT_CONFIG;
    }
    struct echo_engine *engine = echo_engine_start(echo);
    if (is_waiting) {
        wait_for_go(model_dir);
    }
    int rc = tokenizer_open(model_dir, &tokenizer, &err);
    if (rc) {
        log_msg(LOG_ERROR, "%s", err.text);
    } else {
        struct server_model model = echo_model(tokenizer);
        server_ready(server, &model);
        log_msg(LOG_INFO, "ready");
        server_wait(server);
    }
    server_stop(server);
    echo_engine_stop(engine);
    tokenizer_close(rc ? NULL : tokenizer);
    return rc ? ECHO_EXIT_CONFIG : 0;
}

int main(int argc, char **argv)
{
    struct ports ports;
    struct server_options options = {.ports = &ports};
    struct echo_options echo = {.ports = &ports};
    if (argc < 7) {
        fprintf(stderr, "usage: echo_server MODEL_DIR STEP_US WAITS DRAIN_MS ACTIVE "
                        "ADDRESS...\n");
        return ECHO_EXIT_CONFIG;
    }
    log_init(LOG_DEBUG, LOG_TEXT);
    ports_init(&ports);
    echo.step_ns = atoll(argv[2]) * 1000;
    echo.active_max = (uint32_t)atoi(argv[5]);
    options.drain_timeout_ns = atoll(argv[4]) * CLOCK_NS_PER_MS;
    for (int i = 6; i < argc && options.address_n < LIMIT_ADDRESSES; i++) {
        options.addresses[options.address_n++] = argv[i];
    }
    int rc = echo_run(&options, &echo, argv[1], atoi(argv[3]) != 0);
    ports_done(&ports);
    return rc;
}
