/* The tensors a model wants, in the order the walk uses them, each with its name, shape and the
 * place of its pointer. */
#include <stdio.h>

#include "base/base.h"
#include "model/family.h"
#include "model/layers.h"
#include "model/load_int.h"

/* One visit: a tensor of layer l, or with l = LAYER_NONE one of the model. */
struct load_at {
    const struct load_walk *walk;
    const struct model_desc *desc;
    uint32_t layer;
};

static void load_name(const struct load_at *at, const char *name, struct load_want *want)
{
    if (at->layer == LAYER_NONE) {
        snprintf(want->name, sizeof want->name, "%s%s", at->desc->prefix, name);
    } else {
        snprintf(want->name, sizeof want->name, "%slayers.%u.%s", at->desc->prefix, at->layer,
                 name);
    }
}

static int load_vector(const struct load_at *at, const char *name, uint32_t n, const float **place)
{
    struct load_want want = {.n = n, .vector = place};
    load_name(at, name, &want);
    return at->walk->visit(at->walk->state, &want, at->walk->err);
}

/* A norm's gain; some families store it less 1. */
static int load_norm(const struct load_at *at, const char *name, uint32_t n, const float **place)
{
    struct load_want want = {.n = n, .vector = place};
    want.plus = at->desc->table->flags & FAMILY_CENTRED_NORM ? 1 : 0;
    load_name(at, name, &want);
    return at->walk->visit(at->walk->state, &want, at->walk->err);
}

static int load_taps(const struct load_at *at, const char *name, uint32_t n, const float **place)
{
    struct load_want want = {.n = n, .taps = LIMIT_CONV_TAPS, .vector = place};
    load_name(at, name, &want);
    return at->walk->visit(at->walk->state, &want, at->walk->err);
}

/* Fused projections: for each key head its queries, keys, and the values and gates (or b and a) of
 * the value heads that share it. */
struct load_fused {
    uint32_t key, value, share; /* rows of a key head's q or k, of a value head; value heads */
};

static struct load_fused load_fused_of(const struct model_desc *desc)
{
    return (struct load_fused){desc->gdn.key_dim, desc->gdn.value_dim,
                               desc->gdn.value_head_n / desc->gdn.key_head_n};
}

static uint32_t load_row_qkv(const struct model_desc *desc, uint32_t i)
{
    struct load_fused f = load_fused_of(desc);
    uint32_t each = 2 * f.key + 2 * f.share * f.value;
    uint32_t keys = desc->gdn.key_head_n * f.key;
    if (i < 2 * keys) {
        uint32_t at = i % keys;
        return at / f.key * each + i / keys * f.key + at % f.key;
    }
    uint32_t at = i - 2 * keys;
    return at / (f.share * f.value) * each + 2 * f.key + at % (f.share * f.value);
}

static uint32_t load_row_z(const struct model_desc *desc, uint32_t i)
{
    struct load_fused f = load_fused_of(desc);
    uint32_t each = 2 * f.key + 2 * f.share * f.value;
    uint32_t values = f.share * f.value;
    return i / values * each + 2 * f.key + values + i % values;
}

static uint32_t load_row_b(const struct model_desc *desc, uint32_t i)
{
    uint32_t share = load_fused_of(desc).share;
    return i / share * 2 * share + i % share;
}

static uint32_t load_row_a(const struct model_desc *desc, uint32_t i)
{
    return load_row_b(desc, i) + load_fused_of(desc).share;
}

/* The tensor that holds a site's rows among others, where the files are fused. */
static void load_find_fused(const struct model_desc *desc, const struct site *site,
                            struct load_want *want)
{
    const struct gdn_desc *gdn = &desc->gdn;
    static load_row *const rows[SITE_PLACES] = {[SITE_GDN_QKV] = load_row_qkv,
                                                [SITE_GDN_Z] = load_row_z,
                                                [SITE_GDN_B] = load_row_b,
                                                [SITE_GDN_A] = load_row_a};
    if (!gdn->is_fused || !rows[site->place]) {
        return;
    }
    bool is_wide = site->place == SITE_GDN_QKV || site->place == SITE_GDN_Z;
    struct load_at at = {.desc = desc, .layer = site->layer};
    want->row = rows[site->place];
    want->file_n = is_wide
                       ? 2 * gdn->key_head_n * gdn->key_dim + 2 * gdn->value_head_n * gdn->value_dim
                       : 2 * gdn->value_head_n;
    load_name(&at, is_wide ? "linear_attn.in_proj_qkvz.weight" : "linear_attn.in_proj_ba.weight",
              want);
}

static bool load_has_bias(const struct model_desc *desc, enum site_place place)
{
    switch (place) {
    case SITE_Q:
    case SITE_K:
    case SITE_V:
        return desc->has_qkv_bias;
    case SITE_O:
        return desc->has_o_bias;
    case SITE_GATE:
    case SITE_UP:
    case SITE_DOWN:
        return desc->has_mlp_bias;
    default:
        return false;
    }
}

static int load_site(const struct load_at *at, const struct site *site, struct layer_weights *out)
{
    char name[64];
    const char *path = site->module + strlen(LAYERS_PREFIX);
    struct load_want want = {.n = site->n, .k = site->k, .matrix = &out->w[site->place]};
    path = strchr(path, '.') + 1; /* behind the layer's number */
    snprintf(name, sizeof name, "%.50s.weight", path);
    load_name(at, name, &want);
    load_find_fused(at->desc, site, &want);
    int rc = at->walk->visit(at->walk->state, &want, at->walk->err);
    if (rc == 0 && load_has_bias(at->desc, site->place)) {
        snprintf(name, sizeof name, "%.50s.bias", path);
        rc = load_vector(at, name, site->n, &out->bias[site->place]);
    }
    return rc;
}

static int load_gdn(const struct load_at *at, struct layer_weights *out)
{
    const struct gdn_desc *gdn = &at->desc->gdn;
    struct kern_state state = model_state(at->desc, 1);
    int rc = load_taps(at, "linear_attn.conv1d.weight", state.conv_n, &out->conv_w);
    rc = rc ? rc : load_vector(at, "linear_attn.A_log", gdn->value_head_n, &out->a_log);
    rc = rc ? rc : load_vector(at, "linear_attn.dt_bias", gdn->value_head_n, &out->dt_bias);
    return rc ? rc : load_vector(at, "linear_attn.norm.weight", gdn->value_dim, &out->mixer_norm);
}

static int load_ssd(const struct load_at *at, struct layer_weights *out)
{
    const struct ssd_desc *ssd = &at->desc->ssd;
    struct kern_state state = model_state(at->desc, 1);
    int rc = load_taps(at, "mamba.conv1d.weight", state.conv_n, &out->conv_w);
    if (rc == 0 && ssd->has_conv_bias) {
        rc = load_vector(at, "mamba.conv1d.bias", state.conv_n, &out->conv_bias);
    }
    rc = rc ? rc : load_vector(at, "mamba.A_log", ssd->head_n, &out->a_log);
    rc = rc ? rc : load_vector(at, "mamba.D", ssd->head_n, &out->d);
    rc = rc ? rc : load_vector(at, "mamba.dt_bias", ssd->head_n, &out->dt_bias);
    if (rc == 0 && ssd->norm_order != KERN_SSD_NO_NORM) {
        rc = load_vector(at, "mamba.norm.weight", ssd->head_n * ssd->head_dim, &out->mixer_norm);
    }
    return rc;
}

static int load_layer(const struct load_at *at, struct layer_weights *out)
{
    const struct model_desc *desc = at->desc;
    const struct layer_desc *layer = &desc->layers[at->layer];
    char post_norm[64];
    snprintf(post_norm, sizeof post_norm, "%s.weight", desc->table->post_norm);
    int rc = load_norm(at, "input_layernorm.weight", desc->hidden, &out->input_norm);
    for (uint32_t i = 0; rc == 0 && i < SITE_PLACES; i++) {
        if (layer->site[i] != SITE_NONE) {
            rc = load_site(at, &desc->sites[layer->site[i]], out);
        }
    }
    if (rc == 0 && desc->has_qk_norm && layer->kv_layer != LAYER_NONE) {
        rc = load_norm(at, "self_attn.q_norm.weight", desc->head_dim, &out->q_norm);
        rc = rc ? rc : load_norm(at, "self_attn.k_norm.weight", desc->head_dim, &out->k_norm);
    }
    if (rc == 0 && layer->mixer == MIXER_GDN) {
        rc = load_gdn(at, out);
    }
    if (rc == 0 && layer->mixer == MIXER_ATTENTION_SSD) {
        rc = load_ssd(at, out);
    }
    return rc ? rc : load_norm(at, post_norm, desc->hidden, &out->post_norm);
}

int load_each(const struct load_walk *walk, const struct model_desc *desc, struct model *model)
{
    struct load_at at = {.walk = walk, .desc = desc, .layer = LAYER_NONE};
    char final_norm[64];
    struct load_want embed = {.n = desc->vocab_n, .k = desc->hidden, .matrix = &model->embed};
    struct load_want head = {.n = desc->vocab_n, .k = desc->hidden, .matrix = &model->head};
    load_name(&at, "embed_tokens.weight", &embed);
    snprintf(head.name, sizeof head.name, "lm_head.weight"); /* beside the prefix, not behind it */
    snprintf(final_norm, sizeof final_norm, "%s.weight", desc->table->final_norm);
    int rc = walk->visit(walk->state, &embed, walk->err);
    for (uint32_t l = 0; rc == 0 && l < desc->layer_n; l++) {
        at.layer = l;
        rc = load_layer(&at, &model->layers[l]);
    }
    at.layer = LAYER_NONE;
    rc = rc ? rc : load_norm(&at, final_norm, desc->hidden, &model->final_norm);
    if (rc == 0 && !desc->is_tied) {
        rc = walk->visit(walk->state, &head, walk->err);
    }
    return rc;
}
