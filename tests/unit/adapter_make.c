/* The folders of adapter_make.h: tensors are written one after the other, the header in front. */
#include "tests/unit/adapter_make.h"

#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void make_dir_open(struct make_dir *dir)
{
    snprintf(dir->root, sizeof dir->root, "/tmp/graft-adapters-XXXXXX");
    assert_non_null(mkdtemp(dir->root));
}

static int make_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void make_dir_close(struct make_dir *dir)
{
    assert_int_equal(nftw(dir->root, make_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
}

void make_path(const struct make_dir *dir, const char *rest, char path[256])
{
    snprintf(path, 256, "%s/%s", dir->root, rest);
}

void make_file(const struct make_dir *dir, const char *rest, const void *data, size_t n)
{
    char path[256];
    make_path(dir, rest, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

float make_value(uint32_t t, uint32_t e)
{
    return (float)((int)((t * 7 + e * 3) % 41) - 20) / 64;
}

void make_shape(uint32_t t, uint32_t *out_rows, uint32_t *out_cols)
{
    bool is_v = t / 2 % 2 == 1;
    *out_rows = t % 2 == 0 ? 2 : is_v ? 8 : 16;
    *out_cols = t % 2 == 0 ? 16 : 2;
}

static void make_one(const struct make *m, uint32_t t, struct buf *head, struct buf *data)
{
    char name[200];
    uint32_t rows;
    uint32_t cols;
    bool is_changed = m->change == (int)t;
    const char *dtype = is_changed && m->dtype ? m->dtype : "F32";
    make_shape(t, &rows, &cols);
    rows = is_changed && m->rows ? m->rows : rows;
    cols = is_changed && m->cols ? m->cols : cols;
    snprintf(name, sizeof name, MAKE_NAME, t / 4, t / 2 % 2 ? "v_proj" : "q_proj",
             t % 2 ? "B" : "A");
    size_t from = data->n;
    for (uint32_t e = 0; e < rows * cols; e++) {
        float value = make_value(t, e) * (is_changed && m->scale != 0 ? m->scale : 1);
        value = is_changed && m->value != 0 && e == 5 ? m->value : value;
        uint16_t half = bf16_from_f32(value);
        if (strcmp(dtype, "F32") == 0) {
            buf_add(data, &value, sizeof value);
        } else {
            buf_add(data, &half, sizeof half);
        }
    }
    buf_printf(head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":", head->n > 1 ? "," : "",
               is_changed && m->name ? m->name : name, dtype);
    if (is_changed && m->is_flat) {
        buf_printf(head, "[%u]", rows * cols);
    } else {
        buf_printf(head, "[%u,%u]", rows, cols);
    }
    buf_printf(head, ",\"data_offsets\":[%zu,%zu]}", from, data->n);
}

void make_weights(const struct make *m, struct buf *out)
{
    struct buf head = {0};
    struct buf data = {0};
    buf_add_str(&head, "{");
    for (uint32_t t = 0; t < MAKE_TENSORS; t++) {
        if (m->skip != (int)t) {
            make_one(m, t, &head, &data);
        }
    }
    buf_add_str(&head, "}");
    while (head.n % 8 != (m->is_unaligned ? 3 : 0)) {
        buf_add_str(&head, " ");
    }
    uint64_t n = head.n;
    buf_add(out, &n, sizeof n);
    buf_add(out, head.data, head.n);
    if (data.n > 0) {
        buf_add(out, data.data, data.n);
    }
    buf_done(&head);
    buf_done(&data);
}

void make_adapter(const struct make_dir *dir, const char *name, const struct make *m)
{
    char path[256];
    struct buf weights = {0};
    const char *config = m->config ? m->config : MAKE_CONFIG;
    make_path(dir, name, path);
    mkdir(path, 0755);
    make_weights(m, &weights);
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    make_file(dir, path, config, strlen(config));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
    make_file(dir, path, weights.data, weights.n);
    buf_done(&weights);
}

static size_t make_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    (void)held;
    return (size_t)n * k * sizeof(float);
}

static void make_weight_pack(enum dtype held, const struct kern_matrix *m, void *out)
{
    float *to = out;
    for (size_t i = 0; i < (size_t)m->n * m->k; i++) {
        float f = m->dtype == DTYPE_F32    ? ((const float *)m->data)[i]
                  : m->dtype == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)m->data)[i])
                                           : f16_to_f32(((const uint16_t *)m->data)[i]);
        to[i] = held == DTYPE_BF16 ? bf16_round(f) : f;
    }
}

const struct kern make_kern = {.weight_bytes = make_weight_bytes, .weight_pack = make_weight_pack};

static void make_parse(const char *model, struct model_desc *desc)
{
    struct err err = {0};
    if (model_desc_parse("config.json", model, strlen(model), desc, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

void make_model(struct model_desc *desc)
{
    make_parse(MAKE_MODEL, desc);
}

struct store *make_store(const struct make_dir *dir, const struct model_desc *desc, enum dtype held)
{
    struct store_config config = {
        .root = dir->root, .desc = desc, .kern = &make_kern, .held = held};
    struct store *store = NULL;
    assert_int_equal(store_open(&config, &store, NULL), 0);
    return store;
}

void make_open(struct make_dir *dir, const char *model, enum dtype held, struct model_desc *desc,
               struct store **store)
{
    make_dir_open(dir);
    make_parse(model, desc);
    *store = make_store(dir, desc, held);
}

void make_close(struct make_dir *dir, struct model_desc *desc, struct store *store)
{
    store_close(store);
    model_desc_done(desc);
    make_dir_close(dir);
}

void make_prepare(const struct store *store, const char *name, struct prepare_job *job)
{
    *job = (struct prepare_job){.store = store, .job.run = store_prepare};
    snprintf(job->name, sizeof job->name, "%s", name);
    job->job.run(&job->job);
}
