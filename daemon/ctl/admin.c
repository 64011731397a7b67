/* graftctl adapters, model, tokenize, health: one unary call each, printed as a table. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "ctl/ctl.h"
#include "graft/v1/adapter.pb-c.h"
#include "graft/v1/model.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#define ADAPTER_SERVICE "/graft.v1.AdapterService/"
#define MODEL_SERVICE   "/graft.v1.ModelService/"
#define HEALTH_CHECK    "/grpc.health.v1.Health/Check"

/* "12.3 MB" into text. */
static const char *admin_bytes(uint64_t bytes, char text[24])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1000 && unit + 1 < ARRAY_N(units)) {
        value /= 1000;
        unit++;
    }
    snprintf(text, 24, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

/* The word behind ADAPTER_STATE_. */
static const char *admin_state(Graft__V1__AdapterState state)
{
    const ProtobufCEnumValue *word =
        protobuf_c_enum_descriptor_get_value(&graft__v1__adapter_state__descriptor, (int)state);
    return word ? word->name + strlen("ADAPTER_STATE_") : "?";
}

static void admin_print_adapter(const Graft__V1__Adapter *a)
{
    char bytes[24];
    char when[32] = "never";
    if (a->loaded_unix_ms > 0) {
        time_t seconds = (time_t)(a->loaded_unix_ms / 1000);
        struct tm tm;
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
    }
    printf("name        %s\n", a->name);
    printf("state       %s%s\n", admin_state(a->state), a->loading ? " (loading)" : "");
    printf("kind        %s\n", a->kind[0] ? a->kind : "-");
    printf("revision    %s\n", a->revision[0] ? a->revision : "-");
    printf("rank        %u\n", a->rank_max);
    printf("modules     %u of %u\n", a->modules_applied, a->modules_total);
    printf("device      %s\n", admin_bytes(a->device_bytes, bytes));
    printf("host        %s\n", admin_bytes(a->host_bytes, bytes));
    printf("requests    %u running, %u waiting, %u older versions held\n", a->active_requests,
           a->queued_requests, a->retiring_versions);
    printf("loaded      %s, %" PRIu64 " times\n", when, a->loads);
    printf("conversion  %.3g\n", (double)a->conversion_error);
    if (a->last_error[0]) {
        printf("last error  %s\n", a->last_error);
    }
}

static int admin_list(struct ctl *ctl)
{
    Graft__V1__ListAdaptersRequest request = GRAFT__V1__LIST_ADAPTERS_REQUEST__INIT;
    const Graft__V1__ListAdaptersResponse *answer =
        ctl_call(ctl, ADAPTER_SERVICE "ListAdapters", &request,
                 &graft__v1__list_adapters_response__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(answer);
        return CTL_OK;
    }
    printf("%-24s %-11s %-6s %5s %10s %7s %7s  %s\n", "NAME", "STATE", "KIND", "RANK", "DEVICE",
           "RUNNING", "WAITING", "REVISION");
    for (size_t i = 0; i < answer->n_adapters; i++) {
        const Graft__V1__Adapter *a = answer->adapters[i];
        char bytes[24];
        printf("%-24s %-11s %-6s %5u %10s %7u %7u  %.12s\n", a->name, admin_state(a->state),
               a->kind[0] ? a->kind : "-", a->rank_max, admin_bytes(a->device_bytes, bytes),
               a->active_requests, a->queued_requests, a->revision[0] ? a->revision : "-");
    }
    return CTL_OK;
}

static int admin_get(struct ctl *ctl, char *name)
{
    Graft__V1__GetAdapterRequest request = GRAFT__V1__GET_ADAPTER_REQUEST__INIT;
    request.name = name;
    const Graft__V1__Adapter *answer =
        ctl_call(ctl, ADAPTER_SERVICE "GetAdapter", &request, &graft__v1__adapter__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(answer);
    } else {
        admin_print_adapter(answer);
    }
    return CTL_OK;
}

static int admin_load(struct ctl *ctl, char *name)
{
    Graft__V1__LoadAdapterRequest request = GRAFT__V1__LOAD_ADAPTER_REQUEST__INIT;
    request.name = name;
    const Graft__V1__LoadAdapterResponse *answer =
        ctl_call(ctl, ADAPTER_SERVICE "LoadAdapter", &request,
                 &graft__v1__load_adapter_response__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(answer);
    } else {
        puts(answer->unchanged ? "unchanged: this content is serving already" : "loaded");
        admin_print_adapter(answer->adapter);
    }
    return CTL_OK;
}

static int admin_unload(struct ctl *ctl, char *name)
{
    Graft__V1__UnloadAdapterRequest request = GRAFT__V1__UNLOAD_ADAPTER_REQUEST__INIT;
    request.name = name;
    const Graft__V1__UnloadAdapterResponse *answer =
        ctl_call(ctl, ADAPTER_SERVICE "UnloadAdapter", &request,
                 &graft__v1__unload_adapter_response__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(answer);
    } else {
        admin_print_adapter(answer->adapter);
    }
    return CTL_OK;
}

int ctl_adapters(struct ctl *ctl, int argc, char **argv)
{
    static const struct {
        const char *verb;
        int (*run)(struct ctl *ctl, char *name);
    } verbs[] = {{"get", admin_get}, {"load", admin_load}, {"unload", admin_unload}};
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        return admin_list(ctl);
    }
    for (size_t i = 0; argc == 3 && i < ARRAY_N(verbs); i++) {
        if (strcmp(argv[1], verbs[i].verb) == 0) {
            return verbs[i].run(ctl, argv[2]);
        }
    }
    return ctl_usage("adapters: 'list', 'get NAME', 'load NAME' or 'unload NAME' is wanted");
}

int ctl_model(struct ctl *ctl, int argc, char **argv)
{
    Graft__V1__GetModelRequest request = GRAFT__V1__GET_MODEL_REQUEST__INIT;
    char bytes[24];
    if (argc != 1) {
        return ctl_usage("model: takes no argument, \"%s\" is given", argv[1]);
    }
    const Graft__V1__Model *m =
        ctl_call(ctl, MODEL_SERVICE "GetModel", &request, &graft__v1__model__descriptor);
    if (!m) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(m);
        return CTL_OK;
    }
    printf("name          %s\n", m->name);
    printf("architecture  %s (%s)\n", m->architecture, m->family);
    printf("fingerprint   %s\n", m->fingerprint);
    printf("weights       %s, %s\n", m->dtype, admin_bytes(m->weight_bytes, bytes));
    printf("backend       %s, %s, %u threads\n", m->backend, m->isa, m->threads);
    printf("vocabulary    %u\n", m->vocab_size);
    printf("context       %u tokens\n", m->context_tokens);
    printf("KV cache      %" PRIu64 " tokens, %u sequences at once\n", m->kv_tokens,
           m->max_sequences);
    printf("adapters      %s for them, %u a request\n", admin_bytes(m->adapter_bytes_max, bytes),
           m->request_adapters_max);
    printf("chat          %s\n", m->chat_format[0] ? m->chat_format : "no format: refused");
    if (m->chat_note[0]) {
        printf("              %s\n", m->chat_note);
    }
    printf("saturated     %" PRIu64 " values beyond fp16\n", m->saturated_values);
    printf("daemon        %s\n", m->version);
    return CTL_OK;
}

int ctl_tokenize(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {{"no-special", no_argument, NULL, 'n'},
                                            {"chat", no_argument, NULL, 'c'},
                                            {NULL, 0, NULL, 0}};
    Graft__V1__TokenizeRequest request = GRAFT__V1__TOKENIZE_REQUEST__INIT;
    Graft__V1__ChatMessage message = GRAFT__V1__CHAT_MESSAGE__INIT;
    Graft__V1__ChatMessage *messages[] = {&message};
    Graft__V1__Chat chat = GRAFT__V1__CHAT__INIT;
    char role[] = "user";
    bool is_chat = false;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'n') {
            request.optional_add_special_case =
                GRAFT__V1__TOKENIZE_REQUEST__OPTIONAL_ADD_SPECIAL_ADD_SPECIAL;
            request.add_special = 0;
        } else if (c == 'c') {
            is_chat = true;
        } else {
            return ctl_usage("tokenize: unknown option");
        }
    }
    if (argc - optind != 1) {
        return ctl_usage("tokenize: exactly one TEXT is wanted, %d are given", argc - optind);
    }
    request.input_case = GRAFT__V1__TOKENIZE_REQUEST__INPUT_TEXT;
    request.text = argv[optind];
    if (is_chat) {
        message.role = role;
        message.content = argv[optind];
        chat.messages = messages;
        chat.n_messages = 1;
        request.input_case = GRAFT__V1__TOKENIZE_REQUEST__INPUT_CHAT;
        request.chat = &chat;
    }
    const Graft__V1__TokenizeResponse *answer = ctl_call(ctl, MODEL_SERVICE "Tokenize", &request,
                                                         &graft__v1__tokenize_response__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    if (ctl->is_json) {
        ctl_print_json(answer);
        return CTL_OK;
    }
    for (size_t i = 0; i < answer->n_token_ids; i++) {
        printf(i ? " %u" : "%u", answer->token_ids[i]);
    }
    putchar('\n');
    return CTL_OK;
}

int ctl_health(struct ctl *ctl, int argc, char **argv)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    if (argc > 2) {
        return ctl_usage("health: at most one SERVICE is wanted");
    }
    if (argc == 2) {
        request.service = argv[1];
    }
    const Grpc__Health__V1__HealthCheckResponse *answer =
        ctl_call(ctl, HEALTH_CHECK, &request, &grpc__health__v1__health_check_response__descriptor);
    if (!answer) {
        return CTL_FAILED;
    }
    bool is_serving =
        answer->status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    if (ctl->is_json) {
        ctl_print_json(answer);
    } else {
        puts(is_serving ? "SERVING" : "NOT_SERVING");
    }
    return is_serving ? CTL_OK : CTL_FAILED;
}
