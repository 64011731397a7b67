/* Loading: weights arrive where the walk looks for them, and every damaged checkpoint is refused by
 * name before it can serve. The checkpoint is written here: one layer, widths of a few elements. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/mem.h"
#include "kernels/kern.h"
#include "model/model.h"

#define VOCAB      5
#define HIDDEN     4
#define FFN        6
#define OTHER_HEAD 9.0f /* element 1 of a head that is not the embedding */

/* What is written instead of the whole tensor list. */
struct change {
    const char *name;  /* tensor concerned; NULL: none */
    const char *dtype; /* "BF16" stores it so; NULL: F32 */
    uint32_t n, k;     /* another shape when n > 0 */
    bool is_missing;   /* left out */
    bool is_added;     /* not one of the list: written as a copy of the embedding */
    float value;       /* put at index 1 when not 0 */
    enum dtype held;   /* DTYPE_F32 unless set */
    bool is_untied;    /* config.json says so */
    bool is_unaligned; /* one more space in the header */
    const char *error; /* behind "could not load model DIR: "; NULL: loads */
    int code;
};

struct shape {
    const char *name;
    uint32_t n, k;
};

static const struct shape shapes[] = {
    {"model.embed_tokens.weight", VOCAB, HIDDEN},
    {"model.layers.0.input_layernorm.weight", HIDDEN, 0},
    {"model.layers.0.self_attn.q_proj.weight", HIDDEN, HIDDEN},
    {"model.layers.0.self_attn.k_proj.weight", 2, HIDDEN},
    {"model.layers.0.self_attn.v_proj.weight", 2, HIDDEN},
    {"model.layers.0.self_attn.q_proj.bias", HIDDEN, 0},
    {"model.layers.0.self_attn.k_proj.bias", 2, 0},
    {"model.layers.0.self_attn.v_proj.bias", 2, 0},
    {"model.layers.0.self_attn.o_proj.weight", HIDDEN, HIDDEN},
    {"model.layers.0.post_attention_layernorm.weight", HIDDEN, 0},
    {"model.layers.0.mlp.gate_proj.weight", FFN, HIDDEN},
    {"model.layers.0.mlp.up_proj.weight", FFN, HIDDEN},
    {"model.layers.0.mlp.down_proj.weight", HIDDEN, FFN},
    {"model.norm.weight", HIDDEN, 0},
};

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/graft-load-XXXXXX");
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

static void put_file(const char *name, const struct buf *head, const struct buf *body)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(head->data, 1, head->n, f), head->n);
    if (body) {
        assert_int_equal(fwrite(body->data, 1, body->n, f), body->n);
    }
    fclose(f);
}

/* Element i of every tensor is i + 1 unless a change says otherwise: exact in every type. */
static void add_tensor(struct buf *header, struct buf *body, const struct shape *shape,
                       const struct change *change)
{
    bool is_it = change->name && strcmp(change->name, shape->name) == 0;
    if (is_it && change->is_missing) {
        return;
    }
    uint32_t n = is_it && change->n > 0 ? change->n : shape->n;
    uint32_t k = is_it && change->n > 0 ? change->k : shape->k;
    const char *dtype = is_it && change->dtype ? change->dtype : "F32";
    size_t first = body->n;
    for (uint32_t i = 0; i < n * MAX(k, 1); i++) {
        float value = is_it && i == 1 && change->value != 0 ? change->value : (float)(i + 1);
        uint16_t narrow = bf16_from_f32(value);
        if (strcmp(dtype, "F32") == 0) {
            buf_add(body, &value, sizeof value);
        } else {
            buf_add(body, &narrow, sizeof narrow);
        }
    }
    buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%u", header->n > 1 ? "," : "",
               shape->name, dtype, n);
    if (k > 0) {
        buf_printf(header, ",%u", k);
    }
    buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", first, body->n);
}

static void put_checkpoint(const struct change *change)
{
    struct buf header = {0};
    struct buf body = {0};
    struct buf file = {0};
    buf_add_str(&header, "{");
    for (size_t i = 0; i < ARRAY_N(shapes); i++) {
        add_tensor(&header, &body, &shapes[i], change);
    }
    if (change->is_added) {
        struct shape added = {change->name, VOCAB, HIDDEN};
        add_tensor(&header, &body, &added, change);
    }
    buf_add_str(&header, "}");
    while (header.n % 8 != (change->is_unaligned ? 1 : 0)) {
        buf_add_str(&header, " ");
    }
    uint64_t n = header.n;
    buf_add(&file, &n, sizeof n);
    buf_add(&file, header.data, header.n);
    put_file("model.safetensors", &file, &body);
    buf_clear(&file);
    buf_printf(&file,
               "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"],"
               "\"vocab_size\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,"
               "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
               "\"max_position_embeddings\":64,\"tie_word_embeddings\":%s}",
               VOCAB, HIDDEN, FFN, change->is_untied ? "false" : "true");
    put_file("config.json", &file, NULL);
    buf_done(&file);
    buf_done(&header);
    buf_done(&body);
}

/* Loads the checkpoint; on success the caller closes with unload. */
static int load(struct model *m, enum dtype held, struct err *err)
{
    *m = (struct model){.kern = &kern_ref, .held = held};
    int rc = model_desc_read(dir, &m->desc, err);
    if (rc) {
        return rc;
    }
    struct kern_open args = {
        .held = held, .row_max = 1, .slot_max = 1, .version_max = 1, .rank_max = 1};
    model_kern_limits(&m->desc, &args);
    assert_int_equal(m->kern->open(&args, &m->dev, err), 0);
    return model_load(m, dir, err);
}

static void unload(struct model *m)
{
    m->kern->close(m->dev);
    model_done(m);
}

static void check_loaded(const struct model *m)
{
    float bias[2];
    float row[HIDDEN];
    m->kern->get(m->dev, bias, m->layers[0].bias[SITE_V], sizeof bias);
    assert_true(bias[0] == 1 && bias[1] == 2);
    assert_null(m->layers[0].bias[SITE_O]);
    assert_null(m->layers[0].q_norm);
    assert_int_equal(m->head != m->embed, m->desc.is_tie_broken);
    if (m->desc.is_tie_broken) { /* the stored head counts */
        m->kern->get(m->dev, row, m->head, sizeof row);
        assert_true(row[0] == 1 && row[1] == OTHER_HEAD);
    }
    if (m->held == DTYPE_F32) { /* ref keeps rows as they are */
        m->kern->get(m->dev, row, (const float *)m->layers[0].w[SITE_K] + HIDDEN, sizeof row);
        assert_true(row[0] == 5 && row[3] == 8);
    }
    assert_int_equal(m->weight_bytes, model_weight_bytes(&m->desc, m->kern, m->held));
    assert_int_equal(strlen(m->fingerprint), 64);
}

static const struct change changes[] = {
    {0},
    {.is_unaligned = true},
    {.held = DTYPE_BF16},
    {.name = "model.norm.weight", .dtype = "BF16"},
    {.name = "model.layers.0.self_attn.rotary_emb.inv_freq", .is_added = true},
    {.name = "lm_head.weight", .is_added = true},
    {.name = "model.layers.0.self_attn.v_proj.bias",
     .is_missing = true,
     .error = "tensor \"model.layers.0.self_attn.v_proj.bias\" is missing",
     .code = ERR_BAD_FILE},
    {.is_untied = true, .error = "tensor \"lm_head.weight\" is missing", .code = ERR_BAD_FILE},
    {.name = "model.layers.0.mlp.up_proj.weight",
     .n = FFN,
     .k = HIDDEN + 1,
     .error =
         "%s/model.safetensors: tensor \"model.layers.0.mlp.up_proj.weight\" has shape [6, 5], "
         "config.json asks for [6, 4]",
     .code = ERR_BAD_FILE},
    {.name = "model.norm.weight",
     .n = 1,
     .k = HIDDEN,
     .error =
         "%s/model.safetensors: tensor \"model.norm.weight\" has shape [1, 4], config.json asks "
         "for [4]",
     .code = ERR_BAD_FILE},
    {.name = "model.layers.0.self_attn.q_proj.weight",
     .dtype = "I16",
     .error =
         "%s/model.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\" has dtype I16, "
         "only F32, F16 and BF16 are implemented",
     .code = ERR_NOT_IMPLEMENTED},
    {.name = "model.layers.0.self_attn.q_norm.weight",
     .is_added = true,
     .error =
         "%s/model.safetensors: tensor \"model.layers.0.self_attn.q_norm.weight\" is not part of "
         "a qwen2 model as config.json describes it",
     .code = ERR_NOT_IMPLEMENTED},
    {.name = "lm_head.weight", .is_added = true, .value = OTHER_HEAD},
    {.name = "lm_head.weight",
     .is_added = true,
     .n = VOCAB + 1,
     .k = HIDDEN,
     .error = "%s/model.safetensors: tensor \"lm_head.weight\" has shape [6, 4], config.json asks "
              "for [5, 4]",
     .code = ERR_BAD_FILE},
    {.name = "model.layers.0.mlp.down_proj.weight",
     .value = -__builtin_inff(),
     .error =
         "%s/model.safetensors: tensor \"model.layers.0.mlp.down_proj.weight\" has -inf at index "
         "1, which is not a finite number",
     .code = ERR_BAD_FILE},
    {.name = "model.layers.0.mlp.down_proj.weight",
     .dtype = "BF16",
     .value = __builtin_inff(),
     .error =
         "%s/model.safetensors: tensor \"model.layers.0.mlp.down_proj.weight\" has inf at index "
         "1, which is not a finite number",
     .code = ERR_BAD_FILE},
    {.name = "model.norm.weight",
     .value = __builtin_nanf(""),
     .error =
         "%s/model.safetensors: tensor \"model.norm.weight\" has nan at index 1, which is not a "
         "finite number",
     .code = ERR_BAD_FILE},
    {.name = "model.embed_tokens.weight",
     .value = 3.4e38f,
     .held = DTYPE_BF16,
     .error = "%s/model.safetensors: tensor \"model.embed_tokens.weight\" has 3.4e+38 at index 1, "
              "which overflows bf16",
     .code = ERR_BAD_FILE},
    {.name = "model.embed_tokens.weight", .value = 3.38e38f, .held = DTYPE_BF16},
    {.name = "model.embed_tokens.weight", .value = 3.4e38f},
};

static void loads_or_refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(changes); i++) {
        const struct change *c = &changes[i];
        struct model m;
        struct err err = {0};
        char what[512] = "";
        char want[600] = "";
        put_checkpoint(c);
        int rc = load(&m, c->held, &err);
        if (c->error) {
            const char *mark = strstr(c->error, "%s");
            snprintf(what, sizeof what, "%s%s", mark ? dir : "", mark ? mark + 2 : c->error);
            snprintf(want, sizeof want, "could not load model %s: %s", dir, what);
        }
        assert_string_equal(err.text, want);
        assert_int_equal(rc, c->code);
        if (rc == 0) {
            check_loaded(&m);
        }
        unload(&m);
    }
}

static void fingerprints_content(void **state)
{
    (void)state;
    char first[MODEL_FINGERPRINT_BYTES];
    struct model m;
    struct err err = {0};
    put_checkpoint(&(struct change){0});
    assert_int_equal(load(&m, DTYPE_F32, &err), 0);
    memcpy(first, m.fingerprint, sizeof first);
    unload(&m);
    assert_int_equal(load(&m, DTYPE_BF16, &err), 0);
    assert_string_equal(m.fingerprint, first); /* of the files, not of how they are held */
    unload(&m);
    put_checkpoint(&(struct change){.name = "model.norm.weight", .value = 7});
    assert_int_equal(load(&m, DTYPE_F32, &err), 0);
    assert_string_not_equal(m.fingerprint, first);
    unload(&m);
}

static void finds_the_dtype(void **state)
{
    (void)state;
    struct model_desc d;
    struct err err = {0};
    put_checkpoint(&(struct change){0}); /* config.json says nothing */
    assert_int_equal(model_desc_read(dir, &d, &err), 0);
    assert_int_equal(d.checkpoint_dtype, DTYPE_F32);
    assert_int_equal(model_default_held(&d), DTYPE_F32);
    model_desc_done(&d);
    char path[256];
    snprintf(path, sizeof path, "%s/tests/golden/llama-f16", TEST_ROOT);
    assert_int_equal(model_desc_read(path, &d, &err), 0);
    assert_int_equal(d.checkpoint_dtype, DTYPE_F16);
    assert_int_equal(model_default_held(&d), DTYPE_F32);
    model_desc_done(&d);
}

/* Without tensor files, and the same whatever lies beside config.json. */
static void makes_random_weights(void **state)
{
    (void)state;
    char path[256];
    char first[MODEL_FINGERPRINT_BYTES];
    struct model m = {.kern = &kern_ref, .held = DTYPE_F32};
    struct err err = {0};
    struct kern_open args = {.held = DTYPE_F32, .row_max = 1, .slot_max = 1, .version_max = 1};
    put_checkpoint(&(struct change){.is_untied = true});
    for (uint32_t seed = 1; seed <= 2; seed++) {
        assert_int_equal(model_desc_read_config(dir, &m.desc, &err), 0);
        model_kern_limits(&m.desc, &args);
        assert_int_equal(kern_ref.open(&args, &m.dev, &err), 0);
        assert_int_equal(model_load_random(&m, dir, seed, &err), 0);
        assert_ptr_not_equal(m.head, m.embed);
        const float *w = m.layers[0].w[SITE_Q];
        assert_true(w[0] != w[1] && fabsf(w[0]) < 2);
        assert_true(m.final_norm[0] > 0.85f && m.final_norm[0] < 1.15f);
        assert_true(m.layers[0].bias[SITE_Q][0] != 0 && fabsf(m.layers[0].bias[SITE_Q][0]) < 0.1f);
        assert_true(seed == 1 || strcmp(first, m.fingerprint) != 0);
        memcpy(first, m.fingerprint, sizeof first);
        kern_ref.close(m.dev);
        model_desc_done(&m.desc);
        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(loads_or_refuses, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(fingerprints_content, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(finds_the_dtype, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(makes_random_weights, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
