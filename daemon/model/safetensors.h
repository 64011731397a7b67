/* safetensors files: the header is checked completely before any tensor is used.
 *
 * Opening maps the file read-only and proves: header length within the file and the limit, valid
 * JSON without duplicate names, known dtypes, shapes whose product fits, offsets that lie inside
 * the file, do not overlap and leave no hole. Errors name the file and the tensor. */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stdint.h>

#include "base/arena.h"
#include "base/dtype.h"
#include "base/file.h"

#define TENSOR_DIMS_MAX 8

struct tensor {
    const char *name;
    const char *file;       /* for errors */
    int dtype;              /* enum dtype, or -1 for a type this daemon does not compute with */
    const char *dtype_name; /* as the file spells it: "BF16" */
    uint32_t dim_n;
    uint64_t dims[TENSOR_DIMS_MAX];
    const void *data; /* in the mapping, little endian, maybe unaligned */
    uint64_t bytes;
};

/* Tensors of one file, or of all files that a model.safetensors.index.json lists. */
struct tensor_set {
    struct arena arena;
    struct file_map *maps;
    const char **files; /* [map_n] their names, for errors and hashes */
    uint32_t map_n;
    struct tensor *tensors; /* sorted by name */
    uint32_t tensor_n;
    uint32_t tensor_max; /* capacity of tensors */
};

/* One file by path. On failure the set is empty and needs no close. */
int tensor_set_open(struct tensor_set *set, const char *path, struct err *err);

/* One file that is already in memory (borrowed until close; tests, fuzzing, adapters). */
int tensor_set_parse(struct tensor_set *set, const char *label, const void *data, size_t n,
                     struct err *err);

/* <dir>/model.safetensors or what <dir>/model.safetensors.index.json lists; pickles are refused. */
int tensor_set_open_dir(struct tensor_set *set, const char *dir, struct err *err);
void tensor_set_close(struct tensor_set *set);

const struct tensor *tensor_set_find(const struct tensor_set *set, const char *name);

/* "[24, 16]" into text. */
void tensor_shape_text(const struct tensor *t, char *text, size_t text_bytes);

#endif
