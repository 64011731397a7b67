/* Addresses and their locks, and what a request turns into. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "graft/v1/inference.pb-c.h"
#include "server/address.h"
#include "server/request.h"
#include "tests/byte_model.h"

static char folder[] = "/tmp/graft-server-XXXXXX";
static struct server_model model;

static const char *socket_address(void)
{
    static char address[128];
    snprintf(address, sizeof address, "unix:%s/s.sock", folder);
    return address;
}

static void test_unix_lock(void **state)
{
    struct listener first;
    struct listener second;
    struct err err = {0};
    struct stat st;
    (void)state;
    assert_int_equal(listener_open(&first, socket_address(), false, &err), 0);
    assert_int_equal(stat(first.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(listener_open(&second, socket_address(), false, &err), ERR_CONFLICT);
    assert_non_null(strstr(err.text, "another instance listens on"));
    assert_int_equal(stat(first.path, &st), 0); /* the refused one took nothing away */
    listener_close(&first);
    assert_int_equal(access(socket_address() + 5, F_OK), -1);
    assert_int_equal(listener_open(&second, socket_address(), false, &err), 0);
    listener_close(&second);
}

static void test_stale_and_strange_paths(void **state)
{
    struct listener listener;
    struct err err = {0};
    (void)state;
    /* A killed instance leaves its socket and its lock file. */
    assert_int_equal(listener_open(&listener, socket_address(), false, &err), 0);
    close(listener.fd);
    close(listener.lock_fd);
    assert_int_equal(listener_open(&listener, socket_address(), false, &err), 0);
    listener_close(&listener);
    FILE *f = fopen(socket_address() + 5, "w");
    fclose(f);
    assert_int_equal(listener_open(&listener, socket_address(), false, &err), ERR_CONFLICT);
    assert_non_null(strstr(err.text, "exists and is no socket"));
    assert_int_equal(unlink(socket_address() + 5), 0);
    char long_path[200] = "unix:/";
    memset(long_path + 6, 'x', sizeof long_path - 7);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(listener_open(&listener, long_path, false, &err), ERR_INVALID_PARAMETER);
    assert_non_null(strstr(err.text, "has 194 bytes, must have 1 to 107"));
}

static void test_tcp(void **state)
{
    static const char *const bad[] = {"tcp://",          "tcp://host",      "tcp://:1",
                                      "tcp://1.2.3.4:x", "tcp://::1:5",     "tcp://127.0.0.1:65536",
                                      "http://x:1",      "tcp://127.0.0.1:"};
    struct listener listener;
    struct listener second;
    struct err err = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        assert_int_equal(listener_open(&listener, bad[i], true, &err), ERR_INVALID_PARAMETER);
    }
    assert_int_equal(listener_open(&listener, "tcp://0.0.0.0:0", false, &err),
                     ERR_INVALID_PARAMETER);
    assert_non_null(strstr(err.text, "--insecure-tcp"));
    assert_int_equal(listener_open(&listener, "tcp://0.0.0.0:0", true, &err), 0);
    listener_close(&listener);
    assert_int_equal(listener_open(&listener, "tcp://127.0.0.1:0", false, &err), 0);
    assert_int_equal(strncmp(listener.name, "tcp://127.0.0.1:", 16), 0);
    assert_string_not_equal(listener.name, "tcp://127.0.0.1:0");
    assert_int_equal(listener_open(&second, listener.name, false, &err), ERR_CONFLICT);
    listener_close(&listener);
}

static int fill(struct lane *lane, const Graft__V1__GenerateRequest *message,
                struct rpc_error *error)
{
    memset(lane, 0, sizeof *lane);
    memset(error, 0, sizeof *error);
    arena_init(&lane->arena);
    return request_fill(&model, message, lane, error);
}

static void fill_done(struct lane *lane)
{
    stop_done(&lane->stops);
    token_vec_done(&lane->tokens);
    arena_done(&lane->arena);
}

static void test_request_defaults(void **state)
{
    Graft__V1__GenerateRequest message = GRAFT__V1__GENERATE_REQUEST__INIT;
    struct lane lane;
    struct rpc_error error;
    (void)state;
    message.input_case = GRAFT__V1__GENERATE_REQUEST__INPUT_TEXT;
    message.text = (char *)"abc";
    assert_int_equal(fill(&lane, &message, &error), 0);
    assert_int_equal(lane.request.token_n, 3);
    assert_int_equal(lane.request.max_tokens, model.context_max - 3);
    assert_int_equal(lane.request.eos_n, 1);
    assert_int_equal(lane.request.top_logprobs, -1);
    assert_int_equal(lane.request.prompt_logprobs, -1);
    assert_true(lane.want_text);
    assert_false(lane.want_tokens);
    assert_true(lane.request.id[0] != '\0');
    fill_done(&lane);
}

static void test_context_numbers(void **state)
{
    Graft__V1__GenerateRequest message = GRAFT__V1__GENERATE_REQUEST__INIT;
    Graft__V1__Stopping stopping = GRAFT__V1__STOPPING__INIT;
    struct lane lane;
    struct rpc_error error;
    (void)state;
    message.input_case = GRAFT__V1__GENERATE_REQUEST__INPUT_TEXT;
    message.text = (char *)"abcd";
    message.stopping = &stopping;
    stopping.optional_max_tokens_case = GRAFT__V1__STOPPING__OPTIONAL_MAX_TOKENS_MAX_TOKENS;
    stopping.max_tokens = 1020;
    assert_int_equal(fill(&lane, &message, &error), 0);
    fill_done(&lane);
    stopping.max_tokens = 1021;
    assert_int_equal(fill(&lane, &message, &error), ERR_CONTEXT_LENGTH_EXCEEDED);
    assert_string_equal(error.err.text,
                        "the prompt has 4 tokens and max_tokens is 1021, the context holds 1024");
    fill_done(&lane);
    stopping.max_tokens = UINT32_MAX;
    assert_int_equal(fill(&lane, &message, &error), ERR_CONTEXT_LENGTH_EXCEEDED);
    fill_done(&lane);
}

static void test_greedy_model(void **state)
{
    Graft__V1__GenerateRequest message = GRAFT__V1__GENERATE_REQUEST__INIT;
    Graft__V1__Sampling sampling = GRAFT__V1__SAMPLING__INIT;
    struct lane lane;
    struct rpc_error error;
    (void)state;
    model.sampling.temperature = 0;
    message.input_case = GRAFT__V1__GENERATE_REQUEST__INPUT_TEXT;
    message.text = (char *)"x";
    assert_int_equal(fill(&lane, &message, &error), 0);
    assert_true(lane.request.sampling.temperature == 0.0f);
    fill_done(&lane);
    message.sampling = &sampling;
    sampling.optional_temperature_case = GRAFT__V1__SAMPLING__OPTIONAL_TEMPERATURE_TEMPERATURE;
    sampling.temperature = 0.5f;
    assert_int_equal(fill(&lane, &message, &error), 0);
    assert_true(lane.request.sampling.temperature == 0.5f);
    fill_done(&lane);
    model.sampling.temperature = 1;
}

static int setup(void **state)
{
    (void)state;
    byte_model_open(&model);
    return mkdtemp(folder) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix_lock),
        cmocka_unit_test(test_stale_and_strange_paths),
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_request_defaults),
        cmocka_unit_test(test_context_numbers),
        cmocka_unit_test(test_greedy_model),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
