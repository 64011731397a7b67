/* Falcon-H1: attention and Mamba-2 side by side in every layer, with a multiplier at every turn.
 *
 * The multipliers stay run-time values. Attention's are linear in its output, and those of q and k
 * in the scores, so they meet in two numbers: with queries times m_in, keys times m_in m_key and
 * values times m_in, the scores are times m_in^2 m_key and the output times m_in m_out. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "model/config.h"
#include "model/family.h"

#define FALCON_HEADS_MAX 1024
#define FALCON_D_SSM     1024 /* "mamba_d_ssm", "mamba_n_heads" and so on when they are missing */
#define FALCON_HEADS     128
#define FALCON_STATE     256
#define FALCON_EXPAND    2

static const char *const falcon_keys[] = {
    "embedding_multiplier",
    "lm_head_multiplier",
    "key_multiplier",
    "attention_in_multiplier",
    "attention_out_multiplier",
    "ssm_in_multiplier",
    "ssm_out_multiplier",
    "mlp_multipliers",
    "ssm_multipliers",
    "mamba_d_ssm",
    "mamba_expand",
    "mamba_n_heads",
    "mamba_d_head",
    "mamba_n_groups",
    "mamba_d_state",
    "mamba_d_conv",
    "mamba_conv_bias",
    "mamba_rms_norm",
    "mamba_norm_before_gate",
    "mamba_proj_bias",
    "projectors_bias",
    "mamba_use_mlp",
    "time_step_limit",
    /* how the checkpoint was initialised or is computed elsewhere: without effect on the result */
    "mamba_chunk_size",
    "mlp_expansion_factor",
    "time_step_min",
    "time_step_max",
    "time_step_floor",
    "num_logits_to_keep",
    "attention_dropout",
    NULL,
};

/* A list of n multipliers; out keeps its values when the key is missing or null. */
static int falcon_read_list(const struct config *config, const char *key, uint32_t n, float *out,
                            struct err *err)
{
    const json_t *list = json_object_get(config->root, key);
    char brief[80];
    if (!list || json_is_null(list)) {
        return 0;
    }
    for (uint32_t i = 0; i < n && json_array_size(list) == n; i++) {
        const json_t *value = json_array_get(list, i);
        float number = (float)json_number_value(value);
        if (!json_is_number(value) || !isfinite(number) || number == 0) {
            break;
        }
        out[i] = number;
        if (i + 1 == n) {
            return 0;
        }
    }
    json_brief(list, brief, sizeof brief);
    return err_set(err, ERR_BAD_FILE,
                   "%s: \"%s\" is %s, it must be a list of %u numbers other than 0", config->label,
                   key, brief, n);
}

/* Each multiplier is finite and not 0; what they come to must be so, too. */
static int falcon_check_products(const struct config *config, const struct model_desc *desc,
                                 struct err *err)
{
    struct {
        const char *what;
        float value;
    } products[2 + KERN_SSD_PIECE_N] = {{"the scores", desc->attention_scale},
                                        {"attention", desc->attention_multiplier}};
    for (size_t i = 0; i < KERN_SSD_PIECE_N; i++) {
        products[2 + i].what = "mamba.in_proj";
        products[2 + i].value = desc->ssd.multipliers[i];
    }
    for (size_t i = 0; i < ARRAY_N(products); i++) {
        if (!isfinite(products[i].value) || products[i].value == 0) {
            return err_set(err, ERR_BAD_FILE,
                           "%s: the multipliers of %s come to %g, which must be finite and not 0",
                           config->label, products[i].what, (double)products[i].value);
        }
    }
    return 0;
}

static int falcon_read_multipliers(const struct config *config, struct model_desc *desc,
                                   struct err *err)
{
    float key = 1;
    float attention_in = 1;
    float attention_out = 1;
    float ssm_in = 1;
    float mlp[2] = {1, 1};
    float *ssm = desc->ssd.multipliers;
    const struct {
        const char *key;
        float *out;
    } single[] = {
        {"embedding_multiplier", &desc->embed_multiplier},
        {"lm_head_multiplier", &desc->head_multiplier},
        {"key_multiplier", &key},
        {"attention_in_multiplier", &attention_in},
        {"attention_out_multiplier", &attention_out},
        {"ssm_in_multiplier", &ssm_in},
        {"ssm_out_multiplier", &desc->ssd_multiplier},
    };
    for (size_t i = 0; i < KERN_SSD_PIECE_N; i++) {
        ssm[i] = 1;
    }
    int rc = falcon_read_list(config, "mlp_multipliers", 2, mlp, err);
    rc = rc ? rc : falcon_read_list(config, "ssm_multipliers", KERN_SSD_PIECE_N, ssm, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_N(single); i++) {
        rc = config_get_multiplier(config, single[i].key, single[i].out, err);
    }
    for (size_t i = 0; i < KERN_SSD_PIECE_N; i++) {
        ssm[i] *= ssm_in;
    }
    desc->gate_multiplier = mlp[0];
    desc->mlp_multiplier = mlp[1];
    desc->attention_scale *= attention_in * attention_in * key;
    desc->attention_multiplier = attention_in * attention_out;
    if (rc == 0 && desc->has_o_bias && (attention_in != 1 || key != 1)) {
        rc = err_set(err, ERR_NOT_IMPLEMENTED,
                     "%s: \"attention_bias\" is true and \"attention_in_multiplier\" is %g, "
                     "\"key_multiplier\" %g: with a bias both must be 1",
                     config->label, (double)attention_in, (double)key);
    }
    return rc ? rc : falcon_check_products(config, desc, err);
}

/* JSON has no infinity: it is written as a huge number, a word, or an object around the word. */
static bool falcon_is_infinite(const json_t *value)
{
    const json_t *wrapped = json_object_get(value, "__float__");
    const char *word = json_string_value(wrapped ? wrapped : value);
    return (json_is_number(value) && json_number_value(value) > 1e30) ||
           (word && (strcmp(word, "Infinity") == 0 || strcmp(word, "inf") == 0));
}

static int falcon_check_steps(const struct config *config, struct err *err)
{
    const json_t *limit = json_object_get(config->root, "time_step_limit");
    const json_t *low = json_array_get(limit, 0);
    char brief[80];
    if (!limit || json_is_null(limit) ||
        (json_array_size(limit) == 2 && json_is_number(low) && json_number_value(low) == 0 &&
         falcon_is_infinite(json_array_get(limit, 1)))) {
        return 0;
    }
    json_brief(limit, brief, sizeof brief);
    return err_set(err, ERR_NOT_IMPLEMENTED,
                   "%s: \"time_step_limit\" is %s, only 0 to infinity is implemented",
                   config->label, brief);
}

/* Each of these has one value that is implemented. */
static int falcon_check_fixed(const struct config *config, struct err *err)
{
    static const struct {
        const char *key;
        bool wanted;
    } flags[] = {{"mamba_proj_bias", false}, {"projectors_bias", false}, {"mamba_use_mlp", true}};
    for (size_t i = 0; i < ARRAY_N(flags); i++) {
        bool value = flags[i].wanted;
        int rc = json_get_bool(config->label, config->root, flags[i].key, &value, err);
        if (rc == 0 && value != flags[i].wanted) {
            rc = err_set(err, ERR_NOT_IMPLEMENTED, "%s: \"%s\" is %s, only %s is implemented",
                         config->label, flags[i].key, value ? "true" : "false",
                         flags[i].wanted ? "true" : "false");
        }
        if (rc) {
            return rc;
        }
    }
    return falcon_check_steps(config, err);
}

/* "mamba_d_ssm" and "mamba_d_head" follow from other keys when they are null or "auto". */
static int falcon_read_width(const struct config *config, struct model_desc *desc, struct err *err)
{
    struct ssd_desc *ssd = &desc->ssd;
    const json_t *head = json_object_get(config->root, "mamba_d_head");
    const json_t *width = json_object_get(config->root, "mamba_d_ssm");
    uint32_t expand = FALCON_EXPAND;
    uint32_t d_ssm = FALCON_D_SSM;
    bool is_auto = !head || json_is_null(head) ||
                   (json_is_string(head) && strcmp(json_string_value(head), "auto") == 0);
    int rc = config_get_u32(config, "mamba_expand", 1, 64, &expand, err);
    if (rc == 0 && json_is_null(width)) {
        d_ssm = expand * desc->hidden;
    } else if (rc == 0) {
        rc = config_get_u32(config, "mamba_d_ssm", 1, LIMIT_HIDDEN, &d_ssm, err);
    }
    ssd->head_dim = d_ssm / ssd->head_n;
    if (rc == 0 && !is_auto) {
        rc = config_get_u32(config, "mamba_d_head", 1, LIMIT_STATE_DIM, &ssd->head_dim, err);
    }
    if (rc == 0 && (ssd->head_n * ssd->head_dim != d_ssm || ssd->head_dim > LIMIT_STATE_DIM)) {
        rc = err_set(err, ERR_BAD_FILE,
                     "%s: \"mamba_d_ssm\" is %u: %u heads of %u are something else, or a head is "
                     "larger than %d",
                     config->label, d_ssm, ssd->head_n, ssd->head_dim, LIMIT_STATE_DIM);
    }
    return rc;
}

static int falcon_read_sizes(const struct config *config, struct model_desc *desc, struct err *err)
{
    struct ssd_desc *ssd = &desc->ssd;
    uint32_t taps = LIMIT_CONV_TAPS;
    ssd->head_n = FALCON_HEADS;
    ssd->group_n = 1;
    ssd->state_dim = FALCON_STATE;
    int rc = config_get_u32(config, "mamba_n_heads", 1, FALCON_HEADS_MAX, &ssd->head_n, err);
    rc = rc ? rc : config_get_u32(config, "mamba_n_groups", 1, ssd->head_n, &ssd->group_n, err);
    rc =
        rc ? rc : config_get_u32(config, "mamba_d_state", 1, LIMIT_STATE_DIM, &ssd->state_dim, err);
    rc = rc ? rc
            : config_get_u32(config, "mamba_d_conv", LIMIT_CONV_TAPS, LIMIT_CONV_TAPS, &taps, err);
    if (rc == 0 && ssd->head_n % ssd->group_n != 0) {
        rc = err_set(err, ERR_BAD_FILE,
                     "%s: \"mamba_n_heads\" %u is no multiple of \"mamba_n_groups\" %u",
                     config->label, ssd->head_n, ssd->group_n);
    }
    return rc ? rc : falcon_read_width(config, desc, err);
}

static int falcon_read(const struct config *config, struct model_desc *desc, struct err *err)
{
    bool has_norm = false;
    /* null is no default of these two: it counts as false */
    bool is_norm_first = !json_is_null(json_object_get(config->root, "mamba_norm_before_gate"));
    struct ssd_desc *ssd = &desc->ssd;
    ssd->has_conv_bias = !json_is_null(json_object_get(config->root, "mamba_conv_bias"));
    int rc = json_get_bool(config->label, config->root, "mamba_rms_norm", &has_norm, err);
    rc = rc ? rc
            : json_get_bool(config->label, config->root, "mamba_norm_before_gate", &is_norm_first,
                            err);
    rc = rc ? rc
            : json_get_bool(config->label, config->root, "mamba_conv_bias", &ssd->has_conv_bias,
                            err);
    rc = rc ? rc : falcon_check_fixed(config, err);
    rc = rc ? rc : falcon_read_sizes(config, desc, err);
    rc = rc ? rc : falcon_read_multipliers(config, desc, err);
    ssd->norm_order = !has_norm       ? KERN_SSD_NO_NORM
                      : is_norm_first ? KERN_SSD_NORM_FIRST
                                      : KERN_SSD_NORM_LAST;
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        desc->layers[l].mixer = MIXER_ATTENTION_SSD;
    }
    return rc;
}

const struct family family_falcon_h1 = {
    .model_type = "falcon_h1",
    .architecture = "FalconH1ForCausalLM",
    .flags = FAMILY_ATTENTION_BIAS | FAMILY_MLP_BIAS,
    .head_dim = 0,
    .kv_head_n = 8,
    .norm_eps = 1e-5,
    .mlp = "feed_forward",
    .post_norm = "pre_ff_layernorm",
    .final_norm = "final_layernorm",
    .keys = falcon_keys,
    .read = falcon_read,
};
