/* model_desc: opening, the layer list, and the names of its sites. */
#include "model/model.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kern.h"
#include "model/config.h"
#include "model/safetensors.h"

#define SITE_PREFIX "model.layers."

static const char *const site_words[SITE_PER_LAYER] = {
    [SITE_Q] = "self_attn.q_proj", [SITE_K] = "self_attn.k_proj", [SITE_V] = "self_attn.v_proj",
    [SITE_O] = "self_attn.o_proj", [SITE_GATE] = "mlp.gate_proj", [SITE_UP] = "mlp.up_proj",
    [SITE_DOWN] = "mlp.down_proj",
};

/* One entry of the layer list and its seven sites, for each layer. */
static void desc_fill_layers(struct model_desc *desc)
{
    uint32_t q = desc->head_n * desc->head_dim;
    uint32_t kv = desc->kv_head_n * desc->head_dim;
    const struct {
        uint32_t n, k;
        enum site_split split;
    } shapes[SITE_PER_LAYER] = {
        [SITE_Q] = {q, desc->hidden, SPLIT_COLUMN},
        [SITE_K] = {kv, desc->hidden, SPLIT_COLUMN},
        [SITE_V] = {kv, desc->hidden, SPLIT_COLUMN},
        [SITE_O] = {desc->hidden, q, SPLIT_ROW},
        [SITE_GATE] = {desc->ffn, desc->hidden, SPLIT_COLUMN},
        [SITE_UP] = {desc->ffn, desc->hidden, SPLIT_COLUMN},
        [SITE_DOWN] = {desc->hidden, desc->ffn, SPLIT_ROW},
    };
    arena_init(&desc->arena);
    desc->site_n = desc->layer_n * SITE_PER_LAYER;
    desc->sites = arena_alloc(&desc->arena, desc->site_n * sizeof *desc->sites);
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        desc->layers[l] = (struct layer_desc){.mixer = MIXER_ATTENTION, .kv_layer = l};
        for (uint32_t i = 0; i < SITE_PER_LAYER; i++) {
            struct site *site = &desc->sites[l * SITE_PER_LAYER + i];
            snprintf(site->module, sizeof site->module, SITE_PREFIX "%u.%s", l, site_words[i]);
            site->n = shapes[i].n;
            site->k = shapes[i].k;
            site->split = shapes[i].split;
        }
    }
    desc->kv_layer_n = desc->layer_n;
}

int model_desc_parse(const char *label, const void *json, size_t n, struct model_desc *out,
                     struct err *err)
{
    json_t *root = NULL;
    struct model_desc desc = {.embed_multiplier = 1, .head_multiplier = 1};
    int rc = json_parse(label, json, n, &root, err);
    if (rc) {
        return rc;
    }
    rc = config_read(&(struct config){.label = label, .root = root}, &desc, err);
    json_decref(root);
    if (rc) {
        return rc;
    }
    desc_fill_layers(&desc);
    *out = desc;
    return 0;
}

/* The widest type among the checkpoint's matrices: bf16 or f16 only when all of them are. */
static void desc_find_dtype(const struct tensor_set *set, struct model_desc *desc)
{
    uint32_t seen_n[DTYPE_N] = {0};
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        if (t->dim_n == 2 && t->dtype >= 0) {
            seen_n[t->dtype]++;
        }
    }
    if (seen_n[DTYPE_F32] > 0 || (seen_n[DTYPE_F16] > 0 && seen_n[DTYPE_BF16] > 0)) {
        desc->checkpoint_dtype = DTYPE_F32;
    } else if (seen_n[DTYPE_BF16] > 0) {
        desc->checkpoint_dtype = DTYPE_BF16;
    } else if (seen_n[DTYPE_F16] > 0) {
        desc->checkpoint_dtype = DTYPE_F16;
    }
}

static void desc_find_head(const struct tensor_set *set, struct model_desc *desc)
{
    const struct tensor *head = tensor_set_find(set, "lm_head.weight");
    const struct tensor *embed = tensor_set_find(set, "model.embed_tokens.weight");
    if (desc->is_tied && head && embed &&
        (head->dtype != embed->dtype || head->bytes != embed->bytes ||
         memcmp(head->data, embed->data, head->bytes) != 0)) {
        desc->is_tied = false;
        desc->is_tie_broken = true;
    }
}

/* What config.json may leave open or have wrong. */
static void desc_settle(const char *dir, struct model_desc *desc)
{
    struct tensor_set set;
    if (tensor_set_open_dir(&set, dir, NULL) == 0) {
        desc_find_dtype(&set, desc);
        desc_find_head(&set, desc);
        tensor_set_close(&set);
    }
}

int model_desc_read_config(const char *dir, struct model_desc *out, struct err *err)
{
    char path[MODEL_PATH_BYTES];
    struct file_map map;
    int rc = config_path(path, dir, "config.json", err);
    if (rc == 0) {
        rc = file_map_open(&map, path, err);
    }
    if (rc) {
        return rc;
    }
    if (map.n > LIMIT_CONFIG_JSON_BYTES) {
        rc = err_set(err, ERR_BAD_FILE, "%s: is %zu bytes long, limit is %u", path, map.n,
                     LIMIT_CONFIG_JSON_BYTES);
    } else {
        rc = model_desc_parse(path, map.data, map.n, out, err);
    }
    file_map_close(&map);
    return rc;
}

int model_desc_read(const char *dir, struct model_desc *out, struct err *err)
{
    int rc = model_desc_read_config(dir, out, err);
    if (rc == 0) {
        desc_settle(dir, out);
    }
    return rc;
}

void model_desc_done(struct model_desc *desc)
{
    arena_done(&desc->arena);
    *desc = (struct model_desc){0};
}

enum dtype model_default_held(const struct model_desc *desc)
{
    return desc->checkpoint_dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

void model_kern_limits(const struct model_desc *desc, struct kern_open *args)
{
    uint32_t q = desc->head_n * desc->head_dim;
    uint32_t kv = desc->kv_head_n * desc->head_dim;
    args->k_max = MAX(desc->hidden, MAX(q, desc->ffn));
    args->n_max = MAX(desc->hidden, MAX(q + 2 * kv, 2 * desc->ffn));
    args->nk_max =
        MAX((uint64_t)desc->vocab_n * desc->hidden,
            MAX((uint64_t)(q + 2 * kv) * desc->hidden,
                MAX(2 * (uint64_t)desc->ffn * desc->hidden, (uint64_t)q * desc->hidden)));
    args->vocab_n = desc->vocab_n;
}

int64_t model_site_find(const struct model_desc *desc, const char *module)
{
    size_t prefix_n = strlen(SITE_PREFIX);
    if (strncmp(module, SITE_PREFIX, prefix_n) != 0 || !isdigit((unsigned char)module[prefix_n])) {
        return -1;
    }
    char *end = NULL;
    unsigned long layer = strtoul(module + prefix_n, &end, 10);
    if (layer >= desc->layer_n || *end != '.') {
        return -1;
    }
    for (uint32_t i = 0; i < SITE_PER_LAYER; i++) {
        uint32_t site = (uint32_t)layer * SITE_PER_LAYER + i;
        if (strcmp(desc->sites[site].module, module) == 0) { /* "layers.03" is no other name */
            return site;
        }
    }
    return -1;
}
