/* S0 tuning (arXiv 2604.01168) as the library s0-tuning saves it: a folder with states.safetensors
 * and maybe config.json and meta.json. Nothing but the initial state of each recurrent layer is
 * learned; it takes the place of zero before the first token of a sequence.
 *
 * Layout. states.safetensors has one F32 tensor for each recurrent layer, named by the layer's
 * absolute index in plain decimal. Gated delta rule: [value heads, key_dim, value_dim], key-major
 * ("K x V"; engines that keep V x K transpose it); heads in the order of the model's v rows, so
 * that consecutive value heads share a key head (grouped, not tiled as in GGUF). Mamba-2: [heads,
 * head_dim, state_dim]. Both are this project's own layout (kernels/kern_recurrent.h), so nothing
 * is moved.
 *
 * Scale. The file holds raw states. What a sequence begins with is alpha S, or with "normalize"
 * alpha S / ||S|| by the Frobenius norm of the layer's whole tensor (alpha S where that is zero);
 * a request's weight multiplies it. alpha null or without config.json: the architecture's default.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "adapters/kind.h"
#include "base/json.h"
#include "kernels/kern_recurrent.h"
#include "model/model.h"
#include "model/safetensors.h"

#define S0_STATES "states.safetensors"
#define S0_CONFIG "config.json"
#define S0_META   "meta.json"

#define S0_ALPHA_GDN 0.07
#define S0_ALPHA_SSD 0.65

struct s0_config {
    double alpha;
    bool is_normalized;
};

/* What the base is to this kind. */
struct s0_base {
    const char *arch; /* the library's word */
    uint32_t dims[3];
};

static int s0_check_base(const struct model_desc *desc, struct err *err)
{
    if (desc->state_layer_n > 0) {
        return 0;
    }
    return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                   S0_STATES ": holds recurrent states, the model (%s) has no recurrent layers",
                   desc->family);
}

/* Keys of training: read for their type only. */
static int s0_check_training(const json_t *root, struct err *err)
{
    static const char *const numbers[] = {"lr", "l2_lambda", "grad_clip"};
    static const char *const integers[] = {"n_steps", "max_length"};
    double real = 0;
    int64_t integer = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_N(numbers); i++) {
        rc = json_get_real(S0_CONFIG, root, numbers[i], &real, err);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_N(integers); i++) {
        rc = json_get_int(S0_CONFIG, root, integers[i], INT64_MIN, INT64_MAX, &integer, err);
    }
    return rc;
}

static int s0_check_keys(const char *file, const json_t *root, const char *const *known,
                         struct err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(root)) {
        return err_set(err, ERR_BAD_FILE, "%s: is not an object", file);
    }
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        const char *const *k = known;
        while (*k && strcmp(*k, key) != 0) {
            k++;
        }
        if (!*k) {
            char brief[80];
            json_brief(value, brief, sizeof brief);
            return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                           "%s: \"%.64s\" is %s, which is not supported", file, key, brief);
        }
    }
    return 0;
}

static int s0_read_config(const struct adapter_source *source, struct s0_config *out,
                          struct err *err)
{
    static const char *const known[] = {"n_steps",   "lr",        "l2_lambda",  "alpha",
                                        "normalize", "grad_clip", "max_length", NULL};
    const struct adapter_file *file = adapter_source_file(source, S0_CONFIG);
    json_t *root = NULL;
    if (!file) {
        return 0;
    }
    int rc = json_parse(S0_CONFIG, file->data, file->n, &root, err);
    rc = rc ? rc : s0_check_keys(S0_CONFIG, root, known, err);
    rc = rc ? rc : s0_check_training(root, err);
    rc = rc ? rc : json_get_real(S0_CONFIG, root, "alpha", &out->alpha, err);
    rc = rc ? rc : json_get_bool(S0_CONFIG, root, "normalize", &out->is_normalized, err);
    if (rc == 0 && !isfinite((float)out->alpha)) {
        rc = err_set(err, ERR_BAD_FILE, S0_CONFIG ": \"alpha\" is %g, which is beyond fp32",
                     out->alpha);
    }
    json_decref(root);
    return rc;
}

static int s0_check_shape(const json_t *shape, const struct s0_base *base, struct err *err)
{
    bool is_same = json_array_size(shape) == 3;
    for (size_t i = 0; i < 3 && is_same; i++) {
        const json_t *v = json_array_get(shape, i);
        is_same = json_is_integer(v) && json_integer_value(v) == (json_int_t)base->dims[i];
    }
    if (!is_same) {
        char brief[80];
        json_brief(shape, brief, sizeof brief);
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       S0_META ": \"state_shape\" is %s, the model's is [%u,%u,%u]",
                       shape ? brief : "missing", base->dims[0], base->dims[1], base->dims[2]);
    }
    return 0;
}

/* The list may come in any order; it must name each recurrent layer once. */
static int s0_check_layers(const json_t *list, const struct model_desc *desc, struct err *err)
{
    char brief[80];
    char wanted[80];
    uint32_t found_n = 0;
    json_t *own = json_array();
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        bool is_found = false;
        if (desc->layers[l].state_layer == LAYER_NONE) {
            continue;
        }
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *v = json_array_get(list, i);
            is_found = is_found || (json_is_integer(v) && json_integer_value(v) == (json_int_t)l);
        }
        found_n += is_found;
        json_array_append_new(own, json_integer((json_int_t)l));
    }
    json_brief(own, wanted, sizeof wanted);
    json_decref(own);
    if (json_array_size(list) == desc->state_layer_n && found_n == desc->state_layer_n) {
        return 0;
    }
    json_brief(list, brief, sizeof brief);
    return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                   S0_META ": \"recurrent_layers\" is %s, the model's are %s",
                   list ? brief : "missing", wanted);
}

static int s0_check_meta(const struct adapter_source *source, const struct model_desc *desc,
                         const struct s0_base *base, struct err *err)
{
    static const char *const known[] = {"arch", "recurrent_layers", "state_shape", NULL};
    const struct adapter_file *file = adapter_source_file(source, S0_META);
    json_t *root = NULL;
    const char *arch = NULL;
    if (!file) {
        return 0;
    }
    int rc = json_parse(S0_META, file->data, file->n, &root, err);
    rc = rc ? rc : s0_check_keys(S0_META, root, known, err);
    rc = rc ? rc : json_get_str(S0_META, root, "arch", &arch, err);
    if (rc == 0 && (!arch || strcmp(arch, base->arch) != 0)) {
        rc = err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                     S0_META ": \"arch\" is %s%.40s%s, the model's is \"%s\"", arch ? "\"" : "",
                     arch ? arch : "missing", arch ? "\"" : "", base->arch);
    }
    rc = rc ? rc : s0_check_shape(json_object_get(root, "state_shape"), base, err);
    rc = rc ? rc : s0_check_layers(json_object_get(root, "recurrent_layers"), desc, err);
    json_decref(root);
    return rc;
}

/* The ordinal among recurrent layers of the layer that a tensor is named by. */
static int s0_find_layer(const struct tensor *t, const struct model_desc *desc, uint32_t *out,
                         struct err *err)
{
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        char name[16];
        snprintf(name, sizeof name, "%u", l);
        if (strcmp(t->name, name) == 0 && desc->layers[l].state_layer != LAYER_NONE) {
            *out = desc->layers[l].state_layer;
            return 0;
        }
    }
    return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                   S0_STATES ": tensor \"%.80s\" is not named by a recurrent layer of the model",
                   t->name);
}

static int s0_check_tensor(const struct tensor *t, const struct s0_base *base, struct err *err)
{
    const uint32_t *d = base->dims;
    if (t->dtype != DTYPE_F32) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       S0_STATES ": tensor \"%.80s\" has type %s, only F32 is supported", t->name,
                       t->dtype_name);
    }
    if (t->dim_n != 3 || t->dims[0] != d[0] || t->dims[1] != d[1] || t->dims[2] != d[2]) {
        char shape[100];
        tensor_shape_text(t, shape, sizeof shape);
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       S0_STATES ": tensor \"%.80s\" has shape %s, the model's state has [%u, %u, "
                                 "%u]",
                       t->name, shape, d[0], d[1], d[2]);
    }
    return 0;
}

/* Scales a tensor's values into a state. */
static int s0_scale(const struct tensor *t, const struct s0_config *config, uint32_t n, float *out,
                    struct err *err)
{
    double squares = 0;
    memcpy(out, t->data, n * sizeof *out); /* it may not be aligned */
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(out[i])) {
            return err_set(err, ERR_BAD_FILE, S0_STATES ": tensor \"%.80s\" has %s at index %u",
                           t->name, isnan(out[i]) ? "a NaN" : "an infinity", i);
        }
        squares += (double)out[i] * (double)out[i];
    }
    bool is_divided = config->is_normalized && squares > 0;
    float factor = (float)(is_divided ? config->alpha / sqrt(squares) : config->alpha);
    for (uint32_t i = 0; i < n; i++) {
        float raw = out[i];
        out[i] *= factor;
        if (!isfinite(out[i])) {
            return err_set(err, ERR_BAD_FILE,
                           S0_STATES ": tensor \"%.80s\" has %g at index %u, times %g it is beyond "
                                     "fp32",
                           t->name, (double)raw, i, (double)factor);
        }
    }
    return 0;
}

static int s0_read_states(const struct tensor_set *set, const struct model_desc *desc,
                          const struct s0_base *base, const struct s0_config *config,
                          struct parsed_adapter *out, struct err *err)
{
    uint32_t n = model_state(desc, 1).state_n;
    out->states = arena_alloc(&out->arena, desc->state_layer_n * sizeof *out->states);
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        uint32_t layer = 0;
        int rc = s0_find_layer(t, desc, &layer, err);
        rc = rc ? rc : s0_check_tensor(t, base, err);
        if (rc == 0) {
            float *state = arena_alloc(&out->arena, n * sizeof *state);
            out->states[layer] = state;
            rc = s0_scale(t, config, n, state, err);
        }
        if (rc) {
            return rc;
        }
    }
    for (uint32_t l = 0; l < desc->layer_n; l++) {
        uint32_t layer = desc->layers[l].state_layer;
        if (layer != LAYER_NONE && !out->states[layer]) {
            return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                           S0_STATES ": tensor \"%u\" is missing, layer %u of the model is "
                                     "recurrent",
                           l, l);
        }
    }
    out->modules_total = set->tensor_n;
    return 0;
}

static int s0_parse(const struct adapter_source *source, const struct model_desc *desc,
                    struct parsed_adapter *out, struct err *err)
{
    const struct adapter_file *file = adapter_source_file(source, S0_STATES);
    struct s0_base base = {.arch = desc->ssd.head_n > 0 ? "mamba2" : "gated_delta_net"};
    struct s0_config config = {.alpha = desc->ssd.head_n > 0 ? S0_ALPHA_SSD : S0_ALPHA_GDN};
    struct tensor_set set;
    int rc = s0_check_base(desc, err);
    model_state_dims(desc, base.dims);
    rc = rc ? rc : s0_read_config(source, &config, err);
    rc = rc ? rc : s0_check_meta(source, desc, &base, err);
    rc = rc ? rc : tensor_set_parse(&set, S0_STATES, file->data, file->n, err);
    if (rc) {
        return rc;
    }
    rc = s0_read_states(&set, desc, &base, &config, out, err);
    tensor_set_close(&set);
    return rc;
}

static const char *const s0_markers[] = {S0_STATES, NULL};
static const char *const s0_files[] = {S0_STATES, NULL};
static const char *const s0_optional[] = {S0_CONFIG, S0_META, NULL};
static const char *const s0_unsafe[] = {"states.pt", NULL};

const struct adapter_kind kind_s0 = {.name = "s0",
                                     .is_recurrent = true,
                                     .marker_files = s0_markers,
                                     .files = s0_files,
                                     .optional_files = s0_optional,
                                     .unsafe_files = s0_unsafe,
                                     .parse = s0_parse};
