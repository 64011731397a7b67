/* Streaming decode of one lane: detokenizer, stop strings, and the packing of responses. */
#include "server/output.h"

#include <string.h>

#include "graft/v1/inference.pb-c.h"

#define OUTPUT_END_BYTES 128 /* started, finish, usage and timing, about */

static void add_u32(struct buf *buf, uint32_t value)
{
    buf_add(buf, &value, sizeof value);
}

static void add_float(struct buf *buf, float value)
{
    buf_add(buf, &value, sizeof value);
}

static size_t count_of(const struct buf *buf)
{
    return buf->n / sizeof(uint32_t);
}

static void logprobs_add(struct logprob_list *list, const struct event *event)
{
    add_u32(&list->tokens, event->token.token);
    add_float(&list->values, event->token.logprob);
    add_u32(&list->top_n, event->top_n);
    for (uint32_t i = 0; i < event->top_n; i++) {
        add_u32(&list->top_tokens, event->top[i].token);
        add_float(&list->top_values, event->top[i].logprob);
    }
}

static void logprobs_clear(struct logprob_list *list)
{
    buf_clear(&list->tokens);
    buf_clear(&list->values);
    buf_clear(&list->top_n);
    buf_clear(&list->top_tokens);
    buf_clear(&list->top_values);
}

static size_t logprobs_bytes(const struct logprob_list *list)
{
    return list->tokens.n + list->values.n + list->top_n.n + list->top_tokens.n +
           list->top_values.n;
}

static void output_echo(const struct server_model *model, struct lane *lane)
{
    const struct request *request = &lane->request;
    struct lane_output *out = &lane->out;
    if (lane->want_tokens) {
        buf_add(&out->tokens, request->tokens, request->token_n * sizeof *request->tokens);
    }
    if (lane->want_text && lane->echo_text) {
        buf_add_str(&out->text, lane->echo_text);
    } else if (lane->want_text) {
        struct detok prompt;
        detok_init(&prompt, model->tokenizer, false);
        for (uint32_t i = 0; i < request->token_n; i++) {
            detok_push(&prompt, request->tokens[i], &out->text);
        }
        detok_finish(&prompt, &out->text);
    }
}

void output_start(const struct server_model *model, struct lane *lane)
{
    lane->out.has_started = true;
    detok_init(&lane->out.detok, model->tokenizer, true);
    if (lane->want_echo) {
        output_echo(model, lane);
    }
}

void output_add_prompt_token(struct lane *lane, const struct event *event)
{
    logprobs_add(&lane->out.prompt_logprobs, event);
}

/* Tokens that end generation give no text. */
static bool is_end_token(const struct request *request, uint32_t token)
{
    for (uint32_t i = 0; i < request->eos_n; i++) {
        if (request->eos_tokens[i] == token) {
            return true;
        }
    }
    for (uint32_t i = 0; i < request->stop_n; i++) {
        if (request->stop_tokens[i] == token) {
            return true;
        }
    }
    return false;
}

/* Takes new text through the stop strings, which are not looked for before min_tokens. */
static void output_add_text(struct lane *lane, const struct buf *text)
{
    struct lane_output *out = &lane->out;
    if (out->token_n < lane->request.min_tokens) {
        buf_add(&out->text, text->data, text->n);
    } else if (text->n > 0) {
        out->stop_index = stop_push(&lane->stops, text->data, text->n, &out->text);
        out->is_text_ended = out->stop_index >= 0;
    }
    if (!lane->want_text) {
        buf_clear(&out->text);
    }
}

bool output_add_token(struct lane *lane, const struct event *event)
{
    struct lane_output *out = &lane->out;
    struct buf text = {0};
    if (out->is_text_ended) {
        return false;
    }
    out->token_n++;
    out->last_token = event->token.token;
    if (lane->want_tokens) {
        add_u32(&out->tokens, event->token.token);
    }
    if (lane->request.top_logprobs >= 0) {
        logprobs_add(&out->logprobs, event);
    }
    if ((lane->want_text || lane->stops.n > 0) && !is_end_token(&lane->request, out->last_token)) {
        detok_push(&out->detok, out->last_token, &text);
        output_add_text(lane, &text);
        buf_done(&text);
    }
    return out->is_text_ended;
}

void output_end(struct lane *lane, enum finish_reason reason)
{
    struct lane_output *out = &lane->out;
    struct buf text = {0};
    out->has_ended = true;
    out->reason = reason;
    if (!out->is_text_ended && (lane->want_text || lane->stops.n > 0)) {
        detok_finish(&out->detok, &text);
        output_add_text(lane, &text);
        buf_done(&text);
    }
    if (out->is_text_ended) {
        out->reason = FINISH_STOP_STRING; /* the engine may have ended it for another reason */
    } else if (lane->want_text) {
        stop_finish(&lane->stops, &out->text);
    }
}

size_t output_bytes(const struct lane *lane)
{
    const struct lane_output *out = &lane->out;
    return out->text.n + out->tokens.n + logprobs_bytes(&out->logprobs) +
           logprobs_bytes(&out->prompt_logprobs) +
           (out->has_started || out->has_ended ? OUTPUT_END_BYTES : 0);
}

static Graft__V1__Logprobs *pack_logprobs(const struct logprob_list *list, struct arena *arena)
{
    if (list->tokens.n == 0) {
        return NULL;
    }
    Graft__V1__Logprobs *out = arena_alloc(arena, sizeof *out);
    graft__v1__logprobs__init(out);
    out->n_token_ids = count_of(&list->tokens);
    out->token_ids = (uint32_t *)(void *)list->tokens.data;
    out->n_logprobs = count_of(&list->values);
    out->logprobs = (float *)(void *)list->values.data;
    out->n_top_n = count_of(&list->top_n);
    out->top_n = (uint32_t *)(void *)list->top_n.data;
    out->n_top_token_ids = count_of(&list->top_tokens);
    out->top_token_ids = (uint32_t *)(void *)list->top_tokens.data;
    out->n_top_logprobs = count_of(&list->top_values);
    out->top_logprobs = (float *)(void *)list->top_values.data;
    return out;
}

static Graft__V1__Started *pack_started(const struct server_model *model, struct lane *lane,
                                        struct arena *arena)
{
    struct request *request = &lane->request;
    Graft__V1__Started *out = arena_alloc(arena, sizeof *out);
    graft__v1__started__init(out);
    out->request_id = request->id;
    out->model = (char *)model->name;
    out->prompt_tokens = request->token_n;
    out->seed = request->sampling.seed;
    out->adapters = arena_alloc(arena, request->adapter_n * sizeof(void *));
    out->n_adapters = request->adapter_n;
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        Graft__V1__ResolvedAdapter *adapter = arena_alloc(arena, sizeof *adapter);
        graft__v1__resolved_adapter__init(adapter);
        adapter->name = request->adapters[i].name;
        adapter->revision = request->revisions[i];
        adapter->weight = request->adapters[i].weight;
        out->adapters[i] = adapter;
    }
    return out;
}

static Graft__V1__Finish *pack_finish(const struct lane *lane, struct arena *arena)
{
    static const Graft__V1__FinishReason reasons[] = {
        [FINISH_EOS] = GRAFT__V1__FINISH_REASON__FINISH_REASON_EOS,
        [FINISH_STOP_TOKEN] = GRAFT__V1__FINISH_REASON__FINISH_REASON_STOP_TOKEN,
        [FINISH_STOP_STRING] = GRAFT__V1__FINISH_REASON__FINISH_REASON_STOP_STRING,
        [FINISH_LENGTH] = GRAFT__V1__FINISH_REASON__FINISH_REASON_LENGTH,
        [FINISH_CANCELLED] = GRAFT__V1__FINISH_REASON__FINISH_REASON_CANCELLED,
    };
    const struct lane_output *output = &lane->out;
    Graft__V1__Finish *out = arena_alloc(arena, sizeof *out);
    graft__v1__finish__init(out);
    out->reason = reasons[output->reason];
    if (output->reason == FINISH_STOP_STRING && output->stop_index >= 0) {
        out->matched_case = GRAFT__V1__FINISH__MATCHED_STOP;
        const struct stop_string *stop = &lane->stops.strings[output->stop_index];
        out->stop = arena_strndup(arena, stop->text, stop->n);
    } else if (output->reason == FINISH_EOS || output->reason == FINISH_STOP_TOKEN) {
        out->matched_case = GRAFT__V1__FINISH__MATCHED_TOKEN_ID;
        out->token_id = output->last_token;
    }
    return out;
}

static void pack_end(struct lane *lane, struct arena *arena, Graft__V1__GenerateResponse *out)
{
    const struct request_stats *stats = &lane->request.stats;
    out->finish = pack_finish(lane, arena);
    out->usage = arena_alloc(arena, sizeof *out->usage);
    graft__v1__usage__init(out->usage);
    out->usage->prompt_tokens = lane->request.token_n;
    out->usage->completion_tokens = lane->out.token_n;
    out->timing = arena_alloc(arena, sizeof *out->timing);
    graft__v1__timing__init(out->timing);
    out->timing->queue_ns = stats->queue_ns;
    out->timing->adapter_load_ns = stats->adapter_load_ns;
    out->timing->prefill_ns = stats->prefill_ns;
    out->timing->first_token_ns = stats->first_token_ns;
    out->timing->decode_ns = stats->decode_ns;
    out->timing->steps = stats->step_n;
    out->timing->preemptions = stats->preempt_n;
}

Graft__V1__GenerateResponse *output_pack(const struct server_model *model, struct lane *lane,
                                         struct arena *arena)
{
    struct lane_output *output = &lane->out;
    Graft__V1__GenerateResponse *out = arena_alloc(arena, sizeof *out);
    graft__v1__generate_response__init(out);
    out->n_token_ids = count_of(&output->tokens);
    out->token_ids = (uint32_t *)(void *)output->tokens.data;
    if (output->text.n > 0) {
        out->text = output->text.data;
    }
    out->logprobs = pack_logprobs(&output->logprobs, arena);
    out->prompt_logprobs = pack_logprobs(&output->prompt_logprobs, arena);
    if (output->has_started) {
        out->started = pack_started(model, lane, arena);
    }
    if (output->has_ended) {
        pack_end(lane, arena, out);
    }
    return out;
}

void output_clear(struct lane *lane)
{
    lane->out.has_started = false;
    buf_clear(&lane->out.text);
    buf_clear(&lane->out.tokens);
    logprobs_clear(&lane->out.logprobs);
    logprobs_clear(&lane->out.prompt_logprobs);
}
