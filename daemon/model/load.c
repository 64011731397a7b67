/* Weights: from the checkpoint's mapping into the device, one tensor at a time.
 *
 * The list of tensors (load_each.c) is gone through three times: to add up bytes, to check names
 * and shapes, to load. Pages of the mapping are given back tensor by tensor, so that memory
 * holds one copy and one tensor at most. */
#include "model/model.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "model/config.h"
#include "model/family.h"
#include "model/load_int.h"
#include "model/safetensors.h"

#define LOAD_ALIGN      64
#define LOAD_HASH_BYTES ((size_t)16 << 20) /* of a file, hashed before its pages are given back */

struct load {
    struct load_memory memory;
    struct tensor_set set;
    bool *is_used; /* [set.tensor_n] */
};

size_t load_vector_n(const struct load_want *want)
{
    return (size_t)want->n * (want->taps > 0 ? want->taps : 1);
}

size_t load_bytes(const struct load_want *want, const struct kern *kern, enum dtype held)
{
    size_t bytes = want->k > 0 ? kern->weight_bytes(held, want->n, want->k)
                               : load_vector_n(want) * sizeof(float);
    return ROUND_UP(bytes, LOAD_ALIGN);
}

struct load_sum {
    const struct kern *kern;
    enum dtype held;
    size_t bytes;
};

static int load_visit_sum(void *state, const struct load_want *want, struct err *err)
{
    struct load_sum *sum = state;
    (void)err;
    sum->bytes += load_bytes(want, sum->kern, sum->held);
    return 0;
}

size_t model_weight_bytes(const struct model_desc *desc, const struct kern *kern, enum dtype held)
{
    struct load_sum sum = {.kern = kern, .held = held};
    struct load_walk walk = {.visit = load_visit_sum, .state = &sum};
    struct model *places = mem_zalloc(sizeof *places);
    load_each(&walk, desc, places);
    mem_free(places);
    return sum.bytes;
}

int load_reserve(struct load_memory *memory, struct err *err)
{
    struct model *model = memory->model;
    void *at = NULL;
    model->weight_bytes = model_weight_bytes(&model->desc, model->kern, model->held);
    int rc = model->kern->reserve(model->dev, model->weight_bytes, &at, err);
    memory->at = at;
    return rc;
}

void load_put_vector(struct load_memory *memory, const struct load_want *want, const float *values)
{
    const struct model *model = memory->model;
    model->kern->put(model->dev, memory->at, values, load_vector_n(want) * sizeof *values);
    *want->vector = (const float *)(void *)memory->at;
}

void load_next(struct load_memory *memory, const struct load_want *want)
{
    const struct model *model = memory->model;
    memory->at += load_bytes(want, model->kern, model->held);
}

static int load_visit_check(void *state, const struct load_want *want, struct err *err)
{
    struct load *load = state;
    const struct tensor *t = tensor_set_find(&load->set, want->name);
    if (!t) {
        return err_set(err, ERR_BAD_FILE, "tensor \"%s\" is missing", want->name);
    }
    struct tensor wanted = {.dim_n = want->k > 0      ? 2
                                     : want->taps > 0 ? 3
                                                      : 1,
                            .dims = {want->row ? want->file_n : want->n, want->k}};
    if (want->taps > 0) {
        wanted.dims[1] = 1;
        wanted.dims[2] = want->taps;
    }
    if (t->dim_n != wanted.dim_n ||
        memcmp(t->dims, wanted.dims, wanted.dim_n * sizeof *t->dims) != 0) {
        char has[100];
        char needs[100];
        tensor_shape_text(t, has, sizeof has);
        tensor_shape_text(&wanted, needs, sizeof needs);
        return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" has shape %s, config.json asks for %s",
                       t->file, t->name, has, needs);
    }
    if (t->dtype < 0) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: tensor \"%s\" has dtype %s, only F32, F16 and BF16 are implemented",
                       t->file, t->name, t->dtype_name);
    }
    load->is_used[t - load->set.tensors] = true;
    return 0;
}

/* What old files keep of what we compute, and tensors of parts that are not served. */
static bool load_is_ignorable(const struct model_desc *desc, const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name);
    size_t suffix_n = sizeof suffix - 1;
    return family_is_other_part(desc->table, name) ||
           (n > suffix_n && strcmp(name + n - suffix_n, suffix) == 0);
}

static int load_check_rest(const struct load *load, struct err *err)
{
    for (uint32_t i = 0; i < load->set.tensor_n; i++) {
        const struct tensor *t = &load->set.tensors[i];
        /* A tied model's head is a copy of the embedding: model_desc_read has seen to that. */
        bool is_copy = load->memory.model->desc.is_tied && strcmp(t->name, "lm_head.weight") == 0;
        if (load->is_used[i] || is_copy || load_is_ignorable(&load->memory.model->desc, t->name)) {
            continue;
        }
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "%s: tensor \"%s\" is not part of a %s model as config.json describes it",
                       t->file, t->name, load->memory.model->desc.family);
    }
    return 0;
}

/* Gives the whole pages of the range back; reading them again reads the file again. */
static void load_drop_pages(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ROUND_UP((uintptr_t)data, page);
    uintptr_t to = ((uintptr_t)data + bytes) / page * page;
    if (to > from) {
        madvise((void *)from, to - from, MADV_DONTNEED);
    }
}

static int load_refuse_value(const struct tensor *t, size_t i, enum dtype held, struct err *err)
{
    float value = load_value(t->data, (enum dtype)t->dtype, i);
    bool is_finite = (f32_bits(value) & 0x7F800000u) != 0x7F800000u;
    return err_set(err, ERR_BAD_FILE, "%s: tensor \"%s\" has %g at index %zu%s%s", t->file, t->name,
                   (double)value, i,
                   is_finite ? ", which overflows " : ", which is not a finite number",
                   is_finite ? dtype_name(held) : "");
}

/* The tensor's values, aligned for their type: the mapping, or a copy in *out_copy. */
static const void *load_aligned(const struct tensor *t, void **out_copy)
{
    size_t each = dtype_bytes((enum dtype)t->dtype);
    *out_copy = NULL;
    if ((uintptr_t)t->data % each == 0) {
        return t->data;
    }
    *out_copy = mem_alloc(t->bytes);
    memcpy(*out_copy, t->data, t->bytes);
    return *out_copy;
}

static void load_convert_vector(struct load *load, const struct load_want *want, const void *data,
                                enum dtype dtype)
{
    size_t n = load_vector_n(want);
    float *values = mem_alloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) {
        values[i] = load_value(data, dtype, i) + want->plus;
    }
    load_put_vector(&load->memory, want, values);
    mem_free(values);
}

/* The rows that are wanted, gathered; the caller frees them. */
static void *load_gather(const struct load *load, const struct load_want *want, const void *data,
                         enum dtype dtype)
{
    size_t bytes = want->k * dtype_bytes(dtype);
    char *rows = mem_alloc(want->n * bytes);
    for (uint32_t i = 0; i < want->n; i++) {
        uint32_t from = want->row(&load->memory.model->desc, i);
        ASSERT_CMP(from, <, want->file_n);
        memcpy(rows + i * bytes, (const char *)data + from * bytes, bytes);
    }
    return rows;
}

static int load_visit_load(void *state, const struct load_want *want, struct err *err)
{
    struct load *load = state;
    const struct model *model = load->memory.model;
    const struct tensor *t = tensor_set_find(&load->set, want->name);
    ASSERT(t);
    enum dtype dtype = (enum dtype)t->dtype;
    enum dtype held = want->k > 0 ? model->held : DTYPE_F32;
    size_t count = want->k > 0 ? (size_t)t->dims[0] * want->k : load_vector_n(want);
    void *copy = NULL;
    const void *data = load_aligned(t, &copy);
    size_t bad = load_find_bad(data, dtype, count, held);
    int rc = bad < count ? load_refuse_value(t, bad, held, err) : 0;
    if (rc == 0 && want->k > 0) {
        void *rows = want->row ? load_gather(load, want, data, dtype) : NULL;
        struct kern_matrix src = {
            .data = rows ? rows : data, .dtype = dtype, .n = want->n, .k = want->k};
        model->kern->weight_load(model->dev, &src, load->memory.at);
        *want->matrix = load->memory.at;
        mem_free(rows);
    } else if (rc == 0) {
        load_convert_vector(load, want, data, dtype);
    }
    mem_free(copy);
    load_drop_pages(t->data, t->bytes);
    load_next(&load->memory, want);
    return rc;
}

static void load_hash_file(struct sha256 *sha, const char *name, const void *data, size_t n)
{
    uint64_t length = n;
    sha256_update(sha, name, strlen(name) + 1);
    sha256_update(sha, &length, sizeof length);
    for (size_t at = 0; at < n; at += LOAD_HASH_BYTES) {
        const char *piece = (const char *)data + at;
        sha256_update(sha, piece, MIN(LOAD_HASH_BYTES, n - at));
        load_drop_pages(piece, MIN(LOAD_HASH_BYTES, n - at));
    }
}

static int load_fingerprint(struct load *load, const char *dir, struct err *err)
{
    char path[MODEL_PATH_BYTES];
    uint8_t digest[SHA256_BYTES];
    struct sha256 sha;
    struct file_map map;
    int rc = config_path(path, dir, "config.json", err);
    if (rc == 0) {
        rc = file_map_open(&map, path, err);
    }
    if (rc) {
        return rc;
    }
    sha256_init(&sha);
    load_hash_file(&sha, "config.json", map.data, map.n);
    for (uint32_t i = 0; i < load->set.map_n; i++) {
        load_hash_file(&sha, load->set.files[i], load->set.maps[i].data, load->set.maps[i].n);
    }
    sha256_final(&sha, digest);
    sha256_hex(digest, load->memory.model->fingerprint);
    file_map_close(&map);
    return 0;
}

static int load_run(struct load *load, const char *dir, struct err *err)
{
    struct model *model = load->memory.model;
    struct load_walk walk = {.visit = load_visit_check, .state = load, .err = err};
    int rc = load_each(&walk, &model->desc, model);
    if (rc) {
        return err_prefix(err, rc, "could not load model %s", dir);
    }
    rc = load_check_rest(load, err);
    if (rc == 0) {
        rc = load_fingerprint(load, dir, err);
    }
    if (rc == 0) {
        rc = load_reserve(&load->memory, err);
    }
    char *memory = load->memory.at;
    if (rc == 0) {
        walk.visit = load_visit_load;
        rc = load_each(&walk, &model->desc, model);
    }
    if (rc) {
        return err_prefix(err, rc, "could not load model %s", dir);
    }
    ASSERT(load->memory.at == memory + model->weight_bytes);
    if (model->desc.is_tied) {
        model->head = model->embed;
    }
    return 0;
}

int model_load(struct model *model, const char *dir, struct err *err)
{
    struct load load = {.memory = {.model = model}};
    int rc = model_generation_read(dir, model->desc.vocab_n, &model->generation, err);
    if (rc == 0) {
        rc = tensor_set_open_dir(&load.set, dir, err);
    }
    if (rc) {
        return rc;
    }
    load.is_used = mem_zalloc_n(load.set.tensor_n + 1, sizeof *load.is_used);
    rc = load_run(&load, dir, err);
    mem_free(load.is_used);
    tensor_set_close(&load.set);
    return rc;
}

void model_done(struct model *model)
{
    model_desc_done(&model->desc);
    *model = (struct model){0};
}
