/* graftctl generate: one streamed completion. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "ctl/ctl.h"
#include "graft/v1/inference.pb-c.h"

#define GENERATE_PATH "/graft.v1.InferenceService/Generate"

enum generate_option {
    OPT_ADAPTER = 256,
    OPT_CHAT,
    OPT_SYSTEM,
    OPT_MAX_TOKENS,
    OPT_MIN_TOKENS,
    OPT_STOP,
    OPT_STOP_TOKEN,
    OPT_IGNORE_EOS,
    OPT_TEMPERATURE,
    OPT_TOP_P,
    OPT_TOP_K,
    OPT_MIN_P,
    OPT_SEED,
    OPT_REPETITION,
    OPT_PRESENCE,
    OPT_FREQUENCY,
    OPT_LOGIT_BIAS,
    OPT_LOGPROBS,
    OPT_PROMPT_LOGPROBS,
    OPT_TOKEN_IDS,
    OPT_ECHO,
    OPT_REQUEST_ID,
    OPT_MODEL,
    OPT_FAIL_IF_COLD,
};

static const struct option generate_options[] = {
    {"adapter", required_argument, NULL, OPT_ADAPTER},
    {"chat", no_argument, NULL, OPT_CHAT},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"min-tokens", required_argument, NULL, OPT_MIN_TOKENS},
    {"stop", required_argument, NULL, OPT_STOP},
    {"stop-token", required_argument, NULL, OPT_STOP_TOKEN},
    {"ignore-eos", no_argument, NULL, OPT_IGNORE_EOS},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"top-k", required_argument, NULL, OPT_TOP_K},
    {"min-p", required_argument, NULL, OPT_MIN_P},
    {"seed", required_argument, NULL, OPT_SEED},
    {"repetition-penalty", required_argument, NULL, OPT_REPETITION},
    {"presence-penalty", required_argument, NULL, OPT_PRESENCE},
    {"frequency-penalty", required_argument, NULL, OPT_FREQUENCY},
    {"logit-bias", required_argument, NULL, OPT_LOGIT_BIAS},
    {"logprobs", required_argument, NULL, OPT_LOGPROBS},
    {"prompt-logprobs", required_argument, NULL, OPT_PROMPT_LOGPROBS},
    {"token-ids", no_argument, NULL, OPT_TOKEN_IDS},
    {"echo", no_argument, NULL, OPT_ECHO},
    {"request-id", required_argument, NULL, OPT_REQUEST_ID},
    {"model", required_argument, NULL, OPT_MODEL},
    {"fail-if-cold", no_argument, NULL, OPT_FAIL_IF_COLD},
    {NULL, 0, NULL, 0},
};

/* A request under construction; everything lives in the arena of ctl. */
struct generate {
    Graft__V1__GenerateRequest request;
    Graft__V1__Sampling sampling;
    Graft__V1__Stopping stopping;
    Graft__V1__Output output;
    bool is_chat;
    const char *system;
};

/* Room for one more pointer-sized or smaller item in a list of n. */
static void *generate_grow(struct ctl *ctl, const void *items, size_t n, size_t item_bytes)
{
    char *grown = arena_alloc(&ctl->arena, (n + 1) * item_bytes);
    if (n > 0) {
        memcpy(grown, items, n * item_bytes);
    }
    return grown;
}

/* NAME[:REVISION][@WEIGHT] */
static int generate_adapter(struct ctl *ctl, struct generate *g, const char *text)
{
    Graft__V1__AdapterRef *ref = arena_alloc(&ctl->arena, sizeof *ref);
    graft__v1__adapter_ref__init(ref);
    const char *at = strchr(text, '@');
    size_t name_n = at ? (size_t)(at - text) : strlen(text);
    const char *colon = memchr(text, ':', name_n);
    if (at) {
        if (!ctl_parse_real(at + 1, &ref->weight)) {
            return ctl_usage("--adapter %s: \"%s\" is no weight", text, at + 1);
        }
        ref->optional_weight_case = GRAFT__V1__ADAPTER_REF__OPTIONAL_WEIGHT_WEIGHT;
    }
    if (colon) {
        size_t head_n = (size_t)(colon - text);
        ref->revision = arena_strndup(&ctl->arena, colon + 1, name_n - head_n - 1);
        name_n = head_n;
    }
    ref->name = arena_strndup(&ctl->arena, text, name_n);
    g->request.adapters =
        generate_grow(ctl, g->request.adapters, g->request.n_adapters, sizeof(void *));
    g->request.adapters[g->request.n_adapters++] = ref;
    return 0;
}

/* ID=BIAS */
static int generate_bias(struct ctl *ctl, struct generate *g, const char *text)
{
    Graft__V1__Sampling__LogitBiasEntry *entry = arena_alloc(&ctl->arena, sizeof *entry);
    graft__v1__sampling__logit_bias_entry__init(entry);
    const char *equals = strchr(text, '=');
    uint64_t id = 0;
    if (!equals ||
        !ctl_parse_u64(arena_strndup(&ctl->arena, text, (size_t)(equals - text)), UINT32_MAX,
                       &id) ||
        !ctl_parse_real(equals + 1, &entry->value)) {
        return ctl_usage("--logit-bias is \"%s\", ID=BIAS is wanted", text);
    }
    entry->key = (uint32_t)id;
    g->sampling.logit_bias =
        generate_grow(ctl, g->sampling.logit_bias, g->sampling.n_logit_bias, sizeof(void *));
    g->sampling.logit_bias[g->sampling.n_logit_bias++] = entry;
    return 0;
}

/* Options with a real number. */
static int generate_real(struct generate *g, int option, const char *text)
{
    Graft__V1__Sampling *s = &g->sampling;
    float value;
    if (!ctl_parse_real(text, &value)) {
        return ctl_usage("\"%s\" is not a number", text);
    }
    switch (option) {
    case OPT_TEMPERATURE:
        s->temperature = value;
        s->optional_temperature_case = GRAFT__V1__SAMPLING__OPTIONAL_TEMPERATURE_TEMPERATURE;
        break;
    case OPT_TOP_P:
        s->top_p = value;
        s->optional_top_p_case = GRAFT__V1__SAMPLING__OPTIONAL_TOP_P_TOP_P;
        break;
    case OPT_MIN_P:
        s->min_p = value;
        s->optional_min_p_case = GRAFT__V1__SAMPLING__OPTIONAL_MIN_P_MIN_P;
        break;
    case OPT_REPETITION:
        s->repetition_penalty = value;
        s->optional_repetition_penalty_case =
            GRAFT__V1__SAMPLING__OPTIONAL_REPETITION_PENALTY_REPETITION_PENALTY;
        break;
    case OPT_PRESENCE:
        s->presence_penalty = value;
        break;
    default:
        s->frequency_penalty = value;
        break;
    }
    return 0;
}

/* Options with a whole number. */
static int generate_whole(struct ctl *ctl, struct generate *g, int option, const char *text)
{
    Graft__V1__Stopping *stopping = &g->stopping;
    uint64_t value;
    if (!ctl_parse_u64(text, option == OPT_SEED ? UINT64_MAX : UINT32_MAX, &value)) {
        return ctl_usage("\"%s\" is not a whole number", text);
    }
    switch (option) {
    case OPT_MAX_TOKENS:
        stopping->max_tokens = (uint32_t)value;
        stopping->optional_max_tokens_case = GRAFT__V1__STOPPING__OPTIONAL_MAX_TOKENS_MAX_TOKENS;
        break;
    case OPT_MIN_TOKENS:
        stopping->min_tokens = (uint32_t)value;
        break;
    case OPT_STOP_TOKEN:
        stopping->stop_token_ids = generate_grow(ctl, stopping->stop_token_ids,
                                                 stopping->n_stop_token_ids, sizeof(uint32_t));
        stopping->stop_token_ids[stopping->n_stop_token_ids++] = (uint32_t)value;
        break;
    case OPT_TOP_K:
        g->sampling.top_k = (uint32_t)value;
        g->sampling.optional_top_k_case = GRAFT__V1__SAMPLING__OPTIONAL_TOP_K_TOP_K;
        break;
    case OPT_SEED:
        g->sampling.seed = value;
        g->sampling.optional_seed_case = GRAFT__V1__SAMPLING__OPTIONAL_SEED_SEED;
        break;
    case OPT_LOGPROBS:
        g->output.top_logprobs = (uint32_t)value;
        g->output.optional_top_logprobs_case =
            GRAFT__V1__OUTPUT__OPTIONAL_TOP_LOGPROBS_TOP_LOGPROBS;
        break;
    default:
        g->output.prompt_logprobs = (uint32_t)value;
        g->output.optional_prompt_logprobs_case =
            GRAFT__V1__OUTPUT__OPTIONAL_PROMPT_LOGPROBS_PROMPT_LOGPROBS;
        break;
    }
    return 0;
}

static int generate_option(struct ctl *ctl, struct generate *g, int option, char *value)
{
    switch (option) {
    case OPT_ADAPTER:
        return generate_adapter(ctl, g, value);
    case OPT_LOGIT_BIAS:
        return generate_bias(ctl, g, value);
    case OPT_STOP:
        g->stopping.stop = generate_grow(ctl, g->stopping.stop, g->stopping.n_stop, sizeof(char *));
        g->stopping.stop[g->stopping.n_stop++] = value;
        return 0;
    case OPT_CHAT:
        g->is_chat = true;
        return 0;
    case OPT_SYSTEM:
        g->is_chat = true;
        g->system = value;
        return 0;
    case OPT_IGNORE_EOS:
        g->stopping.ignore_eos = 1;
        return 0;
    case OPT_TOKEN_IDS:
        g->output.token_ids = 1;
        return 0;
    case OPT_ECHO:
        g->output.echo = 1;
        return 0;
    case OPT_REQUEST_ID:
        g->request.request_id = value;
        return 0;
    case OPT_MODEL:
        g->request.model = value;
        return 0;
    case OPT_FAIL_IF_COLD:
        g->request.load_policy = GRAFT__V1__LOAD_POLICY__LOAD_POLICY_FAIL_IF_COLD;
        return 0;
    case OPT_TEMPERATURE:
    case OPT_TOP_P:
    case OPT_MIN_P:
    case OPT_REPETITION:
    case OPT_PRESENCE:
    case OPT_FREQUENCY:
        return generate_real(g, option, value);
    case '?':
        return ctl_usage("generate: unknown option");
    default:
        return generate_whole(ctl, g, option, value);
    }
}

static Graft__V1__ChatMessage *generate_message(struct ctl *ctl, const char *role,
                                                const char *content)
{
    Graft__V1__ChatMessage *m = arena_alloc(&ctl->arena, sizeof *m);
    graft__v1__chat_message__init(m);
    m->role = arena_strdup(&ctl->arena, role);
    m->content = arena_strdup(&ctl->arena, content);
    return m;
}

/* The prompt argument; "-" is all of standard input, at most what one message may hold. */
static void generate_prompt(struct ctl *ctl, struct generate *g, const char *argument)
{
    struct buf input = {0};
    char piece[4096];
    size_t n;
    if (strcmp(argument, "-") == 0) {
        while (input.n <= LIMIT_MESSAGE_BYTES && (n = fread(piece, 1, sizeof piece, stdin)) > 0) {
            buf_add(&input, piece, n);
        }
        argument = arena_strndup(&ctl->arena, input.n ? input.data : "", input.n);
        buf_done(&input);
    }
    if (!g->is_chat) {
        g->request.input_case = GRAFT__V1__GENERATE_REQUEST__INPUT_TEXT;
        g->request.text = arena_strdup(&ctl->arena, argument);
        return;
    }
    Graft__V1__Chat *chat = arena_alloc(&ctl->arena, sizeof *chat);
    graft__v1__chat__init(chat);
    chat->messages = arena_alloc(&ctl->arena, 2 * sizeof(void *));
    if (g->system) {
        chat->messages[chat->n_messages++] = generate_message(ctl, "system", g->system);
    }
    chat->messages[chat->n_messages++] = generate_message(ctl, "user", argument);
    g->request.input_case = GRAFT__V1__GENERATE_REQUEST__INPUT_CHAT;
    g->request.chat = chat;
}

static void generate_print_logprobs(const char *what, const Graft__V1__Logprobs *lp)
{
    size_t top = 0;
    for (size_t i = 0; lp && i < lp->n_token_ids; i++) {
        printf("%s %u %.6f", what, lp->token_ids[i],
               (double)(i < lp->n_logprobs ? lp->logprobs[i] : 0));
        for (uint32_t k = 0; i < lp->n_top_n && k < lp->top_n[i]; k++, top++) {
            printf(" %u:%.6f", lp->top_token_ids[top], (double)lp->top_logprobs[top]);
        }
        putchar('\n');
    }
}

static void generate_print(struct ctl *ctl, const struct generate *g,
                           const Graft__V1__GenerateResponse *r)
{
    if (ctl->is_json) {
        ctl_print_json(r);
        return;
    }
    generate_print_logprobs("prompt", r->prompt_logprobs);
    generate_print_logprobs("token", r->logprobs);
    if (!r->logprobs && g->output.token_ids) {
        for (size_t i = 0; i < r->n_token_ids; i++) {
            printf("%u ", r->token_ids[i]);
        }
    } else if (!r->logprobs) {
        fputs(r->text, stdout);
    }
    if (r->finish) {
        putchar('\n');
    }
    fflush(stdout);
}

int ctl_generate(struct ctl *ctl, int argc, char **argv)
{
    struct generate g = {0};
    struct rpc_failure failure = {0};
    graft__v1__generate_request__init(&g.request);
    graft__v1__sampling__init(&g.sampling);
    graft__v1__stopping__init(&g.stopping);
    graft__v1__output__init(&g.output);
    g.request.sampling = &g.sampling;
    g.request.stopping = &g.stopping;
    g.request.output = &g.output;
    int option;
    while ((option = getopt_long(argc, argv, "", generate_options, NULL)) != -1) {
        int rc = generate_option(ctl, &g, option, optarg);
        if (rc) {
            return rc;
        }
    }
    if (argc - optind != 1) {
        return ctl_usage("generate: exactly one PROMPT is wanted, %d are given", argc - optind);
    }
    generate_prompt(ctl, &g, argv[optind]);
    struct rpc_client_call *call = rpc_client_stream(ctl->client, GENERATE_PATH, &g.request.base,
                                                     &graft__v1__generate_response__descriptor);
    ProtobufCMessage *message;
    while ((message = rpc_client_next(call, &ctl->arena, &failure))) {
        generate_print(ctl, &g, (const Graft__V1__GenerateResponse *)message);
    }
    rpc_client_call_close(call);
    return failure.grpc_code ? ctl_failed(ctl, &failure) : CTL_OK;
}
