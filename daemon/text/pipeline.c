/* The steps round the model: normaliser, pre-tokenizer, post-processor, decoder. Each is known by
 * its type; a type or an option that is not implemented is refused by name. */
#include <string.h>

#include "base/json.h"
#include "text/tokenizer_int.h"

#define SEQUENCE_DEPTH 4 /* sequences inside sequences */

/* What ByteLevel splits by when its use_regex is set: part of the format. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* What Punctuation splits by. The library's tables of category P are older than PCRE2's: the look
 * ahead takes out what became punctuation since, the first set puts in what no longer is. With the
 * signs of ASCII that are not of category P. */
#define PUNCTUATION                                                                                \
    "(?:[$+<=>^`|~\\x{166D}\\x{111C9}]|(?![\\x{61D}\\x{9FD}\\x{A76}\\x{C77}\\x{C84}\\x{1B7D}"      \
    "\\x{1B7E}\\x{2E43}-\\x{2E4F}\\x{2E52}-\\x{2E5D}\\x{10EAD}\\x{10F55}-\\x{10F59}"               \
    "\\x{10F86}-\\x{10F89}\\x{1144B}-\\x{1144F}\\x{1145A}\\x{1145B}\\x{1145D}"                     \
    "\\x{11660}-\\x{1166C}\\x{116B9}\\x{1183B}\\x{11944}-\\x{11946}\\x{119E2}"                     \
    "\\x{11A3F}-\\x{11A46}\\x{11A9A}-\\x{11A9C}\\x{11A9E}-\\x{11AA2}\\x{11C41}-\\x{11C45}"         \
    "\\x{11C70}\\x{11C71}\\x{11EF7}\\x{11EF8}\\x{11FFF}\\x{12FF1}\\x{12FF2}"                       \
    "\\x{16E97}-\\x{16E9A}\\x{16FE2}\\x{1E95E}\\x{1E95F}])\\p{P})"

struct step_loader {
    const char *kind;     /* "pre_tokenizer", for errors */
    const char *list_key; /* the member that holds a Sequence's steps */
    int (*load)(struct tokenizer *tk, const json_t *step, const char *type, struct err *err);
};

static int step_refuse(const struct tokenizer *tk, const char *kind, const char *type,
                       struct err *err)
{
    return err_set(err, ERR_NOT_IMPLEMENTED, "%s: %s type \"%.64s\" is not implemented", tk->label,
                   kind, type);
}

/* Loads a step, or each step of a Sequence in order. */
static int step_load(struct tokenizer *tk, const struct step_loader *loader, const json_t *step,
                     int depth, struct err *err)
{
    const char *type = json_string_value(json_object_get(step, "type"));
    if (!type) {
        return err_set(err, ERR_BAD_FILE, "%s: %s without a \"type\"", tk->label, loader->kind);
    }
    if (strcmp(type, "Sequence") != 0) {
        return loader->load(tk, step, type, err);
    }
    const json_t *list = json_object_get(step, loader->list_key);
    const json_t *value;
    size_t index;
    if (!json_is_array(list) || depth == SEQUENCE_DEPTH) {
        return err_set(err, ERR_BAD_FILE, "%s: %s: \"%s\" is not a list, or nested deeper than %d",
                       tk->label, loader->kind, loader->list_key, SEQUENCE_DEPTH);
    }
    json_array_foreach(list, index, value)
    {
        int rc = step_load(tk, loader, value, depth + 1, err);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static int load_normalizer(struct tokenizer *tk, const json_t *step, const char *type,
                           struct err *err)
{
    (void)step;
    if (strcmp(type, "NFC") != 0) {
        return step_refuse(tk, "normalizer", type, err);
    }
    tk->is_nfc = true;
    return 0;
}

int pipeline_load_normalizer(struct tokenizer *tk, const json_t *root, struct err *err)
{
    static const struct step_loader loader = {"normalizer", "normalizers", load_normalizer};
    const json_t *step = json_object_get(root, "normalizer");
    return !step || json_is_null(step) ? 0 : step_load(tk, &loader, step, 0, err);
}

static int load_split(struct tokenizer *tk, const json_t *step, struct err *err)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    const json_t *source = regex ? regex : literal;
    const char *behavior = NULL;
    bool is_inverted = false;
    int rc = json_get_str(tk->label, step, "behavior", &behavior, err);
    if (rc == 0) {
        rc = json_get_bool(tk->label, step, "invert", &is_inverted, err);
    }
    if (rc) {
        return rc;
    }
    if (!behavior || strcmp(behavior, "Isolated") != 0) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: pre_tokenizer Split: behavior \"%.64s\" is not implemented", tk->label,
                       behavior ? behavior : "");
    }
    if (is_inverted) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: pre_tokenizer Split: \"invert\" is true, which is not implemented",
                       tk->label);
    }
    if (!json_is_string(source) || (regex && literal)) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: pre_tokenizer Split: \"pattern\" is neither a Regex nor a String",
                       tk->label);
    }
    rc = pattern_open("pre_tokenizer Split", json_string_value(source), json_string_length(source),
                      !regex, &tk->steps[tk->steps_n].pattern, err);
    if (rc) {
        return err_prefix(err, rc, "%s", tk->label);
    }
    tk->steps_n++;
    return 0;
}

/* Digits and Punctuation: characters of one kind, each a word (Isolated) or each run of them one
 * (Contiguous). A run is taken whole: there is nothing to go back for. */
static int load_kind(struct tokenizer *tk, const char *label, const char *one, const char *run,
                     bool is_run, struct err *err)
{
    const char *source = is_run ? run : one;
    int rc =
        pattern_open(label, source, strlen(source), false, &tk->steps[tk->steps_n].pattern, err);
    if (rc) {
        return err_prefix(err, rc, "%s", tk->label);
    }
    tk->steps_n++;
    return 0;
}

static int load_digits(struct tokenizer *tk, const json_t *step, struct err *err)
{
    const json_t *flag = json_object_get(step, "individual_digits");
    if (!json_is_boolean(flag)) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: pre_tokenizer Digits: \"individual_digits\" is not true or false",
                       tk->label);
    }
    return load_kind(tk, "pre_tokenizer Digits", "\\p{N}", "\\p{N}++", json_is_false(flag), err);
}

static int load_punctuation(struct tokenizer *tk, const json_t *step, struct err *err)
{
    const char *behavior = "Isolated";
    int rc = json_get_str(tk->label, step, "behavior", &behavior, err);
    if (rc) {
        return rc;
    }
    bool is_run = strcmp(behavior, "Contiguous") == 0;
    if (!is_run && strcmp(behavior, "Isolated") != 0) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: pre_tokenizer Punctuation: behavior \"%.64s\" is not implemented",
                       tk->label, behavior);
    }
    return load_kind(tk, "pre_tokenizer Punctuation", PUNCTUATION, PUNCTUATION "++", is_run, err);
}

static int load_byte_level(struct tokenizer *tk, const json_t *step, struct err *err)
{
    struct pre_step *out = &tk->steps[tk->steps_n];
    bool has_regex = true;
    int rc = json_get_bool(tk->label, step, "add_prefix_space", &out->has_prefix_space, err);
    if (rc == 0) {
        rc = json_get_bool(tk->label, step, "use_regex", &has_regex, err);
    }
    if (rc == 0 && has_regex) {
        rc = pattern_open(tk->label, gpt2_pattern, sizeof gpt2_pattern - 1, false, &out->pattern,
                          err);
    }
    if (rc == 0) {
        tk->byte_level_at = tk->steps_n++;
        tk->is_byte_level = true;
    }
    return rc;
}

static int load_pre_tokenizer(struct tokenizer *tk, const json_t *step, const char *type,
                              struct err *err)
{
    static const struct {
        const char *type;
        int (*load)(struct tokenizer *tk, const json_t *step, struct err *err);
    } known[] = {
        {"ByteLevel", load_byte_level},
        {"Split", load_split},
        {"Digits", load_digits},
        {"Punctuation", load_punctuation},
    };
    size_t i = 0;
    while (i < ARRAY_N(known) && strcmp(type, known[i].type) != 0) {
        i++;
    }
    if (i == ARRAY_N(known)) {
        return step_refuse(tk, "pre_tokenizer", type, err);
    }
    if (tk->steps_n == LIMIT_PRE_TOKENIZERS) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "%s: pre_tokenizer has more than %d steps",
                       tk->label, LIMIT_PRE_TOKENIZERS);
    }
    if (tk->is_byte_level && known[i].load == load_byte_level) {
        /* It would write the alphabet's own bytes in the alphabet. */
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: pre_tokenizer type \"%s\" behind ByteLevel is not implemented",
                       tk->label, type);
    }
    return known[i].load(tk, step, err);
}

static int template_refuse(const struct tokenizer *tk, const char *what, struct err *err)
{
    return err_set(err, ERR_BAD_FILE, "%s: post_processor TemplateProcessing: %s", tk->label, what);
}

/* Appends the ids that a template's special token stands for. */
static int template_ids(const struct tokenizer *tk, const json_t *step, const json_t *piece,
                        struct id_list *out, struct err *err)
{
    const char *name = json_string_value(json_object_get(piece, "id"));
    const json_t *known = json_object_get(step, "special_tokens");
    const json_t *ids = name ? json_object_get(json_object_get(known, name), "ids") : NULL;
    const json_t *value;
    size_t index;
    if (!json_is_array(ids)) {
        return template_refuse(tk, "a special token of \"single\" is not in \"special_tokens\"",
                               err);
    }
    json_array_foreach(ids, index, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= (json_int_t)tk->vocab_n) {
            return template_refuse(tk, "a special token has an id outside the vocabulary", err);
        }
        if (out->n == LIMIT_TEMPLATE_TOKENS) {
            return template_refuse(tk, "too many special tokens", err);
        }
        out->ids[out->n++] = (uint32_t)id;
    }
    return 0;
}

static int load_template(struct tokenizer *tk, const json_t *step, struct err *err)
{
    const json_t *single = json_object_get(step, "single");
    const json_t *piece;
    size_t index;
    size_t texts = 0;
    if (tk->has_template) {
        /* The second would take the first one's pieces for a pair of texts. */
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: a second post_processor of type TemplateProcessing is not implemented",
                       tk->label);
    }
    tk->has_template = true;
    json_array_foreach(single, index, piece)
    {
        const json_t *special = json_object_get(piece, "SpecialToken");
        const json_t *text = json_object_get(piece, "Sequence");
        const char *text_id = json_string_value(json_object_get(text, "id"));
        int rc = 0;
        if (special) {
            rc = template_ids(tk, step, special, texts > 0 ? &tk->after : &tk->before, err);
        } else if (text_id && strcmp(text_id, "A") == 0) {
            texts++;
        } else {
            rc = template_refuse(tk, "\"single\" holds a piece that is not implemented", err);
        }
        if (rc) {
            return rc;
        }
    }
    return texts == 1 ? 0 : template_refuse(tk, "\"single\" must hold the text once", err);
}

static int load_post_processor(struct tokenizer *tk, const json_t *step, const char *type,
                               struct err *err)
{
    if (strcmp(type, "TemplateProcessing") == 0) {
        return load_template(tk, step, err);
    }
    /* ByteLevel trims offsets and adds no ids; spans here are never trimmed. */
    return strcmp(type, "ByteLevel") == 0 ? 0 : step_refuse(tk, "post_processor", type, err);
}

static int load_decoder(struct tokenizer *tk, const json_t *step, const char *type, struct err *err)
{
    (void)step;
    if (strcmp(type, "ByteLevel") != 0) {
        return step_refuse(tk, "decoder", type, err);
    }
    return 0;
}

int pipeline_load(struct tokenizer *tk, const json_t *root, struct err *err)
{
    static const struct step_loader pre = {"pre_tokenizer", "pretokenizers", load_pre_tokenizer};
    static const struct step_loader post = {"post_processor", "processors", load_post_processor};
    static const struct step_loader decoder = {"decoder", "decoders", load_decoder};
    const json_t *step = json_object_get(root, "pre_tokenizer");
    int rc = !step || json_is_null(step) ? 0 : step_load(tk, &pre, step, 0, err);
    if (rc) {
        return rc;
    }
    if (!tk->is_byte_level) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: pre_tokenizer without ByteLevel is not implemented", tk->label);
    }
    step = json_object_get(root, "post_processor");
    rc = !step || json_is_null(step) ? 0 : step_load(tk, &post, step, 0, err);
    if (rc) {
        return rc;
    }
    step = json_object_get(root, "decoder");
    if (!step || json_is_null(step)) {
        return err_set(err, ERR_NOT_IMPLEMENTED, "%s: decoder null is not implemented", tk->label);
    }
    return step_load(tk, &decoder, step, 0, err);
}
