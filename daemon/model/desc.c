/* model_desc: opening, what the tensor files settle, and finding a site by name. */
#include "model/model.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/kern.h"
#include "model/config.h"
#include "model/family.h"
#include "model/layers.h"
#include "model/safetensors.h"

int model_desc_parse(const char *label, const void *json, size_t n, struct model_desc *out,
                     struct err *err)
{
    json_t *root = NULL;
    struct model_desc desc = {.prefix = "model.",
                              .embed_multiplier = 1,
                              .head_multiplier = 1,
                              .attention_multiplier = 1,
                              .ssd_multiplier = 1,
                              .mlp_multiplier = 1,
                              .gate_multiplier = 1};
    int rc = json_parse(label, json, n, &root, err);
    if (rc) {
        return rc;
    }
    rc = config_read(&(struct config){.label = label, .root = root}, &desc, err);
    json_decref(root);
    if (rc) {
        return rc;
    }
    layers_fill(&desc);
    *out = desc;
    return 0;
}

/* The widest type among the text model's matrices: bf16 or f16 only when all of them are. */
static void desc_find_dtype(const struct tensor_set *set, struct model_desc *desc)
{
    uint32_t seen_n[DTYPE_N] = {0};
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        if (t->dim_n == 2 && t->dtype >= 0 && !family_is_other_part(desc->table, t->name)) {
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

/* An outer model's files have the text model behind a longer prefix; exports of the text model
 * alone do not. */
static void desc_find_prefix(const struct tensor_set *set, struct model_desc *desc)
{
    static const char longer[] = "model.language_model.";
    if (desc->table->outer_type &&
        tensor_set_find(set, "model.language_model.embed_tokens.weight")) {
        memcpy(desc->prefix, longer, sizeof longer);
    }
}

static void desc_find_fused(const struct tensor_set *set, struct model_desc *desc)
{
    char name[LIMIT_TENSOR_NAME];
    uint32_t l = 0;
    while (l < desc->layer_n && desc->layers[l].mixer != MIXER_GDN) {
        l++;
    }
    snprintf(name, sizeof name, "%slayers.%u.linear_attn.in_proj_qkvz.weight", desc->prefix, l);
    desc->gdn.is_fused = l < desc->layer_n && tensor_set_find(set, name);
}

static void desc_find_head(const struct tensor_set *set, struct model_desc *desc)
{
    char name[LIMIT_TENSOR_NAME];
    snprintf(name, sizeof name, "%sembed_tokens.weight", desc->prefix);
    const struct tensor *head = tensor_set_find(set, "lm_head.weight");
    const struct tensor *embed = tensor_set_find(set, name);
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
        desc_find_prefix(&set, desc);
        desc_find_fused(&set, desc);
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

int64_t model_site_find(const struct model_desc *desc, const char *module)
{
    static const char outer[] = "model.language_model."; /* how the outer model calls "model." */
    char name[LIMIT_TENSOR_NAME];
    size_t prefix_n = strlen(LAYERS_PREFIX);
    if (desc->table->outer_type && strncmp(module, outer, sizeof outer - 1) == 0) {
        snprintf(name, sizeof name, "model.%.200s", module + sizeof outer - 1);
        module = name;
    }
    if (strncmp(module, LAYERS_PREFIX, prefix_n) != 0 ||
        !isdigit((unsigned char)module[prefix_n])) {
        return -1;
    }
    char *end = NULL;
    unsigned long layer = strtoul(module + prefix_n, &end, 10);
    if (layer >= desc->layer_n || *end != '.') {
        return -1;
    }
    for (uint32_t i = 0; i < SITE_PLACES; i++) {
        uint32_t site = desc->layers[layer].site[i];
        /* the whole name: "layers.03" is no other name */
        if (site != SITE_NONE && strcmp(desc->sites[site].module, module) == 0) {
            return site;
        }
    }
    return -1;
}
