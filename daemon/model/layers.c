/* The layer list: which linears each layer has, what they are called, and how large they are. */
#include "model/layers.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kern.h"
#include "model/family.h"

/* A module's path below its layer; the feed-forward's own word comes before those without a dot. */
static const char *const layer_words[SITE_PLACES] = {
    [SITE_Q] = "self_attn.q_proj",
    [SITE_K] = "self_attn.k_proj",
    [SITE_V] = "self_attn.v_proj",
    [SITE_O] = "self_attn.o_proj",
    [SITE_GDN_QKV] = "linear_attn.in_proj_qkv",
    [SITE_GDN_Z] = "linear_attn.in_proj_z",
    [SITE_GDN_B] = "linear_attn.in_proj_b",
    [SITE_GDN_A] = "linear_attn.in_proj_a",
    [SITE_GDN_OUT] = "linear_attn.out_proj",
    [SITE_SSD_IN] = "mamba.in_proj",
    [SITE_SSD_OUT] = "mamba.out_proj",
    [SITE_GATE] = "gate_proj",
    [SITE_UP] = "up_proj",
    [SITE_DOWN] = "down_proj",
};

/* The recurrent mixers' ops as far as their widths go. */
static struct kern_gdn layer_gdn(const struct model_desc *desc)
{
    return (struct kern_gdn){.key_head_n = desc->gdn.key_head_n,
                             .value_head_n = desc->gdn.value_head_n,
                             .key_dim = desc->gdn.key_dim,
                             .value_dim = desc->gdn.value_dim};
}

static struct kern_ssd layer_ssd(const struct model_desc *desc)
{
    return (struct kern_ssd){.head_n = desc->ssd.head_n,
                             .head_dim = desc->ssd.head_dim,
                             .group_n = desc->ssd.group_n,
                             .state_dim = desc->ssd.state_dim};
}

static bool layer_has(enum mixer mixer, enum site_place place)
{
    switch (place) {
    case SITE_GDN_QKV:
    case SITE_GDN_Z:
    case SITE_GDN_B:
    case SITE_GDN_A:
    case SITE_GDN_OUT:
        return mixer == MIXER_GDN;
    case SITE_SSD_IN:
    case SITE_SSD_OUT:
        return mixer == MIXER_ATTENTION_SSD;
    case SITE_Q:
    case SITE_K:
    case SITE_V:
    case SITE_O:
        return mixer != MIXER_GDN;
    default:
        return true;
    }
}

static struct site layer_site(const struct model_desc *desc, enum site_place place)
{
    uint32_t q = desc->head_n * desc->head_dim;
    uint32_t kv = desc->kv_head_n * desc->head_dim;
    uint32_t value = desc->gdn.value_head_n * desc->gdn.value_dim;
    uint32_t wide = desc->ssd.head_n * desc->ssd.head_dim;
    struct kern_gdn gdn = layer_gdn(desc);
    struct kern_ssd ssd = layer_ssd(desc);
    const struct site sites[SITE_PLACES] = {
        [SITE_Q] = {.n = desc->has_attention_gate ? 2 * q : q, .k = desc->hidden},
        [SITE_K] = {.n = kv, .k = desc->hidden},
        [SITE_V] = {.n = kv, .k = desc->hidden},
        [SITE_O] = {.n = desc->hidden, .k = q, .split = SPLIT_ROW},
        [SITE_GDN_QKV] = {.n = kern_gdn_conv_n(&gdn), .k = desc->hidden},
        [SITE_GDN_Z] = {.n = value, .k = desc->hidden},
        [SITE_GDN_B] = {.n = desc->gdn.value_head_n, .k = desc->hidden},
        [SITE_GDN_A] = {.n = desc->gdn.value_head_n, .k = desc->hidden},
        [SITE_GDN_OUT] = {.n = desc->hidden, .k = value, .split = SPLIT_ROW},
        [SITE_SSD_IN] = {.n = kern_ssd_row_n(&ssd), .k = desc->hidden},
        [SITE_SSD_OUT] = {.n = desc->hidden, .k = wide, .split = SPLIT_ROW},
        [SITE_GATE] = {.n = desc->ffn, .k = desc->hidden},
        [SITE_UP] = {.n = desc->ffn, .k = desc->hidden},
        [SITE_DOWN] = {.n = desc->hidden, .k = desc->ffn, .split = SPLIT_ROW},
    };
    return sites[place];
}

static void layer_fill(struct model_desc *desc, uint32_t l)
{
    struct layer_desc *layer = &desc->layers[l];
    bool has_kv = layer->mixer != MIXER_GDN;
    bool has_state = layer->mixer != MIXER_ATTENTION;
    layer->kv_layer = has_kv ? desc->kv_layer_n++ : LAYER_NONE;
    layer->state_layer = has_state ? desc->state_layer_n++ : LAYER_NONE;
    for (uint32_t i = 0; i < SITE_PLACES; i++) {
        layer->site[i] = SITE_NONE;
        if (!layer_has(layer->mixer, (enum site_place)i)) {
            continue;
        }
        struct site *site = &desc->sites[desc->site_n];
        bool is_mlp = !strchr(layer_words[i], '.');
        *site = layer_site(desc, (enum site_place)i);
        site->place = (enum site_place)i;
        site->layer = l;
        snprintf(site->module, sizeof site->module, LAYERS_PREFIX "%u.%s%s%s", l,
                 is_mlp ? desc->table->mlp : "", is_mlp ? "." : "", layer_words[i]);
        layer->site[i] = desc->site_n++;
    }
}

void layers_fill(struct model_desc *desc)
{
    arena_init(&desc->arena);
    desc->sites =
        arena_alloc(&desc->arena, (size_t)desc->layer_n * SITE_PLACES * sizeof *desc->sites);
    desc->site_n = 0;
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        layer_fill(desc, l);
    }
}

struct kern_state model_state(const struct model_desc *desc, uint32_t slot_n)
{
    struct kern_gdn gdn = layer_gdn(desc);
    struct kern_ssd ssd = layer_ssd(desc);
    return (struct kern_state){
        .layer_n = desc->state_layer_n,
        .slot_n = slot_n,
        .state_n = desc->ssd.head_n ? kern_ssd_state_n(&ssd) : kern_gdn_state_n(&gdn),
        .conv_n = desc->ssd.head_n ? kern_ssd_conv_n(&ssd) : kern_gdn_conv_n(&gdn),
    };
}

void model_state_dims(const struct model_desc *desc, uint32_t out_dims[3])
{
    const struct gdn_desc *gdn = &desc->gdn;
    const struct ssd_desc *ssd = &desc->ssd;
    out_dims[0] = ssd->head_n ? ssd->head_n : gdn->value_head_n;
    out_dims[1] = ssd->head_n ? ssd->head_dim : gdn->key_dim;
    out_dims[2] = ssd->head_n ? ssd->state_dim : gdn->value_dim;
}

bool model_site_is_alone(enum site_place place)
{
    switch (place) {
    case SITE_O:
    case SITE_GDN_OUT:
    case SITE_SSD_IN: /* beside attention's q, k and v, but an op of its own */
    case SITE_SSD_OUT:
    case SITE_DOWN:
        return true;
    default:
        return false;
    }
}

uint32_t layers_mixer_n(const struct model_desc *desc)
{
    struct kern_gdn gdn = layer_gdn(desc);
    struct kern_ssd ssd = layer_ssd(desc);
    return desc->ssd.head_n ? kern_ssd_row_n(&ssd) : kern_gdn_row_n(&gdn);
}

uint32_t layers_mixer_out(const struct model_desc *desc)
{
    return MAX(desc->gdn.value_head_n * desc->gdn.value_dim, desc->ssd.head_n * desc->ssd.head_dim);
}

void model_kern_limits(const struct model_desc *desc, struct kern_open *args)
{
    uint64_t hidden = desc->hidden;
    uint32_t q = desc->head_n * desc->head_dim;
    uint32_t kv = desc->kv_head_n * desc->head_dim;
    uint32_t heads = (desc->has_attention_gate ? 2 * q : q) + 2 * kv;
    uint32_t mixer = layers_mixer_n(desc);
    uint32_t k_most = MAX(MAX(q, layers_mixer_out(desc)), desc->ffn);
    uint32_t n_most = MAX(MAX(heads, mixer), 2 * desc->ffn);
    args->k_max = MAX(desc->hidden, k_most);
    args->n_max = MAX(desc->hidden, n_most);
    args->nk_max = MAX(desc->vocab_n, MAX(n_most, k_most)) * hidden;
    args->vocab_n = desc->vocab_n;
}
