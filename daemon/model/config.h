/* What the files that read config.json share: the object and the name that errors show. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/json.h"
#include "model/model.h"

#define MODEL_PATH_BYTES 4096

struct config {
    const char *label; /* path of the file */
    const json_t *root;
};

/* <dir>/<file> into path[MODEL_PATH_BYTES]; refused when it does not fit. */
int config_path(char *path, const char *dir, const char *file, struct err *err);

/* True when `word` is in the list that ends with NULL. */
bool config_has_word(const char *const *words, const char *word);

/* Everything of config.json but the layer list (desc.c): fills a zeroed desc. */
int config_read(const struct config *config, struct model_desc *desc, struct err *err);

/* Rotary embedding: inv_freq, rotary_n and rope_scale from head_dim and the rope keys in both of
 * their spellings. A rope type or key that is not implemented is refused. */
int config_read_rope(const struct config *config, struct model_desc *desc, struct err *err);

#endif
