/* PEFT's config and names. */
#include "adapters/peft.h"

#include <string.h>

#include "base/base.h"

const char *const peft_markers[] = {PEFT_CONFIG, NULL};
const char *const peft_files[] = {PEFT_CONFIG, PEFT_WEIGHTS, NULL};
const char *const peft_optional[] = {NULL};
const char *const peft_unsafe[] = {"adapter_model.bin", NULL};

bool peft_is_in(const char *const *list, const char *word)
{
    while (*list && strcmp(*list, word) != 0) {
        list++;
    }
    return *list != NULL;
}

int peft_refuse(const char *key, const json_t *value, const char *why, struct err *err)
{
    char brief[80];
    json_brief(value, brief, sizeof brief);
    return err_set(err, ERR_ADAPTER_INCOMPATIBLE, PEFT_CONFIG ": \"%.64s\" is %s, %s", key, brief,
                   why);
}

int peft_open(const struct adapter_source *source, json_t **out, struct err *err)
{
    const struct adapter_file *file = adapter_source_file(source, PEFT_CONFIG);
    int rc = json_parse(PEFT_CONFIG, file->data, file->n, out, err);
    if (rc == 0 && !json_is_object(*out)) {
        rc = err_set(err, ERR_BAD_FILE, PEFT_CONFIG ": is not an object");
    }
    return rc;
}

bool peft_is_type(const struct adapter_source *source, const char *type)
{
    json_t *root = NULL;
    bool is_type = false;
    if (peft_open(source, &root, NULL) == 0) {
        const char *word = json_string_value(json_object_get(root, "peft_type"));
        is_type = word && strcmp(word, type) == 0;
    }
    json_decref(root);
    return is_type;
}

int peft_check_keys(const json_t *root, const char *const *read, const char *const *ignored,
                    struct err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        if (!peft_is_in(read, key) && !peft_is_in(ignored, key) && !json_is_nothing(value)) {
            return peft_refuse(key, value, "which is not supported", err);
        }
    }
    return 0;
}

int peft_read_names(const json_t *root, const char *key, const json_t **out, struct err *err)
{
    const json_t *names = json_object_get(root, key);
    if (!names) {
        return err_set(err, ERR_BAD_FILE, PEFT_CONFIG ": \"%s\" is missing", key);
    }
    if (!json_is_array(names)) {
        return peft_refuse(key, names, "only a list of names is supported", err);
    }
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *name = json_array_get(names, i);
        if (!json_is_string(name) || json_string_length(name) == 0) {
            return peft_refuse(key, names, "each must be a name", err);
        }
    }
    *out = names;
    return 0;
}

static bool peft_name_matches(const char *module, const char *name)
{
    size_t module_n = strlen(module);
    size_t name_n = strlen(name);
    if (name_n > module_n || strcmp(module + module_n - name_n, name) != 0) {
        return false;
    }
    return name_n == module_n || module[module_n - name_n - 1] == '.';
}

const char *peft_find_name(const json_t *names, const char *module)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (peft_name_matches(module, name)) {
            return name;
        }
    }
    return NULL;
}

bool peft_site_matches(const struct model_desc *desc, uint32_t site, const char *name)
{
    return peft_name_matches(desc->sites[site].module, name) ||
           model_site_find(desc, name) == (int64_t)site;
}

const char *peft_find_site(const json_t *names, const struct model_desc *desc, uint32_t site)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (peft_site_matches(desc, site, name)) {
            return name;
        }
    }
    return NULL;
}

bool peft_module(const char *tensor, const char *suffix, char module[LIMIT_TENSOR_NAME])
{
    size_t prefix_n = strlen(PEFT_PREFIX);
    size_t suffix_n = strlen(suffix);
    size_t n = strlen(tensor);
    if (n < prefix_n + suffix_n || strncmp(tensor, PEFT_PREFIX, prefix_n) != 0 ||
        strcmp(tensor + n - suffix_n, suffix) != 0) {
        return false;
    }
    n -= prefix_n + suffix_n;
    ASSERT_CMP(n, <, LIMIT_TENSOR_NAME); /* tensor_set_parse holds names to that */
    memcpy(module, tensor + prefix_n, n);
    module[n] = '\0';
    return true;
}
