/* Settings: units, ranges, files with their line numbers, and who overrides whom. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "options.h"

static char folder[] = "/tmp/graft-options-XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int read_args(struct options *options, struct err *err, const char *config,
                     const char *const *args, int n)
{
    char path[256];
    char *argv[16] = {(char *)"graftd", (char *)"--config", path};
    snprintf(path, sizeof path, "%s/%s", folder, config);
    for (int i = 0; i < n; i++) {
        argv[3 + i] = (char *)args[i];
    }
    return options_read(3 + n, argv, options, err);
}

static void refuse_text(const char *text, const char *words)
{
    struct options options;
    struct err err = {0};
    options_init(&options);
    int rc = options_parse_text("x.conf", text, strlen(text), 1, &options, &err);
    assert_int_equal(rc, ERR_INVALID_PARAMETER);
    assert_string_equal(err.text, words);
    options_done(&options);
}

static void test_file_refusals(void **state)
{
    char line[512] = "[model]\nmodel = ";
    (void)state;
    memset(line + strlen(line), 'x', 300);
    refuse_text(line, "x.conf:2: the line has 308 bytes, limit is 198");
    refuse_text("[server]\nfoo = 1\n", "x.conf:2: unknown key \"foo\"");
    refuse_text("\n[server]\n\nmodel = /m\n",
                "x.conf:4: key \"model\" is in section [server], belongs to [model]");
    refuse_text("[model]\nmodel = /m\n  more\n",
                "x.conf:3: the line begins with a space; lines can not be continued");
    refuse_text("[model]\nmodel\n", "x.conf:2: the line is neither [section] nor key = value");
    refuse_text("[memory]\nkv-memory = 12 apples\n",
                "x.conf:2: kv-memory is \"12 apples\", must be a size such as 64MiB (B, KiB, MiB, "
                "GiB, TiB)");
    refuse_text("[memory]\nkv-memory = 99999999999TiB\n",
                "x.conf:2: kv-memory is \"99999999999TiB\", must be a size such as 64MiB (B, KiB, "
                "MiB, GiB, TiB)");
    refuse_text("[engine]\nmax-sequences = 0\n",
                "x.conf:2: max-sequences is \"0\", must be a number from 1 to 1024");
    refuse_text("[engine]\nisa = sse\n", "x.conf:2: isa is \"sse\", must be one of "
                                         "auto|portable|avx2|avx512|avx512bf16|amx");
    refuse_text("[server]\ninsecure-tcp = yes\n",
                "x.conf:2: insecure-tcp is \"yes\", must be true or false");
    refuse_text("[server]\ndrain-timeout = 5\n",
                "x.conf:2: drain-timeout is \"5\", must be a duration such as 30s (ms, s, m, h)");
    refuse_text("[model]\nmodel =;x\n", "x.conf:2: the value begins with the sign of a comment");
    refuse_text("[model]\nmodel =\n", "x.conf:2: model has no value");
}

static void refuse_value(const char *key, const char *value, const char *wanted)
{
    char text[256];
    char words[256];
    snprintf(text, sizeof text, "[%s]\n%s = %s\n", options_section(key), key, value);
    snprintf(words, sizeof words, "x.conf:2: %s is \"%s\", must be %s", key, value, wanted);
    refuse_text(text, words);
}

static void test_values_with_rules(void **state)
{
    static const char memory[] =
        "a share such as 0.9 or 90%, or a size such as 64MiB (B, KiB, MiB, GiB, TiB)";
    static const char *const no_memory[] = {"0",  "0.0",  "1.1",   "101%", ".5",   "0.9x",  "1e3",
                                            "-1", "90 %", "1.2.3", "0%",   "lots", "0.5GiB"};
    static const char *const no_weights[] = {"random", "random:", "random:x", "random:-1",
                                             "Checkpoint"};
    static const char *const no_devices[] = {"all", "-1", "0,", ",1", "0 1", "12345"};
    (void)state;
    for (size_t i = 0; i < ARRAY_N(no_memory); i++) {
        refuse_value("gpu-memory", no_memory[i], memory);
    }
    for (size_t i = 0; i < ARRAY_N(no_weights); i++) {
        refuse_value("weights", no_weights[i], "checkpoint, or random: and a number");
    }
    for (size_t i = 0; i < ARRAY_N(no_devices); i++) {
        refuse_value("devices", no_devices[i], "a number, or several with commas between");
    }
}

static void test_gpu_memory(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes; /* of 1000 */
    } cases[] = {{"0.9", 900},   {"90%", 900}, {"12.5%", 125},       {"1.0", 1000},
                 {"100%", 1000}, {"64", 64},   {"64MiB", 64u << 20}, {"0.001", 1}};
    struct options options;
    struct err err = {0};
    uint64_t seed;
    (void)state;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        uint64_t bytes;
        assert_true(options_gpu_memory(cases[i].text, 1000, &bytes));
        assert_int_equal(bytes, cases[i].bytes);
    }
    const char *args[] = {"--weights", "random:7", "--devices", "0,1", "--gpu-memory", "80%"};
    write_file("empty.conf", "[model]\nmodel = m\n");
    assert_int_equal(read_args(&options, &err, "empty.conf", args, 6), 0);
    assert_string_equal(options.devices, "0,1");
    assert_string_equal(options.gpu_memory, "80%");
    assert_true(options_random_seed(options.weights, &seed));
    assert_int_equal(seed, 7);
    options_done(&options);
    assert_int_equal(read_args(&options, &err, "empty.conf", NULL, 0), 0);
    assert_string_equal(options.gpu_memory, "0.9");
    assert_false(options_random_seed(options.weights, &seed));
    options_done(&options);
}

static void test_longest_line_is_whole(void **state)
{
    struct options options;
    struct err err = {0};
    char text[512];
    char value[256] = "";
    (void)state;
    memset(value, 'x', 190); /* "model = " and these: 198 bytes and the newline */
    snprintf(text, sizeof text, "[model]\nmodel = %s\nmodel-name = n\n", value);
    options_init(&options);
    assert_int_equal(options_parse_text("x", text, strlen(text), 1, &options, &err), 0);
    assert_string_equal(options.model, value);
    assert_string_equal(options.model_name, "n");
    options_done(&options);
}

/* The longest value that a file can give comes back from its dump. */
static void test_longest_value_is_dumped(void **state)
{
    struct options options;
    struct options again;
    struct err err = {0};
    char value[256] = "";
    char text[512];
    char *dumped = NULL;
    size_t n;
    (void)state;
    memset(value, 'x', 192); /* "model=" and these: 198 bytes */
    snprintf(text, sizeof text, "[model]\nmodel=%s\n", value);
    options_init(&options);
    options_init(&again);
    assert_int_equal(options_parse_text("x", text, strlen(text), 1, &options, &err), 0);
    FILE *f = open_memstream(&dumped, &n);
    options_dump(&options, f);
    fclose(f);
    assert_int_equal(options_parse_text("y", dumped, n, 1, &again, &err), 0);
    assert_string_equal(again.model, value);
    free(dumped);
    options_done(&again);
    options_done(&options);
}

static void test_authority(void **state)
{
    struct options options;
    struct err err = {0};
    char path[256];
    (void)state;
    write_file("a.conf", "[model]\nmodel = /file\nmodel-name = file\n[server]\nlisten = unix:/1\n"
                         "listen = unix:/2\n[engine]\nthreads = 2\n");
    snprintf(path, sizeof path, "%s/a.conf.d", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file("a.conf.d/10.conf", "[model]\nmodel-name = ten\n[server]\nlisten = unix:/10\n");
    write_file("a.conf.d/20.conf", "[engine]\nthreads = 3\n");
    write_file("a.conf.d/ignored", "nonsense");
    const char *args[] = {"--model-name=line", "--kv-memory", "64MiB", "--insecure-tcp"};
    assert_int_equal(read_args(&options, &err, "a.conf", args, 4), 0);
    assert_string_equal(options.model, "/file");
    assert_string_equal(options.model_name, "line");
    assert_int_equal(options.thread_n, 3);
    assert_int_equal(options.kv_bytes, 64 << 20);
    assert_true(options.is_tcp_open);
    assert_int_equal(options.listen.n, 1);
    assert_string_equal(options.listen.items[0], "unix:/10");
    options_done(&options);
    const char *listen[] = {"--listen", "unix:/a", "--listen", "unix:/b"};
    assert_int_equal(read_args(&options, &err, "a.conf", listen, 4), 0);
    assert_int_equal(options.listen.n, 2);
    assert_string_equal(options.listen.items[0], "unix:/a");
    options_done(&options);
}

static void refuse_args(const char *config, const char *words, const char *const *args, int n)
{
    struct options options;
    struct err err = {0};
    assert_int_not_equal(read_args(&options, &err, config, args, n), 0);
    assert_string_equal(err.text, words);
    options_done(&options);
}

static void test_command_line(void **state)
{
    struct options options;
    struct err err = {0};
    const char *unknown[] = {"--modell", "x"};
    const char *lone[] = {"--model"};
    const char *word[] = {"model"};
    const char *bad[] = {"--threads", "many"};
    const char *help[] = {"--help"};
    (void)state;
    write_file("empty.conf", "");
    refuse_args("empty.conf", "--modell is no flag; --help lists them", unknown, 2);
    refuse_args("empty.conf", "--model needs a value", lone, 1);
    refuse_args("empty.conf", "\"model\" is no flag; --help lists them", word, 1);
    refuse_args("empty.conf", "command line: threads is \"many\", must be a number from 1 to 256",
                bad, 2);
    refuse_args("empty.conf",
                "no model is given: --model DIR, or model in section [model] of the configuration "
                "file",
                NULL, 0);
    assert_int_equal(read_args(&options, &err, "missing.conf", help, 1), 0);
    assert_int_equal(options.action, OPTIONS_HELP);
    options_done(&options);
}

static void test_default_address(void **state)
{
    struct options options;
    struct err err = {0};
    const char *args[] = {"--model", "m"};
    (void)state;
    write_file("empty.conf", "");
    setenv("RUNTIME_DIRECTORY", "/run/one", 1);
    setenv("XDG_RUNTIME_DIR", "/run/two", 1);
    assert_int_equal(read_args(&options, &err, "empty.conf", args, 2), 0);
    assert_string_equal(options.listen.items[0], "unix:/run/one/graftd.sock");
    options_done(&options);
    unsetenv("RUNTIME_DIRECTORY");
    assert_int_equal(read_args(&options, &err, "empty.conf", args, 2), 0);
    assert_string_equal(options.listen.items[0], "unix:/run/two/graftd.sock");
    options_done(&options);
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(read_args(&options, &err, "empty.conf", args, 2), 0);
    assert_string_equal(options.listen.items[0], "unix:/run/graftd/graftd.sock");
    options_done(&options);
}

static void test_sample_file(void **state)
{
    char path[512];
    char *argv[] = {(char *)"graftd", (char *)"--config", path, (char *)"--dump-config"};
    struct options options;
    struct err err = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/deploy/graftd.conf", TEST_ROOT);
    assert_int_equal(options_read(4, argv, &options, &err), 0);
    assert_int_equal(options.drain_timeout_ns, 120000000000u);
    options_done(&options);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_refusals),
        cmocka_unit_test(test_values_with_rules),
        cmocka_unit_test(test_gpu_memory),
        cmocka_unit_test(test_longest_line_is_whole),
        cmocka_unit_test(test_longest_value_is_dumped),
        cmocka_unit_test(test_authority),
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_default_address),
        cmocka_unit_test(test_sample_file),
    };
    return cmocka_run_group_tests(tests, make_folder, NULL);
}
