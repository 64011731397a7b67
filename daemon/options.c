/* The table, values with their units, the command line, and the two ways to print it all. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "options_file.h"

enum option_type {
    OPTION_STR,      /* any text, or one that `is_valid` takes */
    OPTION_CHOICE,   /* one of the words in `words` */
    OPTION_LIST,     /* may be given several times */
    OPTION_BOOL,     /* a flag alone, or true and false */
    OPTION_NUMBER,   /* min to max */
    OPTION_SIZE,     /* bytes, KiB, MiB, GiB, TiB */
    OPTION_DURATION, /* ms, s, m, h */
};

struct option {
    const char *key;
    const char *section;
    enum option_type type;
    size_t offset;
    const char *words; /* "auto|cpu|ref" */
    uint64_t min, max;
    const char *meaning;
    bool (*is_valid)(const char *value);
    const char *wanted; /* "must be ..." */
};

static bool is_gpu_memory(const char *value);
static bool is_weights(const char *value);
static bool is_device_list(const char *value);

#define AT(member) offsetof(struct options, member)

static const struct option option_table[] = {
    {"model", "model", OPTION_STR, AT(model), "DIR", 0, 0,
     "Hugging Face directory of the base model"},
    {"model-name", "model", OPTION_STR, AT(model_name), "NAME", 0, 0,
     "what requests call it (default: the directory's name)"},
    {"dtype", "model", OPTION_CHOICE, AT(dtype), "auto|bf16|f32", 0, 0,
     "type the weights are held in (auto: as the checkpoint)"},
    {"weights", "model", OPTION_STR, AT(weights), "checkpoint|random:SEED", 0, 0,
     "random:SEED makes weights up from config.json, for measuring", is_weights,
     "checkpoint, or random: and a number"},
    {"max-context", "model", OPTION_NUMBER, AT(context_max), "N", 0, LIMIT_CONTEXT,
     "positions of one sequence (default: the model's)"},
    {"adapters", "adapters", OPTION_STR, AT(adapters), "DIR", 0, 0,
     "adapter root: one folder per adapter"},
    {"listen", "server", OPTION_LIST, AT(listen), "ADDRESS", 0, 0,
     "unix:PATH or tcp://HOST:PORT; may be repeated"},
    {"insecure-tcp", "server", OPTION_BOOL, AT(is_tcp_open), NULL, 0, 0,
     "let TCP bind addresses that other machines reach: nothing is authenticated"},
    {"drain-timeout", "server", OPTION_DURATION, AT(drain_timeout_ns), "DURATION", 0, 0,
     "how long running requests may go on after SIGTERM (default 120s)"},
    {"backend", "engine", OPTION_CHOICE, AT(backend), "auto|cpu|cuda|ref", 0, 0,
     "implementation of the kernels (auto: cuda where it can run, else cpu)"},
    {"devices", "engine", OPTION_STR, AT(devices), "N", 0, 0,
     "index of the GPU, as graftd --check counts them (default 0)", is_device_list,
     "a number, or several with commas between"},
    {"isa", "engine", OPTION_CHOICE, AT(isa), "auto|portable|avx2|avx512|avx512bf16|amx", 0, 0,
     "instruction set of the CPU kernels"},
    {"threads", "engine", OPTION_NUMBER, AT(thread_n), "N", 1, LIMIT_THREADS,
     "threads that compute (default: the affinity mask, capped by the quota)"},
    {"max-sequences", "engine", OPTION_NUMBER, AT(sequence_max), "N", 1, LIMIT_SEQUENCES,
     "requests in one batch (default 64)"},
    {"gpu-memory", "memory", OPTION_STR, AT(gpu_memory), "SHARE|SIZE", 0, 0,
     "of the GPU's free memory, for everything (default 0.9)", is_gpu_memory,
     "a share such as 0.9 or 90%, or a size such as 64MiB (B, KiB, MiB, GiB, TiB)"},
    {"kv-memory", "memory", OPTION_SIZE, AT(kv_bytes), "SIZE", 0, 0,
     "for the KV cache (default: a quarter of what the weights leave; most of it on a GPU)"},
    {"adapter-memory", "memory", OPTION_SIZE, AT(adapter_bytes), "SIZE", 0, 0,
     "for adapters (default: an eighth of what the weights leave; a fifth on a GPU)"},
    {"log-level", "log", OPTION_CHOICE, AT(log_level), "error|warn|info|debug", 0, 0,
     "least important lines to print (default info)"},
    {"log-format", "log", OPTION_CHOICE, AT(log_format), "text|json", 0, 0, "form of a line"},
};

/* Flags that are not settings. */
static const struct {
    const char *key;
    enum options_action action;
    const char *meaning;
} option_actions[] = {
    {"check", OPTIONS_CHECK, "print what this machine offers, and exit"},
    {"check-config", OPTIONS_CHECK_CONFIG, "say whether the configuration is sound, and exit"},
    {"dump-config", OPTIONS_DUMP_CONFIG, "print the configuration in force as a file, and exit"},
    {"version", OPTIONS_VERSION, "print the version, and exit"},
    {"help", OPTIONS_HELP, "print this, and exit"},
};

static const struct option *option_find(const char *key)
{
    for (size_t i = 0; i < ARRAY_N(option_table); i++) {
        if (strcmp(option_table[i].key, key) == 0) {
            return &option_table[i];
        }
    }
    return NULL;
}

const char *options_section(const char *key)
{
    const struct option *option = option_find(key);
    return option ? option->section : NULL;
}

/* A whole number with a unit behind it; the units are {name, factor}, ended by a NULL name. */
struct option_unit {
    const char *name;
    uint64_t factor;
};

static const struct option_unit size_units[] = {
    {"", 1},
    {"B", 1},
    {"KiB", 1ull << 10},
    {"MiB", 1ull << 20},
    {"GiB", 1ull << 30},
    {"TiB", 1ull << 40},
    {NULL, 0},
};

static const struct option_unit duration_units[] = {
    {"ms", CLOCK_NS_PER_MS},
    {"s", CLOCK_NS_PER_S},
    {"m", 60 * CLOCK_NS_PER_S},
    {"h", 3600 * CLOCK_NS_PER_S},
    {NULL, 0},
};

static const struct option_unit number_units[] = {{"", 1}, {NULL, 0}};

static bool parse_quantity(const char *text, const struct option_unit *units, uint64_t *out)
{
    char *end;
    if (!isdigit((unsigned char)text[0])) {
        return false;
    }
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    while (*end == ' ') {
        end++;
    }
    for (; errno == 0 && units->name; units++) {
        if (strcmp(end, units->name) == 0) {
            uint64_t value;
            bool is_over = __builtin_mul_overflow((uint64_t)n, units->factor, &value);
            *out = is_over ? 0 : value;
            return !is_over && value <= INT64_MAX;
        }
    }
    return false;
}

/* "0.9" or "90%": more than nothing, at most all. */
static bool parse_share(const char *text, double *out)
{
    size_t n = strspn(text, "0123456789.");
    bool is_percent = text[n] == '%';
    char *end;
    if (!isdigit((unsigned char)text[0]) || text[is_percent ? n + 1 : n] != '\0' ||
        (!is_percent && !strchr(text, '.'))) {
        return false;
    }
    double share = strtod(text, &end) / (is_percent ? 100 : 1);
    *out = share;
    return end == text + n && share > 0 && share <= 1;
}

bool options_gpu_memory(const char *text, uint64_t free_bytes, uint64_t *out)
{
    double share;
    if (parse_share(text, &share)) {
        *out = (uint64_t)(share * (double)free_bytes);
        return true;
    }
    return parse_quantity(text, size_units, out) && *out > 0;
}

bool options_random_seed(const char *text, uint64_t *out)
{
    static const char prefix[] = "random:";
    size_t n = sizeof prefix - 1;
    return strncmp(text, prefix, n) == 0 && parse_quantity(text + n, number_units, out);
}

static bool is_gpu_memory(const char *value)
{
    uint64_t bytes;
    return options_gpu_memory(value, 1ull << 40, &bytes);
}

static bool is_weights(const char *value)
{
    uint64_t seed;
    return strcmp(value, "checkpoint") == 0 || options_random_seed(value, &seed);
}

/* Four digits a number at most. */
static bool is_device_list(const char *value)
{
    size_t n;
    while ((n = strspn(value, "0123456789")) >= 1 && n <= 4 && value[n] == ',') {
        value += n + 1;
    }
    return n >= 1 && n <= 4 && value[n] == '\0';
}

static bool is_word_of(const char *words, const char *value)
{
    size_t n = strlen(value);
    for (const char *word = words; word;) {
        const char *bar = strchr(word, '|');
        size_t word_n = bar ? (size_t)(bar - word) : strlen(word);
        if (word_n == n && memcmp(word, value, n) == 0) {
            return true;
        }
        word = bar ? bar + 1 : NULL;
    }
    return false;
}

static int set_number(const struct option *option, const char *value, uint64_t *out,
                      struct err *err)
{
    uint64_t n;
    if (!parse_quantity(value, number_units, &n) || n < option->min || n > option->max) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "%s is \"%.100s\", must be a number from %" PRIu64 " to %" PRIu64,
                       option->key, value, option->min, option->max);
    }
    *out = n;
    return 0;
}

static int set_quantity(const struct option *option, const char *value, uint64_t *out,
                        struct err *err)
{
    bool is_size = option->type == OPTION_SIZE;
    uint64_t n;
    if (!parse_quantity(value, is_size ? size_units : duration_units, &n)) {
        return err_set(err, ERR_INVALID_PARAMETER, "%s is \"%.100s\", must be a %s", option->key,
                       value,
                       is_size ? "size such as 64MiB (B, KiB, MiB, GiB, TiB)"
                               : "duration such as 30s (ms, s, m, h)");
    }
    *out = n;
    return 0;
}

static int set_bool(const struct option *option, const char *value, bool *out, struct err *err)
{
    bool is_true = strcmp(value, "true") == 0;
    if (!is_true && strcmp(value, "false") != 0) {
        return err_set(err, ERR_INVALID_PARAMETER, "%s is \"%.100s\", must be true or false",
                       option->key, value);
    }
    *out = is_true;
    return 0;
}

static int set_list(struct options *options, struct options_list *list, const char *value,
                    uint32_t rank, struct err *err)
{
    if (rank > list->rank) {
        list->rank = rank;
        list->n = 0;
    }
    if (list->n == ARRAY_N(list->items)) {
        return err_set(err, ERR_INVALID_PARAMETER, "listen is given more than %zu times",
                       ARRAY_N(list->items));
    }
    list->items[list->n++] = arena_strdup(&options->arena, value);
    return 0;
}

int options_set(struct options *options, const char *key, const char *value, uint32_t rank,
                struct err *err)
{
    const struct option *option = option_find(key);
    if (!option) {
        return err_set(err, ERR_INVALID_PARAMETER, "\"%.100s\" is no setting", key);
    }
    void *at = (char *)options + option->offset;
    if (value[0] == '\0') {
        return err_set(err, ERR_INVALID_PARAMETER, "%s has no value", key);
    }
    switch (option->type) {
    case OPTION_CHOICE:
        if (!is_word_of(option->words, value)) {
            return err_set(err, ERR_INVALID_PARAMETER, "%s is \"%.100s\", must be one of %s", key,
                           value, option->words);
        }
        *(const char **)at = arena_strdup(&options->arena, value);
        return 0;
    case OPTION_STR:
        if (option->is_valid && !option->is_valid(value)) {
            return err_set(err, ERR_INVALID_PARAMETER, "%s is \"%.100s\", must be %s", key, value,
                           option->wanted);
        }
        *(const char **)at = arena_strdup(&options->arena, value);
        return 0;
    case OPTION_LIST:
        return set_list(options, at, value, rank, err);
    case OPTION_BOOL:
        return set_bool(option, value, at, err);
    case OPTION_NUMBER:
        return set_number(option, value, at, err);
    case OPTION_SIZE:
    case OPTION_DURATION:
        return set_quantity(option, value, at, err);
    }
    return 0;
}

void options_init(struct options *options)
{
    *options = (struct options){
        .backend = "auto",
        .isa = "auto",
        .dtype = "auto",
        .weights = "checkpoint",
        .devices = "0",
        .gpu_memory = "0.9",
        .log_level = "info",
        .log_format = "text",
        .sequence_max = 64,
        .drain_timeout_ns = 120 * (uint64_t)CLOCK_NS_PER_S,
    };
    arena_init(&options->arena);
}

void options_done(struct options *options)
{
    arena_done(&options->arena);
}

static int set_default_address(struct options *options, struct err *err)
{
    static const char *const variables[] = {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"};
    const char *folder = "/run/graftd";
    char address[512];
    for (size_t i = 0; i < ARRAY_N(variables); i++) {
        const char *value = getenv(variables[i]);
        if (value && value[0] == '/') {
            folder = value;
            break;
        }
    }
    snprintf(address, sizeof address, "unix:%s/graftd.sock", folder);
    return options_set(options, "listen", address, 0, err);
}

/* An argument "--key", "--key=value" or "--key value". */
struct argument {
    char key[64];
    const char *value; /* NULL: none was joined to it */
};

static int split_argument(const char *text, struct argument *out, struct err *err)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    if (strncmp(text, "--", 2) != 0 || n - 2 >= sizeof out->key || n == 2) {
        return err_set(err, ERR_INVALID_PARAMETER, "\"%.100s\" is no flag; --help lists them",
                       text);
    }
    memcpy(out->key, text + 2, n - 2);
    out->key[n - 2] = '\0';
    out->value = equals ? equals + 1 : NULL;
    return 0;
}

static bool take_action(struct options *options, const struct argument *argument)
{
    for (size_t i = 0; i < ARRAY_N(option_actions) && !argument->value; i++) {
        if (strcmp(option_actions[i].key, argument->key) == 0) {
            options->action = option_actions[i].action;
            return true;
        }
    }
    return false;
}

/* *out_used counts what was consumed: 1 or 2. */
static int take_argument(struct options *options, char **argv, int left, bool config_only,
                         int *out_used, struct err *err)
{
    struct argument argument = {0};
    int rc = split_argument(argv[0], &argument, err);
    *out_used = 1;
    if (rc || take_action(options, &argument)) {
        return rc;
    }
    const struct option *option = option_find(argument.key);
    bool is_config = strcmp(argument.key, "config") == 0;
    if (!option && !is_config) {
        return err_set(err, ERR_INVALID_PARAMETER, "--%s is no flag; --help lists them",
                       argument.key);
    }
    if (!argument.value && option && option->type == OPTION_BOOL) {
        argument.value = "true";
    } else if (!argument.value) {
        if (left < 2) {
            return err_set(err, ERR_INVALID_PARAMETER, "--%s needs a value", argument.key);
        }
        argument.value = argv[1];
        *out_used = 2;
    }
    if (is_config) {
        options->config = arena_strdup(&options->arena, argument.value);
        return 0;
    }
    if (config_only) {
        return 0;
    }
    rc = options_set(options, argument.key, argument.value, OPTIONS_RANK_COMMAND_LINE, err);
    return rc ? err_prefix(err, rc, "command line") : 0;
}

/* The line is read twice: once for --config, whose file has less authority than the rest. */
static int read_command_line(int argc, char **argv, struct options *options, bool config_only,
                             struct err *err)
{
    int used = 0;
    for (int i = 1; i < argc; i += used) {
        int rc = take_argument(options, argv + i, argc - i, config_only, &used, err);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static int check_whole(const struct options *options, struct err *err)
{
    if (!options->model &&
        (options->action == OPTIONS_RUN || options->action == OPTIONS_CHECK_CONFIG)) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "no model is given: --model DIR, or model in section [model] of the "
                       "configuration file");
    }
    return 0;
}

int options_read(int argc, char **argv, struct options *out, struct err *err)
{
    options_init(out);
    int rc = set_default_address(out, err);
    rc = rc ? rc : read_command_line(argc, argv, out, true, err);
    if (rc || out->action == OPTIONS_HELP || out->action == OPTIONS_VERSION) {
        return rc;
    }
    rc = options_read_files(out, err);
    rc = rc ? rc : read_command_line(argc, argv, out, false, err);
    return rc ? rc : check_whole(out, err);
}

static void dump_quantity(uint64_t value, const struct option_unit *units, FILE *out)
{
    const struct option_unit *best = units;
    for (; units->name; units++) {
        if (value > 0 && value % units->factor == 0 && units->factor >= best->factor) {
            best = units;
        }
    }
    fprintf(out, "%" PRIu64 "%s\n", value / best->factor, best->name);
}

/* Without its spaces where they would make the line too long to be read back. */
static void dump_text(const char *key, const char *text, FILE *out)
{
    bool is_long = strlen(key) + strlen(" = ") + strlen(text) > OPTIONS_LINE_BYTES;
    fprintf(out, "%s%s%s\n", key, is_long ? "=" : " = ", text);
}

static void dump_option(const struct options *options, const struct option *option, FILE *out)
{
    const void *at = (const char *)options + option->offset;
    const char *text = option->type <= OPTION_CHOICE ? *(const char *const *)at : NULL;
    uint64_t number = option->type >= OPTION_NUMBER ? *(const uint64_t *)at : 0;
    const struct options_list *list = at;
    bool is_unset = option->type == OPTION_DURATION ? false
                    : option->type >= OPTION_NUMBER ? number == 0
                    : option->type <= OPTION_CHOICE ? text == NULL
                                                    : false;
    if (is_unset) {
        fprintf(out, "# %s is not set\n", option->key);
        return;
    }
    if (option->type == OPTION_LIST) {
        for (uint32_t i = 0; i < list->n; i++) {
            dump_text(option->key, list->items[i], out);
        }
        return;
    }
    if (text) {
        dump_text(option->key, text, out);
        return;
    }
    fprintf(out, "%s = ", option->key);
    if (option->type == OPTION_BOOL) {
        fprintf(out, "%s\n", *(const bool *)at ? "true" : "false");
    } else {
        dump_quantity(number,
                      option->type == OPTION_SIZE       ? size_units
                      : option->type == OPTION_DURATION ? duration_units
                                                        : number_units,
                      out);
    }
}

void options_dump(const struct options *options, FILE *out)
{
    const char *section = "";
    for (size_t i = 0; i < ARRAY_N(option_table); i++) {
        if (strcmp(option_table[i].section, section) != 0) {
            fprintf(out, "%s[%s]\n", i ? "\n" : "", option_table[i].section);
            section = option_table[i].section;
        }
        dump_option(options, &option_table[i], out);
    }
}

void options_help(FILE *out)
{
    fprintf(out, "usage: graftd --model DIR [flags]\n\n"
                 "Serves one model under any mix of adapters over gRPC.\n\n");
    for (size_t i = 0; i < ARRAY_N(option_table); i++) {
        const struct option *option = &option_table[i];
        fprintf(out, "  --%s %s\n      %s\n", option->key, option->words ? option->words : "",
                option->meaning);
    }
    fprintf(out, "  --config FILE\n      settings file (default %s); FILE.d/*.conf add to it\n",
            OPTIONS_CONFIG_FILE);
    for (size_t i = 0; i < ARRAY_N(option_actions); i++) {
        fprintf(out, "  --%s\n      %s\n", option_actions[i].key, option_actions[i].meaning);
    }
}
