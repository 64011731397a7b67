/* Qwen3.5, dense text models: layers of the gated delta rule, and gated attention every few layers.
 * Releases are multimodal: the text model's keys stand in "text_config", its tensors behind
 * "model.language_model.", beside those of a vision tower and of a draft layer (MTP), which are not
 * read. Exports of the text model alone have neither. */
#include "base/base.h"
#include "model/config.h"
#include "model/family.h"

#define QWEN35_INTERVAL_DEFAULT 4 /* every so many layers attention, when nothing says which */
#define QWEN35_HEADS_MAX        1024

static const char *const qwen35_outer_parts[] = {"model.visual.", "visual.", "mtp.", NULL};

static const char *const qwen35_keys[] = {
    "layer_types",
    "full_attention_interval",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "attn_output_gate",
    "output_gate_type",
    "mamba_ssm_dtype",
    /* of the draft layer, which is not read */
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    NULL,
};

static int qwen35_read_layer_types(const struct config *config, const json_t *types,
                                   struct model_desc *desc, struct err *err)
{
    if (json_array_size(types) != desc->layer_n) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"layer_types\" is not a list of %u, one for each layer", config->label,
                       desc->layer_n);
    }
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        const char *type = json_string_value(json_array_get(types, l));
        bool is_gdn = type && strcmp(type, "linear_attention") == 0;
        if (!is_gdn && (!type || strcmp(type, "full_attention") != 0)) {
            char brief[80];
            json_brief(json_array_get(types, l), brief, sizeof brief);
            return err_set(err, ERR_NOT_IMPLEMENTED,
                           "%s: \"layer_types\" has %s for layer %u, only linear_attention and "
                           "full_attention are implemented",
                           config->label, brief, l);
        }
        desc->layers[l].mixer = is_gdn ? MIXER_GDN : MIXER_ATTENTION;
    }
    return 0;
}

static int qwen35_read_layers(const struct config *config, struct model_desc *desc, struct err *err)
{
    const json_t *types = json_object_get(config->root, "layer_types");
    uint32_t interval = QWEN35_INTERVAL_DEFAULT;
    uint32_t attention_n = 0;
    int rc = config_get_u32(config, "full_attention_interval", 1, LIMIT_LAYERS, &interval, err);
    if (rc == 0 && types && !json_is_null(types)) {
        rc = qwen35_read_layer_types(config, types, desc, err);
    } else if (rc == 0) {
        for (uint32_t l = 0; l < desc->layer_n; l++) {
            desc->layers[l].mixer = (l + 1) % interval == 0 ? MIXER_ATTENTION : MIXER_GDN;
        }
    }
    for (uint32_t l = 0; rc == 0 && l < desc->layer_n; l++) {
        attention_n += desc->layers[l].mixer == MIXER_ATTENTION;
    }
    if (rc == 0 && attention_n == 0) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: no layer has attention, one at least must have it", config->label);
    }
    return rc;
}

static int qwen35_read_sizes(const struct config *config, struct gdn_desc *gdn, struct err *err)
{
    const struct {
        const char *key;
        uint32_t max;
        uint32_t *out;
        uint32_t value; /* when config.json has none */
    } sizes[] = {
        {"linear_key_head_dim", LIMIT_STATE_DIM, &gdn->key_dim, 128},
        {"linear_value_head_dim", LIMIT_STATE_DIM, &gdn->value_dim, 128},
        {"linear_num_key_heads", QWEN35_HEADS_MAX, &gdn->key_head_n, 16},
        {"linear_num_value_heads", QWEN35_HEADS_MAX, &gdn->value_head_n, 32},
    };
    uint32_t taps = LIMIT_CONV_TAPS;
    int rc = config_get_u32(config, "linear_conv_kernel_dim", LIMIT_CONV_TAPS, LIMIT_CONV_TAPS,
                            &taps, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_N(sizes); i++) {
        *sizes[i].out = sizes[i].value;
        rc = config_get_u32(config, sizes[i].key, 1, sizes[i].max, sizes[i].out, err);
    }
    if (rc == 0 && gdn->value_head_n % gdn->key_head_n != 0) {
        rc = err_set(err, ERR_BAD_FILE,
                     "%s: \"linear_num_value_heads\" %u is no multiple of \"linear_num_key_heads\" "
                     "%u",
                     config->label, gdn->value_head_n, gdn->key_head_n);
    }
    return rc;
}

static int qwen35_read(const struct config *config, struct model_desc *desc, struct err *err)
{
    static const char *const gates[] = {"swish", "silu", NULL};
    static const char *const dtypes[] = {"float32", NULL};
    bool has_gate = true;
    int rc = json_get_bool(config->label, config->root, "attn_output_gate", &has_gate, err);
    if (rc == 0 && !has_gate) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: \"attn_output_gate\" is false, only true is implemented", config->label);
    }
    if (rc == 0) {
        rc = config_check_word(config, "output_gate_type", gates, err);
    }
    if (rc == 0) {
        rc = config_check_word(config, "mamba_ssm_dtype", dtypes, err);
    }
    if (rc == 0) {
        rc = qwen35_read_sizes(config, &desc->gdn, err);
    }
    return rc ? rc : qwen35_read_layers(config, desc, err);
}

const struct family family_qwen35 = {
    .model_type = "qwen3_5_text",
    .architecture = "Qwen3_5ForCausalLM",
    .outer_type = "qwen3_5",
    .outer_architecture = "Qwen3_5ForConditionalGeneration",
    .outer_parts = qwen35_outer_parts,
    .flags = FAMILY_ATTENTION_BIAS | FAMILY_QK_NORM | FAMILY_CENTRED_NORM | FAMILY_QUERY_GATE |
             FAMILY_PARTIAL_ROPE,
    .head_dim = 256,
    .kv_head_n = 4,
    .norm_eps = 1e-6,
    .mlp = "mlp",
    .post_norm = "post_attention_layernorm",
    .final_norm = "norm",
    .keys = qwen35_keys,
    .read = qwen35_read,
};
