/* Validation, field by field: every refusal names the field, its value and the limit. */
#include "server/request.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "adapters/adapter.h"
#include "graft/v1/inference.pb-c.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#define REVISION_PREFIX_MIN 8

int request_refuse(struct rpc_error *error, int code, const char *field, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    snprintf(error->field, sizeof error->field, "%s", field);
    return err_set(&error->err, code, "%s", text);
}

static uint64_t request_random(void)
{
    uint64_t value = 0;
    ssize_t n = getrandom(&value, sizeof value, 0);
    ASSERT_CMP(n, ==, sizeof value);
    return value;
}

static int fill_id(const char *id, struct request *request, struct rpc_error *error)
{
    size_t n = strlen(id);
    if (n == 0) {
        snprintf(request->id, sizeof request->id, "g-%016" PRIx64, request_random());
        return 0;
    }
    if (n > LIMIT_REQUEST_ID_BYTES) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "request_id",
                              "request_id has %zu characters, limit is %d", n,
                              LIMIT_REQUEST_ID_BYTES);
    }
    for (size_t i = 0; i < n; i++) {
        if (id[i] <= ' ' || id[i] > '~') {
            return request_refuse(error, ERR_INVALID_PARAMETER, "request_id",
                                  "character %zu of request_id is not printable ASCII", i + 1);
        }
    }
    memcpy(request->id, id, n + 1);
    return 0;
}

int request_check_model(const struct server_model *model, const char *name, struct rpc_error *error)
{
    if (name[0] == '\0' || strcmp(name, model->name) == 0) {
        return 0;
    }
    snprintf(error->resource, sizeof error->resource, "%.100s", name);
    return err_set(&error->err, ERR_MODEL_NOT_FOUND,
                   "model \"%.100s\" is not served here, \"%s\" is", name, model->name);
}

static int fill_revision(const char *revision, struct request_adapter *adapter, size_t index,
                         struct rpc_error *error)
{
    size_t n = strlen(revision);
    size_t hex_n = strspn(revision, "0123456789abcdef");
    if (n > 0 && (n != hex_n || n < REVISION_PREFIX_MIN || n >= SHA256_HEX_BYTES)) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "adapters.revision",
                              "adapters[%zu].revision \"%.80s\" is not %d to %d lower-case hex "
                              "digits",
                              index, revision, REVISION_PREFIX_MIN, SHA256_HEX_BYTES - 1);
    }
    memcpy(adapter->revision, revision, n + 1);
    return 0;
}

static int fill_adapter(const Graft__V1__AdapterRef *ref, struct request *request,
                        struct rpc_error *error)
{
    size_t index = request->adapter_n;
    struct request_adapter *adapter = &request->adapters[index];
    if (!adapter_name_is_valid(ref->name)) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "adapters.name",
                              "adapters[%zu].name \"%.80s\" is no adapter name: lower-case "
                              "letters, digits and ._- inside, at most %d",
                              index, ref->name, LIMIT_ADAPTER_NAME_BYTES - 1);
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(request->adapters[i].name, ref->name) == 0) {
            return request_refuse(error, ERR_INVALID_PARAMETER, "adapters.name",
                                  "adapter \"%s\" is named twice", ref->name);
        }
    }
    memcpy(adapter->name, ref->name, strlen(ref->name) + 1);
    adapter->weight = 1.0f;
    if (ref->optional_weight_case == GRAFT__V1__ADAPTER_REF__OPTIONAL_WEIGHT_WEIGHT) {
        adapter->weight = ref->weight;
    }
    if (!isfinite(adapter->weight)) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "adapters.weight",
                              "weight of adapter \"%s\" is %g, must be finite", ref->name,
                              (double)adapter->weight);
    }
    request->adapter_n++;
    return fill_revision(ref->revision, adapter, index, error);
}

static int fill_adapters(const Graft__V1__GenerateRequest *message, struct request *request,
                         struct rpc_error *error)
{
    int rc = 0;
    if (message->n_adapters > LIMIT_REQUEST_ADAPTERS) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "adapters",
                              "the request names %zu adapters, limit is %d", message->n_adapters,
                              LIMIT_REQUEST_ADAPTERS);
    }
    for (size_t i = 0; rc == 0 && i < message->n_adapters; i++) {
        rc = fill_adapter(message->adapters[i], request, error);
    }
    return rc;
}

/* Refuses what is too long whatever its tokens are, before time is spent on them. */
static int check_text_bytes(const struct server_model *model, const char *field, size_t n,
                            struct rpc_error *error)
{
    if (n <= tokenizer_text_bytes_max(model->tokenizer, model->context_max)) {
        return 0;
    }
    rpc_error_add_meta(error, "maxContextTokens", model->context_max);
    return request_refuse(error, ERR_CONTEXT_LENGTH_EXCEEDED, field,
                          "the %s has %zu bytes and so over %u tokens, the context holds %u", field,
                          n, model->context_max, model->context_max);
}

static size_t chat_bytes(const Graft__V1__Chat *chat)
{
    size_t n = 0;
    for (size_t i = 0; i < chat->n_messages; i++) {
        n += strlen(chat->messages[i]->content);
    }
    return n;
}

int request_encode(const struct server_model *model, const char *text, bool add_special,
                   struct token_vec *out, struct rpc_error *error)
{
    size_t n = strlen(text);
    int rc = check_text_bytes(model, "text", n, error);
    return rc ? rc : tokenizer_encode(model->tokenizer, text, n, add_special, out, &error->err);
}

static int check_chat(const struct server_model *model, const Graft__V1__Chat *chat,
                      struct rpc_error *error)
{
    if (chat->n_messages == 0) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "chat.messages",
                              "the chat has no message");
    }
    if (chat->n_messages > LIMIT_CHAT_MESSAGES) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "chat.messages",
                              "the chat has %zu messages, limit is %d", chat->n_messages,
                              LIMIT_CHAT_MESSAGES);
    }
    return check_text_bytes(model, "chat", chat_bytes(chat), error);
}

int request_render_chat(const struct server_model *model, const Graft__V1__Chat *chat,
                        struct token_vec *out, struct rpc_error *error)
{
    struct arena arena;
    int rc = check_chat(model, chat, error);
    if (rc) {
        return rc;
    }
    arena_init(&arena);
    struct chat_message *messages = arena_alloc(&arena, chat->n_messages * sizeof *messages);
    for (size_t i = 0; i < chat->n_messages; i++) {
        messages[i].role = chat->messages[i]->role;
        messages[i].content = chat->messages[i]->content;
        messages[i].content_n = strlen(messages[i].content);
    }
    rc = chat_render(model->tokenizer, messages, chat->n_messages, out, &error->err);
    if (rc == ERR_INVALID_PARAMETER) {
        snprintf(error->field, sizeof error->field, "chat.messages");
    }
    arena_done(&arena);
    return rc;
}

static int fill_token_ids(const struct server_model *model, const Graft__V1__TokenIds *ids,
                          struct lane *lane, struct rpc_error *error)
{
    for (size_t i = 0; i < ids->n_ids; i++) {
        if (ids->ids[i] >= model->vocab_n) {
            return request_refuse(error, ERR_INVALID_PARAMETER, "token_ids",
                                  "token_ids[%zu] is %u, the vocabulary has %u tokens", i,
                                  ids->ids[i], model->vocab_n);
        }
    }
    /* A prompt beyond 32 bits of tokens can not arrive: LIMIT_MESSAGE_BYTES. */
    lane->request.tokens = ids->ids;
    lane->request.token_n = (uint32_t)ids->n_ids;
    return 0;
}

static int fill_prompt(const struct server_model *model, const Graft__V1__GenerateRequest *message,
                       struct lane *lane, struct rpc_error *error)
{
    int rc;
    switch (message->input_case) {
    case GRAFT__V1__GENERATE_REQUEST__INPUT_TEXT:
        rc = request_encode(model, message->text, true, &lane->tokens, error);
        lane->echo_text = message->text;
        if (rc == 0 && message->text[0] == '\0') {
            rc = request_refuse(error, ERR_INVALID_PARAMETER, "text", "the prompt is empty");
        }
        break;
    case GRAFT__V1__GENERATE_REQUEST__INPUT_CHAT:
        rc = request_render_chat(model, message->chat, &lane->tokens, error);
        break;
    case GRAFT__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS:
        rc = fill_token_ids(model, message->token_ids, lane, error);
        break;
    default:
        return request_refuse(error, ERR_INVALID_PARAMETER, "input",
                              "the request has no input: text, token_ids or chat");
    }
    if (rc) {
        return rc;
    }
    if (lane->tokens.n > 0) {
        lane->request.tokens = lane->tokens.ids;
        lane->request.token_n = (uint32_t)lane->tokens.n;
    }
    if (lane->request.token_n == 0) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "input", "the prompt is empty");
    }
    return 0;
}

/* NaN fails both comparisons. */
static int check_range(const char *field, float value, float min, float max,
                       struct rpc_error *error)
{
    if (value >= min && value <= max) {
        return 0;
    }
    return request_refuse(error, ERR_INVALID_PARAMETER, field, "%s is %g, must be %g to %g", field,
                          (double)value, (double)min, (double)max);
}

static int check_over_zero(const char *field, float value, struct rpc_error *error)
{
    if (value > 0.0f) {
        return 0;
    }
    return request_refuse(error, ERR_INVALID_PARAMETER, field, "%s is %g, must be over 0", field,
                          (double)value);
}

static int check_sampling(const struct sampling *s, struct rpc_error *error)
{
    int rc = check_range("sampling.temperature", s->temperature, 0.0f, 100.0f, error);
    rc = rc ? rc : check_range("sampling.top_p", s->top_p, 0.0f, 1.0f, error);
    rc = rc ? rc : check_over_zero("sampling.top_p", s->top_p, error);
    rc = rc ? rc : check_range("sampling.min_p", s->min_p, 0.0f, 1.0f, error);
    if (rc == 0 && s->min_p >= 1.0f) {
        rc = request_refuse(error, ERR_INVALID_PARAMETER, "sampling.min_p",
                            "sampling.min_p is 1, must be below 1");
    }
    rc =
        rc ? rc
           : check_range("sampling.repetition_penalty", s->repetition_penalty, 0.0f, 100.0f, error);
    rc = rc ? rc : check_over_zero("sampling.repetition_penalty", s->repetition_penalty, error);
    rc = rc ? rc
            : check_range("sampling.presence_penalty", s->presence_penalty, -100.0f, 100.0f, error);
    rc = rc ? rc
            : check_range("sampling.frequency_penalty", s->frequency_penalty, -100.0f, 100.0f,
                          error);
    return rc;
}

/* A map may name a key twice; the last value counts. */
static int fill_biases(const struct server_model *model, const Graft__V1__Sampling *message,
                       struct lane *lane, struct rpc_error *error)
{
    size_t n = 0;
    if (message->n_logit_bias > LIMIT_REQUEST_BIASES) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "sampling.logit_bias",
                              "sampling.logit_bias has %zu entries, limit is %d",
                              message->n_logit_bias, LIMIT_REQUEST_BIASES);
    }
    struct logit_bias *biases = arena_alloc(&lane->arena, message->n_logit_bias * sizeof *biases);
    for (size_t i = 0; i < message->n_logit_bias; i++) {
        uint32_t token = message->logit_bias[i]->key;
        float bias = message->logit_bias[i]->value;
        size_t at = 0;
        if (token >= model->vocab_n) {
            return request_refuse(error, ERR_INVALID_PARAMETER, "sampling.logit_bias",
                                  "sampling.logit_bias names token %u, the vocabulary has %u",
                                  token, model->vocab_n);
        }
        if (isnan(bias) || bias == INFINITY) {
            return request_refuse(error, ERR_INVALID_PARAMETER, "sampling.logit_bias",
                                  "sampling.logit_bias of token %u is %g, must be finite or "
                                  "-inf",
                                  token, (double)bias);
        }
        while (at < n && biases[at].token != token) {
            at++;
        }
        biases[at] = (struct logit_bias){token, bias};
        n = MAX(n, at + 1);
    }
    lane->request.biases = biases;
    lane->request.bias_n = (uint32_t)n;
    return 0;
}

static int fill_sampling(const struct server_model *model, const Graft__V1__Sampling *message,
                         struct lane *lane, struct rpc_error *error)
{
    static const Graft__V1__Sampling unset = GRAFT__V1__SAMPLING__INIT;
    const Graft__V1__Sampling *m = message ? message : &unset;
    struct sampling *s = &lane->request.sampling;
    *s = model->sampling;
    s->seed = m->optional_seed_case ? m->seed : request_random();
    s->temperature = m->optional_temperature_case ? m->temperature : s->temperature;
    s->top_p = m->optional_top_p_case ? m->top_p : s->top_p;
    s->top_k = m->optional_top_k_case ? m->top_k : s->top_k;
    s->min_p = m->optional_min_p_case ? m->min_p : s->min_p;
    s->repetition_penalty =
        m->optional_repetition_penalty_case ? m->repetition_penalty : s->repetition_penalty;
    s->presence_penalty = m->presence_penalty;
    s->frequency_penalty = m->frequency_penalty;
    int rc = check_sampling(s, error);
    return rc ? rc : fill_biases(model, m, lane, error);
}

static int context_exceeded(const struct server_model *model, uint32_t prompt_n,
                            uint64_t max_tokens, struct rpc_error *error)
{
    rpc_error_add_meta(error, "maxContextTokens", model->context_max);
    rpc_error_add_meta(error, "promptTokens", prompt_n);
    rpc_error_add_meta(error, "maxTokens", max_tokens);
    return request_refuse(error, ERR_CONTEXT_LENGTH_EXCEEDED, "stopping.max_tokens",
                          "the prompt has %u tokens and max_tokens is %" PRIu64
                          ", the context holds %u",
                          prompt_n, max_tokens, model->context_max);
}

static int fill_lengths(const struct server_model *model, const Graft__V1__Stopping *m,
                        struct request *request, struct rpc_error *error)
{
    uint32_t left =
        model->context_max > request->token_n ? model->context_max - request->token_n : 0;
    uint64_t room =
        MIN(model->kv_tokens, model->context_max); /* of the cache, when it is smaller */
    uint32_t rest = room > request->token_n ? (uint32_t)(room - request->token_n) : left;
    request->max_tokens = m->optional_max_tokens_case ? m->max_tokens : MAX(rest, 1);
    request->min_tokens = m->min_tokens;
    if (request->max_tokens == 0) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "stopping.max_tokens",
                              "stopping.max_tokens is 0, must be at least 1");
    }
    if (request->max_tokens > left) {
        return context_exceeded(model, request->token_n, request->max_tokens, error);
    }
    if (request->min_tokens > request->max_tokens) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "stopping.min_tokens",
                              "stopping.min_tokens is %u, over max_tokens, which is %u",
                              request->min_tokens, request->max_tokens);
    }
    return 0;
}

static int fill_stopping(const struct server_model *model, const Graft__V1__Stopping *message,
                         struct lane *lane, struct rpc_error *error)
{
    static const Graft__V1__Stopping unset = GRAFT__V1__STOPPING__INIT;
    const Graft__V1__Stopping *m = message ? message : &unset;
    struct request *request = &lane->request;
    int rc = fill_lengths(model, m, request, error);
    if (rc) {
        return rc;
    }
    if (m->n_stop_token_ids > LIMIT_REQUEST_STOP_TOKENS) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "stopping.stop_token_ids",
                              "stopping.stop_token_ids has %zu entries, limit is %d",
                              m->n_stop_token_ids, LIMIT_REQUEST_STOP_TOKENS);
    }
    for (size_t i = 0; i < m->n_stop_token_ids; i++) {
        if (m->stop_token_ids[i] >= model->vocab_n) {
            return request_refuse(error, ERR_INVALID_PARAMETER, "stopping.stop_token_ids",
                                  "stopping.stop_token_ids[%zu] is %u, the vocabulary has %u "
                                  "tokens",
                                  i, m->stop_token_ids[i], model->vocab_n);
        }
        request->stop_tokens[request->stop_n++] = m->stop_token_ids[i];
    }
    if (!m->ignore_eos) {
        memcpy(request->eos_tokens, model->eos_tokens, sizeof request->eos_tokens);
        request->eos_n = model->eos_n;
    }
    rc = stop_init(&lane->stops, (const char *const *)m->stop, m->n_stop, &error->err);
    if (rc) {
        snprintf(error->field, sizeof error->field, "stopping.stop");
    }
    return rc;
}

static int check_logprobs(const char *field, uint32_t n, int32_t *out, struct rpc_error *error)
{
    if (n > LIMIT_TOP_LOGPROBS) {
        return request_refuse(error, ERR_INVALID_PARAMETER, field, "%s is %u, limit is %d", field,
                              n, LIMIT_TOP_LOGPROBS);
    }
    *out = (int32_t)n;
    return 0;
}

static int fill_output(const Graft__V1__Output *message, struct lane *lane, struct rpc_error *error)
{
    static const Graft__V1__Output unset = GRAFT__V1__OUTPUT__INIT;
    const Graft__V1__Output *m = message ? message : &unset;
    int rc = 0;
    lane->want_text = m->optional_text_case ? m->text : true;
    lane->want_tokens = m->token_ids;
    lane->want_echo = m->echo;
    lane->request.top_logprobs = -1;
    lane->request.prompt_logprobs = -1;
    if (m->optional_top_logprobs_case) {
        rc = check_logprobs("output.top_logprobs", m->top_logprobs, &lane->request.top_logprobs,
                            error);
    }
    if (rc == 0 && m->optional_prompt_logprobs_case) {
        rc = check_logprobs("output.prompt_logprobs", m->prompt_logprobs,
                            &lane->request.prompt_logprobs, error);
    }
    return rc;
}

static int check_unimplemented(const Graft__V1__GenerateRequest *message, struct rpc_error *error)
{
    if (message->priority != 0) {
        return request_refuse(error, ERR_NOT_IMPLEMENTED, "priority",
                              "priority is %d, only 0 is implemented", message->priority);
    }
    if (message->cache) {
        return request_refuse(error, ERR_NOT_IMPLEMENTED, "cache",
                              "cache options are not implemented");
    }
    return 0;
}

static int fill_policy(const Graft__V1__GenerateRequest *message, struct request *request,
                       struct rpc_error *error)
{
    switch (message->load_policy) {
    case GRAFT__V1__LOAD_POLICY__LOAD_POLICY_UNSPECIFIED:
    case GRAFT__V1__LOAD_POLICY__LOAD_POLICY_WAIT:
        request->load_policy = LOAD_WAIT;
        return 0;
    case GRAFT__V1__LOAD_POLICY__LOAD_POLICY_FAIL_IF_COLD:
        request->load_policy = LOAD_FAIL_IF_COLD;
        return 0;
    default:
        return request_refuse(error, ERR_NOT_IMPLEMENTED, "load_policy",
                              "load_policy %d is not known here", (int)message->load_policy);
    }
}

int request_fill(const struct server_model *model, const Graft__V1__GenerateRequest *message,
                 struct lane *lane, struct rpc_error *error)
{
    struct request *request = &lane->request;
    int rc = check_unimplemented(message, error);
    rc = rc ? rc : fill_id(message->request_id, request, error);
    rc = rc ? rc : request_check_model(model, message->model, error);
    rc = rc ? rc : fill_policy(message, request, error);
    rc = rc ? rc : fill_adapters(message, request, error);
    rc = rc ? rc : fill_output(message->output, lane, error);
    rc = rc ? rc : fill_prompt(model, message, lane, error);
    rc = rc ? rc : fill_sampling(model, message->sampling, lane, error);
    rc = rc ? rc : fill_stopping(model, message->stopping, lane, error);
    return rc;
}
