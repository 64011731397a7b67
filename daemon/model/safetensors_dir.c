/* safetensors on disk: one file, or a directory with model.safetensors or an index of several.
 *
 * An index is checked both ways: every tensor it lists is in the file it names, and no file holds
 * a tensor that the index gives to another or does not list. */
#include <dirent.h>
#include <stdio.h>

#include "base/base.h"
#include "base/limits.h"
#include "model/config.h"
#include "model/safetensors_int.h"

/* Maps `path` as map number map_n of a set that has room for it, and reads its header. */
static int tensor_set_map(struct tensor_set *set, const char *path, const char *file,
                          struct err *err)
{
    struct file_map map;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    set->maps[set->map_n] = map;
    set->files[set->map_n] = arena_strdup(&set->arena, file);
    set->map_n++;
    return tensor_set_add(set, path, map.data, map.n, err);
}

static void tensor_set_init(struct tensor_set *set, size_t map_max)
{
    *set = (struct tensor_set){0};
    arena_init(&set->arena);
    set->maps = arena_alloc(&set->arena, map_max * sizeof *set->maps);
    set->files = arena_alloc(&set->arena, map_max * sizeof *set->files);
}

int tensor_set_open(struct tensor_set *set, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    tensor_set_init(set, 1);
    int rc = tensor_set_map(set, path, slash ? slash + 1 : path, err);
    if (rc) {
        tensor_set_close(set);
        return rc;
    }
    tensor_set_sort(set);
    return 0;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s);
    size_t suffix_n = strlen(suffix);
    return n > suffix_n && strcmp(s + n - suffix_n, suffix) == 0;
}

/* A name that stays inside the directory and is a safetensors file. */
static bool tensor_file_is_plain(const char *name, size_t n)
{
    return n == strlen(name) && n < 256 && name[0] != '.' && !strchr(name, '/') &&
           has_suffix(name, ".safetensors");
}

static bool tensor_set_has_file(const struct tensor_set *set, const char *file)
{
    for (uint32_t i = 0; i < set->map_n; i++) {
        if (strcmp(set->files[i], file) == 0) {
            return true;
        }
    }
    return false;
}

/* Opens every file the map names, each once. */
static int tensor_index_open(struct tensor_set *set, const char *dir, const char *label,
                             json_t *weight_map, struct err *err)
{
    char path[MODEL_PATH_BYTES];
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        const char *file = json_string_value(value);
        if (!file || !tensor_file_is_plain(file, json_string_length(value))) {
            char brief[80];
            json_brief(value, brief, sizeof brief);
            return err_set(err, ERR_BAD_FILE,
                           "%s: tensor \"%.200s\" is in %s, a plain name of a .safetensors file is "
                           "wanted",
                           label, name, brief);
        }
        if (tensor_set_has_file(set, file)) {
            continue;
        }
        if (set->map_n == LIMIT_TENSOR_FILES) {
            return err_set(err, ERR_BAD_FILE, "%s: names more than %d files", label,
                           LIMIT_TENSOR_FILES);
        }
        int rc = config_path(path, dir, file, err);
        if (rc == 0) {
            rc = tensor_set_map(set, path, file, err);
        }
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* The file a tensor came from, without its directory. */
static const char *tensor_file_name(const struct tensor *t)
{
    const char *slash = strrchr(t->file, '/');
    return slash ? slash + 1 : t->file;
}

static int tensor_index_check(const struct tensor_set *set, const char *label, json_t *weight_map,
                              struct err *err)
{
    const char *name;
    json_t *value;
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        const char *file = json_string_value(json_object_get(weight_map, t->name));
        if (!file || strcmp(file, tensor_file_name(t)) != 0) {
            return err_set(err, ERR_BAD_FILE,
                           "%s: tensor \"%s\" is in %s, the index does not say so", label, t->name,
                           tensor_file_name(t));
        }
    }
    json_object_foreach(weight_map, name, value)
    {
        if (!tensor_set_find(set, name)) {
            return err_set(err, ERR_BAD_FILE, "%s: tensor \"%.200s\" is not in %s", label, name,
                           json_string_value(value));
        }
    }
    return 0;
}

static int tensor_set_open_index(struct tensor_set *set, const char *dir, const char *label,
                                 struct err *err)
{
    json_t *root = NULL;
    int rc = json_read_file(label, LIMIT_TENSOR_INDEX_BYTES, &root, err);
    if (rc) {
        return rc;
    }
    tensor_set_init(set, LIMIT_TENSOR_FILES);
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map)) {
        rc = err_set(err, ERR_BAD_FILE, "%s: has no \"weight_map\" object", label);
    }
    if (rc == 0) {
        rc = tensor_index_open(set, dir, label, weight_map, err);
    }
    if (rc == 0) {
        tensor_set_sort(set);
        rc = tensor_index_check(set, label, weight_map, err);
    }
    json_decref(root);
    if (rc) {
        tensor_set_close(set);
    }
    return rc;
}

/* Says why a directory without safetensors is refused: by the pickle it holds, if it does. */
static int tensor_dir_refuse(const char *dir, struct err *err)
{
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
    DIR *d = opendir(dir);
    if (!d) {
        return err_set(err, ERR_BAD_FILE, "%s: could not be read as a directory", dir);
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        for (size_t i = 0; i < ARRAY_N(pickles); i++) {
            if (has_suffix(e->d_name, pickles[i])) {
                err_set(err, ERR_NOT_IMPLEMENTED,
                        "%s: holds \"%s\" and no model.safetensors: pickled weights are never "
                        "read, convert them to safetensors",
                        dir, e->d_name);
                closedir(d);
                return ERR_NOT_IMPLEMENTED;
            }
        }
    }
    closedir(d);
    return err_set(err, ERR_BAD_FILE,
                   "%s: has neither model.safetensors nor model.safetensors.index.json", dir);
}

int tensor_set_open_dir(struct tensor_set *set, const char *dir, struct err *err)
{
    char path[MODEL_PATH_BYTES];
    int rc = config_path(path, dir, "model.safetensors", err);
    if (rc) {
        return rc;
    }
    if (file_exists(path)) {
        return tensor_set_open(set, path, err);
    }
    rc = config_path(path, dir, "model.safetensors.index.json", err);
    if (rc) {
        return rc;
    }
    if (file_exists(path)) {
        return tensor_set_open_index(set, dir, path, err);
    }
    return tensor_dir_refuse(dir, err);
}
