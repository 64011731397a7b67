/* Rotary frequencies: the plain rule and llama3's three bands.
 *
 * Old files spell it "rope_theta" beside "rope_scaling", newer ones "rope_parameters" with the base
 * inside. The arithmetic is done in fp32, step by step, as the checkpoints were trained with. */
#include "model/config.h"

#include <math.h>

#include "base/base.h"
#include "model/family.h"

#define ROPE_THETA_DEFAULT 10000.0
#define ROPE_SHARE_DEFAULT 0.25 /* of families that rotate a part */
#define ROPE_TWO_PI        6.283185307179586

struct rope {
    const struct family *family;
    bool is_llama3;
    double theta;
    double share; /* of a head's dimensions that are rotated: the first ones */
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_context;
};

static int rope_refuse_key(const struct config *config, const char *name, const char *key,
                           const json_t *value, struct err *err)
{
    char brief[80];
    json_brief(value, brief, sizeof brief);
    return err_set(err, ERR_NOT_IMPLEMENTED, "%s: \"%s\" has \"%s\" %s, which is not implemented",
                   config->label, name, key, brief);
}

/* Which rope type the object asks for; "type" is the older spelling of "rope_type". */
static int rope_read_type(const struct config *config, const char *name, const json_t *dict,
                          struct rope *rope, struct err *err)
{
    const char *type = NULL;
    const char *old_type = NULL;
    int rc = json_get_str(config->label, dict, "rope_type", &type, err);
    if (rc == 0) {
        rc = json_get_str(config->label, dict, "type", &old_type, err);
    }
    if (rc) {
        return rc;
    }
    if (type && old_type && strcmp(type, old_type) != 0) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"%s\" has \"rope_type\" \"%.40s\" and \"type\" \"%.40s\"",
                       config->label, name, type, old_type);
    }
    type = type ? type : old_type ? old_type : "default";
    rope->is_llama3 = strcmp(type, "llama3") == 0;
    if (!rope->is_llama3 && strcmp(type, "default") != 0) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: \"%s\" asks for rope type \"%.40s\", only default and llama3 are "
                       "implemented",
                       config->label, name, type);
    }
    return 0;
}

static int rope_check_keys(const struct config *config, const char *name, const json_t *dict,
                           const struct rope *rope, struct err *err)
{
    static const char *const plain[] = {"rope_type", "type", "rope_theta", NULL};
    static const char *const llama3[] = {"factor", "low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings", NULL};
    /* a text has the same position in all three rows of M-RoPE */
    static const char *const partial[] = {"partial_rotary_factor", "mrope_section",
                                          "mrope_interleaved", NULL};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)dict, key, value)
    {
        bool is_known = config_has_word(plain, key) ||
                        (rope->is_llama3 && config_has_word(llama3, key)) || json_is_null(value);
        bool is_whole = strcmp(key, "partial_rotary_factor") == 0 && json_is_number(value) &&
                        json_number_value(value) == 1.0;
        bool is_partial =
            (rope->family->flags & FAMILY_PARTIAL_ROPE) && config_has_word(partial, key);
        if (!is_known && !is_whole && !is_partial) {
            return rope_refuse_key(config, name, key, value, err);
        }
    }
    return 0;
}

static int rope_need_real(const struct config *config, const char *name, const json_t *dict,
                          const char *key, double *out, struct err *err)
{
    double value = NAN;
    int rc = json_get_real(config->label, dict, key, &value, err);
    if (rc) {
        return rc;
    }
    if (!(value > 0 && value < 1e9)) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"%s\" needs a \"%s\" above 0 and below 1e9 for rope type llama3",
                       config->label, name, key);
    }
    *out = value;
    return 0;
}

static int rope_read_llama3(const struct config *config, const char *name, const json_t *dict,
                            struct rope *rope, struct err *err)
{
    int rc = rope_need_real(config, name, dict, "factor", &rope->factor, err);
    if (rc == 0) {
        rc = rope_need_real(config, name, dict, "low_freq_factor", &rope->low_freq_factor, err);
    }
    if (rc == 0) {
        rc = rope_need_real(config, name, dict, "high_freq_factor", &rope->high_freq_factor, err);
    }
    if (rc == 0) {
        rc = json_get_int(config->label, dict, "original_max_position_embeddings", 1, LIMIT_CONTEXT,
                          &rope->original_context, err);
    }
    if (rc) {
        return rc;
    }
    if (rope->factor < 1 || rope->high_freq_factor <= rope->low_freq_factor) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"%s\" has factor %g, low_freq_factor %g and high_freq_factor %g: the "
                       "first must be at least 1, the last above the second",
                       config->label, name, rope->factor, rope->low_freq_factor,
                       rope->high_freq_factor);
    }
    return 0;
}

static int rope_read_dict(const struct config *config, const char *name, struct rope *rope,
                          struct err *err)
{
    const json_t *dict = json_object_get(config->root, name);
    double theta = rope->theta;
    if (!dict || json_is_null(dict)) {
        return 0;
    }
    if (!json_is_object(dict)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"%s\" is not an object", config->label, name);
    }
    int rc = rope_read_type(config, name, dict, rope, err);
    if (rc == 0) {
        rc = rope_check_keys(config, name, dict, rope, err);
    }
    if (rc == 0) {
        rc = json_get_real(config->label, dict, "rope_theta", &theta, err);
    }
    if (rc) {
        return rc;
    }
    if (theta != rope->theta && json_is_number(json_object_get(config->root, "rope_theta"))) {
        return err_set(err, ERR_BAD_FILE, "%s: \"rope_theta\" is %g, in \"%s\" it is %g",
                       config->label, rope->theta, name, theta);
    }
    rope->theta = theta;
    if (rope->family->flags & FAMILY_PARTIAL_ROPE) {
        rc = json_get_real(config->label, dict, "partial_rotary_factor", &rope->share, err);
    }
    if (rc) {
        return rc;
    }
    return rope->is_llama3 ? rope_read_llama3(config, name, dict, rope, err) : 0;
}

/* llama3: short wavelengths stay, long ones are stretched by the factor, those between are a
 * blend. */
static float rope_llama3(const struct rope *rope, float inv_freq)
{
    float context = (float)rope->original_context;
    float factor = (float)rope->factor;
    float low = (float)rope->low_freq_factor;
    float high = (float)rope->high_freq_factor;
    float wavelength = (float)ROPE_TWO_PI / inv_freq;
    if (wavelength < context / high) {
        return inv_freq;
    }
    if (wavelength > context / low) {
        return inv_freq / factor;
    }
    float blend = (context / wavelength - low) / (high - low);
    return (1 - blend) * inv_freq / factor + blend * inv_freq;
}

/* Dimensions that are rotated: a share of the head. */
static int rope_read_share(const struct config *config, const struct rope *rope,
                           struct model_desc *desc, struct err *err)
{
    double n = rope->share * desc->head_dim;
    desc->rotary_n = n >= 2 && n <= desc->head_dim ? (uint32_t)n : 0;
    if (desc->rotary_n == 0 || desc->rotary_n % 2 != 0 || desc->rotary_n != n) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: \"partial_rotary_factor\" is %g: of %u dimensions an even number from "
                       "2 on must be rotated",
                       config->label, rope->share, desc->head_dim);
    }
    return 0;
}

int config_read_rope(const struct config *config, const struct family *family,
                     struct model_desc *desc, struct err *err)
{
    bool is_partial = family->flags & FAMILY_PARTIAL_ROPE;
    struct rope rope = {.family = family,
                        .theta = ROPE_THETA_DEFAULT,
                        .share = is_partial ? ROPE_SHARE_DEFAULT : 1,
                        .original_context = desc->context_max};
    const json_t *old_dict = json_object_get(config->root, "rope_scaling");
    const json_t *new_dict = json_object_get(config->root, "rope_parameters");
    if (json_is_object(old_dict) && json_is_object(new_dict) && !json_equal(old_dict, new_dict)) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: has both \"rope_scaling\" and \"rope_parameters\", and they differ",
                       config->label);
    }
    int rc = json_get_real(config->label, config->root, "rope_theta", &rope.theta, err);
    if (rc == 0 && is_partial) {
        rc = json_get_real(config->label, config->root, "partial_rotary_factor", &rope.share, err);
    }
    if (rc == 0) {
        rc = rope_read_dict(config, "rope_scaling", &rope, err);
    }
    if (rc == 0) {
        rc = rope_read_dict(config, "rope_parameters", &rope, err);
    }
    if (rc) {
        return rc;
    }
    if (!(rope.theta >= 1 && rope.theta <= 1e15)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"rope_theta\" is %g, it must lie in 1 to 1e15",
                       config->label, rope.theta);
    }
    rc = rope_read_share(config, &rope, desc, err);
    if (rc) {
        return rc;
    }
    desc->rope_scale = 1;
    for (uint32_t i = 0; i < desc->rotary_n / 2; i++) {
        float exponent = (float)(2 * i) / (float)desc->rotary_n;
        float inv_freq = 1.0f / powf((float)rope.theta, exponent);
        desc->inv_freq[i] = rope.is_llama3 ? rope_llama3(&rope, inv_freq) : inv_freq;
    }
    return 0;
}
