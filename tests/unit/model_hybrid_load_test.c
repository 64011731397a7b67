/* Loading models with recurrent layers: the goldens' checkpoints, whole and with a tensor renamed
 * or reshaped in the file's header, and one with fused projections against the plain form of it. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "model/safetensors.h"

#define GOLDEN TEST_ROOT "/tests/golden/"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/graft-hybrid-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[128];
    (void)state;
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static void put_file(const char *name, const void *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* A golden's file into the directory, with one text of its header, if any, replaced by another as
 * long. */
static void copy_file(const char *golden, const char *name, const char *from, const char *to)
{
    char path[256];
    struct file_map map;
    struct err err = {0};
    snprintf(path, sizeof path, GOLDEN "%s/%s", golden, name);
    assert_int_equal(file_map_open(&map, path, &err), 0);
    char *data = mem_alloc(map.n);
    memcpy(data, map.data, map.n);
    if (from) {
        char *at = memmem(data, map.n, from, strlen(from));
        assert_non_null(at);
        assert_int_equal(strlen(from), strlen(to));
        memcpy(at, to, strlen(to));
    }
    put_file(name, data, map.n);
    mem_free(data);
    file_map_close(&map);
}

/* Loads a checkpoint; the caller closes with unload whatever comes of it. */
static int load(struct model *m, const char *from, struct err *err)
{
    *m = (struct model){.kern = &kern_ref, .held = DTYPE_F32};
    assert_int_equal(model_desc_read(from, &m->desc, err), 0);
    struct kern_open args = {
        .held = DTYPE_F32, .row_max = 1, .slot_max = 1, .version_max = 1, .rank_max = 1};
    model_kern_limits(&m->desc, &args);
    assert_int_equal(m->kern->open(&args, &m->dev, err), 0);
    return model_load(m, from, err);
}

static void load_good(struct model *m, const char *from)
{
    struct err err = {0};
    if (load(m, from, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(m->weight_bytes, model_weight_bytes(&m->desc, m->kern, m->held));
}

static void unload(struct model *m)
{
    m->kern->close(m->dev);
    model_done(m);
}

/* A loaded vector is a tensor's values plus something; ref keeps them as they are. */
static void check_values(const struct tensor_set *set, const char *name, const float *loaded,
                         float plus)
{
    const struct tensor *t = tensor_set_find(set, name);
    assert_non_null(t);
    assert_non_null(loaded);
    for (uint64_t i = 0; i < t->bytes / sizeof(float); i++) {
        float value;
        memcpy(&value, (const char *)t->data + i * sizeof value, sizeof value);
        if (loaded[i] != value + plus) {
            fail_msg("%s, index %u: %.9g", name, (unsigned)i, (double)loaded[i]);
        }
    }
}

static void check_is_null(const struct layer_weights *w)
{
    assert_true(!w->conv_w && !w->conv_bias && !w->a_log && !w->dt_bias && !w->d && !w->mixer_norm);
    assert_true(!w->w[SITE_GDN_QKV] && !w->w[SITE_GDN_OUT] && !w->w[SITE_SSD_IN]);
}

/* Vision and draft tensors lie beside; norms are stored less 1, but the mixer's. */
static void loads_qwen(void **state)
{
    struct tensor_set set;
    struct model m;
    (void)state;
    load_good(&m, GOLDEN "qwen35-nested");
    assert_string_equal(m.desc.prefix, "model.language_model.");
    assert_int_equal(tensor_set_open_dir(&set, GOLDEN "qwen35-nested", NULL), 0);
    assert_non_null(tensor_set_find(&set, "model.visual.patch_embed.proj.weight"));
    assert_non_null(tensor_set_find(&set, "mtp.fc.weight"));
#define NAME(rest) "model.language_model." rest
    const struct layer_weights *w = &m.layers[0];
    check_values(&set, NAME("layers.0.input_layernorm.weight"), w->input_norm, 1);
    check_values(&set, NAME("layers.0.post_attention_layernorm.weight"), w->post_norm, 1);
    check_values(&set, NAME("layers.0.linear_attn.norm.weight"), w->mixer_norm, 0);
    check_values(&set, NAME("layers.0.linear_attn.conv1d.weight"), w->conv_w, 0);
    check_values(&set, NAME("layers.0.linear_attn.A_log"), w->a_log, 0);
    check_values(&set, NAME("layers.0.linear_attn.dt_bias"), w->dt_bias, 0);
    check_values(&set, NAME("layers.0.linear_attn.in_proj_z.weight"), w->w[SITE_GDN_Z], 0);
    assert_true(!w->q_norm && !w->w[SITE_Q] && !w->conv_bias && !w->d);
    w = &m.layers[2];
    check_values(&set, NAME("layers.2.self_attn.q_norm.weight"), w->q_norm, 1);
    check_values(&set, NAME("layers.2.self_attn.k_norm.weight"), w->k_norm, 1);
    check_values(&set, NAME("layers.2.self_attn.q_proj.weight"), w->w[SITE_Q], 0);
    check_is_null(w);
    check_values(&set, NAME("norm.weight"), m.final_norm, 1);
    check_values(&set, "lm_head.weight", m.head, 0);
#undef NAME
    tensor_set_close(&set);
    unload(&m);
    load_good(&m, GOLDEN "qwen35");
    assert_string_equal(m.desc.prefix, "model.");
    assert_false(m.desc.gdn.is_fused);
    unload(&m);
}

static void loads_falcon(void **state)
{
    struct tensor_set set;
    struct model m;
    (void)state;
    load_good(&m, GOLDEN "falcon-h1");
    assert_int_equal(tensor_set_open_dir(&set, GOLDEN "falcon-h1", NULL), 0);
    for (uint32_t l = 0; l < m.desc.layer_n; l++) {
        const struct layer_weights *w = &m.layers[l];
        const struct {
            const char *name;
            const void *loaded;
        } all[] = {
            {"input_layernorm.weight", w->input_norm},
            {"pre_ff_layernorm.weight", w->post_norm},
            {"mamba.conv1d.weight", w->conv_w},
            {"mamba.conv1d.bias", w->conv_bias},
            {"mamba.A_log", w->a_log},
            {"mamba.D", w->d},
            {"mamba.dt_bias", w->dt_bias},
            {"mamba.in_proj.weight", w->w[SITE_SSD_IN]},
            {"mamba.out_proj.weight", w->w[SITE_SSD_OUT]},
            {"self_attn.o_proj.weight", w->w[SITE_O]},
            {"feed_forward.up_proj.weight", w->w[SITE_UP]},
        };
        for (size_t i = 0; i < ARRAY_N(all); i++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%u.%s", l, all[i].name);
            check_values(&set, name, all[i].loaded, 0);
        }
        assert_true(!w->mixer_norm && !w->q_norm && !w->w[SITE_GDN_QKV]);
    }
    check_values(&set, "model.final_layernorm.weight", m.final_norm, 0);
    tensor_set_close(&set);
    unload(&m);
    load_good(&m, GOLDEN "falcon-h1-norm");
    assert_non_null(m.layers[0].mixer_norm);
    unload(&m);
}

static void refuses_by_name(void **state)
{
#define Q0 "model.layers.0.linear_attn."
#define N0 "model.language_model.layers.0."
    static const struct {
        const char *golden, *from, *to;
        const char *error; /* behind "could not load model DIR: " */
        int code;
        bool has_file; /* the file's path comes first */
    } cases[] = {
        {"qwen35", Q0 "conv1d.weight", Q0 "conv1x.weight",
         "tensor \"" Q0 "conv1d.weight\" is missing", ERR_BAD_FILE, false},
        {"qwen35", "[160,1,4]", "[160,4,1]",
         ": tensor \"" Q0 "conv1d.weight\" has shape [160, 4, 1], config.json asks for [160, 1, 4]",
         ERR_BAD_FILE, true},
        {"qwen35", "[160,1,4]", "[80,1,8] ",
         ": tensor \"" Q0 "conv1d.weight\" has shape [80, 1, 8], config.json asks for [160, 1, 4]",
         ERR_BAD_FILE, true},
        {"qwen35", Q0 "A_log", Q0 "A_lag", "tensor \"" Q0 "A_log\" is missing", ERR_BAD_FILE,
         false},
        {"qwen35-nested", N0 "linear_attn.dt_bias", N0 "linear_attn.dt_bios",
         "tensor \"" N0 "linear_attn.dt_bias\" is missing", ERR_BAD_FILE, false},
        {"qwen35-nested", "model.visual.pos_embed.weight", "model.vision.pos_embed.weight",
         ": tensor \"model.vision.pos_embed.weight\" is not part of a qwen3_5_text model as "
         "config.json describes it",
         ERR_NOT_IMPLEMENTED, true},
        {"qwen35-nested", "\"mtp.norm.weight", "\"mtq.norm.weight",
         ": tensor \"mtq.norm.weight\" is not part of a qwen3_5_text model as config.json "
         "describes "
         "it",
         ERR_NOT_IMPLEMENTED, true},
        {"qwen35-fused", Q0 "in_proj_ba.weight", Q0 "in_proj_bx.weight",
         "tensor \"" Q0 "in_proj_ba.weight\" is missing", ERR_BAD_FILE, false},
        {"qwen35-fused", "[352,40]", "[40,352]",
         ": tensor \"" Q0 "in_proj_qkvz.weight\" has shape [40, 352], config.json asks for [352, "
         "40]",
         ERR_BAD_FILE, true},
        {"falcon-h1", "model.layers.0.mamba.conv1d.bias", "model.layers.0.mamba.conv1d.boas",
         "tensor \"model.layers.0.mamba.conv1d.bias\" is missing", ERR_BAD_FILE, false},
        {"falcon-h1", "model.layers.1.mamba.D\"", "model.layers.1.mamba.E\"",
         "tensor \"model.layers.1.mamba.D\" is missing", ERR_BAD_FILE, false},
        {"falcon-h1", "[139,40]", "[40,139]",
         ": tensor \"model.layers.0.mamba.in_proj.weight\" has shape [40, 139], config.json asks "
         "for [139, 40]",
         ERR_BAD_FILE, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        struct model m;
        struct err err = {0};
        char file[128] = "";
        char want[ERR_TEXT_BYTES];
        copy_file(cases[i].golden, "config.json", NULL, NULL);
        copy_file(cases[i].golden, "model.safetensors", cases[i].from, cases[i].to);
        int rc = load(&m, dir, &err);
        if (cases[i].has_file) {
            snprintf(file, sizeof file, "%s/model.safetensors", dir);
        }
        snprintf(want, sizeof want, "could not load model %s: %s%s", dir, file, cases[i].error);
        assert_string_equal(err.text, want);
        assert_int_equal(rc, cases[i].code);
        unload(&m);
    }
}

/* A tensor list of [n, k] in memory, F32. */
struct file {
    struct buf head, body;
};

static void file_add(struct file *file, const struct tensor *t, const char *name, uint64_t rows)
{
    buf_printf(&file->head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", file->head.n > 1 ? "," : "",
               name);
    for (uint32_t i = 0; i < t->dim_n; i++) {
        uint64_t dim = i == 0 ? rows : t->dims[i];
        buf_printf(&file->head, "%s%u", i > 0 ? "," : "", (unsigned)dim);
    }
    uint64_t bytes = t->bytes / t->dims[0] * rows;
    buf_printf(&file->head, "],\"data_offsets\":[%zu,%zu]}", file->body.n,
               file->body.n + (size_t)bytes);
}

static void file_rows(struct file *file, const struct tensor *t, uint32_t first, uint32_t n)
{
    size_t row = t->bytes / t->dims[0];
    buf_add(&file->body, (const char *)t->data + first * row, n * row);
}

/* Of each key head's group of rows, `n` from `first` on: a plain projection's rows in order. */
static void file_group(struct file *file, const struct tensor *t, uint32_t key_head_n,
                       uint32_t first, uint32_t n)
{
    uint32_t group = (uint32_t)t->dims[0] / key_head_n;
    for (uint32_t h = 0; h < key_head_n; h++) {
        file_rows(file, t, h * group + first, n);
    }
}

/* Takes a fused tensor apart: for each key head q, k, v of its value heads, z of them; or b, a. */
static void file_split(struct file *file, const struct tensor *t, const struct gdn_desc *gdn)
{
    char name[LIMIT_TENSOR_NAME];
    uint32_t heads = gdn->key_head_n;
    uint32_t share = gdn->value_head_n / heads;
    uint32_t key = gdn->key_dim;
    uint32_t value = share * gdn->value_dim;
    int stem = (int)(strstr(t->name, "in_proj_") - t->name);
    if (strstr(t->name, "in_proj_ba")) {
        snprintf(name, sizeof name, "%.*sin_proj_b.weight", stem, t->name);
        file_add(file, t, name, gdn->value_head_n);
        file_group(file, t, heads, 0, share);
        snprintf(name, sizeof name, "%.*sin_proj_a.weight", stem, t->name);
        file_add(file, t, name, gdn->value_head_n);
        file_group(file, t, heads, share, share);
        return;
    }
    snprintf(name, sizeof name, "%.*sin_proj_qkv.weight", stem, t->name);
    file_add(file, t, name, heads * (2 * key + value));
    file_group(file, t, heads, 0, key);
    file_group(file, t, heads, key, key);
    file_group(file, t, heads, 2 * key, value);
    snprintf(name, sizeof name, "%.*sin_proj_z.weight", stem, t->name);
    file_add(file, t, name, heads * value);
    file_group(file, t, heads, 2 * key + value, value);
}

static void put_plain(const struct tensor_set *set, const struct gdn_desc *gdn)
{
    struct file file = {0};
    struct buf all = {0};
    buf_add_str(&file.head, "{");
    for (uint32_t i = 0; i < set->tensor_n; i++) {
        const struct tensor *t = &set->tensors[i];
        if (strstr(t->name, "in_proj_")) {
            file_split(&file, t, gdn);
        } else {
            file_add(&file, t, t->name, t->dims[0]);
            file_rows(&file, t, 0, (uint32_t)t->dims[0]);
        }
    }
    buf_add_str(&file.head, "}");
    uint64_t n = file.head.n;
    buf_add(&all, &n, sizeof n);
    buf_add(&all, file.head.data, file.head.n);
    buf_add(&all, file.body.data, file.body.n);
    put_file("model.safetensors", all.data, all.n);
    buf_done(&all);
    buf_done(&file.head);
    buf_done(&file.body);
}

static void fused_equals_plain(void **state)
{
    struct tensor_set set;
    struct model fused;
    struct model plain;
    (void)state;
    load_good(&fused, GOLDEN "qwen35-fused");
    assert_true(fused.desc.gdn.is_fused);
    assert_true(fused.desc.gdn.key_head_n == 2 && fused.desc.gdn.value_head_n == 6);
    assert_int_equal(tensor_set_open_dir(&set, GOLDEN "qwen35-fused", NULL), 0);
    copy_file("qwen35-fused", "config.json", NULL, NULL);
    put_plain(&set, &fused.desc.gdn);
    tensor_set_close(&set);
    load_good(&plain, dir);
    assert_false(plain.desc.gdn.is_fused);
    assert_int_equal(plain.desc.site_n, fused.desc.site_n);
    for (uint32_t i = 0; i < plain.desc.site_n; i++) {
        const struct site *site = &plain.desc.sites[i];
        const void *a = plain.layers[site->layer].w[site->place];
        const void *b = fused.layers[site->layer].w[site->place];
        if (memcmp(a, b, (size_t)site->n * site->k * sizeof(float)) != 0) {
            fail_msg("%s differs", site->module);
        }
    }
    assert_int_equal(plain.weight_bytes, fused.weight_bytes);
    unload(&plain);
    unload(&fused);
}

/* The text model's matrices say how weights are held, not those of other parts. */
static void other_parts_have_no_say(void **state)
{
    static const char head[] =
        "{\"model.language_model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[4,2],"
        "\"data_offsets\":[0,16]},\"model.visual.patch_embed.proj.weight\":{\"dtype\":\"F32\","
        "\"shape\":[2,2],\"data_offsets\":[16,32]},\"mtp.fc.weight\":{\"dtype\":\"F16\","
        "\"shape\":[2,2],\"data_offsets\":[32,40]}}";
    char file[8 + sizeof head - 1 + 40] = {0};
    uint64_t head_n = sizeof head - 1;
    struct model_desc desc;
    struct err err = {0};
    (void)state;
    memcpy(file, &head_n, sizeof head_n);
    memcpy(file + 8, head, head_n);
    copy_file("qwen35-nested", "config.json", NULL, NULL);
    put_file("model.safetensors", file, sizeof file);
    assert_int_equal(model_desc_read(dir, &desc, &err), 0);
    assert_int_equal(desc.checkpoint_dtype, DTYPE_BF16);
    model_desc_done(&desc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_qwen),
        cmocka_unit_test(loads_falcon),
        cmocka_unit_test_setup_teardown(refuses_by_name, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(fused_equals_plain, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(other_parts_have_no_say, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
