/* IA3 (arXiv 2205.05638) as PEFT saves it: adapter_config.json and adapter_model.safetensors. One
 * learned vector for each module that "target_modules" names: over its outputs, bias included, as
 * ia3_l [out, 1], or, where "feedforward_modules" names it as well, over its inputs, as ia3_l
 * [1, in]. A request's weight w makes a factor f into w f + (1 - w).
 *
 * Inputs are scaled only of linears that share theirs with no other (o_proj, down_proj, out_proj
 * and the like, which is where PEFT's defaults have them); others are refused by name. */
#include <math.h>
#include <string.h>

#include "adapters/peft.h"
#include "base/mem.h"
#include "model/model.h"
#include "model/safetensors.h"

#define IA3_SUFFIX ".ia3_l"

struct ia3_config {
    json_t *root;
    const json_t *targets;
    const json_t *feedforward;
};

static const char *const ia3_keys_read[] = {"peft_type", "target_modules", "feedforward_modules",
                                            NULL};

/* Descriptions, and how training began. */
static const char *const ia3_keys_ignored[] = {"auto_mapping",   "base_model_name_or_path",
                                               "inference_mode", "init_ia3_weights",
                                               "peft_version",   "revision",
                                               "task_type",      NULL};

static int ia3_read_config(const struct adapter_source *source, struct ia3_config *out,
                           struct err *err)
{
    int rc = peft_open(source, &out->root, err);
    rc = rc ? rc : peft_check_keys(out->root, ia3_keys_read, ia3_keys_ignored, err);
    rc = rc ? rc : peft_read_names(out->root, "target_modules", &out->targets, err);
    rc = rc ? rc : peft_read_names(out->root, "feedforward_modules", &out->feedforward, err);
    if (rc == 0 && json_array_size(out->targets) == 0) {
        rc = err_set(err, ERR_BAD_FILE, PEFT_CONFIG ": \"target_modules\" is an empty list");
    }
    for (size_t i = 0; rc == 0 && i < json_array_size(out->feedforward); i++) {
        const char *name = json_string_value(json_array_get(out->feedforward, i));
        if (!peft_find_name(out->targets, name)) {
            rc = err_set(err, ERR_BAD_FILE,
                         PEFT_CONFIG ": \"feedforward_modules\" names \"%.64s\", "
                                     "\"target_modules\" does not",
                         name);
        }
    }
    return rc;
}

/* The vector's values; *out is in the arena. */
static int ia3_read_vector(const struct tensor *t, uint32_t n, struct arena *arena,
                           const float **out, struct err *err)
{
    float *values = arena_alloc(arena, n * sizeof *values);
    for (uint32_t i = 0; i < n; i++) {
        uint16_t half = 0;
        if (t->dtype == DTYPE_F32) {
            memcpy(&values[i], (const char *)t->data + i * sizeof *values, sizeof *values);
        } else {
            memcpy(&half, (const char *)t->data + i * sizeof half, sizeof half);
            values[i] = t->dtype == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
        if (!isfinite(values[i])) {
            return err_set(err, ERR_BAD_FILE, "tensor \"%.200s\" has %s at index %u", t->name,
                           isnan(values[i]) ? "a NaN" : "an infinity", i);
        }
    }
    *out = values;
    return 0;
}

static int ia3_check_tensor(const struct tensor *t, const struct site *site, bool is_in,
                            struct err *err)
{
    uint64_t wanted[2] = {is_in ? 1 : site->n, is_in ? site->k : 1};
    if (t->dtype < 0) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" has type %s, only F32, F16 and BF16 are supported",
                       t->name, t->dtype_name);
    }
    if (t->dim_n != 2 || t->dims[0] != wanted[0] || t->dims[1] != wanted[1]) {
        char shape[100];
        tensor_shape_text(t, shape, sizeof shape);
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" has shape %s, [%llu, %llu] is wanted: the %s of the "
                       "model's linear",
                       t->name, shape, (unsigned long long)wanted[0], (unsigned long long)wanted[1],
                       is_in ? "inputs" : "outputs");
    }
    return 0;
}

/* One tensor into the place of its site. */
static int ia3_read_tensor(const struct tensor *t, const struct ia3_config *config,
                           const struct model_desc *desc, struct parsed_adapter *out,
                           struct err *err)
{
    char module[LIMIT_TENSOR_NAME];
    if (!peft_module(t->name, IA3_SUFFIX, module)) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" is not a vector of the form " PEFT_PREFIX
                       "<module>" IA3_SUFFIX,
                       t->name);
    }
    int64_t index = model_site_find(desc, module);
    if (index < 0) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%.200s\" belongs to no linear of the model's layers", t->name);
    }
    if (!peft_find_site(config->targets, desc, (uint32_t)index)) {
        return err_set(err, ERR_BAD_FILE,
                       "tensor \"%.200s\" is of a module that \"target_modules\" does not name",
                       t->name);
    }
    const struct site *site = &desc->sites[index];
    bool is_in = peft_find_site(config->feedforward, desc, (uint32_t)index) != NULL;
    if (is_in && !model_site_is_alone(site->place)) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       PEFT_CONFIG ": \"feedforward_modules\" names \"%.100s\", whose input other "
                                   "linears share: only its outputs can be scaled",
                       module);
    }
    int rc = ia3_check_tensor(t, site, is_in, err);
    struct parsed_scale *scale = &out->scales[out->scale_n];
    *scale = (struct parsed_scale){.site = (uint32_t)index};
    rc = rc ? rc
            : ia3_read_vector(t, is_in ? site->k : site->n, &out->arena,
                              is_in ? &scale->in : &scale->out, err);
    out->scale_n += rc == 0;
    return rc;
}

/* Every target names something, and all that it names is there. */
static int ia3_check_targets(const struct ia3_config *config, const struct model_desc *desc,
                             const struct parsed_adapter *out, struct err *err)
{
    bool *is_there = mem_zalloc_n(desc->site_n, sizeof *is_there);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < out->scale_n; i++) {
        uint32_t site = out->scales[i].site;
        if (is_there[site]) {
            rc = err_set(err, ERR_BAD_FILE, "two tensors scale one linear, \"%s\"",
                         desc->sites[site].module);
        }
        is_there[site] = true;
    }
    for (size_t i = 0; rc == 0 && i < json_array_size(config->targets); i++) {
        const char *target = json_string_value(json_array_get(config->targets, i));
        bool is_found = false;
        for (uint32_t s = 0; rc == 0 && s < desc->site_n; s++) {
            bool is_named = peft_site_matches(desc, s, target);
            is_found = is_found || is_named;
            if (is_named && !is_there[s]) {
                rc = err_set(err, ERR_BAD_FILE,
                             "tensor \"" PEFT_PREFIX "%s" IA3_SUFFIX
                             "\" is missing, \"target_modules\" names \"%.64s\"",
                             desc->sites[s].module, target);
            }
        }
        if (rc == 0 && !is_found) {
            rc = err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                         PEFT_CONFIG ": \"target_modules\" names \"%.64s\", the model's layers "
                                     "have no such linear",
                         target);
        }
    }
    mem_free(is_there);
    return rc;
}

static int ia3_parse(const struct adapter_source *source, const struct model_desc *desc,
                     struct parsed_adapter *out, struct err *err)
{
    const struct adapter_file *file = adapter_source_file(source, PEFT_WEIGHTS);
    struct ia3_config config = {0};
    struct tensor_set set;
    int rc = ia3_read_config(source, &config, err);
    rc = rc ? rc : tensor_set_parse(&set, PEFT_WEIGHTS, file->data, file->n, err);
    if (rc) {
        json_decref(config.root);
        return rc;
    }
    out->scales = arena_alloc(&out->arena, (set.tensor_n + 1) * sizeof *out->scales);
    if (set.tensor_n == 0) {
        rc = err_set(err, ERR_BAD_FILE, PEFT_WEIGHTS ": holds no tensors");
    }
    for (uint32_t i = 0; rc == 0 && i < set.tensor_n; i++) {
        rc = ia3_read_tensor(&set.tensors[i], &config, desc, out, err);
    }
    rc = rc ? rc : ia3_check_targets(&config, desc, out, err);
    out->modules_total = out->scale_n;
    tensor_set_close(&set);
    json_decref(config.root);
    return rc;
}

static bool ia3_is_of(const struct adapter_source *source)
{
    return peft_is_type(source, "IA3");
}

const struct adapter_kind kind_ia3 = {.name = "ia3",
                                      .marker_files = peft_markers,
                                      .files = peft_files,
                                      .optional_files = peft_optional,
                                      .unsafe_files = peft_unsafe,
                                      .is_of = ia3_is_of,
                                      .parse = ia3_parse};
