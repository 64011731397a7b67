/* What the kinds that PEFT saves share: adapter_config.json, whose "peft_type" tells them apart,
 * and the names of modules and tensors. Private to adapters/. */
#ifndef ADAPTERS_PEFT_H
#define ADAPTERS_PEFT_H

#include "adapters/kind.h"
#include "base/json.h"
#include "model/model.h"

struct tensor;

#define PEFT_CONFIG  "adapter_config.json"
#define PEFT_WEIGHTS "adapter_model.safetensors"
#define PEFT_PREFIX  "base_model.model."

/* Files of every PEFT kind. */
extern const char *const peft_markers[];
extern const char *const peft_files[];
extern const char *const peft_optional[];
extern const char *const peft_unsafe[];

bool peft_is_in(const char *const *list, const char *word);

/* "key" is value, why: ERR_ADAPTER_INCOMPATIBLE. */
int peft_refuse(const char *key, const json_t *value, const char *why, struct err *err);

/* The config's object; the caller json_decrefs *out, also after a failure. */
int peft_open(const struct adapter_source *source, json_t **out, struct err *err);

/* True when the config is an object whose "peft_type" is this word. */
bool peft_is_type(const struct adapter_source *source, const char *type);

/* Refuses a key that is in neither list and asks for something: PEFT writes many that do not. */
int peft_check_keys(const json_t *root, const char *const *read, const char *const *ignored,
                    struct err *err);

/* A list of names under `key`. PEFT's regular expressions, a single text, are refused. */
int peft_read_names(const json_t *root, const char *key, const json_t **out, struct err *err);

/* The name of the list that the module goes by, or NULL. PEFT's rule for lists: the whole path, or
 * its last words behind a dot. */
const char *peft_find_name(const json_t *names, const char *module);

/* The same for a site of the model, whose module may go by another path in an outer model. */
const char *peft_find_site(const json_t *names, const struct model_desc *desc, uint32_t site);
bool peft_site_matches(const struct model_desc *desc, uint32_t site, const char *name);

/* The module of a tensor's name, which is PEFT_PREFIX, module, suffix; false for another name. */
bool peft_module(const char *tensor, const char *suffix, char module[LIMIT_TENSOR_NAME]);

#endif
