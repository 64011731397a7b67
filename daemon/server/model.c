/* ModelService: what is resident, and its tokenizer. cq thread. */
#include "graft/v1/model.pb-c.h"
#include "rpc/codec.h"
#include "server/request.h"
#include "server/server_int.h"
#include "text/chat.h"

#define MODEL_CHAT_NOTE                                                                            \
    "exactly the messages sent are rendered, then the assistant header: no default system "        \
    "prompt, date, tools or thinking block"

/* STARTING, DRAINING where it is work, or a message that could not be decoded. */
static int model_gate(struct server *server, bool is_work, const void *request, const char *type,
                      struct rpc_error *error)
{
    if (!request) {
        err_set(&error->err, ERR_INVALID_PARAMETER, "the message is not a valid %s", type);
        return ERR_INVALID_PARAMETER;
    }
    return service_gate(server, is_work, error);
}

static void model_fill_sampling(const struct sampling *s, Graft__V1__Sampling *out)
{
    graft__v1__sampling__init(out);
    out->optional_temperature_case = GRAFT__V1__SAMPLING__OPTIONAL_TEMPERATURE_TEMPERATURE;
    out->temperature = s->temperature;
    out->optional_top_p_case = GRAFT__V1__SAMPLING__OPTIONAL_TOP_P_TOP_P;
    out->top_p = s->top_p;
    out->optional_top_k_case = GRAFT__V1__SAMPLING__OPTIONAL_TOP_K_TOP_K;
    out->top_k = s->top_k;
    out->optional_min_p_case = GRAFT__V1__SAMPLING__OPTIONAL_MIN_P_MIN_P;
    out->min_p = s->min_p;
    out->optional_repetition_penalty_case =
        GRAFT__V1__SAMPLING__OPTIONAL_REPETITION_PENALTY_REPETITION_PENALTY;
    out->repetition_penalty = s->repetition_penalty;
}

static void model_send(const struct server *server, struct rpc_call *call)
{
    const struct server_model *model = &server->model;
    Graft__V1__Model out = GRAFT__V1__MODEL__INIT;
    Graft__V1__Sampling sampling;
    enum chat_style style = chat_style(model->tokenizer);
    bool has_chat = style == CHAT_CHATML || style == CHAT_LLAMA3;
    model_fill_sampling(&model->sampling, &sampling);
    out.name = (char *)model->name;
    out.fingerprint = (char *)model->fingerprint;
    out.architecture = (char *)model->architecture;
    out.family = (char *)model->family;
    out.vocab_size = model->vocab_n;
    out.context_tokens = model->context_max;
    out.dtype = (char *)model->dtype;
    out.backend = (char *)model->backend;
    out.isa = (char *)model->isa;
    out.threads = model->thread_n;
    out.kv_tokens = model->kv_tokens;
    out.weight_bytes = model->weight_bytes;
    out.max_sequences = model->sequence_max;
    out.n_eos_token_ids = model->eos_n;
    out.eos_token_ids = (uint32_t *)model->eos_tokens;
    out.default_sampling = &sampling;
    out.chat_format = (char *)(has_chat ? chat_style_name(style) : "");
    out.chat_note = (char *)(has_chat ? MODEL_CHAT_NOTE : "");
    out.adapter_bytes_max = model->adapter_bytes;
    out.request_adapters_max = LIMIT_REQUEST_ADAPTERS;
    out.n_adapter_kinds = model->adapter_kind_n;
    out.adapter_kinds = (char **)(uintptr_t)model->adapter_kinds;
    out.version = (char *)GRAFTD_VERSION;
    out.saturated_values = ring_number_get(&server->ports->saturated);
    rpc_call_finish(call, &out.base, NULL);
}

void model_on_get(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct server *server = ctx;
    struct rpc_error error = {0};
    struct arena arena;
    arena_init(&arena);
    const Graft__V1__GetModelRequest *request = (const Graft__V1__GetModelRequest *)rpc_unpack(
        &graft__v1__get_model_request__descriptor, data, n, &arena);
    int rc = model_gate(server, false, request, "graft.v1.GetModelRequest", &error);
    rc = rc ? rc : request_check_model(&server->model, request->name, &error);
    if (rc) {
        rpc_call_finish(call, NULL, &error);
    } else {
        model_send(server, call);
    }
    arena_done(&arena);
}

static int model_tokenize(const struct server_model *model,
                          const Graft__V1__TokenizeRequest *request, struct token_vec *out,
                          struct rpc_error *error)
{
    bool add_special = request->optional_add_special_case ? request->add_special : true;
    int rc = request_check_model(model, request->model, error);
    if (rc) {
        return rc;
    }
    switch (request->input_case) {
    case GRAFT__V1__TOKENIZE_REQUEST__INPUT_TEXT:
        return request_encode(model, request->text, add_special, out, error);
    case GRAFT__V1__TOKENIZE_REQUEST__INPUT_CHAT:
        return request_render_chat(model, request->chat, out, error);
    default:
        return request_refuse(error, ERR_INVALID_PARAMETER, "input",
                              "the request has no input: text or chat");
    }
}

void model_on_tokenize(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct server *server = ctx;
    struct rpc_error error = {0};
    struct arena arena;
    struct token_vec tokens = {0};
    Graft__V1__TokenizeResponse response = GRAFT__V1__TOKENIZE_RESPONSE__INIT;
    arena_init(&arena);
    const Graft__V1__TokenizeRequest *request = (const Graft__V1__TokenizeRequest *)rpc_unpack(
        &graft__v1__tokenize_request__descriptor, data, n, &arena);
    int rc = model_gate(server, true, request, "graft.v1.TokenizeRequest", &error);
    rc = rc ? rc : model_tokenize(&server->model, request, &tokens, &error);
    response.n_token_ids = tokens.n;
    response.token_ids = tokens.ids;
    rpc_call_finish(call, rc ? NULL : &response.base, rc ? &error : NULL);
    token_vec_done(&tokens);
    arena_done(&arena);
}
