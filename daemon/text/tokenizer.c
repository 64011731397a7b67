/* Opening, closing, looking up. */
#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/tokenizer_int.h"

void token_vec_done(struct token_vec *vec)
{
    mem_free(vec->ids);
    *vec = (struct token_vec){0};
}

void token_vec_add(struct token_vec *vec, uint32_t id)
{
    if (vec->n == vec->cap) {
        vec->cap = MAX(2 * vec->cap, 64);
        vec->ids = mem_realloc(vec->ids, vec->cap * sizeof *vec->ids);
    }
    vec->ids[vec->n++] = id;
}

void span_vec_done(struct span_vec *vec)
{
    mem_free(vec->spans);
    *vec = (struct span_vec){0};
}

/* Composing takes at most three bytes for one: of NFC's decompositions U+0390 grows the most. */
#define TOKENIZER_NFC_SHRINK 3

static size_t tokenizer_find_bytes_max(const struct tokenizer *tk)
{
    size_t max = 1;
    for (uint32_t id = 0; id < tk->vocab_n; id++) {
        const struct token *token = &tk->tokens[id];
        if (token->content && (token->flags & (TOKEN_LSTRIP | TOKEN_RSTRIP))) {
            return SIZE_MAX;
        }
        max = token->content ? MAX(max, token->bytes_n) : max;
    }
    return tk->is_nfc ? max * TOKENIZER_NFC_SHRINK : max;
}

static int tokenizer_load(struct tokenizer *tk, const json_t *root, struct err *err)
{
    const char *version = NULL;
    if (!json_is_object(root)) {
        return err_set(err, ERR_BAD_FILE, "%s: is not a JSON object", tk->label);
    }
    int rc = json_get_str(tk->label, root, "version", &version, err);
    if (rc) {
        return rc;
    }
    if (version && strcmp(version, "1.0") != 0) {
        return err_set(err, ERR_BAD_FILE, "%s: \"version\" is \"%s\", only \"1.0\" is known",
                       tk->label, version);
    }
    rc = pipeline_load_normalizer(tk, root, err);
    if (rc == 0) {
        rc = vocab_load(tk, root, err);
    }
    if (rc == 0) {
        rc = pipeline_load(tk, root, err);
    }
    if (rc == 0) {
        chat_mark_controls(tk);
        tk->token_bytes_max = tokenizer_find_bytes_max(tk);
    }
    return rc;
}

static struct tokenizer *tokenizer_new(const char *label)
{
    struct tokenizer *tk = mem_zalloc(sizeof *tk);
    arena_init(&tk->arena);
    tk->label = arena_strdup(&tk->arena, label);
    tk->bos = TOKEN_NONE;
    tk->eos = TOKEN_NONE;
    return tk;
}

/* Loads from `root`, which it gives back. */
static int tokenizer_open_root(const char *label, json_t *root, struct tokenizer **out,
                               struct err *err)
{
    struct tokenizer *tk = tokenizer_new(label);
    int rc = tokenizer_load(tk, root, err);
    json_decref(root);
    if (rc) {
        tokenizer_close(tk);
        return rc;
    }
    *out = tk;
    return 0;
}

int tokenizer_open_json(const char *label, const void *json, size_t n, struct tokenizer **out,
                        struct err *err)
{
    json_t *root;
    int rc = json_parse(label, json, n, &root, err);
    return rc ? rc : tokenizer_open_root(label, root, out, err);
}

int tokenizer_open(const char *model_dir, struct tokenizer **out, struct err *err)
{
    char path[4096];
    json_t *root;
    struct tokenizer *tk;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", model_dir) >= (int)sizeof path) {
        return err_set(err, ERR_BAD_FILE, "%s: path is too long", model_dir);
    }
    int rc = json_read_file(path, LIMIT_TOKENIZER_JSON_BYTES, &root, err);
    if (rc) {
        return rc;
    }
    rc = tokenizer_open_root(path, root, &tk, err);
    if (rc) {
        return rc;
    }
    rc = chat_load(tk, model_dir, err);
    if (rc) {
        tokenizer_close(tk);
        return rc;
    }
    *out = tk;
    return 0;
}

void tokenizer_close(struct tokenizer *tk)
{
    if (!tk) {
        return;
    }
    for (size_t i = 0; i < tk->steps_n; i++) {
        pattern_close(tk->steps[i].pattern);
    }
    pattern_close(tk->word);
    trie_done(&tk->raw_added);
    trie_done(&tk->normalized_added);
    arena_done(&tk->arena);
    mem_free(tk);
}

uint32_t tokenizer_vocab_n(const struct tokenizer *tk)
{
    return tk->vocab_n;
}

size_t tokenizer_text_bytes_max(const struct tokenizer *tk, uint32_t n)
{
    return tk->token_bytes_max == SIZE_MAX ? SIZE_MAX : tk->token_bytes_max * n;
}

bool tokenizer_is_special(const struct tokenizer *tk, uint32_t id)
{
    return id < tk->vocab_n && (tk->tokens[id].flags & TOKEN_SPECIAL) != 0;
}

const char *tokenizer_token_bytes(const struct tokenizer *tk, uint32_t id, size_t *out_n)
{
    if (id >= tk->vocab_n || !tk->tokens[id].content) {
        return NULL;
    }
    *out_n = tk->tokens[id].bytes_n;
    return tk->tokens[id].bytes;
}

bool tokenizer_token_id(const struct tokenizer *tk, const char *content, uint32_t *out_id)
{
    uint32_t id = tokenizer_find(tk, content, strlen(content));
    if (id == TOKEN_NONE) {
        return false;
    }
    *out_id = id;
    return true;
}

bool tokenizer_bos_id(const struct tokenizer *tk, uint32_t *out_id)
{
    if (tk->bos == TOKEN_NONE) {
        return false;
    }
    *out_id = tk->bos;
    return true;
}

bool tokenizer_eos_id(const struct tokenizer *tk, uint32_t *out_id)
{
    if (tk->eos == TOKEN_NONE) {
        return false;
    }
    *out_id = tk->eos;
    return true;
}

const char *tokenizer_chat_template(const struct tokenizer *tk)
{
    return tk->chat_template;
}
