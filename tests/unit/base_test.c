/* base: errors, conversions, arena, rings under two threads, wake, JSON, files, SHA-256. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/ring.h"
#include "base/sha256.h"
#include "base/thread.h"
#include "base/wake.h"

static void test_err_text(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(err_set(&err, ERR_BAD_FILE, "tensor \"%s\" has %d rows", "t", 3),
                     ERR_BAD_FILE);
    assert_string_equal(err.text, "tensor \"t\" has 3 rows");
    assert_int_equal(err_prefix(&err, ERR_BAD_FILE, "could not load \"%s\"", "x"), ERR_BAD_FILE);
    assert_string_equal(err.text, "could not load \"x\": tensor \"t\" has 3 rows");
    assert_string_equal(err_name(ERR_CONTEXT_LENGTH_EXCEEDED), "CONTEXT_LENGTH_EXCEEDED");
    assert_int_equal(err_grpc_status(ERR_CONTEXT_LENGTH_EXCEEDED), 3);
    assert_int_equal(err_grpc_status(ERR_ADAPTER_NOT_FOUND), 5);
    assert_int_equal(err_grpc_status(0), 0);
    assert_int_equal(err_set(NULL, ERR_INTERNAL, "nobody reads"), ERR_INTERNAL);
}

static void test_err_cuts_at_utf8_border(void **state)
{
    (void)state;
    struct err err = {0};
    char text[ERR_TEXT_BYTES + 8];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', sizeof text);
        for (size_t i = shift; i + 3 < sizeof text; i += 3) {
            memcpy(text + i, "\xE2\x82\xAC", 3);
        }
        text[sizeof text - 1] = '\0';
        err_set(&err, ERR_BAD_FILE, "%s", text);
        size_t n = strlen(err.text);
        assert_true(n >= ERR_TEXT_BYTES - 4);
        assert_int_equal((n - shift) % 3, 0);
    }
    err_set(&err, ERR_BAD_FILE, "\"%.4s\" \xC0\xAF\xED\xA0\x80 \xF0\x9F\x98\x80", "ab\xE2\x82\xAC");
    assert_string_equal(err.text, "\"ab\"  \xF0\x9F\x98\x80");
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(1.0f), 0x3F80);
    assert_int_equal(bf16_from_f32(f32_of_bits(0x3F808000u)), 0x3F80); /* tie, even below */
    assert_int_equal(bf16_from_f32(f32_of_bits(0x3F818000u)), 0x3F82); /* tie, even above */
    assert_int_equal(bf16_from_f32(f32_of_bits(0x3F808001u)), 0x3F81);
    assert_int_equal(bf16_from_f32(f32_of_bits(0x7F7FFFFFu)), 0x7F80); /* overflow */
    assert_true(isnan(bf16_to_f32(bf16_from_f32(NAN))));
    assert_true(isnan(bf16_to_f32(bf16_from_f32(f32_of_bits(0x7F800001u)))));
    for (uint32_t h = 0; h < 0x10000u; h++) {
        if ((h & 0x7F80u) != 0x7F80u || (h & 0x7Fu) == 0) {
            assert_int_equal(bf16_from_f32(bf16_to_f32((uint16_t)h)), h);
        }
    }
}

static void test_f16_widens_exactly(void **state)
{
    (void)state;
    assert_true(f16_to_f32(0x3C00) == 1.0f);
    assert_true(f16_to_f32(0xC000) == -2.0f);
    assert_true(f16_to_f32(0x7BFF) == 65504.0f);
    assert_true(f16_to_f32(0x0001) == ldexpf(1.0f, -24));
    assert_true(f16_to_f32(0x03FF) == ldexpf(1023.0f, -24));
    assert_true(f16_to_f32(0x0400) == ldexpf(1.0f, -14));
    assert_true(signbit(f16_to_f32(0x8000)));
    assert_true(isinf(f16_to_f32(0x7C00)));
    assert_true(isnan(f16_to_f32(0x7E01)));
}

static void test_arena_zeroes_and_aligns(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena);
    for (size_t n = 0; n < 300; n++) {
        unsigned char *p = arena_alloc(&arena, n * 37 % 9000);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n * 37 % 9000; i++) {
            assert_int_equal(p[i], 0);
            p[i] = 0xFF;
        }
    }
    assert_string_equal(arena_strndup(&arena, "abcdef", 3), "abc");
    arena_done(&arena);
}

#define PASSED_N 200000u

struct passer {
    struct ring ring;
    struct wake wake;
    uint64_t sum;
};

static void passer_consume(void *arg)
{
    struct passer *p = arg;
    uint64_t expected = 0;
    while (expected < PASSED_N) {
        uint32_t ticket = wake_ticket(&p->wake);
        uint64_t *box;
        while (ring_pop(&p->ring, &box)) {
            assert_true(*box == expected);
            p->sum += *box;
            expected++;
            free(box);
        }
        if (expected < PASSED_N && ring_n(&p->ring) == 0) {
            wake_wait(&p->wake, ticket, -1);
        }
    }
}

static void test_ring_hands_over_between_threads(void **state)
{
    (void)state;
    static struct passer p;
    struct thread thread;
    ring_init(&p.ring, sizeof(uint64_t *), 64);
    wake_init(&p.wake);
    thread_start(&thread, THREAD_ANY, "consumer", passer_consume, &p);
    for (uint64_t i = 0; i < PASSED_N; i++) {
        uint64_t *box = malloc(sizeof *box);
        *box = i;
        while (!ring_push(&p.ring, &box)) {
            sched_yield();
        }
        wake_signal(&p.wake);
    }
    thread_join(&thread);
    assert_true(p.sum == (uint64_t)PASSED_N * (PASSED_N - 1) / 2);
    ring_done(&p.ring);
}

static void test_ring_is_bounded(void **state)
{
    (void)state;
    struct ring ring;
    uint32_t v = 7;
    ring_init(&ring, sizeof v, 4);
    assert_false(ring_pop(&ring, &v));
    for (uint32_t round = 0; round < 10; round++) {
        for (v = 0; v < 4; v++) {
            assert_true(ring_push(&ring, &v));
        }
        assert_false(ring_push(&ring, &v));
        assert_int_equal(ring_free_n(&ring), 0);
        for (uint32_t i = 0; i < 4; i++) {
            assert_true(ring_pop(&ring, &v));
            assert_int_equal(v, i);
        }
    }
    ring_done(&ring);
}

static void test_wake_before_wait_is_not_lost(void **state)
{
    (void)state;
    struct wake wake;
    wake_init(&wake);
    uint32_t ticket = wake_ticket(&wake);
    wake_signal(&wake);
    wake_wait(&wake, ticket, -1); /* would hang if the signal were lost */
    wake_wait(&wake, wake_ticket(&wake), CLOCK_NS_PER_MS);
}

static void test_json_is_strict(void **state)
{
    (void)state;
    struct err err = {0};
    json_t *v = NULL;
    int64_t n = 5;
    const char text[] = "{\"a\": 8.0, \"b\": \"x\", \"c\": null, \"d\": -3}";
    assert_int_equal(json_parse("f.json", text, sizeof text - 1, &v, &err), 0);
    assert_int_equal(json_need_int("f.json", v, "a", 0, 10, &n, &err), 0);
    assert_int_equal(n, 8);
    assert_int_equal(json_get_int("f.json", v, "c", 0, 10, &n, &err), 0);
    assert_int_equal(n, 8);
    assert_int_equal(json_need_int("f.json", v, "c", 0, 10, &n, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "f.json: \"c\" is missing");
    assert_int_equal(json_get_int("f.json", v, "b", 0, 10, &n, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "f.json: \"b\" is \"x\", an integer is wanted");
    assert_int_equal(json_get_int("f.json", v, "d", 0, 10, &n, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "f.json: \"d\" is -3, it must lie in 0 to 10");
    json_decref(v);
    static const char bare[] = "{\"a\":[Infinity,1],\"b \\\" Infinity\":Infinity}";
    const char *word = NULL;
    assert_int_equal(json_parse("f.json", bare, sizeof bare - 1, &v, &err), 0);
    assert_int_equal(json_get_str("f.json", v, "b \" Infinity", &word, &err), 0);
    assert_string_equal(word, "Infinity");
    assert_string_equal(json_string_value(json_array_get(json_object_get(v, "a"), 0)), "Infinity");
    json_decref(v);
    assert_int_equal(json_parse("f.json", "{\"a\":1,\"a\":2}", 13, &v, &err), ERR_BAD_FILE);
    assert_non_null(strstr(err.text, "duplicate"));
}

static void test_files(void **state)
{
    (void)state;
    struct err err = {0};
    struct file_map map;
    char path[] = "/tmp/graft_base_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(file_map_open(&map, path, &err), 0);
    assert_int_equal(map.n, 0);
    file_map_close(&map);
    assert_int_equal(write(fd, "hello", 5), 5);
    assert_int_equal(file_map_open(&map, path, &err), 0);
    assert_int_equal(map.n, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_map_close(&map);
    close(fd);
    unlink(path);
    assert_int_equal(file_map_open(&map, path, &err), ERR_BAD_FILE);
    assert_int_equal(file_map_open(&map, "/tmp", &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "/tmp: is not a regular file");
}

static void test_sha256_of_abc(void **state)
{
    (void)state;
    struct sha256 sha;
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_BYTES];
    sha256_init(&sha);
    sha256_update(&sha, "ab", 2);
    sha256_update(&sha, "c", 1);
    sha256_final(&sha, digest);
    sha256_hex(digest, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void test_pages_are_aligned_and_zero(void **state)
{
    (void)state;
    struct err err = {0};
    unsigned char *p;
    void *raw;
    assert_int_equal(mem_pages_alloc(5u << 20, &raw, &err), 0);
    p = raw;
    assert_int_equal((uintptr_t)p % (2u << 20), 0);
    assert_int_equal(p[(5u << 20) - 1], 0);
    mem_pages_free(raw, 5u << 20);
    assert_true(mem_available() > (1u << 20));
}

static void test_buf_grows(void **state)
{
    (void)state;
    struct buf buf = {0};
    for (int i = 0; i < 1000; i++) {
        buf_printf(&buf, "%d,", i % 10);
    }
    assert_int_equal(buf.n, 2000);
    assert_int_equal(strlen(buf.data), 2000);
    buf_clear(&buf);
    buf_add_str(&buf, "x");
    assert_string_equal(buf.data, "x");
    buf_done(&buf);
}

/* What log_msg (event NULL) or log_fields writes; true when it is one line. */
static bool logged(const char *event, const struct log_field *fields, size_t field_n, char *line,
                   size_t line_bytes)
{
    char path[] = "/tmp/graft_log_XXXXXX";
    int fd = mkstemp(path);
    int stderr_fd = dup(STDERR_FILENO);
    assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    if (event) {
        log_fields(LOG_ERROR, event, fields, field_n);
    } else {
        log_msg(LOG_ERROR, "%s", fields[0].str);
    }
    dup2(stderr_fd, STDERR_FILENO);
    ssize_t n = pread(fd, line, line_bytes - 1, 0);
    close(stderr_fd);
    close(fd);
    unlink(path);
    assert_true(n > 0);
    line[n] = '\0';
    return strchr(line, '\n') == line + n - 1;
}

/* Strings of every length up to over a line, of bytes that are cut in different ways. */
static void test_log_json_is_cut_to_json(void **state)
{
    (void)state;
    static const char *const units[] = {"x", "\"", "\n", "\xE2\x82\xAC"};
    char text[4096];
    char line[4096];
    log_init(LOG_INFO, LOG_JSON);
    for (size_t u = 0; u < ARRAY_N(units); u++) {
        size_t unit_n = strlen(units[u]);
        for (size_t n = 1600; n < 2200; n++) {
            struct log_field fields[] = {LOG_F_STR("t", text), LOG_F_INT("i", 12345),
                                         LOG_F_STR("s", "end")};
            struct err err = {0};
            json_t *v;
            memset(text, 'y', n % unit_n);
            for (size_t i = n % unit_n; i < n; i += unit_n) {
                memcpy(text + i, units[u], unit_n);
            }
            text[n] = '\0';
            for (int k = 0; k < 2; k++) {
                assert_true(logged(k ? "event" : NULL, fields, 3, line, sizeof line));
                if (json_parse("line", line, strlen(line), &v, &err)) {
                    fail_msg("%zu bytes: %s: %s", n, err.text, line);
                }
                json_decref(v);
            }
        }
    }
    log_init(LOG_INFO, LOG_TEXT);
}

static void test_log_text_is_one_line(void **state)
{
    (void)state;
    char line[4096];
    const struct log_field field = LOG_F_STR("t", "a\nb\033[1m \"\\");
    assert_true(logged(NULL, &field, 1, line, sizeof line));
    assert_non_null(strstr(line, "error graftd a\\u000ab\\u001b[1m \"\\\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err_text),
        cmocka_unit_test(test_err_cuts_at_utf8_border),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_f16_widens_exactly),
        cmocka_unit_test(test_arena_zeroes_and_aligns),
        cmocka_unit_test(test_ring_hands_over_between_threads),
        cmocka_unit_test(test_ring_is_bounded),
        cmocka_unit_test(test_wake_before_wait_is_not_lost),
        cmocka_unit_test(test_json_is_strict),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_sha256_of_abc),
        cmocka_unit_test(test_pages_are_aligned_and_zero),
        cmocka_unit_test(test_buf_grows),
        cmocka_unit_test(test_log_json_is_cut_to_json),
        cmocka_unit_test(test_log_text_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
