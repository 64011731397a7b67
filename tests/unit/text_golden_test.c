/* text against the `tokenizers` library: tests/golden/text, made by tests/oracle/text_oracle.py.
 * Every text is also decoded token by token, which must give the library's whole decoding and only
 * whole characters on the way. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#define GOLDEN     TEST_ROOT "/tests/golden/text/"
#define FILE_BYTES (1u << 20)

static const char *const styles[] = {"gpt2", "llama3", "qwen", "odd", "qwen35", "falcon", "steps"};

static json_t *golden(const char *name)
{
    char path[512];
    json_t *value = NULL;
    struct err err = {0};
    snprintf(path, sizeof path, "%s%s", GOLDEN, name);
    if (json_read_file(path, FILE_BYTES, &value, &err)) {
        fail_msg("%s", err.text);
    }
    return value;
}

static struct tokenizer *golden_tokenizer(const char *style)
{
    char name[64];
    struct tokenizer *tk = NULL;
    struct err err = {0};
    snprintf(name, sizeof name, "%s.json", style);
    json_t *root = golden(name);
    char *text = json_dumps(root, JSON_COMPACT);
    if (tokenizer_open_json(name, text, strlen(text), &tk, &err)) {
        fail_msg("%s", err.text);
    }
    free(text);
    json_decref(root);
    return tk;
}

struct golden_case {
    const struct tokenizer *tk;
    const json_t *json;
    const char *text;
    size_t n;
};

static void check_ids(const struct golden_case *c, const char *key, bool add, bool parse)
{
    const json_t *want = json_object_get(c->json, key);
    const json_t *want_spans = strcmp(key, "ids") == 0 ? json_object_get(c->json, "spans") : NULL;
    struct token_vec ids = {0};
    struct span_vec spans = {0};
    struct err err = {0};
    struct encode_opts opts = {add, parse, &spans};
    assert_int_equal(tokenizer_encode_with(c->tk, c->text, c->n, &opts, &ids, &err), 0);
    assert_int_equal(ids.n, spans.n);
    assert_true(c->n <= tokenizer_text_bytes_max(c->tk, (uint32_t)ids.n));
    if (ids.n != json_array_size(want)) {
        fail_msg("%s of \"%s\": %zu ids, %zu are wanted", key, c->text, ids.n,
                 json_array_size(want));
    }
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.ids[i] != json_integer_value(json_array_get(want, i))) {
            fail_msg("%s of \"%s\": id %zu is %u", key, c->text, i, ids.ids[i]);
        }
        assert_true(spans.spans[i].end <= c->n && spans.spans[i].begin <= spans.spans[i].end);
        if (want_spans) {
            const json_t *span = json_array_get(want_spans, i);
            assert_int_equal(spans.spans[i].begin, json_integer_value(json_array_get(span, 0)));
            assert_int_equal(spans.spans[i].end, json_integer_value(json_array_get(span, 1)));
        }
    }
    token_vec_done(&ids);
    span_vec_done(&spans);
}

static void check_decoded(const struct golden_case *c, const char *key, bool skip_special)
{
    const json_t *ids = json_object_get(c->json, "ids");
    const json_t *text = json_object_get(c->json, key);
    struct buf want = {0};
    struct buf out = {0};
    struct detok d;
    detok_init(&d, c->tk, skip_special);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        size_t before = out.n;
        detok_push(&d, (uint32_t)json_integer_value(json_array_get(ids, i)), &out);
        if (out.n > before) {
            assert_int_equal(utf8_bad_at(out.data + before, out.n - before), out.n - before);
        }
    }
    detok_finish(&d, &out);
    /* The library keeps NULs. */
    for (size_t i = 0; i < json_string_length(text); i++) {
        const char *byte = json_string_value(text) + i;
        buf_add(&want, *byte ? byte : UTF8_REPLACEMENT, *byte ? 1 : strlen(UTF8_REPLACEMENT));
    }
    assert_int_equal(out.n, want.n);
    assert_memory_equal(out.n > 0 ? out.data : "", out.n > 0 ? want.data : "", out.n);
    buf_done(&want);
    buf_done(&out);
}

static void test_hard_texts(void **state)
{
    (void)state;
    for (size_t s = 0; s < ARRAY_N(styles); s++) {
        char name[64];
        struct tokenizer *tk = golden_tokenizer(styles[s]);
        snprintf(name, sizeof name, "%s.cases.json", styles[s]);
        json_t *cases = golden(name);
        const json_t *json;
        size_t i;
        assert_true(json_array_size(cases) > 50);
        json_array_foreach(cases, i, json)
        {
            const json_t *text = json_object_get(json, "text");
            struct golden_case c = {tk, json, json_string_value(text), json_string_length(text)};
            check_ids(&c, "ids", false, true);
            check_ids(&c, "special", true, true);
            check_ids(&c, "unparsed", false, false);
            check_decoded(&c, "decoded", false);
            check_decoded(&c, "skipped", true);
        }
        json_decref(cases);
        tokenizer_close(tk);
    }
}

static uint32_t fnv(const struct token_vec *ids)
{
    uint32_t value = 0x811C9DC5;
    for (size_t i = 0; i < ids->n; i++) {
        for (int shift = 0; shift < 32; shift += 8) {
            value = (value ^ (ids->ids[i] >> shift & 0xFF)) * 0x01000193;
        }
    }
    return value;
}

static void test_random_texts(void **state)
{
    (void)state;
    json_t *fuzz = golden("fuzz.json");
    const json_t *texts = json_object_get(fuzz, "texts");
    assert_true(json_array_size(texts) >= 2000);
    for (size_t s = 0; s < ARRAY_N(styles); s++) {
        struct tokenizer *tk = golden_tokenizer(styles[s]);
        const json_t *want = json_object_get(fuzz, styles[s]);
        struct token_vec ids = {0};
        const json_t *text;
        size_t i;
        assert_int_equal(json_array_size(want), json_array_size(texts));
        json_array_foreach(texts, i, text)
        {
            ids.n = 0;
            assert_int_equal(tokenizer_encode(tk, json_string_value(text), json_string_length(text),
                                              false, &ids, NULL),
                             0);
            assert_true(json_string_length(text) <= tokenizer_text_bytes_max(tk, (uint32_t)ids.n));
            if (fnv(&ids) != json_integer_value(json_array_get(want, i))) {
                fail_msg("%s: ids of text %zu (\"%s\") differ", styles[s], i,
                         json_string_value(text));
            }
        }
        token_vec_done(&ids);
        tokenizer_close(tk);
    }
    json_decref(fuzz);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hard_texts),
        cmocka_unit_test(test_random_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
