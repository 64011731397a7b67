/* Rendering is a walk over the messages that alternates control tokens, put in by id, with text
 * that is encoded as a whole between two of them, as the library sees it in a rendered template. */
#include "text/chat.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "text/tokenizer_int.h"
#include "text/utf8.h"

static const char chatml_open[] = "<|im_start|>";
static const char chatml_close[] = "<|im_end|>";
static const char llama3_begin[] = "<|begin_of_text|>";
static const char llama3_open[] = "<|start_header_id|>";
static const char llama3_header_end[] = "<|end_header_id|>";
static const char llama3_close[] = "<|eot_id|>";

void chat_mark_controls(struct tokenizer *tk)
{
    static const char *const names[] = {chatml_open, chatml_close,      llama3_begin,
                                        llama3_open, llama3_header_end, llama3_close};
    for (uint32_t id = 0; id < tk->vocab_n; id++) {
        if (tk->tokens[id].flags & TOKEN_SPECIAL) {
            tk->tokens[id].flags |= TOKEN_CONTROL;
        }
    }
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        uint32_t id = tokenizer_find(tk, names[i], strlen(names[i]));
        if (id != TOKEN_NONE) {
            tk->tokens[id].flags |= TOKEN_CONTROL;
        }
    }
}

/* A token of the configuration: its content, or an object that holds it. */
static uint32_t chat_config_token(const struct tokenizer *tk, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    return json_is_string(content)
               ? tokenizer_find(tk, json_string_value(content), json_string_length(content))
               : TOKEN_NONE;
}

/* "chat_template": a string, or a list of named ones of which "default" is taken. */
static void chat_config_template(struct tokenizer *tk, const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template");
    const json_t *item;
    size_t index;
    json_array_foreach(value, index, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0) {
            value = json_object_get(item, "template");
            break;
        }
    }
    if (json_is_string(value)) {
        tk->chat_template =
            arena_strndup(&tk->arena, json_string_value(value), json_string_length(value));
    }
}

/* Reads the configuration with every number as a real one: "model_max_length" is often 1e30 written
 * out as an integer. */
static int chat_read_config(const char *path, json_t **out, struct err *err)
{
    struct file_map map;
    json_error_t error;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    if (map.n > LIMIT_CONFIG_JSON_BYTES) {
        rc = err_set(err, ERR_BAD_FILE, "%s: is %zu bytes long, limit is %u", path, map.n,
                     LIMIT_CONFIG_JSON_BYTES);
    } else {
        *out =
            json_loadb(map.n > 0 ? (const char *)map.data : "", map.n,
                       JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
        rc = *out ? 0
                  : err_set(err, ERR_BAD_FILE, "%s: line %d: not valid JSON: %s", path, error.line,
                            error.text);
    }
    file_map_close(&map);
    return rc;
}

static int chat_load_config(struct tokenizer *tk, const char *path, struct err *err)
{
    json_t *config = NULL;
    int rc = chat_read_config(path, &config, err);
    if (rc) {
        return rc;
    }
    tk->bos = chat_config_token(tk, config, "bos_token");
    tk->eos = chat_config_token(tk, config, "eos_token");
    chat_config_template(tk, config);
    json_decref(config);
    return 0;
}

static int chat_load_template(struct tokenizer *tk, const char *path, struct err *err)
{
    struct file_map map;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    if (map.n > LIMIT_CONFIG_JSON_BYTES) {
        rc = err_set(err, ERR_BAD_FILE, "%s: is %zu bytes long, limit is %u", path, map.n,
                     LIMIT_CONFIG_JSON_BYTES);
    } else {
        tk->chat_template = arena_strndup(&tk->arena, (const char *)map.data, map.n);
    }
    file_map_close(&map);
    return rc;
}

int chat_load(struct tokenizer *tk, const char *model_dir, struct err *err)
{
    char path[4096];
    int rc = 0;
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", model_dir) >= (int)sizeof path) {
        return err_set(err, ERR_BAD_FILE, "%s: path is too long", model_dir);
    }
    if (file_exists(path)) {
        rc = chat_load_config(tk, path, err);
    }
    /* Shorter than the name above, so it fits. The file is newer than the key and wins over it. */
    snprintf(path, sizeof path, "%s/chat_template.jinja", model_dir);
    if (rc == 0 && file_exists(path)) {
        rc = chat_load_template(tk, path, err);
    }
    return rc;
}

enum chat_style chat_style(const struct tokenizer *tk)
{
    if (!tk->chat_template) {
        return CHAT_NONE;
    }
    if (strstr(tk->chat_template, chatml_open)) {
        return CHAT_CHATML;
    }
    return strstr(tk->chat_template, llama3_open) ? CHAT_LLAMA3 : CHAT_UNKNOWN;
}

const char *chat_style_name(enum chat_style style)
{
    static const char *const names[] = {"none", "chatml", "llama3", "unknown"};
    return names[style];
}

/* Everything one rendering needs. */
struct chat {
    const struct tokenizer *tk;
    struct token_vec *out;
    struct buf text; /* what is encoded next */
    struct err *err;
};

static int chat_control(struct chat *c, const char *content)
{
    uint32_t id = tokenizer_find(c->tk, content, strlen(content));
    if (id == TOKEN_NONE) {
        return err_set(c->err, ERR_NOT_IMPLEMENTED,
                       "could not render chat: the vocabulary has no token %s", content);
    }
    token_vec_add(c->out, id);
    return 0;
}

/* Encodes c->text, and makes sure that no control token came of it: a vocabulary in which plain
 * merges lead to one is refused rather than trusted. */
static int chat_text(struct chat *c)
{
    static const struct encode_opts opts = {.add_special = false, .parse_special = false};
    size_t from = c->out->n;
    int rc = tokenizer_encode_with(c->tk, c->text.data, c->text.n, &opts, c->out, c->err);
    buf_clear(&c->text);
    for (size_t i = from; rc == 0 && i < c->out->n; i++) {
        const struct token *token = &c->tk->tokens[c->out->ids[i]];
        if (token->flags & TOKEN_CONTROL) {
            rc = err_set(c->err, ERR_INVALID_PARAMETER,
                         "text encodes to the control token \"%.64s\"", token->content);
        }
    }
    return rc;
}

static int chat_check_role(const struct chat *c, const char *role)
{
    size_t n = strspn(role, "abcdefghijklmnopqrstuvwxyz");
    if (n == 0 || n > LIMIT_CHAT_ROLE_BYTES || role[n] != '\0') {
        return err_set(c->err, ERR_INVALID_PARAMETER,
                       "role \"%.32s\" must be 1 to %d letters from a to z", role,
                       LIMIT_CHAT_ROLE_BYTES);
    }
    return 0;
}

/* White space as Python's str.strip() knows it, which is what a template's trim calls. */
static bool chat_is_space(uint32_t cp)
{
    return utf8_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
}

static void chat_add_trimmed(struct chat *c, const char *s, size_t n)
{
    size_t char_n;
    while (n > 0 && chat_is_space(utf8_get(s, &char_n))) {
        s += char_n;
        n -= char_n;
    }
    while (n > 0) {
        size_t last_n = utf8_last_n(s, n);
        if (!chat_is_space(utf8_get(s + n - last_n, &char_n))) {
            break;
        }
        n -= last_n;
    }
    buf_add(&c->text, s, n);
}

static int chatml_message(struct chat *c, const struct chat_message *message)
{
    int rc = chat_control(c, chatml_open);
    if (rc) {
        return rc;
    }
    buf_add_str(&c->text, message->role);
    buf_add_str(&c->text, "\n");
    buf_add(&c->text, message->content, message->content_n);
    rc = chat_text(c);
    if (rc == 0) {
        rc = chat_control(c, chatml_close);
    }
    if (rc == 0) {
        buf_add_str(&c->text, "\n");
        rc = chat_text(c);
    }
    return rc;
}

static int llama3_header(struct chat *c, const char *role)
{
    int rc = chat_control(c, llama3_open);
    if (rc == 0) {
        buf_add_str(&c->text, role);
        rc = chat_text(c);
    }
    return rc ? rc : chat_control(c, llama3_header_end);
}

static int llama3_message(struct chat *c, const struct chat_message *message)
{
    int rc = llama3_header(c, message->role);
    if (rc) {
        return rc;
    }
    buf_add_str(&c->text, "\n\n");
    chat_add_trimmed(c, message->content, message->content_n);
    rc = chat_text(c);
    return rc ? rc : chat_control(c, llama3_close);
}

/* The BOS: Llama-3's template always writes one, a ChatML one if it speaks of bos_token. */
static int chat_begin(struct chat *c, enum chat_style style)
{
    bool has_bos = style == CHAT_LLAMA3 || strstr(c->tk->chat_template, "bos_token");
    if (has_bos && c->tk->bos != TOKEN_NONE) {
        token_vec_add(c->out, c->tk->bos);
        return 0;
    }
    return style == CHAT_LLAMA3 ? chat_control(c, llama3_begin) : 0;
}

static int chat_answer(struct chat *c, enum chat_style style)
{
    int rc;
    if (style == CHAT_CHATML) {
        rc = chat_control(c, chatml_open);
        buf_add_str(&c->text, "assistant\n");
    } else {
        rc = llama3_header(c, "assistant");
        buf_add_str(&c->text, "\n\n");
    }
    return rc ? rc : chat_text(c);
}

static int chat_messages(struct chat *c, enum chat_style style, const struct chat_message *messages,
                         size_t n)
{
    int rc = chat_begin(c, style);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct chat_message *message = &messages[i];
        size_t bad = utf8_bad_at(message->content, message->content_n);
        rc = chat_check_role(c, message->role);
        if (rc == 0 && bad < message->content_n) {
            rc = err_set(c->err, ERR_INVALID_PARAMETER, "content is not valid UTF-8 at byte %zu",
                         bad);
        }
        if (rc == 0) {
            rc = style == CHAT_CHATML ? chatml_message(c, message) : llama3_message(c, message);
        }
        if (rc) {
            rc = err_prefix(c->err, rc, "message %zu", i);
        }
    }
    return rc ? rc : chat_answer(c, style);
}

int chat_render(const struct tokenizer *tk, const struct chat_message *messages, size_t n,
                struct token_vec *out, struct err *err)
{
    enum chat_style style = chat_style(tk);
    struct chat c = {.tk = tk, .out = out, .err = err};
    size_t before = out->n;
    if (style == CHAT_NONE || style == CHAT_UNKNOWN) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "could not render chat: %s",
                       style == CHAT_NONE ? "the model has no chat_template"
                                          : "its chat_template is neither ChatML nor Llama-3");
    }
    if (n == 0) {
        return err_set(err, ERR_INVALID_PARAMETER, "could not render chat: there are no messages");
    }
    int rc = chat_messages(&c, style, messages, n);
    if (rc) {
        out->n = before;
    }
    buf_done(&c.text);
    return rc;
}
