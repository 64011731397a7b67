/* LoRA as PEFT saves it: adapter_config.json and adapter_model.safetensors, the plain case. One
 * rank and one scale for all modules, targets given as a list, factors on linear sites only.
 *
 * A key this file does not know may be there only with a value that asks for nothing (null, false,
 * "", [] or {}), as PEFT writes its many keys; anything else is refused by key. Every tensor must
 * be a factor of a linear of the model, and every module that the targets name must have both. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "adapters/peft.h"
#include "model/model.h"
#include "model/safetensors.h"

#define LORA_SUFFIX_A ".lora_A.weight"
#define LORA_SUFFIX_B ".lora_B.weight"

/* PEFT's defaults for keys that a hand-written file may lack. */
#define LORA_RANK_DEFAULT  8
#define LORA_ALPHA_DEFAULT 8

struct lora_config {
    json_t *root;
    const json_t *targets; /* list of strings */
    uint32_t rank;
    float scale;
};

/* A site's two tensors while they are collected. */
struct lora_pair {
    const struct tensor *a;
    const struct tensor *b;
};

/* Keys that are read below. */
static const char *const lora_keys_read[] = {"peft_type",      "r",    "lora_alpha",
                                             "use_rslora",     "bias", "init_lora_weights",
                                             "target_modules", NULL};

/* Keys that say nothing about the result: descriptions, training, and options of features that are
 * switched on by another key (which is refused). */
static const char *const lora_keys_ignored[] = {"auto_mapping",
                                                "base_model_name_or_path",
                                                "ensure_weight_tying",
                                                "eva_config",
                                                "inference_mode",
                                                "lora_dropout",
                                                "megatron_core",
                                                "peft_version",
                                                "qalora_group_size",
                                                "revision",
                                                "runtime_config",
                                                "task_type",
                                                NULL};

/* Initialisations that leave the base's weights as they are. */
static const char *const lora_inits[] = {"gaussian", "orthogonal", "eva", "mica", NULL};

static int config_check_words(const json_t *root, struct err *err)
{
    const json_t *type = json_object_get(root, "peft_type");
    const json_t *bias = json_object_get(root, "bias");
    const json_t *init = json_object_get(root, "init_lora_weights");
    if (!type) {
        return err_set(err, ERR_BAD_FILE, PEFT_CONFIG ": \"peft_type\" is missing");
    }
    if (!json_is_string(type) || strcmp(json_string_value(type), "LORA") != 0) {
        return peft_refuse("peft_type", type, "only \"LORA\" and \"IA3\" are supported", err);
    }
    if (bias && (!json_is_string(bias) || strcmp(json_string_value(bias), "none") != 0)) {
        return peft_refuse("bias", bias, "only \"none\" is supported", err);
    }
    bool is_init_safe = !init || json_is_null(init) || json_is_boolean(init) ||
                        (json_is_string(init) && peft_is_in(lora_inits, json_string_value(init)));
    if (!is_init_safe) {
        return peft_refuse("init_lora_weights", init,
                           "an initialisation that changes the base's weights", err);
    }
    return 0;
}

static int config_read_scale(const json_t *root, struct lora_config *out, struct err *err)
{
    int64_t rank = LORA_RANK_DEFAULT;
    double alpha = LORA_ALPHA_DEFAULT;
    bool is_rslora = false;
    int rc = json_get_int(PEFT_CONFIG, root, "r", 1, LIMIT_LOWRANK_RANK, &rank, err);
    if (!rc) {
        rc = json_get_real(PEFT_CONFIG, root, "lora_alpha", &alpha, err);
    }
    if (!rc) {
        rc = json_get_bool(PEFT_CONFIG, root, "use_rslora", &is_rslora, err);
    }
    if (rc) {
        return rc;
    }
    out->rank = (uint32_t)rank;
    out->scale = (float)(is_rslora ? alpha / sqrt((double)rank) : alpha / (double)rank);
    if (!isfinite(out->scale)) {
        return err_set(err, ERR_BAD_FILE,
                       PEFT_CONFIG ": \"lora_alpha\" is %g, the scale is not finite", alpha);
    }
    return 0;
}

static int config_parse(const struct adapter_source *source, struct lora_config *out,
                        struct err *err)
{
    int rc = peft_open(source, &out->root, err);
    rc = rc ? rc : config_check_words(out->root, err);
    rc = rc ? rc : peft_check_keys(out->root, lora_keys_read, lora_keys_ignored, err);
    rc = rc ? rc : config_read_scale(out->root, out, err);
    rc = rc ? rc : peft_read_names(out->root, "target_modules", &out->targets, err);
    if (rc == 0 && json_array_size(out->targets) == 0) {
        rc = err_set(err, ERR_BAD_FILE, PEFT_CONFIG ": \"target_modules\" is an empty list");
    }
    return rc;
}

/* Splits a tensor name into module and half; the module is written to `module`. */
static int tensor_split(const struct tensor *t, char module[LIMIT_TENSOR_NAME], bool *out_is_b,
                        struct err *err)
{
    *out_is_b = peft_module(t->name, LORA_SUFFIX_B, module);
    if (*out_is_b || peft_module(t->name, LORA_SUFFIX_A, module)) {
        return 0;
    }
    return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                   "tensor \"%.200s\" is not a factor of the form " PEFT_PREFIX
                   "<module>.lora_A.weight or .lora_B.weight",
                   t->name);
}

static int tensor_check(const struct tensor *t, const struct site *site, bool is_b, uint32_t rank,
                        struct err *err)
{
    char shape[80];
    if (t->dtype < 0) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" has type %s, only F32, F16 and BF16 are supported",
                       t->name, t->dtype_name);
    }
    if (t->dim_n != 2) {
        tensor_shape_text(t, shape, sizeof shape);
        return err_set(err, ERR_BAD_FILE, "tensor \"%.200s\" has shape %s, a matrix is wanted",
                       t->name, shape);
    }
    uint64_t at_rank = is_b ? t->dims[1] : t->dims[0];
    uint64_t at_side = is_b ? t->dims[0] : t->dims[1];
    if (at_rank != rank) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE, "tensor \"%.200s\" has %llu %s, rank is %u",
                       t->name, (unsigned long long)at_rank, is_b ? "columns" : "rows", rank);
    }
    if (at_side != (is_b ? site->n : site->k)) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" has %llu %s, the model's linear has %u %s", t->name,
                       (unsigned long long)at_side, is_b ? "rows" : "columns",
                       is_b ? site->n : site->k, is_b ? "outputs" : "inputs");
    }
    return 0;
}

/* Puts every tensor into its place in pairs[site_n]. */
static int tensors_collect(const struct tensor_set *set, const struct lora_config *config,
                           const struct model_desc *desc, struct lora_pair *pairs, struct err *err)
{
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        char module[LIMIT_TENSOR_NAME];
        bool is_b;
        int rc = tensor_split(t, module, &is_b, err);
        if (rc) {
            return rc;
        }
        int64_t site = model_site_find(desc, module);
        if (site < 0) {
            return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                           "tensor \"%.200s\" belongs to no linear of the model's layers", t->name);
        }
        if (!peft_find_site(config->targets, desc, (uint32_t)site)) {
            return err_set(err, ERR_BAD_FILE,
                           "tensor \"%.200s\" is of a module that \"target_modules\" does not name",
                           t->name);
        }
        rc = tensor_check(t, &desc->sites[site], is_b, config->rank, err);
        if (rc) {
            return rc;
        }
        const struct tensor **slot = is_b ? &pairs[site].b : &pairs[site].a;
        if (*slot) {
            return err_set(err, ERR_BAD_FILE, "tensors \"%.200s\" and \"%.200s\" are of one linear",
                           (*slot)->name, t->name);
        }
        *slot = t;
    }
    return 0;
}

/* Every target names something, and all that it names is there. */
static int targets_check(const struct lora_config *config, const struct model_desc *desc,
                         const struct lora_pair *pairs, struct err *err)
{
    for (size_t i = 0; i < json_array_size(config->targets); i++) {
        const char *target = json_string_value(json_array_get(config->targets, i));
        bool is_found = false;
        for (uint32_t s = 0; s < desc->site_n; s++) {
            if (!peft_site_matches(desc, s, target)) {
                continue;
            }
            is_found = true;
            if (!pairs[s].a || !pairs[s].b) {
                return err_set(err, ERR_BAD_FILE,
                               "tensor \"" PEFT_PREFIX "%s%s\" is missing, \"target_modules\" "
                               "names \"%.64s\"",
                               desc->sites[s].module, pairs[s].a ? LORA_SUFFIX_B : LORA_SUFFIX_A,
                               target);
            }
        }
        if (!is_found) {
            return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                           PEFT_CONFIG ": \"target_modules\" names \"%.64s\", the model's layers "
                                       "have no such linear",
                           target);
        }
    }
    return 0;
}

/* The tensor as a matrix; copied where the file left it unaligned. */
static struct kern_matrix tensor_matrix(const struct tensor *t, struct arena *arena)
{
    enum dtype dtype = (enum dtype)t->dtype;
    const void *data = t->data;
    if ((uintptr_t)data % dtype_bytes(dtype) != 0) {
        data = arena_memdup(arena, data, t->bytes);
    }
    return (struct kern_matrix){
        .data = data, .dtype = dtype, .n = (uint32_t)t->dims[0], .k = (uint32_t)t->dims[1]};
}

static void lora_emit(const struct lora_config *config, const struct model_desc *desc,
                      const struct lora_pair *pairs, struct parsed_adapter *out)
{
    out->lowranks = arena_alloc(&out->arena, desc->site_n * sizeof *out->lowranks);
    for (uint32_t s = 0; s < desc->site_n; s++) {
        if (pairs[s].a) {
            out->lowranks[out->lowrank_n++] =
                (struct parsed_lowrank){.site = s,
                                        .rank = config->rank,
                                        .scale = config->scale,
                                        .a = tensor_matrix(pairs[s].a, &out->arena),
                                        .b = tensor_matrix(pairs[s].b, &out->arena),
                                        .a_name = arena_strdup(&out->arena, pairs[s].a->name),
                                        .b_name = arena_strdup(&out->arena, pairs[s].b->name)};
        }
    }
    out->modules_total = out->lowrank_n;
}

static int lora_parse(const struct adapter_source *source, const struct model_desc *desc,
                      struct parsed_adapter *out, struct err *err)
{
    const struct adapter_file *file = adapter_source_file(source, PEFT_WEIGHTS);
    struct lora_config config = {0};
    struct tensor_set set;
    int rc = config_parse(source, &config, err);
    if (!rc) {
        rc = tensor_set_parse(&set, PEFT_WEIGHTS, file->data, file->n, err);
    }
    if (rc) {
        json_decref(config.root);
        return rc;
    }
    struct lora_pair *pairs = arena_alloc(&out->arena, desc->site_n * sizeof *pairs);
    if (set.tensor_n == 0) {
        rc = err_set(err, ERR_BAD_FILE, PEFT_WEIGHTS ": holds no tensors");
    }
    if (!rc) {
        rc = tensors_collect(&set, &config, desc, pairs, err);
    }
    if (!rc) {
        rc = targets_check(&config, desc, pairs, err);
    }
    if (!rc) {
        lora_emit(&config, desc, pairs, out);
    }
    tensor_set_close(&set);
    json_decref(config.root);
    return rc;
}

const struct adapter_kind kind_lora = {.name = "lora",
                                       .marker_files = peft_markers,
                                       .files = peft_files,
                                       .optional_files = peft_optional,
                                       .unsafe_files = peft_unsafe,
                                       .parse = lora_parse};
