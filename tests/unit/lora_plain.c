/* The plain case only: r, lora_alpha, use_rslora, A and B for each target. */
#include "tests/test.h"

#include "tests/unit/lora_plain.h"

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "base/json.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "model/safetensors.h"

static float lora_plain_scale(const char *path)
{
    json_t *root = NULL;
    int64_t rank = 0;
    double alpha = 0;
    bool is_rslora = false;
    assert_int_equal(json_read_file(path, 1 << 20, &root, NULL), 0);
    assert_int_equal(json_need_int(path, root, "r", 1, 1024, &rank, NULL), 0);
    assert_int_equal(json_get_real(path, root, "lora_alpha", &alpha, NULL), 0);
    assert_int_equal(json_get_bool(path, root, "use_rslora", &is_rslora, NULL), 0);
    json_decref(root);
    return (float)(alpha / (is_rslora ? sqrt((double)rank) : (double)rank));
}

/* The packed factor's size; with `block` it is packed there, at *at. */
static void lora_plain_pack(const struct model *model, const struct tensor *t, char *block,
                            size_t *at)
{
    struct kern_matrix m = {.data = t->data,
                            .dtype = (enum dtype)t->dtype,
                            .n = (uint32_t)t->dims[0],
                            .k = (uint32_t)t->dims[1]};
    if (block) {
        model->kern->weight_pack(model->held, &m, block + *at);
    }
    *at += ROUND_UP(model->kern->weight_bytes(model->held, m.n, m.k), EFFECT_ALIGN);
}

/* Lays all sites out behind the header; fills them when block is not NULL. Returns the bytes. */
static size_t lora_plain_fill(const struct model *model, const struct tensor_set *set, float scale,
                              char *block)
{
    size_t head = ROUND_UP(sizeof(struct effect_block), EFFECT_ALIGN);
    size_t at = ROUND_UP(head + model->desc.site_n * sizeof(struct effect_lowrank), EFFECT_ALIGN);
    uint32_t used_n = 0;
    for (uint32_t site = 0; site < model->desc.site_n; site++) {
        char name[LIMIT_TENSOR_NAME + 40];
        snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight",
                 model->desc.sites[site].module);
        const struct tensor *a = tensor_set_find(set, name);
        snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight",
                 model->desc.sites[site].module);
        const struct tensor *b = tensor_set_find(set, name);
        if (!a || !b) {
            continue;
        }
        used_n += 2;
        struct effect_lowrank low = {.rank = (uint32_t)a->dims[0], .scale = scale, .a_at = at};
        lora_plain_pack(model, a, block, &at);
        low.b_at = at;
        lora_plain_pack(model, b, block, &at);
        if (block) {
            memcpy(block + head + site * sizeof low, &low, sizeof low);
        }
    }
    assert_int_equal(used_n, set->tensor_n);
    if (block) {
        struct effect_block header = {.magic = EFFECT_BLOCK_MAGIC,
                                      .version = EFFECT_BLOCK_VERSION,
                                      .bytes = at,
                                      .site_n = model->desc.site_n,
                                      .lowrank_at = (uint32_t)head};
        memcpy(block, &header, sizeof header);
    }
    return at;
}

void *lora_plain_read(const char *dir, const char *name, const struct model *model,
                      size_t *out_bytes)
{
    char path[700];
    struct tensor_set set;
    struct err err = {0};
    snprintf(path, sizeof path, "%s/adapters/%s/adapter_config.json", dir, name);
    float scale = lora_plain_scale(path);
    snprintf(path, sizeof path, "%s/adapters/%s/adapter_model.safetensors", dir, name);
    if (tensor_set_open(&set, path, &err) != 0) {
        fail_msg("%s", err.text);
    }
    size_t bytes = lora_plain_fill(model, &set, scale, NULL);
    char *block = mem_zalloc(bytes);
    lora_plain_fill(model, &set, scale, block);
    tensor_set_close(&set);
    *out_bytes = bytes;
    return block;
}
