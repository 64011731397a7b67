/* A model of random weights: shapes from config.json, values from kernels/weights_random.h. */
#include "model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/file.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "kernels/weights_random.h"
#include "model/config.h"
#include "model/load_int.h"

struct load_random {
    struct load_memory memory;
    uint64_t seed;
};

static bool random_is_bias(const char *name)
{
    static const char suffix[] = ".bias";
    size_t n = strlen(name);
    return n >= sizeof suffix && strcmp(name + n + 1 - sizeof suffix, suffix) == 0;
}

static int random_visit(void *state, const struct load_want *want, struct err *err)
{
    struct load_random *load = state;
    const struct model *model = load->memory.model;
    uint64_t key = weights_random_key(load->seed, want->name);
    (void)err;
    if (want->k > 0) {
        struct weights_random src = {key, want->n, want->k, weights_random_unit(want->k)};
        model->kern->weight_random(model->dev, &src, load->memory.at);
        *want->matrix = load->memory.at;
    } else {
        size_t n = load_vector_n(want);
        float *values = mem_alloc(n * sizeof *values);
        bool is_bias = random_is_bias(want->name);
        for (size_t i = 0; i < n; i++) {
            values[i] = is_bias ? weights_random_bias(key, i) : weights_random_gain(key, i);
        }
        load_put_vector(&load->memory, want, values);
        mem_free(values);
    }
    load_next(&load->memory, want);
    return 0;
}

static int random_fingerprint(struct model *model, const char *dir, uint64_t seed, struct err *err)
{
    char path[MODEL_PATH_BYTES];
    char hex[SHA256_HEX_BYTES];
    uint8_t digest[SHA256_BYTES];
    struct sha256 sha;
    struct file_map map;
    int rc = config_path(path, dir, "config.json", err);
    rc = rc ? rc : file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    sha256_init(&sha);
    sha256_update(&sha, map.data, map.n);
    sha256_final(&sha, digest);
    sha256_hex(digest, hex);
    file_map_close(&map);
    snprintf(model->fingerprint, sizeof model->fingerprint, "random:%" PRIu64 ":%s", seed, hex);
    return 0;
}

int model_load_random(struct model *model, const char *dir, uint64_t seed, struct err *err)
{
    struct load_random load = {.memory = {.model = model}, .seed = seed};
    struct load_walk walk = {.visit = random_visit, .state = &load, .err = err};
    int rc = model_generation_read(dir, model->desc.vocab_n, &model->generation, err);
    rc = rc ? rc : random_fingerprint(model, dir, seed, err);
    rc = rc ? rc : load_reserve(&load.memory, err);
    rc = rc ? rc : load_each(&walk, &model->desc, model);
    if (rc) {
        return err_prefix(err, rc, "could not make model %s", dir);
    }
    if (model->desc.is_tied) {
        model->head = model->embed;
    }
    return 0;
}
