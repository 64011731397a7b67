/* Request decoding: whatever the bytes, a GenerateRequest is refused with a sentence or becomes a
 * lane that keeps the engine's promises; the other served messages only have to decode soundly.
 *
 * The first byte picks the message type; the rest is the message. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "google/rpc/status.pb-c.h"
#include "graft/v1/adapter.pb-c.h"
#include "graft/v1/inference.pb-c.h"
#include "graft/v1/model.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/codec.h"
#include "server/request.h"
#include "tests/byte_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void check_request(const struct server_model *model, const struct lane *lane)
{
    const struct request *r = &lane->request;
    check(r->token_n >= 1 && r->max_tokens >= 1 && r->min_tokens <= r->max_tokens);
    check((uint64_t)r->token_n + r->max_tokens <= model->context_max);
    for (uint32_t i = 0; i < r->token_n; i++) {
        check(r->tokens[i] < model->vocab_n);
    }
    for (uint32_t i = 0; i < r->bias_n; i++) {
        check(r->biases[i].token < model->vocab_n && !isnan(r->biases[i].bias));
        for (uint32_t j = 0; j < i; j++) {
            check(r->biases[i].token != r->biases[j].token);
        }
    }
    check(r->adapter_n <= LIMIT_REQUEST_ADAPTERS && r->stop_n <= LIMIT_REQUEST_STOP_TOKENS);
    for (uint32_t i = 0; i < r->adapter_n; i++) {
        check(isfinite(r->adapters[i].weight));
    }
    check(r->sampling.temperature >= 0 && r->sampling.top_p > 0 && r->sampling.top_p <= 1);
    check(r->sampling.min_p >= 0 && r->sampling.min_p < 1 && r->sampling.repetition_penalty > 0);
    check(r->top_logprobs >= -1 && r->top_logprobs <= LIMIT_TOP_LOGPROBS);
    check(r->id[0] != '\0' && memchr(r->id, '\0', sizeof r->id));
}

static void fuzz_generate(const struct server_model *model, const uint8_t *data, size_t n)
{
    struct lane lane = {0};
    struct rpc_error error = {0};
    arena_init(&lane.arena);
    const ProtobufCMessage *message =
        rpc_unpack(&graft__v1__generate_request__descriptor, data, n, &lane.arena);
    if (message) {
        int rc = request_fill(model, (const Graft__V1__GenerateRequest *)message, &lane, &error);
        check(rc == error.err.code);
        if (rc == 0) {
            check_request(model, &lane);
        } else {
            check(error.err.text[0] != '\0' && error.err.text[strlen(error.err.text) - 1] != '.');
            struct arena arena;
            arena_init(&arena);
            check(rpc_error_status(&error, &arena)->n_details >= 1);
            arena_done(&arena);
        }
    }
    stop_done(&lane.stops);
    token_vec_done(&lane.tokens);
    arena_done(&lane.arena);
}

static void fuzz_decode(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t n)
{
    struct arena arena;
    arena_init(&arena);
    const ProtobufCMessage *message = rpc_unpack(type, data, n, &arena);
    if (message) {
        size_t bytes = protobuf_c_message_get_packed_size(message);
        check(protobuf_c_message_pack(message, arena_alloc(&arena, bytes)) == bytes);
    }
    arena_done(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &graft__v1__session_request__descriptor,
        &graft__v1__abort_request__descriptor,
        &graft__v1__tokenize_request__descriptor,
        &graft__v1__load_adapter_request__descriptor,
        &grpc__reflection__v1__server_reflection_request__descriptor,
        &google__rpc__status__descriptor,
    };
    static struct server_model model;
    if (!model.tokenizer) {
        byte_model_open(&model);
    }
    if (n > 0 && data[0] < ARRAY_N(types)) {
        fuzz_decode(types[data[0]], data + 1, n - 1);
    } else if (n > 0) {
        fuzz_generate(&model, data + 1, n - 1);
    }
    return 0;
}
