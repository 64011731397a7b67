/* The header of one safetensors file: 8 bytes of length, JSON, then the tensors' bytes.
 *
 * Every entry is read into the set first; then the entries of this file, sorted by offset, must
 * cover the data exactly. Directories are in safetensors_dir.c. */
#include "model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/limits.h"
#include "model/safetensors_int.h"

#define TENSOR_LENGTH_BYTES 8
#define TENSOR_SET_MIN      16 /* first capacity of a set */

struct tensor_type {
    const char *name;
    uint32_t bits;
    int dtype;
};

static const struct tensor_type tensor_types[] = {
    {"F32", 32, DTYPE_F32}, {"F16", 16, DTYPE_F16}, {"BF16", 16, DTYPE_BF16}, {"F64", 64, -1},
    {"I64", 64, -1},        {"I32", 32, -1},        {"I16", 16, -1},          {"I8", 8, -1},
    {"U64", 64, -1},        {"U32", 32, -1},        {"U16", 16, -1},          {"U8", 8, -1},
    {"BOOL", 8, -1},        {"C64", 64, -1},        {"F8_E4M3", 8, -1},       {"F8_E5M2", 8, -1},
    {"F8_E8M0", 8, -1},     {"F6_E2M3", 6, -1},     {"F6_E3M2", 6, -1},       {"F4", 4, -1},
};

/* What an entry is checked against. */
struct tensor_file {
    const char *label;
    const unsigned char *data; /* behind the header */
    uint64_t n;
};

static int tensor_bad(const struct tensor_file *file, const char *name, const char *what,
                      struct err *err)
{
    return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" %s", file->label, name, what);
}

static int tensor_read_type(const struct tensor_file *file, const json_t *entry, struct tensor *t,
                            uint32_t *out_bits, struct err *err)
{
    const char *word = json_string_value(json_object_get(entry, "dtype"));
    if (!word) {
        return tensor_bad(file, t->name, "has no \"dtype\"", err);
    }
    for (size_t i = 0; i < ARRAY_N(tensor_types); i++) {
        if (strcmp(word, tensor_types[i].name) == 0) {
            t->dtype = tensor_types[i].dtype;
            t->dtype_name = tensor_types[i].name;
            *out_bits = tensor_types[i].bits;
            return 0;
        }
    }
    return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" has the unknown dtype \"%.40s\"",
                   file->label, t->name, word);
}

/* Reads the shape and the byte count it asks for. */
static int tensor_read_shape(const struct tensor_file *file, const json_t *entry, uint32_t bits,
                             struct tensor *t, struct err *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) {
        return tensor_bad(file, t->name, "has no \"shape\" list", err);
    }
    size_t dim_n = json_array_size(shape);
    if (dim_n > TENSOR_DIMS_MAX) {
        return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" has %zu dimensions, limit is %d",
                       file->label, t->name, dim_n, TENSOR_DIMS_MAX);
    }
    uint64_t total = bits;
    for (size_t i = 0; i < dim_n; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0) {
            return tensor_bad(file, t->name, "has a dimension that is not a count", err);
        }
        t->dims[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(total, t->dims[i], &total)) {
            return tensor_bad(file, t->name, "has a shape whose size overflows", err);
        }
    }
    if (total % 8 != 0) {
        return tensor_bad(file, t->name, "does not fill whole bytes", err);
    }
    t->dim_n = (uint32_t)dim_n;
    t->bytes = total / 8;
    return 0;
}

static int tensor_read_offsets(const struct tensor_file *file, const json_t *entry,
                               struct tensor *t, struct err *err)
{
    const json_t *pair = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(pair, 0);
    const json_t *end = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return tensor_bad(file, t->name, "has no \"data_offsets\" pair", err);
    }
    long long from = json_integer_value(begin);
    long long to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > file->n) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: tensor \"%s\" lies at bytes %lld to %lld, the file has %llu",
                       file->label, t->name, from, to, (unsigned long long)file->n);
    }
    if ((uint64_t)(to - from) != t->bytes) {
        return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" has %lld bytes, its shape needs %llu",
                       file->label, t->name, to - from, (unsigned long long)t->bytes);
    }
    t->data = file->data + from;
    return 0;
}

static int tensor_name_check(const struct tensor_file *file, const char *name, size_t name_n,
                             struct err *err)
{
    if (name_n == 0 || name_n >= LIMIT_TENSOR_NAME) {
        return err_set(err, ERR_BAD_FILE,
                       "%s: has a tensor name of %zu bytes, it must have 1 to %d", file->label,
                       name_n, LIMIT_TENSOR_NAME - 1);
    }
    for (size_t i = 0; i < name_n; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7F) {
            return err_set(err, ERR_BAD_FILE,
                           "%s: has a tensor name with a control character: \"%.*s\"", file->label,
                           (int)i, name);
        }
    }
    return 0;
}

static struct tensor *tensor_set_push(struct tensor_set *set)
{
    if (set->tensor_n == set->tensor_max) {
        uint32_t max = MAX(2 * set->tensor_max, TENSOR_SET_MIN);
        struct tensor *more = arena_alloc(&set->arena, max * sizeof *more);
        if (set->tensor_n > 0) {
            memcpy(more, set->tensors, set->tensor_n * sizeof *more);
        }
        set->tensors = more;
        set->tensor_max = max;
    }
    struct tensor *t = &set->tensors[set->tensor_n++];
    *t = (struct tensor){0};
    return t;
}

static int tensor_read(struct tensor_set *set, const struct tensor_file *file, const char *name,
                       const json_t *entry, struct err *err)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    struct tensor *t = tensor_set_push(set);
    t->name = arena_strdup(&set->arena, name);
    t->file = file->label;
    if (!json_is_object(entry)) {
        return tensor_bad(file, name, "is not described by an object", err);
    }
    size_t known_n = 0;
    for (size_t i = 0; i < ARRAY_N(keys); i++) {
        known_n += json_object_get(entry, keys[i]) != NULL;
    }
    if (known_n != json_object_size(entry)) {
        return tensor_bad(file, name, "has a key besides dtype, shape and data_offsets", err);
    }
    uint32_t bits = 0;
    int rc = tensor_read_type(file, entry, t, &bits, err);
    if (rc == 0) {
        rc = tensor_read_shape(file, entry, bits, t, err);
    }
    if (rc == 0) {
        rc = tensor_read_offsets(file, entry, t, err);
    }
    return rc;
}

static int tensor_metadata_check(const struct tensor_file *file, json_t *entry, struct err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(entry)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"__metadata__\" is not an object", file->label);
    }
    json_object_foreach(entry, key, value)
    {
        if (!json_is_string(value)) {
            return err_set(err, ERR_BAD_FILE, "%s: \"__metadata__\" holds a value that is no text",
                           file->label);
        }
    }
    return 0;
}

static int tensor_offset_order(const void *a, const void *b)
{
    const struct tensor *x = a;
    const struct tensor *y = b;
    uintptr_t p = (uintptr_t)x->data;
    uintptr_t q = (uintptr_t)y->data;
    if (p != q) {
        return p < q ? -1 : 1;
    }
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty one lies before the next */
}

/* The tensors of one file, in any order, must cover its data without overlap or hole. */
static int tensor_cover_check(const struct tensor_file *file, struct tensor *tensors, uint32_t n,
                              struct err *err)
{
    if (n > 1) {
        qsort(tensors, n, sizeof *tensors, tensor_offset_order);
    }
    const unsigned char *at = file->data;
    for (uint32_t i = 0; i < n; i++) {
        if ((const unsigned char *)tensors[i].data != at) {
            return tensor_bad(file, tensors[i].name,
                              (const unsigned char *)tensors[i].data < at
                                  ? "overlaps another tensor"
                                  : "leaves unused bytes before it",
                              err);
        }
        at += tensors[i].bytes;
    }
    if (at != file->data + file->n) {
        return err_set(err, ERR_BAD_FILE, "%s: has %llu bytes that belong to no tensor",
                       file->label, (unsigned long long)(file->n - (uint64_t)(at - file->data)));
    }
    return 0;
}

static int tensor_header_read(struct tensor_set *set, const struct tensor_file *file, json_t *root,
                              struct err *err)
{
    const char *name;
    size_t name_n;
    json_t *entry;
    uint32_t first = set->tensor_n;
    if (!json_is_object(root)) {
        return err_set(err, ERR_BAD_FILE, "%s: the header is not a JSON object", file->label);
    }
    json_object_keylen_foreach(root, name, name_n, entry)
    {
        int rc;
        if (strcmp(name, "__metadata__") == 0 && strlen(name) == name_n) {
            rc = tensor_metadata_check(file, entry, err);
        } else {
            rc = tensor_name_check(file, name, name_n, err);
            if (rc == 0) {
                rc = tensor_read(set, file, name, entry, err);
            }
        }
        if (rc) {
            return rc;
        }
    }
    uint32_t n = set->tensor_n - first;
    return tensor_cover_check(file, n > 0 ? set->tensors + first : NULL, n, err);
}

int tensor_set_add(struct tensor_set *set, const char *label, const void *data, size_t n,
                   struct err *err)
{
    const unsigned char *bytes = data;
    struct tensor_file file = {.label = arena_strdup(&set->arena, label)};
    if (n < TENSOR_LENGTH_BYTES) {
        return err_set(err, ERR_BAD_FILE, "%s: is %zu bytes long, no safetensors file is", label,
                       n);
    }
    uint64_t header_n = 0;
    for (int i = TENSOR_LENGTH_BYTES - 1; i >= 0; i--) {
        header_n = header_n << 8 | bytes[i];
    }
    if (header_n > LIMIT_SAFETENSORS_HEADER) {
        return err_set(err, ERR_BAD_FILE, "%s: has a header of %llu bytes, limit is %u", label,
                       (unsigned long long)header_n, LIMIT_SAFETENSORS_HEADER);
    }
    if (header_n > n - TENSOR_LENGTH_BYTES) {
        return err_set(err, ERR_BAD_FILE, "%s: has a header of %llu bytes, %zu are left in it",
                       label, (unsigned long long)header_n, n - TENSOR_LENGTH_BYTES);
    }
    if (header_n == 0 || bytes[TENSOR_LENGTH_BYTES] != '{') {
        return err_set(err, ERR_BAD_FILE, "%s: the header does not start with \"{\"", label);
    }
    json_t *root = NULL;
    int rc = json_parse(label, bytes + TENSOR_LENGTH_BYTES, header_n, &root, err);
    if (rc == 0) {
        file.data = bytes + TENSOR_LENGTH_BYTES + header_n;
        file.n = n - TENSOR_LENGTH_BYTES - header_n;
        rc = tensor_header_read(set, &file, root, err);
        json_decref(root);
    }
    return rc;
}

static int tensor_name_order(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

void tensor_set_sort(struct tensor_set *set)
{
    if (set->tensor_n > 1) {
        qsort(set->tensors, set->tensor_n, sizeof *set->tensors, tensor_name_order);
    }
}

const struct tensor *tensor_set_find(const struct tensor_set *set, const char *name)
{
    struct tensor key = {.name = name};
    if (set->tensor_n == 0) {
        return NULL;
    }
    return bsearch(&key, set->tensors, set->tensor_n, sizeof key, tensor_name_order);
}

int tensor_set_parse(struct tensor_set *set, const char *label, const void *data, size_t n,
                     struct err *err)
{
    *set = (struct tensor_set){0};
    arena_init(&set->arena);
    int rc = tensor_set_add(set, label, data, n, err);
    if (rc) {
        tensor_set_close(set);
        return rc;
    }
    tensor_set_sort(set);
    return 0;
}

void tensor_set_close(struct tensor_set *set)
{
    for (uint32_t i = 0; i < set->map_n; i++) {
        file_map_close(&set->maps[i]);
    }
    arena_done(&set->arena);
    *set = (struct tensor_set){0};
}

void tensor_shape_text(const struct tensor *t, char *text, size_t text_bytes)
{
    size_t at = 0;
    snprintf(text, text_bytes, "[");
    for (uint32_t i = 0; i < t->dim_n; i++) {
        at = strlen(text);
        snprintf(text + at, text_bytes - at, "%s%llu", i > 0 ? ", " : "",
                 (unsigned long long)t->dims[i]);
    }
    at = strlen(text);
    snprintf(text + at, text_bytes - at, "]");
}
