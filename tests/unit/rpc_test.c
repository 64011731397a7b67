/* Decoding with its guards, errors with their details, and a stop that waits for its calls. */
#include "tests/test.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "graft/v1/inference.pb-c.h"
#include "rpc/client.h"
#include "rpc/codec.h"
#include "rpc/error.h"
#include "rpc/rpc.h"

static const ProtobufCMessage *decode(struct arena *arena, const char *bytes, size_t n)
{
    return rpc_unpack(&graft__v1__generate_request__descriptor, bytes, n, arena);
}

#define DECODE(arena, literal) decode(arena, literal, sizeof(literal) - 1)

static void test_strings(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena);
    const Graft__V1__GenerateRequest *r =
        (const Graft__V1__GenerateRequest *)DECODE(&arena, "\x0a\x02id\x22\x03h\xC3\xA9");
    assert_non_null(r);
    assert_string_equal(r->request_id, "id");
    assert_string_equal(r->text, "h\xC3\xA9");
    assert_null(DECODE(&arena, "\x22\x02h\0"));                  /* a NUL inside */
    assert_null(DECODE(&arena, "\x22\x02h\xC3"));                /* half a character */
    assert_null(DECODE(&arena, "\x22\x02\xC0\x80"));             /* overlong */
    assert_null(DECODE(&arena, "\x22\x03\xED\xA0\x80"));         /* a surrogate */
    assert_null(DECODE(&arena, "\x22\x04\xF4\x90\x80\x80"));     /* beyond Unicode */
    assert_null(DECODE(&arena, "\x1a\x03\x0a\x01\xFF"));         /* in a repeated message */
    assert_null(DECODE(&arena, "\x32\x05\x0a\x03\x12\x01\xFF")); /* in the oneof's message */
    assert_null(DECODE(&arena, "\x22\x05h"));                    /* cut short */
    assert_non_null(DECODE(&arena, ""));
    arena_done(&arena);
}

static void test_growth(void **state)
{
    enum { N = 1 << 20 };
    struct arena arena;
    char *bytes = test_malloc(N);
    (void)state;
    arena_init(&arena);
    /* stopping.stop holds half a million empty strings: two bytes each on the wire. */
    memcpy(bytes, "\x42\xFC\xFF\x3F", 4);
    for (size_t i = 4; i < N; i += 2) {
        memcpy(bytes + i, "\x0a\x00", 2);
    }
    assert_non_null(DECODE(&arena, "\x42\x02\x1a\x00"));
    /* adapters, each an empty message: an object of several words for two bytes */
    for (size_t i = 0; i < N; i += 2) {
        memcpy(bytes + i, "\x1a\x00", 2);
    }
    assert_null(decode(&arena, bytes, N));
    arena_done(&arena);
    test_free(bytes);
}

static Google__Rpc__Status *status_of(struct arena *arena, int code, const char *field,
                                      const char *resource)
{
    struct rpc_error error = {0};
    err_set(&error.err, code, "it \"x\" is 3, limit is 2");
    snprintf(error.field, sizeof error.field, "%s", field);
    snprintf(error.resource, sizeof error.resource, "%s", resource);
    rpc_error_add_meta(&error, "limit", 2);
    return rpc_error_status(&error, arena);
}

static const char *detail_name(const Google__Rpc__Status *status, size_t i)
{
    return strrchr(status->details[i]->type_url, '.') + 1;
}

static void test_details(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena);
    Google__Rpc__Status *s = status_of(&arena, ERR_INVALID_PARAMETER, "sampling.top_p", "");
    assert_int_equal(s->code, 3);
    assert_int_equal(s->n_details, 2);
    assert_string_equal(detail_name(s, 0), "ErrorInfo");
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    assert_string_equal(info->reason, "INVALID_PARAMETER");
    assert_string_equal(info->domain, "graft");
    assert_string_equal(info->metadata[0]->key, "limit");
    assert_string_equal(info->metadata[0]->value, "2");
    google__rpc__error_info__free_unpacked(info, NULL);
    assert_string_equal(detail_name(s, 1), "BadRequest");
    s = status_of(&arena, ERR_QUEUE_FULL, "", "");
    assert_string_equal(detail_name(s, 1), "RetryInfo");
    assert_int_equal(s->n_details, 2);
    s = status_of(&arena, ERR_ADAPTER_NOT_FOUND, "", "x");
    assert_string_equal(detail_name(s, 1), "ResourceInfo");
    s = status_of(&arena, ERR_ADAPTER_INCOMPATIBLE, "", "x");
    assert_string_equal(detail_name(s, 1), "PreconditionFailure");
    s = status_of(&arena, ERR_KV_MEMORY_EXHAUSTED, "", "");
    assert_string_equal(detail_name(s, 1), "QuotaFailure");
    s = status_of(&arena, ERR_INTERNAL, "", "");
    assert_int_equal(s->n_details, 1);
    arena_done(&arena);
}

static void test_client_addresses(void **state)
{
    struct rpc_client *client = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(rpc_client_open("localhost:1", &client, &err), ERR_INVALID_PARAMETER);
    assert_string_equal(err.text,
                        "address \"localhost:1\" is neither unix:PATH nor tcp://HOST:PORT");
    assert_string_equal(rpc_code_name(14), "UNAVAILABLE");
    assert_string_equal(rpc_code_name(99), "UNKNOWN");
}

static void test_client_without_server(void **state)
{
    struct rpc_client *client = NULL;
    struct rpc_failure failure;
    struct err err = {0};
    struct arena arena;
    Graft__V1__AbortRequest request = GRAFT__V1__ABORT_REQUEST__INIT;
    (void)state;
    arena_init(&arena);
    assert_int_equal(rpc_client_open("unix:/nonexistent/graftd.sock", &client, &err), 0);
    assert_null(rpc_client_unary(client, "/graft.v1.InferenceService/Abort", &request.base,
                                 &graft__v1__abort_response__descriptor, &arena, &failure));
    assert_int_equal(failure.grpc_code, 14);
    assert_true(failure.message[0] != '\0');
    rpc_client_close(client);
    arena_done(&arena);
}

#define ABORT_PATH "/graft.v1.InferenceService/Abort"

/* A service that answers at once and keeps a reference to the call. */
struct keeper {
    struct rpc_call *_Atomic call;
    _Atomic bool is_freed;
    char address[64];
};

static void keep_message(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct keeper *keeper = ctx;
    Graft__V1__AbortResponse response = GRAFT__V1__ABORT_RESPONSE__INIT;
    (void)data;
    (void)n;
    rpc_call_set_user(call, keeper);
    rpc_call_ref(call);
    atomic_store(&keeper->call, call);
    rpc_call_finish(call, &response.base, NULL);
}

static void keep_cancelled(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    (void)call;
}

static void keep_freed(void *ctx, struct rpc_call *call)
{
    struct keeper *keeper = ctx;
    (void)call;
    atomic_store(&keeper->is_freed, true);
}

static void keep_ask(void *arg)
{
    struct keeper *keeper = arg;
    struct rpc_client *client = NULL;
    struct rpc_failure failure;
    struct err err = {0};
    struct arena arena;
    Graft__V1__AbortRequest request = GRAFT__V1__ABORT_REQUEST__INIT;
    arena_init(&arena);
    int rc = rpc_client_open(keeper->address, &client, &err);
    ASSERT_CMP(rc, ==, 0);
    bool is_answered =
        rpc_client_unary(client, ABORT_PATH, &request.base, &graft__v1__abort_response__descriptor,
                         &arena, &failure) != NULL;
    ASSERT(is_answered);
    rpc_client_close(client);
    arena_done(&arena);
}

static void keep_let_go(void *arg)
{
    struct keeper *keeper = arg;
    usleep(50000); /* long after the connection's end, which is all that gRPC core waits for */
    rpc_call_unref(atomic_load(&keeper->call));
}

/* Where the client connects to. */
static int keep_listen(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%s", path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(listener, 1), 0);
    return listener;
}

static void test_stop_waits_for_calls(void **state)
{
    static const struct rpc_method method = {ABORT_PATH, RPC_UNARY, NULL, keep_message, NULL};
    static struct keeper keeper;
    char folder[] = "/tmp/graft-rpc-XXXXXX";
    struct thread client = {0};
    struct thread holder = {0};
    struct rpc_service service = {.ctx = &keeper,
                                  .methods = &method,
                                  .method_n = 1,
                                  .on_cancelled = keep_cancelled,
                                  .on_free = keep_freed};
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(keeper.address, sizeof keeper.address, "unix:%s/s.sock", folder);
    int listener = keep_listen(keeper.address + 5);
    struct rpc_server *server = rpc_server_start(&service);
    thread_start(&client, THREAD_ANY, "client", keep_ask, &keeper);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    rpc_server_adopt(server, fd);
    thread_join(&client);
    thread_start(&holder, THREAD_ANY, "holder", keep_let_go, &keeper);
    rpc_server_stop(server, 1000000000);
    assert_true(atomic_load(&keeper.is_freed));
    thread_join(&holder);
    close(listener);
    unlink(keeper.address + 5);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_details),
        cmocka_unit_test(test_client_addresses),
        cmocka_unit_test(test_client_without_server),
        cmocka_unit_test(test_stop_waits_for_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
