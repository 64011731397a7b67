/* config.json into a model_desc.
 *
 * Every key is one that is read here, one known to change nothing, or refused with its value; a key
 * that says null, false or "nothing" (an empty list, object or text) asks for nothing. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "model/family.h"

#define CONFIG_HEADS_MAX 4096

static const struct family *const families[] = {&family_llama, &family_qwen2, &family_qwen3,
                                                &family_qwen35, &family_falcon_h1};

/* Read here or in rope.c, or in generation.c (the token ids). */
static const char *const config_keys[] = {
    "model_type",
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "pretraining_tp",
    "torch_dtype",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    NULL,
};

/* Training, bookkeeping and the output format of other programs: without effect on the network. */
static const char *const config_harmless[] = {
    "_name_or_path",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "pad_token_id",
    "attention_dropout",
    "hidden_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "id2label",
    "label2id",
    "problem_type",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "torchscript",
    "gradient_checkpointing",
    "unsloth_fixed",
    "unsloth_version",
    "use_return_dict",
    "chunk_size_feed_forward",
    "tie_last_hidden_states",
    NULL,
};

/* Beside "text_config" in an outer model's file: what its other parts and its prompts are made of.
 */
static const char *const config_outer_keys[] = {
    "model_type",
    "architectures",
    "text_config",
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "tie_word_embeddings", /* where the text model's keys are silent */
    "torch_dtype",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    NULL,
};

static const char *const config_partial_rope_keys[] = {"partial_rotary_factor", NULL};

static const char *const config_window_keys[] = {
    "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", NULL,
};

int config_path(char *path, const char *dir, const char *file, struct err *err)
{
    int n = snprintf(path, MODEL_PATH_BYTES, "%s/%s", dir, file);
    if (n < 0 || n >= MODEL_PATH_BYTES) {
        return err_set(err, ERR_BAD_FILE, "%.200s...: the path is longer than %d bytes", dir,
                       MODEL_PATH_BYTES - 1);
    }
    return 0;
}

bool config_has_word(const char *const *words, const char *word)
{
    for (; *words; words++) {
        if (strcmp(*words, word) == 0) {
            return true;
        }
    }
    return false;
}

static bool config_knows_key(const struct family *family, const char *key)
{
    if (config_has_word(config_keys, key) || config_has_word(config_harmless, key)) {
        return true;
    }
    if (strcmp(key, "attention_bias") == 0) {
        return family->flags & FAMILY_ATTENTION_BIAS;
    }
    if (strcmp(key, "mlp_bias") == 0) {
        return family->flags & FAMILY_MLP_BIAS;
    }
    if (family->keys && config_has_word(family->keys, key)) {
        return true;
    }
    if ((family->flags & FAMILY_PARTIAL_ROPE) && config_has_word(config_partial_rope_keys, key)) {
        return true;
    }
    return (family->flags & FAMILY_WINDOW_KEYS) && config_has_word(config_window_keys, key);
}

static int config_check_keys(const struct config *config, const struct family *family,
                             struct err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config->root, key, value)
    {
        if (!config_knows_key(family, key) && !json_is_nothing(value)) {
            char brief[80];
            json_brief(value, brief, sizeof brief);
            return err_set(err, ERR_NOT_IMPLEMENTED,
                           "%s: \"%.80s\" is %s, which is not implemented for \"%s\"",
                           config->label, key, brief, family->model_type);
        }
    }
    return 0;
}

bool family_is_other_part(const struct family *family, const char *tensor)
{
    const char *const *part = family->outer_parts;
    while (part && *part && strncmp(tensor, *part, strlen(*part)) != 0) {
        part++;
    }
    return part && *part;
}

const json_t *config_text(const json_t *root)
{
    const json_t *text = json_object_get(root, "text_config");
    return json_is_object(text) ? text : root;
}

static int config_check_architecture(const struct config *config, const char *type,
                                     const char *wanted, struct err *err)
{
    char brief[80];
    const json_t *list = json_object_get(config->root, "architectures");
    const char *architecture = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) == 1 && architecture && strcmp(architecture, wanted) == 0) {
        return 0;
    }
    json_brief(list, brief, sizeof brief);
    return err_set(err, ERR_NOT_IMPLEMENTED,
                   "%s: \"architectures\" is %s, for model_type \"%s\" only [\"%s\"] is "
                   "implemented",
                   config->label, list ? brief : "missing", type, wanted);
}

/* Goes on with the text model's keys; those beside them must be known, too. */
static int config_enter_text(struct config *config, const struct family *family, struct err *err)
{
    const char *key;
    json_t *value;
    char brief[80];
    const json_t *text = json_object_get(config->root, "text_config");
    const char *type = json_string_value(json_object_get(text, "model_type"));
    if (!json_is_object(text)) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"text_config\" is no object, \"model_type\" \"%s\" needs one",
                       config->label, family->outer_type);
    }
    if (type && strcmp(type, family->model_type) != 0) {
        return err_set(
            err, ERR_NOT_IMPLEMENTED,
            "%s: \"text_config\" has \"model_type\" \"%.60s\", only \"%s\" is implemented",
            config->label, type, family->model_type);
    }
    json_object_foreach((json_t *)(uintptr_t)config->root, key, value)
    {
        if (!config_has_word(config_outer_keys, key) && !config_has_word(config_harmless, key) &&
            !json_is_nothing(value)) {
            json_brief(value, brief, sizeof brief);
            return err_set(err, ERR_NOT_IMPLEMENTED,
                           "%s: \"%.80s\" is %s, which is not implemented beside \"text_config\"",
                           config->label, key, brief);
        }
    }
    config->outer = config->root;
    config->root = text;
    return 0;
}

/* Finds the family, and moves config->root to where the text model's keys are. */
static int config_find_family(struct config *config, const struct family **out, struct err *err)
{
    const char *type = NULL;
    const struct family *family = NULL;
    bool is_outer = false;
    int rc = json_get_str(config->label, config->root, "model_type", &type, err);
    if (rc) {
        return rc;
    }
    if (!type) {
        return err_set(err, ERR_BAD_FILE, "%s: \"model_type\" is missing", config->label);
    }
    for (size_t i = 0; i < ARRAY_N(families) && !family; i++) {
        is_outer = families[i]->outer_type && strcmp(families[i]->outer_type, type) == 0;
        if (is_outer || strcmp(families[i]->model_type, type) == 0) {
            family = families[i];
        }
    }
    if (!family) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: \"model_type\" is \"%.60s\", only llama, qwen2, qwen3, qwen3_5 and "
                       "falcon_h1 are implemented",
                       config->label, type);
    }
    rc = config_check_architecture(
        config, type, is_outer ? family->outer_architecture : family->architecture, err);
    if (rc == 0 && is_outer) {
        rc = config_enter_text(config, family, err);
    }
    if (rc == 0) {
        *out = family;
    }
    return rc;
}

int config_get_u32(const struct config *config, const char *key, uint32_t min, uint32_t max,
                   uint32_t *out, struct err *err)
{
    int64_t value = *out;
    int rc = json_get_int(config->label, config->root, key, min, max, &value, err);
    *out = (uint32_t)value;
    return rc;
}

int config_need_u32(const struct config *config, const char *key, uint32_t max, uint32_t *out,
                    struct err *err)
{
    int64_t value = 0;
    int rc = json_need_int(config->label, config->root, key, 1, max, &value, err);
    *out = (uint32_t)value;
    return rc;
}

int config_get_multiplier(const struct config *config, const char *key, float *out, struct err *err)
{
    double value = (double)*out;
    int rc = json_get_real(config->label, config->root, key, &value, err);
    if (rc == 0 && (!isfinite((float)value) || (float)value == 0)) {
        rc = err_set(err, ERR_BAD_FILE, "%s: \"%s\" is %g, it must be finite and not 0",
                     config->label, key, value);
    }
    if (rc == 0) {
        *out = (float)value;
    }
    return rc;
}

int config_check_word(const struct config *config, const char *key, const char *const *words,
                      struct err *err)
{
    const json_t *value = json_object_get(config->root, key);
    char brief[80];
    if (!value || json_is_null(value) ||
        (json_is_string(value) && config_has_word(words, json_string_value(value)))) {
        return 0;
    }
    json_brief(value, brief, sizeof brief);
    return err_set(err, ERR_NOT_IMPLEMENTED, "%s: \"%s\" is %s, only \"%s\" is implemented",
                   config->label, key, brief, words[0]);
}

static int config_read_sizes(const struct config *config, const struct family *family,
                             struct model_desc *desc, struct err *err)
{
    const struct {
        const char *key;
        uint32_t max;
        uint32_t *out;
    } sizes[] = {
        {"vocab_size", LIMIT_VOCAB, &desc->vocab_n},
        {"hidden_size", LIMIT_HIDDEN, &desc->hidden},
        {"intermediate_size", LIMIT_FFN, &desc->ffn},
        {"num_hidden_layers", LIMIT_LAYERS, &desc->layer_n},
        {"num_attention_heads", CONFIG_HEADS_MAX, &desc->head_n},
        {"max_position_embeddings", LIMIT_CONTEXT, &desc->context_max},
    };
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        int rc = config_need_u32(config, sizes[i].key, sizes[i].max, sizes[i].out, err);
        if (rc) {
            return rc;
        }
    }
    double eps = family->norm_eps;
    int rc = json_get_real(config->label, config->root, "rms_norm_eps", &eps, err);
    if (rc == 0 && !(eps > 0 && eps < 1)) {
        rc = err_set(err, ERR_BAD_FILE, "%s: \"rms_norm_eps\" is %g, it must lie between 0 and 1",
                     config->label, eps);
    }
    desc->norm_eps = (float)eps;
    return rc;
}

static int config_read_heads(const struct config *config, const struct family *family,
                             struct model_desc *desc, struct err *err)
{
    ASSERT(family);
    desc->kv_head_n = family->kv_head_n ? family->kv_head_n : desc->head_n;
    if (json_is_null(json_object_get(config->root, "num_key_value_heads"))) {
        desc->kv_head_n = desc->head_n; /* null says so whatever the family's default is */
    }
    desc->head_dim = family->head_dim;
    int rc =
        config_get_u32(config, "num_key_value_heads", 1, CONFIG_HEADS_MAX, &desc->kv_head_n, err);
    if (rc == 0) {
        rc = config_get_u32(config, "head_dim", 1, LIMIT_HEAD_DIM, &desc->head_dim, err);
    }
    if (rc) {
        return rc;
    }
    if (desc->head_dim == 0) {
        if (desc->hidden % desc->head_n != 0) {
            return err_set(err, ERR_BAD_FILE,
                           "%s: \"hidden_size\" %u is no multiple of \"num_attention_heads\" %u",
                           config->label, desc->hidden, desc->head_n);
        }
        desc->head_dim = desc->hidden / desc->head_n;
    }
    if (desc->head_dim % 2 != 0 || desc->head_dim > LIMIT_HEAD_DIM) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: the head dimension is %u, it must be even and at most %d",
                       config->label, desc->head_dim, LIMIT_HEAD_DIM);
    }
    if (desc->head_n % desc->kv_head_n != 0) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"num_attention_heads\" %u is no multiple of \"num_key_value_heads\" "
                       "%u",
                       config->label, desc->head_n, desc->kv_head_n);
    }
    if (desc->head_n / desc->kv_head_n > LIMIT_HEAD_GROUP) {
        return err_set(
            err, ERR_BAD_FILE, "%s: %u query heads share each of %u key/value heads, limit is %d",
            config->label, desc->head_n / desc->kv_head_n, desc->kv_head_n, LIMIT_HEAD_GROUP);
    }
    if (desc->head_n * desc->head_dim > LIMIT_HIDDEN) {
        return err_set(err, ERR_BAD_FILE, "%s: %u heads of %u are wider than the limit of %d",
                       config->label, desc->head_n, desc->head_dim, LIMIT_HIDDEN);
    }
    desc->attention_scale = (float)(1.0 / sqrt((double)desc->head_dim));
    return 0;
}

static int config_read_flags(const struct config *config, const struct family *family,
                             struct model_desc *desc, struct err *err)
{
    bool has_attention_bias = false;
    int rc =
        json_get_bool(config->label, config->outer, "tie_word_embeddings", &desc->is_tied, err);
    if (rc == 0) {
        rc = json_get_bool(config->label, config->root, "tie_word_embeddings", &desc->is_tied, err);
    }
    if (rc == 0 && (family->flags & FAMILY_ATTENTION_BIAS)) {
        rc = json_get_bool(config->label, config->root, "attention_bias", &has_attention_bias, err);
    }
    if (rc == 0 && (family->flags & FAMILY_MLP_BIAS)) {
        rc = json_get_bool(config->label, config->root, "mlp_bias", &desc->has_mlp_bias, err);
    }
    desc->has_qkv_bias = has_attention_bias || (family->flags & FAMILY_QKV_BIAS);
    desc->has_o_bias = has_attention_bias;
    desc->has_qk_norm = family->flags & FAMILY_QK_NORM;
    desc->has_attention_gate = family->flags & FAMILY_QUERY_GATE;
    return rc;
}

/* hidden_act, pretraining_tp: one value is implemented. */
static int config_check_fixed(const struct config *config, struct err *err)
{
    const char *act = "silu";
    int64_t tp = 1;
    int rc = json_get_str(config->label, config->root, "hidden_act", &act, err);
    if (rc == 0 && strcmp(act, "silu") != 0) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: \"hidden_act\" is \"%.40s\", only silu is implemented", config->label,
                     act);
    }
    if (rc == 0) {
        rc = json_get_int(config->label, config->root, "pretraining_tp", INT64_MIN, INT64_MAX, &tp,
                          err);
    }
    if (rc == 0 && tp != 1) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: \"pretraining_tp\" is %lld, only 1 is implemented", config->label,
                     (long long)tp);
    }
    return rc;
}

static int config_check_window(const struct config *config, const struct model_desc *desc,
                               struct err *err)
{
    char brief[80];
    bool is_used = false;
    const json_t *window = json_object_get(config->root, "sliding_window");
    const json_t *types = json_object_get(config->root, "layer_types");
    int rc = json_get_bool(config->label, config->root, "use_sliding_window", &is_used, err);
    if (rc) {
        return rc;
    }
    if (is_used && !json_is_null(window)) {
        json_brief(window, brief, sizeof brief);
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: \"sliding_window\" is %s with \"use_sliding_window\" true: sliding "
                       "windows are not implemented",
                       config->label, window ? brief : "not given");
    }
    if (!types || json_is_null(types)) {
        return 0;
    }
    if (json_array_size(types) != desc->layer_n) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"layer_types\" is not a list of %u, one for each layer", config->label,
                       desc->layer_n);
    }
    for (size_t i = 0; i < desc->layer_n; i++) {
        const json_t *type = json_array_get(types, i);
        if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention") != 0) {
            json_brief(type, brief, sizeof brief);
            return err_set(err, ERR_NOT_IMPLEMENTED,
                           "%s: \"layer_types\" has %s for layer %zu, only full_attention is "
                           "implemented",
                           config->label, brief, i);
        }
    }
    return 0;
}

static int config_read_dtype(const struct config *config, struct model_desc *desc, struct err *err)
{
    const char *word = "float32";
    int rc = json_get_str(config->label, config->root, "torch_dtype", &word, err);
    if (rc == 0) {
        rc = json_get_str(config->label, config->root, "dtype", &word, err);
    }
    if (rc) {
        return rc;
    }
    if (strcmp(word, "float32") == 0) {
        desc->checkpoint_dtype = DTYPE_F32;
    } else if (strcmp(word, "float16") == 0) {
        desc->checkpoint_dtype = DTYPE_F16;
    } else if (strcmp(word, "bfloat16") == 0) {
        desc->checkpoint_dtype = DTYPE_BF16;
    } else {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: \"dtype\" is \"%.40s\", only float32, float16 and bfloat16 are "
                       "implemented",
                       config->label, word);
    }
    return 0;
}

/* What every family has, then what this one has. */
static int config_read_all(const struct config *config, const struct family *family,
                           struct model_desc *desc, struct err *err)
{
    int rc = config_read_sizes(config, family, desc, err);
    if (rc == 0) {
        rc = config_read_heads(config, family, desc, err);
    }
    if (rc == 0) {
        rc = config_read_flags(config, family, desc, err);
    }
    if (rc == 0) {
        rc = config_check_fixed(config, err);
    }
    if (rc == 0 && (family->flags & FAMILY_WINDOW_KEYS)) {
        rc = config_check_window(config, desc, err);
    }
    if (rc == 0) {
        rc = config_read_dtype(config, desc, err);
    }
    if (rc == 0) {
        rc = config_read_rope(config, family, desc, err);
    }
    if (rc == 0) {
        rc = config_check_keys(config, family, err);
    }
    if (rc == 0 && family->read) {
        rc = family->read(config, desc, err);
    }
    return rc;
}

int config_read(const struct config *config, struct model_desc *desc, struct err *err)
{
    const struct family *family = NULL;
    struct config text = *config;
    if (!json_is_object(config->root)) {
        return err_set(err, ERR_BAD_FILE, "%s: is not a JSON object", config->label);
    }
    int rc = config_find_family(&text, &family, err);
    if (rc == 0) {
        rc = config_read_all(&text, family, desc, err);
    }
    if (rc) {
        return rc;
    }
    desc->table = family;
    desc->family = family->model_type;
    snprintf(desc->architecture, sizeof desc->architecture, "%s", family->architecture);
    return 0;
}
