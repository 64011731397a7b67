/* The vocabulary, the merges and the added tokens of a tokenizer.json, checked against each other:
 * every id at most once, every merge and its result in the vocabulary, every added token at the id
 * the library would give it. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/bytelevel.h"
#include "text/mapped.h"
#include "text/nfc.h"
#include "text/tokenizer_int.h"
#include "text/utf8.h"

/* Text of a file in an error message. */
#define SHOW_MAX 64

static uint32_t vocab_hash(const char *s, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (unsigned char)s[i]) * 0x100000001b3u;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

uint32_t tokenizer_find(const struct tokenizer *tk, const char *content, size_t n)
{
    uint32_t at = vocab_hash(content, n) & tk->by_content_mask;
    while (tk->by_content[at] != 0) {
        uint32_t id = tk->by_content[at] - 1;
        const struct token *token = &tk->tokens[id];
        if (token->content_n == n && memcmp(token->content, content, n) == 0) {
            return id;
        }
        at = (at + 1) & tk->by_content_mask;
    }
    return TOKEN_NONE;
}

static uint32_t merge_slot(const struct tokenizer *tk, uint64_t pair)
{
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    uint32_t at = (uint32_t)(hash >> 32) & tk->merges_mask;
    while (tk->merges[at].pair != MERGE_FREE && tk->merges[at].pair != pair) {
        at = (at + 1) & tk->merges_mask;
    }
    return at;
}

const struct merge *tokenizer_merge(const struct tokenizer *tk, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    const struct merge *merge = &tk->merges[merge_slot(tk, pair)];
    return merge->pair == pair ? merge : NULL;
}

/* A power of two that leaves an open-addressing table at most half full. */
static uint32_t table_size(size_t n)
{
    uint32_t size = 16;
    while (size < 2 * n) {
        size *= 2;
    }
    return size;
}

static int vocab_refuse_id(const struct tokenizer *tk, const char *content, long long id,
                           struct err *err)
{
    return err_set(err, ERR_BAD_FILE, "%s: token \"%.*s\" has id %lld, it must lie in 0 to %u",
                   tk->label, SHOW_MAX, content, id, LIMIT_VOCAB - 1);
}

/* Gives an id its content. `token->bytes` follows from it in vocab_set_bytes. */
static int vocab_put(struct tokenizer *tk, uint32_t id, const char *content, size_t n,
                     struct err *err)
{
    struct token *token = &tk->tokens[id];
    if (token->content) {
        return err_set(err, ERR_BAD_FILE, "%s: tokens \"%.*s\" and \"%.*s\" have the same id %u",
                       tk->label, SHOW_MAX, token->content, SHOW_MAX, content, id);
    }
    if (n > UINT32_MAX / 2) {
        return err_set(err, ERR_BAD_FILE, "%s: token %u has %zu bytes", tk->label, id, n);
    }
    token->content = arena_strndup(&tk->arena, content, n);
    token->content_n = (uint32_t)n;
    uint32_t at = vocab_hash(content, n) & tk->by_content_mask;
    while (tk->by_content[at] != 0) {
        at = (at + 1) & tk->by_content_mask;
    }
    tk->by_content[at] = id + 1;
    return 0;
}

/* What a token stands for: its content read in the byte-level alphabet, or as it is when a
 * character is not of the alphabet. */
static void vocab_set_bytes(struct tokenizer *tk, struct token *token, const char *text, size_t n)
{
    char *bytes = arena_alloc(&tk->arena, n + 1);
    size_t bytes_n = n;
    if (!bytelevel_bytes(text, n, bytes, &bytes_n)) {
        memcpy(bytes, text, n);
    }
    bytes[bytes_n] = '\0';
    token->bytes = bytes;
    token->bytes_n = (uint32_t)bytes_n;
}

/* Makes the tables for the largest id of either list. */
static int vocab_size_tables(struct tokenizer *tk, json_t *vocab, json_t *added, struct err *err)
{
    const char *content;
    json_t *value;
    size_t index;
    json_int_t last = -1;
    json_object_foreach(vocab, content, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= (json_int_t)LIMIT_VOCAB) {
            return vocab_refuse_id(tk, content, id, err);
        }
        last = MAX(last, id);
    }
    json_array_foreach(added, index, value)
    {
        json_int_t id = json_integer_value(json_object_get(value, "id"));
        last = id > last && id < (json_int_t)LIMIT_VOCAB ? id : last;
    }
    size_t n = json_object_size(vocab) + json_array_size(added);
    tk->vocab_n = (uint32_t)(last + 1);
    tk->tokens = arena_alloc(&tk->arena, tk->vocab_n * sizeof *tk->tokens);
    tk->by_content_mask = table_size(n) - 1;
    tk->by_content =
        arena_alloc(&tk->arena, ((size_t)tk->by_content_mask + 1) * sizeof *tk->by_content);
    return 0;
}

static int vocab_load_tokens(struct tokenizer *tk, json_t *vocab, struct err *err)
{
    const char *content;
    json_t *value;
    json_object_foreach(vocab, content, value)
    {
        uint32_t id = (uint32_t)json_integer_value(value);
        size_t n = strlen(content);
        int rc = vocab_put(tk, id, content, n, err);
        if (rc) {
            return rc;
        }
        vocab_set_bytes(tk, &tk->tokens[id], content, n);
        tk->tokens[id].flags = TOKEN_MODEL;
    }
    for (unsigned b = 0; b < 256; b++) {
        char text[4];
        size_t n = utf8_put(bytelevel_char((unsigned char)b), text);
        tk->byte_ids[b] = tokenizer_find(tk, text, n);
    }
    return 0;
}

/* The two parts of a merge: "a b" or ["a", "b"]. */
struct merge_parts {
    const char *a;
    const char *b;
    size_t a_n;
    size_t b_n;
};

static bool merge_split(const json_t *value, struct merge_parts *out)
{
    if (json_is_string(value)) {
        const char *s = json_string_value(value);
        size_t n = json_string_length(value);
        const char *space = memchr(s, ' ', n);
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - s))) {
            return false;
        }
        size_t a_n = (size_t)(space - s);
        *out = (struct merge_parts){s, space + 1, a_n, n - a_n - 1};
        return true;
    }
    const json_t *a = json_array_get(value, 0);
    const json_t *b = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_string(a) || !json_is_string(b)) {
        return false;
    }
    *out = (struct merge_parts){json_string_value(a), json_string_value(b), json_string_length(a),
                                json_string_length(b)};
    return true;
}

/* Enters one merge; a pair that comes again takes its last rank, as in the library. */
static int merge_put(struct tokenizer *tk, const struct merge_parts *parts, uint32_t rank,
                     struct buf *joined, struct err *err)
{
    uint32_t a = tokenizer_find(tk, parts->a, parts->a_n);
    uint32_t b = tokenizer_find(tk, parts->b, parts->b_n);
    buf_clear(joined);
    buf_add(joined, parts->a, parts->a_n);
    buf_add(joined, parts->b, parts->b_n);
    uint32_t id = tokenizer_find(tk, joined->data, joined->n);
    if (a == TOKEN_NONE || b == TOKEN_NONE || id == TOKEN_NONE) {
        const char *what = a == TOKEN_NONE   ? "its first part"
                           : b == TOKEN_NONE ? "its second part"
                                             : "its result";
        return err_set(err, ERR_BAD_FILE,
                       "%s: merge %u (\"%.*s\" and \"%.*s\"): %s is not in the vocabulary",
                       tk->label, rank, (int)MIN(parts->a_n, SHOW_MAX), parts->a,
                       (int)MIN(parts->b_n, SHOW_MAX), parts->b, what);
    }
    uint64_t pair = (uint64_t)a << 32 | b;
    tk->merges[merge_slot(tk, pair)] = (struct merge){pair, rank, id};
    return 0;
}

static int vocab_load_merges(struct tokenizer *tk, const json_t *merges, struct err *err)
{
    struct buf joined = {0};
    size_t n = json_array_size(merges);
    const json_t *value;
    size_t index;
    uint32_t rank = 0;
    int rc = 0;
    if (n > LIMIT_MERGES) {
        return err_set(err, ERR_BAD_FILE, "%s: has %zu merges, limit is %u", tk->label, n,
                       LIMIT_MERGES);
    }
    tk->merges_mask = table_size(n) - 1;
    size_t size = (size_t)tk->merges_mask + 1;
    tk->merges = arena_alloc(&tk->arena, size * sizeof *tk->merges);
    for (size_t i = 0; i < size; i++) {
        tk->merges[i].pair = MERGE_FREE;
    }
    bool is_text = json_is_string(json_array_get(merges, 0));
    json_array_foreach(merges, index, value)
    {
        struct merge_parts parts;
        if (is_text && json_is_string(value) &&
            strncmp(json_string_value(value), "#version", 8) == 0) {
            continue; /* the first line of a merges.txt that was carried over */
        }
        if (json_is_string(value) != is_text || !merge_split(value, &parts)) {
            char brief[SHOW_MAX];
            json_brief(value, brief, sizeof brief);
            rc = err_set(err, ERR_BAD_FILE, "%s: merge %zu is %s, two tokens are wanted", tk->label,
                         index, brief);
        } else {
            rc = merge_put(tk, &parts, rank++, &joined, err);
        }
        if (rc) {
            break;
        }
    }
    buf_done(&joined);
    return rc;
}

static int model_refuse(const struct tokenizer *tk, const char *key, const json_t *value,
                        struct err *err)
{
    char brief[SHOW_MAX];
    json_brief(value, brief, sizeof brief);
    return err_set(err, ERR_NOT_IMPLEMENTED, "%s: model: \"%s\" is %s, which is not implemented",
                   tk->label, key, brief);
}

/* The options of the BPE model that change its result and are not implemented. An unknown token
 * does no harm while every byte has a token of its own. */
static int model_check_options(const struct tokenizer *tk, const json_t *model, struct err *err)
{
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *value = json_object_get(model, "byte_fallback");
    if (value && !json_is_null(value) && !json_is_false(value)) {
        return model_refuse(tk, "byte_fallback", value, err);
    }
    value = json_object_get(model, "dropout");
    if (value && !json_is_null(value) &&
        !(json_is_number(value) && json_number_value(value) == 0)) {
        return model_refuse(tk, "dropout", value, err);
    }
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        value = json_object_get(model, texts[i]);
        if (value && !json_is_null(value) &&
            !(json_is_string(value) && json_string_length(value) == 0)) {
            return model_refuse(tk, texts[i], value, err);
        }
    }
    value = json_object_get(model, "unk_token");
    if (value && !json_is_null(value)) {
        for (unsigned b = 0; b < 256; b++) {
            if (tk->byte_ids[b] == TOKEN_NONE) {
                return err_set(err, ERR_NOT_IMPLEMENTED,
                               "%s: model: \"unk_token\" is set and byte 0x%02X has no token, "
                               "which is not implemented",
                               tk->label, b);
            }
        }
    }
    return 0;
}

static int model_load(struct tokenizer *tk, const json_t *model, json_t *added, struct err *err)
{
    const char *type = NULL;
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    int rc = json_get_str(tk->label, model, "type", &type, err);
    if (rc) {
        return rc;
    }
    if (type && strcmp(type, "BPE") != 0) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "%s: model type \"%.*s\" is not implemented",
                       tk->label, SHOW_MAX, type);
    }
    if (!json_is_object(vocab) || !json_is_array(merges)) {
        return err_set(err, ERR_BAD_FILE, "%s: model: \"%s\" is missing or not %s", tk->label,
                       json_is_object(vocab) ? "merges" : "vocab",
                       json_is_object(vocab) ? "a list" : "an object");
    }
    rc = vocab_size_tables(tk, vocab, added, err);
    if (rc == 0) {
        rc = vocab_load_tokens(tk, vocab, err);
    }
    if (rc == 0) {
        rc = model_check_options(tk, model, err);
    }
    if (rc == 0) {
        rc = vocab_load_merges(tk, merges, err);
    }
    return rc ? rc : json_get_bool(tk->label, model, "ignore_merges", &tk->is_ignoring_merges, err);
}

/* One member of "added_tokens", read but not yet entered. */
struct added {
    const char *content;
    size_t n;
    int64_t id;
    unsigned flags;
};

static int added_read(const struct tokenizer *tk, const json_t *value, struct added *out,
                      struct err *err)
{
    static const struct {
        const char *key;
        unsigned flag;
    } keys[] = {{"special", TOKEN_SPECIAL},
                {"lstrip", TOKEN_LSTRIP},
                {"rstrip", TOKEN_RSTRIP},
                {"single_word", TOKEN_SINGLE_WORD},
                {"normalized", TOKEN_NORMALIZED}};
    const json_t *content = json_object_get(value, "content");
    *out = (struct added){.content = json_string_value(content),
                          .n = json_string_length(content),
                          .flags = TOKEN_ADDED};
    if (!out->content || out->n == 0 || out->n > LIMIT_ADDED_TOKEN_BYTES ||
        strlen(out->content) != out->n) {
        char brief[SHOW_MAX];
        json_brief(value, brief, sizeof brief);
        return err_set(err, ERR_BAD_FILE,
                       "%s: added token %s: \"content\" must be 1 to %d bytes of text", tk->label,
                       brief, LIMIT_ADDED_TOKEN_BYTES);
    }
    int rc = json_need_int(tk->label, value, "id", 0, LIMIT_VOCAB - 1, &out->id, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_N(keys); i++) {
        bool is_set = false;
        rc = json_get_bool(tk->label, value, keys[i].key, &is_set, err);
        out->flags |= is_set ? keys[i].flag : 0;
    }
    return rc ? err_prefix(err, rc, "added token \"%.*s\"", SHOW_MAX, out->content) : 0;
}

/* Enters the text by which a token is found. */
static int added_match(struct tokenizer *tk, uint32_t id, struct err *err)
{
    struct token *token = &tk->tokens[id];
    bool is_normalized = (token->flags & TOKEN_NORMALIZED) != 0;
    struct mapped text;
    mapped_init(&text, false);
    if (is_normalized && tk->is_nfc) {
        nfc_add(token->content, token->content_n, 0, &text);
    } else {
        mapped_copy(&text, token->content, token->content_n, 0);
    }
    bool is_same = text.text.n == token->content_n &&
                   memcmp(text.text.data, token->content, token->content_n) == 0;
    int rc = 0;
    if (!is_same && token->flags & TOKEN_SPECIAL) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: added token \"%.*s\" is special, normalized, and changed by NFC, which "
                     "is not implemented",
                     tk->label, SHOW_MAX, token->content);
    } else if (!trie_add(is_normalized ? &tk->normalized_added : &tk->raw_added, text.text.data,
                         text.text.n, id)) {
        rc = err_set(err, ERR_BAD_FILE, "%s: added token \"%.*s\" is found by the text of another",
                     tk->label, SHOW_MAX, token->content);
    } else {
        vocab_set_bytes(tk, token, text.text.data, text.text.n);
    }
    mapped_done(&text);
    return rc;
}

/* The id of an added token is the one the vocabulary gives its content, else the next free one in
 * the order of the file: the library pays no heed to what the file says. */
static int added_enter(struct tokenizer *tk, const struct added *added, uint32_t *next_id,
                       struct err *err)
{
    uint32_t id = tokenizer_find(tk, added->content, added->n);
    int rc = 0;
    if (id == TOKEN_NONE) {
        id = (*next_id)++;
        if (added->id == id) {
            rc = vocab_put(tk, id, added->content, added->n, err);
        }
    } else if (tk->tokens[id].flags & TOKEN_ADDED) {
        return err_set(err, ERR_BAD_FILE, "%s: added token \"%.*s\" comes twice", tk->label,
                       SHOW_MAX, added->content);
    }
    if (rc == 0 && added->id != id) {
        rc = err_set(err, ERR_BAD_FILE,
                     "%s: added token \"%.*s\" has id %lld, its place in the file gives it %u",
                     tk->label, SHOW_MAX, added->content, (long long)added->id, id);
    }
    if (rc) {
        return rc;
    }
    tk->tokens[id].flags |= added->flags;
    if (added->flags & TOKEN_SINGLE_WORD && !tk->word) {
        /* What Rust's \w holds. */
        static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]";
        rc = pattern_open(tk->label, word, sizeof word - 1, false, &tk->word, err);
    }
    return rc ? rc : added_match(tk, id, err);
}

int vocab_load(struct tokenizer *tk, const json_t *root, struct err *err)
{
    const json_t *model = json_object_get(root, "model");
    json_t *list = json_object_get(root, "added_tokens");
    const json_t *value;
    size_t index;
    if (!json_is_object(model)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"model\" is missing or not an object", tk->label);
    }
    if (list && !json_is_null(list) && !json_is_array(list)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"added_tokens\" is not a list", tk->label);
    }
    if (json_array_size(list) > LIMIT_ADDED_TOKENS) {
        return err_set(err, ERR_BAD_FILE, "%s: has %zu added tokens, limit is %d", tk->label,
                       json_array_size(list), LIMIT_ADDED_TOKENS);
    }
    int rc = model_load(tk, model, list, err);
    uint32_t next_id = (uint32_t)json_object_size(json_object_get(model, "vocab"));
    json_array_foreach(list, index, value)
    {
        struct added added;
        if (rc == 0) {
            rc = added_read(tk, value, &added, err);
        }
        if (rc == 0) {
            rc = added_enter(tk, &added, &next_id, err);
        }
        if (rc) {
            break;
        }
    }
    return rc;
}
