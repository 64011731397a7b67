/* Decoding with its guards, and errors with their details. */
#include "tests/test.h"

#include <stdio.h>

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "graft/v1/inference.pb-c.h"
#include "rpc/client.h"
#include "rpc/codec.h"
#include "rpc/error.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_details),
        cmocka_unit_test(test_client_addresses),
        cmocka_unit_test(test_client_without_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
