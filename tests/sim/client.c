/* See client.h. */
#include "tests/test.h"

#include "tests/sim/client.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/clock.h"
#include "kernels/random.h"
#include "tests/sim/fake_model.h"

uint64_t dice_u64(struct dice *dice)
{
    dice->state += 0x9E3779B97F4A7C15u;
    return kern_mix64(kern_mix64(dice->state));
}

uint32_t dice_below(struct dice *dice, uint32_t n)
{
    return (uint32_t)(dice_u64(dice) % n);
}

bool dice_one_in(struct dice *dice, uint32_t n)
{
    return dice_below(dice, n) == 0;
}

void client_adapter_name(uint32_t index, char name[LIMIT_ADAPTER_NAME_BYTES])
{
    snprintf(name, LIMIT_ADAPTER_NAME_BYTES, "a%u", index);
}

bool client_has_rows(const char *name)
{
    return name[1] != '5';
}

bool client_has_states(const char *name)
{
    return name[1] == '5' || name[1] == '6';
}

static void make_adapters(struct request *request, struct dice *dice)
{
    static const float weights[] = {1, 0.5f, -1, 0, 2, 1};
    uint32_t first = dice_below(dice, CLIENT_NAMES - 1);
    request->adapter_n = dice_below(dice, 4);
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        struct request_adapter *adapter = &request->adapters[i];
        uint32_t name = (first + i) % (CLIENT_NAMES - 1);
        client_adapter_name(dice_one_in(dice, 60) ? CLIENT_NAMES - 1 : name, adapter->name);
        adapter->weight = weights[dice_below(dice, ARRAY_N(weights))];
    }
    request->load_policy = dice_one_in(dice, 6) ? LOAD_FAIL_IF_COLD : LOAD_WAIT;
}

static void make_sampling(struct client *client, struct dice *dice)
{
    struct request *request = &client->request;
    request->sampling = (struct sampling){
        .temperature = (float)dice_below(dice, 3),
        .top_p = 1,
        .top_k = dice_below(dice, 5),
        .repetition_penalty = dice_one_in(dice, 5) ? 1.25f : 1,
        .presence_penalty = dice_one_in(dice, 6) ? 0.5f : 0,
        .frequency_penalty = dice_one_in(dice, 6) ? -0.5f : 0,
        .seed = dice_u64(dice),
    };
    request->bias_n = dice_below(dice, ARRAY_N(client->biases) + 1);
    request->biases = client->biases;
    for (uint32_t i = 0; i < request->bias_n; i++) {
        /* some of them are ending tokens, too */
        client->biases[i] = (struct logit_bias){i * 3 + 1, (float)dice_below(dice, 9) - 4};
    }
    request->top_logprobs = (int32_t)dice_below(dice, 4) - 1;
    request->prompt_logprobs = dice_one_in(dice, 4) ? (int32_t)dice_below(dice, 3) : -1;
}

void client_make(struct client *client, struct dice *dice, uint64_t key, int64_t now_ns)
{
    struct request *request = &client->request;
    *client = (struct client){.is_sent = true};
    request->key = key;
    snprintf(request->id, sizeof request->id, "request-%u", (unsigned)key);
    request->owner = client;
    request->tokens = client->prompt;
    request->token_n = 1 + dice_below(dice, dice_one_in(dice, 3) ? CLIENT_PROMPT_MAX : 70);
    for (uint32_t i = 0; i < request->token_n; i++) {
        client->prompt[i] = dice_below(dice, FAKE_VOCAB);
        client->history[i] = client->prompt[i];
    }
    request->max_tokens = 1 + dice_below(dice, dice_one_in(dice, 2) ? CLIENT_TOKENS_MAX : 40);
    request->min_tokens = dice_one_in(dice, 3) ? dice_below(dice, request->max_tokens + 1) : 0;
    request->eos_n = dice_one_in(dice, 3) ? dice_below(dice, 3) : 0;
    request->stop_n = dice_one_in(dice, 3) ? dice_below(dice, 3) : 0;
    for (uint32_t i = 0; i < 2; i++) {
        request->eos_tokens[i] = 4 + i;
        request->stop_tokens[i] = 5 + i * 2; /* 5 is both */
    }
    make_sampling(client, dice);
    make_adapters(request, dice);
    request->arrival_ns = now_ns;
    request->deadline_ns = CLOCK_NEVER;
    if (dice_one_in(dice, 10)) {
        request->deadline_ns = now_ns + dice_below(dice, 60) * CLOCK_NS_PER_MS;
    }
}

/* A fake revision is its content number in hexadecimal. */
static void check_started(struct client *client)
{
    const struct request *request = &client->request;
    uint32_t state_n = 0;
    assert_false(client->is_started);
    client->is_started = true;
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        const struct request_adapter *adapter = &request->adapters[i];
        uint64_t content = strtoull(request->revisions[i], NULL, 16);
        assert_true(content != 0);
        if (adapter->weight != 0 && client_has_rows(adapter->name)) {
            client->adapters = fake_adapters(client->adapters, content, adapter->weight);
        }
        if (adapter->weight != 0 && client_has_states(adapter->name)) {
            client->state = fake_state(content, adapter->weight);
        }
        state_n += client_has_states(adapter->name);
    }
    assert_true(state_n <= 1); /* else it was refused */
}

static void fold_to(struct client *client, uint32_t n)
{
    for (; client->folded_n < n; client->folded_n++) {
        uint32_t pos = client->folded_n;
        uint64_t entry = fake_entry(client->history[pos], pos, client->adapters + client->state);
        client->fold = fake_fold(client->fold, entry);
    }
}

static void check_token(const struct event *event, const struct batch_token *want, int32_t top)
{
    assert_int_equal(event->token.token, want->token);
    assert_true(event->token.logprob == (top >= 0 ? want->logprob : 0));
    assert_int_equal(event->top_n, top >= 0 ? top : 0);
    for (uint32_t i = 0; i < event->top_n; i++) {
        assert_int_equal(event->top[i].token, want->top_tokens[i]);
        assert_true(event->top[i].logprob == want->top_logprobs[i]);
    }
}

static void check_prompt_token(struct client *client, const struct event *event)
{
    const struct request *request = &client->request;
    uint32_t pos = ++client->prompt_seen_n;
    assert_true(client->is_started && client->token_seen_n == 0);
    assert_true(request->prompt_logprobs >= 0 && pos < request->token_n);
    fold_to(client, pos);
    struct batch_token want =
        fake_score(client->fold, client->prompt[pos], (uint32_t)request->prompt_logprobs);
    check_token(event, &want, request->prompt_logprobs);
}

static bool has_token(const uint32_t *tokens, uint32_t n, uint32_t token)
{
    bool is_in = false;
    for (uint32_t i = 0; i < n; i++) {
        is_in = is_in || tokens[i] == token;
    }
    return is_in;
}

static bool is_ending(const struct request *request, uint32_t token)
{
    return has_token(request->eos_tokens, request->eos_n, token) ||
           has_token(request->stop_tokens, request->stop_n, token);
}

/* The biases that the sample must have had, in another order than the engine's. */
static uint32_t want_biases(const struct client *client, struct batch_bias *out)
{
    const struct request *request = &client->request;
    bool is_young = client->token_seen_n < request->min_tokens;
    uint32_t n = 0;
    for (uint32_t token = 0; token < FAKE_VOCAB; token++) {
        bool is_forbidden = is_young && is_ending(request, token);
        if (is_forbidden) {
            out[n++] = (struct batch_bias){token, -INFINITY};
        }
        for (uint32_t i = 0; i < request->bias_n && !is_forbidden; i++) {
            if (request->biases[i].token == token) {
                out[n++] = (struct batch_bias){token, request->biases[i].bias};
            }
        }
    }
    return n;
}

static void check_generated(struct client *client, const struct event *event)
{
    const struct request *request = &client->request;
    const struct sampling *s = &request->sampling;
    uint32_t known_n = request->token_n + client->token_seen_n;
    struct batch_bias biases[FAKE_VOCAB];
    bool has_penalty =
        s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    struct batch_sample sample = {
        .pos = known_n,
        .temperature = s->temperature,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .top_k = s->top_k,
        .repetition_penalty = s->repetition_penalty,
        .presence_penalty = s->presence_penalty,
        .frequency_penalty = s->frequency_penalty,
        .seed = s->seed,
        .top_logprobs = request->top_logprobs,
        .bias_n = want_biases(client, biases),
        .hist_n = has_penalty ? known_n : 0,
        .hist_prompt_n = has_penalty ? request->token_n : 0,
    };
    assert_true(client->is_started && client->token_seen_n < request->max_tokens);
    assert_int_equal(client->prompt_seen_n,
                     request->prompt_logprobs >= 0 ? request->token_n - 1 : 0);
    fold_to(client, known_n);
    struct batch_token want = fake_sample(client->fold, &sample, biases, client->history);
    check_token(event, &want, request->top_logprobs);
    client->history[known_n] = event->token.token;
    client->token_seen_n++;
}

static void check_finished(const struct client *client, const struct event *event)
{
    const struct request *request = &client->request;
    uint32_t newest = client->history[request->token_n + client->token_seen_n - 1];
    assert_int_equal(request->stats.token_n, client->token_seen_n);
    if (event->reason == FINISH_CANCELLED) {
        assert_true(client->is_cancelled);
        return;
    }
    if (event->reason == FINISH_STOP_STRING) {
        assert_true(client->is_stopped);
        return;
    }
    assert_true(client->token_seen_n > 0);
    assert_true(client->token_seen_n > request->min_tokens || event->reason == FINISH_LENGTH);
    bool is_eos = has_token(request->eos_tokens, request->eos_n, newest);
    bool is_stop = has_token(request->stop_tokens, request->stop_n, newest);
    if (event->reason == FINISH_LENGTH) {
        assert_true(client->token_seen_n == request->max_tokens && !is_eos && !is_stop);
    } else {
        assert_true(event->reason == FINISH_EOS ? is_eos : is_stop && !is_eos);
    }
}

/* Refused for asking for more than one beginning. */
static void check_states(const struct client *client)
{
    const struct request *request = &client->request;
    const char *text = request->err.text;
    uint32_t state_n = 0;
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        bool has_states = client_has_states(request->adapters[i].name);
        assert_true(!has_states || strstr(text, request->adapters[i].name));
        state_n += has_states;
    }
    assert_int_equal(state_n, 2);
}

static void check_failed(const struct client *client)
{
    static const int codes[] = {
        ERR_QUEUE_FULL,      ERR_KV_MEMORY_EXHAUSTED, ERR_ADAPTER_MEMORY_EXHAUSTED,
        ERR_DRAINING,        ERR_DEADLINE_EXCEEDED,   ERR_DEVICE_FAILURE,
        ERR_ADAPTER_LOADING, ERR_ADAPTER_NOT_FOUND,   ERR_BAD_FILE,
    };
    const struct err *err = &client->request.err;
    bool is_known = err->code == ERR_INVALID_PARAMETER;
    if (is_known) {
        check_states(client);
    }
    for (size_t i = 0; i < ARRAY_N(codes); i++) {
        is_known = is_known || codes[i] == err->code;
    }
    assert_true(is_known && err->text[0]);
    if (client->is_started) {
        assert_true(err->code == ERR_DEADLINE_EXCEEDED || err->code == ERR_DEVICE_FAILURE);
    }
}

void client_check(struct client *client, const struct event *event)
{
    assert_true(client->is_sent && !client->is_ended);
    switch (event->type) {
    case EVENT_STARTED:
        check_started(client);
        break;
    case EVENT_PROMPT_TOKEN:
        check_prompt_token(client, event);
        break;
    case EVENT_TOKEN:
        check_generated(client, event);
        break;
    case EVENT_FINISHED:
        check_finished(client, event);
        client->is_ended = true;
        break;
    case EVENT_FAILED:
        check_failed(client);
        client->is_ended = true;
        break;
    default:
        fail_msg("event type %d for a request", event->type);
    }
}
