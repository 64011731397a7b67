/* graftctl: global options, the address, and the table of commands. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "ctl/ctl.h"

static const char ctl_help[] =
    "usage: graftctl [--address ADDR] [--timeout SECONDS] [--json] COMMAND ...\n"
    "\n"
    "  generate [OPTIONS] PROMPT   stream a completion; PROMPT '-' reads standard input\n"
    "      --adapter NAME[:REVISION][@WEIGHT]   repeatable, applied in order; weight 1 by default\n"
    "      --chat, --system TEXT        send PROMPT as a user message (after a system message)\n"
    "      --max-tokens N --min-tokens N --stop TEXT --stop-token ID --ignore-eos\n"
    "      --temperature F --top-p F --top-k N --min-p F --seed N\n"
    "      --repetition-penalty F --presence-penalty F --frequency-penalty F\n"
    "      --logit-bias ID=F --logprobs N --prompt-logprobs N --token-ids --echo\n"
    "      --request-id ID --model NAME --fail-if-cold\n"
    "  adapters list               what is in the adapter root, and what is loaded\n"
    "  adapters get|load|unload NAME\n"
    "  model                       the resident model\n"
    "  tokenize [--no-special] [--chat] TEXT\n"
    "  health [SERVICE]            exit status 0 when it serves\n"
    "\n"
    "ADDR is unix:PATH or tcp://HOST:PORT; default: $GRAFTD_ADDRESS, else graftd.sock in\n"
    "$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or /run/graftd.\n";

static const struct {
    const char *name;
    int (*run)(struct ctl *ctl, int argc, char **argv);
} ctl_commands[] = {
    {"generate", ctl_generate}, {"adapters", ctl_adapters}, {"model", ctl_model},
    {"tokenize", ctl_tokenize}, {"health", ctl_health},
};

int ctl_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("graftctl: ", stderr);
    vfprintf(stderr, fmt, args);
    fputs("\nTry 'graftctl --help'.\n", stderr);
    va_end(args);
    return CTL_USAGE;
}

/* What a person can do about a failure, by its reason or status. */
static const char *ctl_advice(const struct rpc_failure *failure)
{
    static const struct {
        const char *reason;
        const char *advice;
    } table[] = {
        {"ADAPTER_NOT_FOUND", "`graftctl adapters list` shows what there is"},
        {"MODEL_NOT_FOUND", "`graftctl model` shows the served name; leave --model out"},
        {"ADAPTER_INCOMPATIBLE", "The adapter was made for another base model"},
        {"CONTEXT_LENGTH_EXCEEDED", "Shorten the prompt or lower --max-tokens"},
        {"STARTING", "The model is still loading; try again in a moment"},
        {"DRAINING", "The server is stopping; use another one or wait for its restart"},
        {"QUEUE_FULL", "The server has too much to do; try again later"},
        {"ADAPTER_LOADING", "Leave --fail-if-cold out to wait for the adapter"},
        {"ADAPTER_MEMORY_EXHAUSTED", "Start graftd with a larger --adapter-memory"},
        {"KV_MEMORY_EXHAUSTED", "Lower --max-tokens, or start graftd with a larger --kv-memory"},
        {"REQUEST_EXISTS", "Choose another --request-id"},
    };
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        if (strcmp(failure->reason, table[i].reason) == 0) {
            return table[i].advice;
        }
    }
    return NULL;
}

int ctl_failed(const struct ctl *ctl, const struct rpc_failure *failure)
{
    const char *advice = ctl_advice(failure);
    fflush(stdout);
    if (failure->grpc_code == 14 && failure->reason[0] == '\0') {
        fprintf(stderr,
                "graftctl: could not reach graftd at %s: %s\n"
                "Is it running there? Start it with `graftd --model DIR`, or name its address with "
                "--address or $GRAFTD_ADDRESS.\n",
                ctl->address, failure->message);
        return CTL_FAILED;
    }
    fprintf(stderr, "graftctl: %s: %s\n", rpc_code_name(failure->grpc_code), failure->message);
    if (advice) {
        fprintf(stderr, "%s.\n", advice);
    }
    return CTL_FAILED;
}

void *ctl_call(struct ctl *ctl, const char *path, const void *request,
               const ProtobufCMessageDescriptor *type)
{
    struct rpc_failure failure = {0};
    ProtobufCMessage *answer =
        rpc_client_unary(ctl->client, path, request, type, &ctl->arena, &failure);
    if (!answer) {
        ctl_failed(ctl, &failure);
    }
    return answer;
}

bool ctl_parse_u64(const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || n > max) {
        return false;
    }
    *out = n;
    return true;
}

bool ctl_parse_real(const char *text, float *out)
{
    char *end;
    float f = strtof(text, &end);
    if (end == text || *end || isnan(f)) {
        return false;
    }
    *out = f;
    return true;
}

/* The first of the usual places that exists, else the last one. */
static const char *ctl_default_address(struct arena *arena)
{
    static const char *const folders[] = {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"};
    const char *address = getenv("GRAFTD_ADDRESS");
    char path[4096];
    if (address && address[0]) {
        return address;
    }
    for (size_t i = 0; i < ARRAY_N(folders); i++) {
        const char *folder = getenv(folders[i]);
        if (folder && folder[0]) {
            snprintf(path, sizeof path, "unix:%s/graftd.sock", folder);
            if (access(path + strlen("unix:"), F_OK) == 0) {
                return arena_strdup(arena, path);
            }
        }
    }
    return "unix:/run/graftd/graftd.sock";
}

/* Reads the options before the command; returns the exit status or -1 to go on. */
static int ctl_global_options(struct ctl *ctl, int argc, char **argv, float *timeout_s)
{
    static const struct option options[] = {
        {"address", required_argument, NULL, 'a'}, {"timeout", required_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},          {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},       {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
        if (c == 'a') {
            ctl->address = optarg;
        } else if (c == 't') {
            if (!ctl_parse_real(optarg, timeout_s) || *timeout_s <= 0) {
                return ctl_usage("--timeout is \"%s\", a number of seconds above 0 is wanted",
                                 optarg);
            }
        } else if (c == 'j') {
            ctl->is_json = true;
        } else if (c == 'h') {
            fputs(ctl_help, stdout);
            return CTL_OK;
        } else if (c == 'v') {
            puts("graftctl " GRAFTD_VERSION);
            return CTL_OK;
        } else {
            return ctl_usage("unknown option");
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct ctl ctl = {0};
    struct err err = {0};
    float timeout_s = -1;
    arena_init(&ctl.arena);
    int status = ctl_global_options(&ctl, argc, argv, &timeout_s);
    if (status >= 0) {
        return status;
    }
    if (optind == argc) {
        fputs(ctl_help, stderr);
        return CTL_USAGE;
    }
    const char *command = argv[optind];
    status = -1;
    for (size_t i = 0; i < ARRAY_N(ctl_commands); i++) {
        if (strcmp(command, ctl_commands[i].name) != 0) {
            continue;
        }
        argc -= optind;
        argv += optind;
        optind = 0; /* getopt starts anew behind the command */
        if (!ctl.address) {
            ctl.address = ctl_default_address(&ctl.arena);
        }
        if (rpc_client_open(ctl.address, &ctl.client, &err)) {
            return ctl_usage("%s", err.text);
        }
        if (timeout_s > 0) {
            rpc_client_set_timeout(ctl.client, (int64_t)((double)timeout_s * CLOCK_NS_PER_S));
        }
        status = ctl_commands[i].run(&ctl, argc, argv);
        break;
    }
    if (status < 0) {
        status = ctl_usage("unknown command \"%s\"", command);
    }
    rpc_client_close(ctl.client);
    arena_done(&ctl.arena);
    return status;
}
