/* What a tokenizer.json is refused for, each with its exact words. A case is a small valid file
 * with one member replaced. */
#include "tests/test.h"

#include <stdlib.h>

#include "base/json.h"
#include "text/tokenizer.h"

static const char valid[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3},\"merges\":[\"a b\"]}}";

struct refusal {
    const char *key;   /* member of the file, or of its model when it begins with '.' */
    const char *value; /* JSON; NULL removes the member */
    int code;
    const char *text;
};

#define SPLIT(pattern)                                                                             \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                                        \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define TEMPLATE(single)                                                                           \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single                                         \
    "],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[4]},\"x\":{\"id\":\"x\",\"ids\":[9]}}" \
    "}"
#define TEXT_A  "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TOKEN_S "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"

static const struct refusal refusals[] = {
    {"version", "\"2.0\"", ERR_BAD_FILE, "t: \"version\" is \"2.0\", only \"1.0\" is known"},
    {"model", NULL, ERR_BAD_FILE, "t: \"model\" is missing or not an object"},
    {".type", "\"Unigram\"", ERR_NOT_IMPLEMENTED, "t: model type \"Unigram\" is not implemented"},
    {".vocab", "[]", ERR_BAD_FILE, "t: model: \"vocab\" is missing or not an object"},
    {".merges", NULL, ERR_BAD_FILE, "t: model: \"merges\" is missing or not a list"},
    {".byte_fallback", "true", ERR_NOT_IMPLEMENTED,
     "t: model: \"byte_fallback\" is true, which is not implemented"},
    {".dropout", "0.5", ERR_NOT_IMPLEMENTED,
     "t: model: \"dropout\" is 0.5, which is not implemented"},
    {".continuing_subword_prefix", "\"##\"", ERR_NOT_IMPLEMENTED,
     "t: model: \"continuing_subword_prefix\" is \"##\", which is not implemented"},
    {".end_of_word_suffix", "\"</w>\"", ERR_NOT_IMPLEMENTED,
     "t: model: \"end_of_word_suffix\" is \"</w>\", which is not implemented"},
    {".unk_token", "\"a\"", ERR_NOT_IMPLEMENTED,
     "t: model: \"unk_token\" is set and byte 0x00 has no token, which is not implemented"},
    {".ignore_merges", "1", ERR_BAD_FILE, "t: \"ignore_merges\" is 1, true or false is wanted"},
    {".vocab", "{\"a\":0,\"b\":-1}", ERR_BAD_FILE,
     "t: token \"b\" has id -1, it must lie in 0 to 1048575"},
    {".vocab", "{\"a\":1048576}", ERR_BAD_FILE,
     "t: token \"a\" has id 1048576, it must lie in 0 to 1048575"},
    {".vocab", "{\"a\":0,\"b\":1,\"ab\":1}", ERR_BAD_FILE,
     "t: tokens \"b\" and \"ab\" have the same id 1"},
    {".merges", "[\"a c\"]", ERR_BAD_FILE,
     "t: merge 0 (\"a\" and \"c\"): its result is not in the vocabulary"},
    {".merges", "[\"a b\",\"x b\"]", ERR_BAD_FILE,
     "t: merge 1 (\"x\" and \"b\"): its first part is not in the vocabulary"},
    {".merges", "[[\"a\",\"x\"]]", ERR_BAD_FILE,
     "t: merge 0 (\"a\" and \"x\"): its second part is not in the vocabulary"},
    {".merges", "[\"a b c\"]", ERR_BAD_FILE, "t: merge 0 is \"a b c\", two tokens are wanted"},
    {".merges", "[\"a b\",[\"a\",\"b\"]]", ERR_BAD_FILE,
     "t: merge 1 is [\"a\",\"b\"], two tokens are wanted"},
    {"added_tokens", "7", ERR_BAD_FILE, "t: \"added_tokens\" is not a list"},
    {"added_tokens", "[{\"id\":4,\"content\":\"\"}]", ERR_BAD_FILE,
     "t: added token {\"content\":\"\",\"id\":4}: \"content\" must be 1 to 1024 bytes of text"},
    {"added_tokens", "[{\"id\":7,\"content\":\"x\"}]", ERR_BAD_FILE,
     "t: added token \"x\" has id 7, its place in the file gives it 4"},
    {"added_tokens", "[{\"id\":1,\"content\":\"a\"}]", ERR_BAD_FILE,
     "t: added token \"a\" has id 1, its place in the file gives it 0"},
    {"added_tokens", "[{\"id\":0,\"content\":\"a\"},{\"id\":0,\"content\":\"a\"}]", ERR_BAD_FILE,
     "t: added token \"a\" comes twice"},
    {"added_tokens", "[{\"id\":4,\"content\":\"x\",\"lstrip\":1}]", ERR_BAD_FILE,
     "added token \"x\": t: \"lstrip\" is 1, true or false is wanted"},
    {"normalizer", "{\"type\":\"NFKC\"}", ERR_NOT_IMPLEMENTED,
     "t: normalizer type \"NFKC\" is not implemented"},
    {"normalizer",
     "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
     "{\"type\":\"Lowercase\"}]}",
     ERR_NOT_IMPLEMENTED, "t: normalizer type \"Lowercase\" is not implemented"},
    {"normalizer", "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}",
     ERR_NOT_IMPLEMENTED, "t: normalizer type \"Replace\" is not implemented"},
    {"normalizer", "{}", ERR_BAD_FILE, "t: normalizer without a \"type\""},
    {"pre_tokenizer", "null", ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer without ByteLevel is not implemented"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer type \"Metaspace\" is not implemented"},
    {"pre_tokenizer", "{\"type\":\"Whitespace\"}", ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer type \"Whitespace\" is not implemented"},
    {"pre_tokenizer", "{\"type\":\"BertPreTokenizer\"}", ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer type \"BertPreTokenizer\" is not implemented"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
     "{\"type\":\"UnicodeScripts\"}]}",
     ERR_NOT_IMPLEMENTED, "t: pre_tokenizer type \"UnicodeScripts\" is not implemented"},
    {"pre_tokenizer", "{\"type\":\"Digits\",\"individual_digits\":true}", ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer without ByteLevel is not implemented"},
    {"pre_tokenizer", "{\"type\":\"Digits\"}", ERR_BAD_FILE,
     "t: pre_tokenizer Digits: \"individual_digits\" is not true or false"},
    {"pre_tokenizer", "{\"type\":\"Digits\",\"individual_digits\":1}", ERR_BAD_FILE,
     "t: pre_tokenizer Digits: \"individual_digits\" is not true or false"},
    {"pre_tokenizer", "{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"}",
     ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer Punctuation: behavior \"MergedWithNext\" is not implemented"},
    {"pre_tokenizer", "{\"type\":\"Punctuation\",\"behavior\":2}", ERR_BAD_FILE,
     "t: \"behavior\" is 2, a string is wanted"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}",
     ERR_NOT_IMPLEMENTED, "t: pre_tokenizer Split: behavior \"Removed\" is not implemented"},
    {"pre_tokenizer",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\",\"invert\":true}",
     ERR_NOT_IMPLEMENTED, "t: pre_tokenizer Split: \"invert\" is true, which is not implemented"},
    {"pre_tokenizer", SPLIT("a(b"), ERR_BAD_FILE,
     "t: pre_tokenizer Split: pattern does not compile, at byte 3 of \"a(b\": missing closing "
     "parenthesis"},
    {"pre_tokenizer", SPLIT("x\\\\h"), ERR_BAD_FILE,
     "t: pre_tokenizer Split: pattern uses \"\\h\" at byte 1, which is not implemented"},
    {"pre_tokenizer", SPLIT("[a&&b]"), ERR_BAD_FILE,
     "t: pre_tokenizer Split: pattern uses \"&&\" at byte 2, which is not implemented"},
    {"pre_tokenizer", SPLIT("a{2}+"), ERR_BAD_FILE,
     "t: pre_tokenizer Split: pattern uses \"{2}+\" at byte 1, which is not implemented"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"ByteLevel\"}]"
     "}",
     ERR_NOT_IMPLEMENTED,
     "t: pre_tokenizer type \"ByteLevel\" behind ByteLevel is not implemented"},
    {"post_processor", "{\"type\":\"BertProcessing\"}", ERR_NOT_IMPLEMENTED,
     "t: post_processor type \"BertProcessing\" is not implemented"},
    {"post_processor", TEMPLATE(TEXT_A "," TEXT_A), ERR_BAD_FILE,
     "t: post_processor TemplateProcessing: \"single\" must hold the text once"},
    {"post_processor", TEMPLATE("{\"SpecialToken\":{\"id\":\"x\"}}," TEXT_A), ERR_BAD_FILE,
     "t: post_processor TemplateProcessing: a special token has an id outside the vocabulary"},
    {"post_processor", TEMPLATE("{\"SpecialToken\":{\"id\":\"y\"}}," TEXT_A), ERR_BAD_FILE,
     "t: post_processor TemplateProcessing: a special token of \"single\" is not in "
     "\"special_tokens\""},
    {"post_processor",
     "{\"type\":\"Sequence\",\"processors\":[" TEMPLATE(TOKEN_S
                                                        "," TEXT_A) "," TEMPLATE(TEXT_A) "]}",
     ERR_NOT_IMPLEMENTED,
     "t: a second post_processor of type TemplateProcessing is not implemented"},
    {"decoder", "null", ERR_NOT_IMPLEMENTED, "t: decoder null is not implemented"},
    {"decoder", "{\"type\":\"WordPiece\"}", ERR_NOT_IMPLEMENTED,
     "t: decoder type \"WordPiece\" is not implemented"},
};

static int open_with(const char *key, const char *value, struct tokenizer **tk, struct err *err)
{
    json_t *root = json_loads(valid, 0, NULL);
    assert_non_null(root);
    json_t *object = key && key[0] == '.' ? json_object_get(root, "model") : root;
    if (key) {
        key += key[0] == '.';
        json_object_del(object, key);
    }
    if (key && value) {
        json_t *member = json_loads(value, JSON_DECODE_ANY, NULL);
        if (!member) {
            fail_msg("not JSON: %s", value);
        }
        json_object_set_new(object, key, member);
    }
    char *text = json_dumps(root, JSON_COMPACT);
    int rc = tokenizer_open_json("t", text, strlen(text), tk, err);
    free(text);
    json_decref(root);
    return rc;
}

static void test_valid(void **state)
{
    (void)state;
    static const uint32_t want[] = {2, 3, 4, 0};
    struct tokenizer *tk = NULL;
    struct token_vec ids = {0};
    struct err err = {0};
    assert_int_equal(open_with(NULL, NULL, &tk, &err), 0);
    assert_int_equal(tokenizer_vocab_n(tk), 5);
    assert_int_equal(tokenizer_encode(tk, "abc<s>xa", 8, false, &ids, &err), 0); /* x: no token */
    assert_int_equal(ids.n, ARRAY_N(want));
    assert_memory_equal(ids.ids, want, sizeof want);
    assert_true(tokenizer_is_special(tk, 4));
    assert_false(tokenizer_is_special(tk, 3));
    assert_false(tokenizer_is_special(tk, 5));
    size_t n = 0;
    assert_null(tokenizer_token_bytes(tk, 5, &n));
    token_vec_done(&ids);
    tokenizer_close(tk);
}

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(refusals); i++) {
        const struct refusal *r = &refusals[i];
        struct tokenizer *tk = NULL;
        struct err err = {0};
        int code = open_with(r->key, r->value, &tk, &err);
        if (strcmp(err.text, r->text) != 0 || code != r->code) {
            fail_msg("case %zu: \"%s\" (%s), \"%s\" is wanted", i, err.text, err_name(code),
                     r->text);
        }
        assert_null(tk);
    }
}

static void test_not_json(void **state)
{
    (void)state;
    struct tokenizer *tk = NULL;
    struct err err = {0};
    assert_int_equal(tokenizer_open_json("t", "[]", 2, &tk, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "t: is not a JSON object");
    assert_int_equal(tokenizer_open_json("t", valid, sizeof valid - 2, &tk, &err), ERR_BAD_FILE);
    assert_non_null(strstr(err.text, "t: line 1: not valid JSON"));
    assert_int_equal(tokenizer_open("/nowhere", &tk, &err), ERR_BAD_FILE);
    assert_non_null(strstr(err.text, "/nowhere/tokenizer.json"));
    assert_null(tk);
}

static void test_bad_text(void **state)
{
    (void)state;
    struct tokenizer *tk = NULL;
    struct token_vec ids = {0};
    struct err err = {0};
    assert_int_equal(open_with(NULL, NULL, &tk, &err), 0);
    token_vec_add(&ids, 77);
    assert_int_equal(tokenizer_encode(tk, "ab\xC3", 3, true, &ids, &err), ERR_INVALID_PARAMETER);
    assert_string_equal(err.text, "text is not valid UTF-8 at byte 2");
    assert_int_equal(tokenizer_encode(tk, "\xED\xA0\x80", 3, true, &ids, &err),
                     ERR_INVALID_PARAMETER);
    assert_string_equal(err.text, "text is not valid UTF-8 at byte 0");
    assert_int_equal(ids.n, 1);
    token_vec_done(&ids);
    tokenizer_close(tk);
}

/* A pattern that backtracks without end is the request's error, and leaves the list as it was. */
static void test_runaway_pattern(void **state)
{
    (void)state;
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaacb";
    struct tokenizer *tk = NULL;
    struct token_vec ids = {0};
    struct err err = {0};
    assert_int_equal(open_with("pre_tokenizer",
                               "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT(
                                   "^(?:(?:a|aa)+)+b") ",{\"type\":\"ByteLevel\"}]}",
                               &tk, &err),
                     0);
    assert_int_equal(tokenizer_encode(tk, text, sizeof text - 1, false, &ids, &err),
                     ERR_INVALID_PARAMETER);
    assert_string_equal(err.text,
                        "could not split the text into words at byte 0: match limit exceeded");
    assert_int_equal(ids.n, 0);
    token_vec_done(&ids);
    tokenizer_close(tk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),           cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_not_json),        cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_runaway_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
