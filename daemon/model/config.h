/* What the files that read config.json share: the object and the name that errors show. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/json.h"
#include "model/model.h"

#define MODEL_PATH_BYTES 4096

struct config {
    const char *label; /* path of the file */
    const json_t *root;
    const json_t *outer; /* the object that root was "text_config" of, or NULL */
};

/* <dir>/<file> into path[MODEL_PATH_BYTES]; refused when it does not fit. */
int config_path(char *path, const char *dir, const char *file, struct err *err);

/* The object with the text model's keys: "text_config" of an outer model's file, else the root. */
const json_t *config_text(const json_t *root);

/* An integer in [min, max]; *out keeps its value when the key is missing or null. config_need_u32:
 * from 1 on, and the key must be there. */
int config_get_u32(const struct config *config, const char *key, uint32_t min, uint32_t max,
                   uint32_t *out, struct err *err);
int config_need_u32(const struct config *config, const char *key, uint32_t max, uint32_t *out,
                    struct err *err);

/* A finite number other than 0; *out keeps its value when the key is missing or null. */
int config_get_multiplier(const struct config *config, const char *key, float *out,
                          struct err *err);

/* The word under `key` must be one of the list where it is there at all. */
int config_check_word(const struct config *config, const char *key, const char *const *words,
                      struct err *err);

/* True when `word` is in the list that ends with NULL. */
bool config_has_word(const char *const *words, const char *word);

/* Everything of config.json but the layer list's sites (layers.c): fills a zeroed desc. */
int config_read(const struct config *config, struct model_desc *desc, struct err *err);

/* Rotary embedding: inv_freq, rotary_n and rope_scale from head_dim and the rope keys in both of
 * their spellings. A rope type or key that is not implemented is refused. */
int config_read_rope(const struct config *config, const struct family *family,
                     struct model_desc *desc, struct err *err);

#endif
