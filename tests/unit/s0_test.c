/* S0 folders as the library saves them: what a sequence begins with, to the bit, and every damaged
 * or foreign folder refused with its exact sentence. */
#include "tests/unit/adapter_make.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define REFUSED ERR_ADAPTER_INCOMPATIBLE

/* Attention in layer 2 of 4; states of [4, 3, 5]. */
#define S0_GDN_MODEL                                                                               \
    "{\"architectures\":[\"Qwen3_5ForCausalLM\"],\"model_type\":\"qwen3_5_text\","                 \
    "\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":4,"                         \
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":8,\"vocab_size\":32,"        \
    "\"max_position_embeddings\":128,\"tie_word_embeddings\":true,\"full_attention_interval\":3,"  \
    "\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,\"linear_key_head_dim\":3,"           \
    "\"linear_value_head_dim\":5}"

/* A state in both layers, [3, 4, 5]. */
#define S0_SSD_MODEL                                                                               \
    "{\"architectures\":[\"FalconH1ForCausalLM\"],\"model_type\":\"falcon_h1\","                   \
    "\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":2,"                         \
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":32,"                       \
    "\"max_position_embeddings\":128,\"mamba_n_heads\":3,\"mamba_d_head\":4,\"mamba_d_ssm\":12,"   \
    "\"mamba_d_state\":5}"

#define S0_CONFIG_OF(alpha, normalize)                                                             \
    "{\"n_steps\": 20, \"lr\": 0.001, \"l2_lambda\": 0.0005, \"alpha\": " alpha                    \
    ", \"normalize\": " normalize ", \"grad_clip\": 1.0, \"max_length\": 2048}"
#define S0_META_OF(arch, layers, shape)                                                            \
    "{\"arch\": " arch ", \"recurrent_layers\": " layers ", \"state_shape\": " shape "}"
#define S0_META_GDN S0_META_OF("\"gated_delta_net\"", "[0, 1, 3]", "[4, 3, 5]")
#define S0_STATE_N  60

/* A folder of the first model; all zero: a correct one without the optional files. */
struct s0_make {
    const char *config, *meta; /* NULL: no such file */
    const char *skip;          /* this tensor is left out */
    const char *add;           /* one more, a copy */
    const char *change;        /* this tensor gets what is set below */
    const char *name;
    uint32_t dims[4]; /* dims[0] == 0: as they should be; ended by 0 */
    const char *dtype;
    float value; /* at element 7, when not 0 */
    bool is_zero;
    bool is_unaligned;
    uint32_t cut;     /* bytes that are missing at the end */
    uint32_t layer_n; /* of the second model; 0: the first one */
};

static const char *const s0_names[2][3] = {{"0", "1", "3"}, {"0", "1"}};
static const uint32_t s0_dims[2][4] = {{4, 3, 5}, {3, 4, 5}};

static void s0_add_tensor(const struct s0_make *m, uint32_t t, const char *name, struct buf *head,
                          struct buf *data)
{
    bool is_changed = m->change && strcmp(m->change, name) == 0;
    const char *dtype = is_changed && m->dtype ? m->dtype : "F32";
    const uint32_t *dims = is_changed && m->dims[0] > 0 ? m->dims : s0_dims[m->layer_n > 0];
    size_t from = data->n;
    uint32_t n = 1;
    buf_printf(head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", head->n > 1 ? "," : "",
               is_changed && m->name ? m->name : name, dtype);
    for (uint32_t i = 0; i < 4 && dims[i] > 0; i++) {
        buf_printf(head, "%s%u", i > 0 ? "," : "", dims[i]);
        n *= dims[i];
    }
    for (uint32_t e = 0; e < n; e++) {
        float value = is_changed && m->is_zero ? 0 : make_value(t, e);
        value = is_changed && m->value != 0 && e == 7 ? m->value : value;
        buf_add(data, &value, strcmp(dtype, "F32") == 0 ? sizeof value : sizeof value / 2);
    }
    buf_printf(head, "],\"data_offsets\":[%zu,%zu]}", from, data->n);
}

static void s0_put_text(const struct make_dir *to, const char *file, const char *text)
{
    char rest[64];
    char path[256];
    snprintf(rest, sizeof rest, "x/%s", file);
    if (text) {
        make_file(to, rest, text, strlen(text));
    } else {
        make_path(to, rest, path);
        unlink(path);
    }
}

/* Writes the folder "x" anew. */
static void s0_put(const struct make_dir *to, const struct s0_make *m)
{
    char path[256];
    struct buf head = {0};
    struct buf data = {0};
    struct buf file = {0};
    make_path(to, "x", path);
    mkdir(path, 0755);
    buf_add_str(&head, "{");
    for (uint32_t t = 0; t < (m->layer_n > 0 ? m->layer_n : 3); t++) {
        const char *name = s0_names[m->layer_n > 0][t];
        if (!m->skip || strcmp(m->skip, name) != 0) {
            s0_add_tensor(m, t, name, &head, &data);
        }
    }
    if (m->add) {
        s0_add_tensor(m, 0, m->add, &head, &data);
    }
    buf_add_str(&head, "}");
    while (head.n % 8 != (m->is_unaligned ? 3 : 0)) {
        buf_add_str(&head, " ");
    }
    uint64_t n = head.n;
    buf_add(&file, &n, sizeof n);
    buf_add(&file, head.data, head.n);
    buf_add(&file, data.data, data.n);
    make_file(to, "x/states.safetensors", file.data, file.n - m->cut);
    s0_put_text(to, "config.json", m->config);
    s0_put_text(to, "meta.json", m->meta);
    buf_done(&head);
    buf_done(&data);
    buf_done(&file);
}

static struct make_dir dir;
static struct model_desc desc;
static struct model_desc ssd_desc;
static struct store *store;

static void s0_parse_model(const char *json, struct model_desc *out)
{
    struct err err = {0};
    if (model_desc_parse("config.json", json, strlen(json), out, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

/* Prepares "x"; it must load. The caller frees the version. */
static struct version *s0_load(const struct store *from)
{
    struct prepare_job job;
    make_prepare(from, "x", &job);
    assert_string_equal(job.err.text, "");
    assert_non_null(job.version);
    return job.version;
}

/* Layer l of the block is the t-th tensor times a factor. */
static void s0_check_state(const void *block, uint32_t t, float factor, const struct s0_make *m)
{
    const float *state = effect_state_at(block, t);
    bool is_zero = m->is_zero && m->change && strcmp(m->change, s0_names[m->layer_n > 0][t]) == 0;
    assert_int_equal((uintptr_t)state % EFFECT_ALIGN, 0);
    for (uint32_t e = 0; e < S0_STATE_N; e++) {
        float want = (is_zero ? 0 : make_value(t, e)) * factor;
        if (state[e] != want) {
            fail_msg("state %u, index %u: %.9g instead of %.9g", t, e, (double)state[e],
                     (double)want);
        }
    }
}

static float s0_norm_factor(uint32_t t, double alpha)
{
    double squares = 0;
    for (uint32_t e = 0; e < S0_STATE_N; e++) {
        squares += (double)make_value(t, e) * (double)make_value(t, e);
    }
    return (float)(alpha / sqrt(squares));
}

struct s0_good {
    struct s0_make make;
    double alpha;
    bool is_normalized;
};

static void s0_check_good(const struct s0_good *good, const struct store *from,
                          const struct model_desc *model)
{
    s0_put(&dir, &good->make);
    struct version *v = s0_load(from);
    const struct effect_block *block = v->block;
    assert_string_equal(v->kind, "s0");
    assert_true(v->has_states && !v->has_rows);
    assert_int_equal(v->rank_max + v->group_rank, 0);
    assert_int_equal(v->modules_total, model->state_layer_n);
    assert_int_equal(v->modules_applied, model->state_layer_n);
    assert_true(v->conversion_error == 0);
    assert_int_equal(block->magic, EFFECT_BLOCK_MAGIC);
    assert_int_equal(block->version, EFFECT_BLOCK_VERSION);
    assert_int_equal(block->site_n, model->site_n);
    assert_int_equal(block->state_n, S0_STATE_N);
    assert_int_equal(block->bytes, v->block_bytes);
    /* 240 bytes of a state, 16 of padding */
    assert_int_equal(block->state_at + model->state_layer_n * 256, block->bytes);
    for (uint32_t i = 0; i < model->site_n; i++) {
        assert_int_equal(effect_lowrank_at(block, i)->rank, 0);
    }
    for (uint32_t t = 0; t < model->state_layer_n; t++) {
        bool is_zero = good->make.is_zero && t == 1;
        bool is_divided = good->is_normalized && !is_zero;
        s0_check_state(block, t, is_divided ? s0_norm_factor(t, good->alpha) : (float)good->alpha,
                       &good->make);
    }
    version_free(v);
}

static void states_are_scaled(void **state)
{
    static const struct s0_good goods[] = {
        {{0}, 0.07, false}, /* neither file */
        {{.config = S0_CONFIG_OF("null", "false")}, 0.07, false},
        {{.meta = S0_META_GDN}, 0.07, false},
        {{.config = S0_CONFIG_OF("null", "false"), .meta = S0_META_GDN}, 0.07, false},
        {{.config = "{}"}, 0.07, false},
        {{.config = S0_CONFIG_OF("0.3", "false"), .meta = S0_META_GDN}, 0.3, false},
        {{.config = "{\"alpha\": 2}"}, 2, false},
        {{.config = "{\"alpha\": -1.5}", .is_unaligned = true}, -1.5, false},
        {{.config = "{\"alpha\": 0}"}, 0, false},
        {{.config = S0_CONFIG_OF("null", "true")}, 0.07, true},
        {{.config = S0_CONFIG_OF("0.65", "true"), .is_unaligned = true}, 0.65, true},
        {{.config = "{\"normalize\": null}"}, 0.07, false},
        /* a layer of zeros is not divided */
        {{.config = S0_CONFIG_OF("0.5", "true"), .change = "1", .is_zero = true}, 0.5, true},
        {{.meta = S0_META_OF("\"gated_delta_net\"", "[3, 0, 1]", "[4, 3, 5]")}, 0.07, false},
    };
    static const struct s0_good ssd[] = {
        {{.layer_n = 2}, 0.65, false},
        {{.layer_n = 2, .meta = S0_META_OF("\"mamba2\"", "[0, 1]", "[3, 4, 5]")}, 0.65, false},
        {{.layer_n = 2, .config = S0_CONFIG_OF("0.07", "true")}, 0.07, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(goods); i++) {
        s0_check_good(&goods[i], store, &desc);
    }
    struct store *other = make_store(&dir, &ssd_desc, DTYPE_F32);
    for (size_t i = 0; i < ARRAY_N(ssd); i++) {
        s0_check_good(&ssd[i], other, &ssd_desc);
    }
    store_close(other);
}

/* The states are part of what a version is, and so is what they are scaled by. */
static void content_names_the_version(void **state)
{
    static const struct s0_make makes[] = {
        {0},
        {.config = "{\"alpha\": 0.07}"}, /* the default, but another content */
        {.config = "{\"alpha\": 0.08}"},
        {.config = "{\"alpha\": 0.08, \"normalize\": true}"},
        {.meta = S0_META_GDN},
        {.change = "1", .value = 0.5f},
    };
    char revisions[ARRAY_N(makes)][SHA256_HEX_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_N(makes); i++) {
        s0_put(&dir, &makes[i]);
        struct version *v = s0_load(store);
        memcpy(revisions[i], v->revision, sizeof revisions[i]);
        version_free(v);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(revisions[i], revisions[k]);
        }
    }
    s0_put(&dir, &makes[2]);
    struct version *v = s0_load(store);
    assert_string_equal(v->revision, revisions[2]);
    version_free(v);
}

/* Prepares "x", which must be refused. */
static void s0_expect(const struct store *from, int code, const char *text)
{
    struct prepare_job job;
    char want[ERR_TEXT_BYTES];
    snprintf(want, sizeof want, "could not load adapter \"x\": %s", text);
    make_prepare(from, "x", &job);
    assert_string_equal(job.err.text, want);
    assert_int_equal(job.err.code, code);
    assert_null(job.version);
}

struct s0_malformed {
    struct s0_make make;
    int code;
    const char *text; /* behind `could not load adapter "x": ` */
};

static const struct s0_malformed malformed_states[] = {
    {{.skip = "1"},
     REFUSED,
     "states.safetensors: tensor \"1\" is missing, layer 1 of the model is recurrent"},
    {{.add = "4"},
     REFUSED,
     "states.safetensors: tensor \"4\" is not named by a recurrent layer of the model"},
    {{.add = "2"},
     REFUSED,
     "states.safetensors: tensor \"2\" is not named by a recurrent layer of the model"},
    {{.change = "1", .name = "01"},
     REFUSED,
     "states.safetensors: tensor \"01\" is not named by a recurrent layer of the model"},
    {{.change = "3", .name = "layers.3.state"},
     REFUSED,
     "states.safetensors: tensor \"layers.3.state\" is not named by a recurrent layer of the "
     "model"},
    {{.change = "1", .name = "0"},
     ERR_BAD_FILE,
     "states.safetensors: line 1: not valid JSON: duplicate object key near '\"0\"'"},
    {{.change = "1", .dims = {4, 5, 3}},
     REFUSED,
     "states.safetensors: tensor \"1\" has shape [4, 5, 3], the model's state has [4, 3, 5]"},
    {{.change = "0", .dims = {2, 3, 5}},
     REFUSED,
     "states.safetensors: tensor \"0\" has shape [2, 3, 5], the model's state has [4, 3, 5]"},
    {{.change = "3", .dims = {12, 5}},
     REFUSED,
     "states.safetensors: tensor \"3\" has shape [12, 5], the model's state has [4, 3, 5]"},
    {{.change = "3", .dims = {1, 4, 3, 5}},
     REFUSED,
     "states.safetensors: tensor \"3\" has shape [1, 4, 3, 5], the model's state has [4, 3, 5]"},
    {{.change = "1", .dtype = "BF16"},
     REFUSED,
     "states.safetensors: tensor \"1\" has type BF16, only F32 is supported"},
    {{.change = "1", .value = NAN},
     ERR_BAD_FILE,
     "states.safetensors: tensor \"1\" has a NaN at index 7"},
    {{.change = "3", .value = -INFINITY},
     ERR_BAD_FILE,
     "states.safetensors: tensor \"3\" has an infinity at index 7"},
    {{.change = "0", .value = 1e30f, .config = "{\"alpha\": 1e10}"},
     ERR_BAD_FILE,
     "states.safetensors: tensor \"0\" has 1e+30 at index 7, times 1e+10 it is beyond fp32"},
    {{.cut = 4},
     ERR_BAD_FILE,
     "states.safetensors: tensor \"3\" lies at bytes 480 to 720, the file has 716"},
};

static const struct s0_malformed malformed_texts[] = {
    {{.config = "{\"alpha\": 0.07,}"},
     ERR_BAD_FILE,
     "config.json: line 1: not valid JSON: string or '}' expected near '}'"},
    {{.config = "[]"}, ERR_BAD_FILE, "config.json: is not an object"},
    {{.config = "{\"alpha\": \"auto\"}"},
     ERR_BAD_FILE,
     "config.json: \"alpha\" is \"auto\", a number is wanted"},
    {{.config = "{\"alpha\": 1e39}"},
     ERR_BAD_FILE,
     "config.json: \"alpha\" is 1e+39, which is beyond fp32"},
    {{.config = "{\"normalize\": 1}"},
     ERR_BAD_FILE,
     "config.json: \"normalize\" is 1, true or false is wanted"},
    {{.config = "{\"n_steps\": \"20\"}"},
     ERR_BAD_FILE,
     "config.json: \"n_steps\" is \"20\", an integer is wanted"},
    {{.config = "{\"lr\": true}"}, ERR_BAD_FILE, "config.json: \"lr\" is true, a number is wanted"},
    {{.config = "{\"alpha\": 0.07, \"offset\": [1]}"},
     REFUSED,
     "config.json: \"offset\" is [1], which is not supported"},
    {{.meta = "[7]"}, ERR_BAD_FILE, "meta.json: is not an object"},
    {{.meta = S0_META_OF("\"mamba2\"", "[0, 1, 3]", "[4, 3, 5]")},
     REFUSED,
     "meta.json: \"arch\" is \"mamba2\", the model's is \"gated_delta_net\""},
    {{.meta = "{\"recurrent_layers\": [0, 1, 3], \"state_shape\": [4, 3, 5]}"},
     REFUSED,
     "meta.json: \"arch\" is missing, the model's is \"gated_delta_net\""},
    {{.meta = S0_META_OF("3", "[0, 1, 3]", "[4, 3, 5]")},
     ERR_BAD_FILE,
     "meta.json: \"arch\" is 3, a string is wanted"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 3]", "[4, 5, 3]")},
     REFUSED,
     "meta.json: \"state_shape\" is [4,5,3], the model's is [4,3,5]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 3]", "[4, 3, 5, 1]")},
     REFUSED,
     "meta.json: \"state_shape\" is [4,3,5,1], the model's is [4,3,5]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 3]", "null")},
     REFUSED,
     "meta.json: \"state_shape\" is null, the model's is [4,3,5]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 2]", "[4, 3, 5]")},
     REFUSED,
     "meta.json: \"recurrent_layers\" is [0,1,2], the model's are [0,1,3]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1]", "[4, 3, 5]")},
     REFUSED,
     "meta.json: \"recurrent_layers\" is [0,1], the model's are [0,1,3]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 3, 3]", "[4, 3, 5]")},
     REFUSED,
     "meta.json: \"recurrent_layers\" is [0,1,3,3], the model's are [0,1,3]"},
    {{.meta = S0_META_OF("\"gated_delta_net\"", "[0, 1, 1]", "[4, 3, 5]")},
     REFUSED,
     "meta.json: \"recurrent_layers\" is [0,1,1], the model's are [0,1,3]"},
    {{.meta = "{\"arch\": \"gated_delta_net\", \"state_shape\": [4, 3, 5]}"},
     REFUSED,
     "meta.json: \"recurrent_layers\" is missing, the model's are [0,1,3]"},
    {{.meta = "{\"arch\": \"gated_delta_net\", \"base\": \"q\"}"},
     REFUSED,
     "meta.json: \"base\" is \"q\", which is not supported"},
};

static void s0_expect_all(const struct s0_malformed *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s0_put(&dir, &cases[i].make);
        s0_expect(store, cases[i].code, cases[i].text);
    }
    s0_put(&dir, &(struct s0_make){0}); /* it was good but for the one thing */
    version_free(s0_load(store));
}

static void states_are_refused_by_name(void **state)
{
    (void)state;
    s0_expect_all(malformed_states, ARRAY_N(malformed_states));
}

static void texts_are_refused_by_key(void **state)
{
    (void)state;
    s0_expect_all(malformed_texts, ARRAY_N(malformed_texts));
}

static void other_bases_are_refused(void **state)
{
    struct model_desc dense;
    (void)state;
    make_model(&dense);
    struct store *on_dense = make_store(&dir, &dense, DTYPE_F32);
    struct store *on_ssd = make_store(&dir, &ssd_desc, DTYPE_F32);
    s0_put(&dir, &(struct s0_make){.meta = S0_META_GDN});
    s0_expect(on_dense, REFUSED,
              "states.safetensors: holds recurrent states, the model (qwen3) has no recurrent "
              "layers");
    s0_expect(on_ssd, REFUSED,
              "meta.json: \"arch\" is \"gated_delta_net\", the model's is \"mamba2\"");
    /* and an adapter of rows has no states */
    struct prepare_job job;
    make_adapter(&dir, "rows", &MAKE_GOOD);
    make_prepare(on_dense, "rows", &job);
    assert_string_equal(job.err.text, "");
    assert_true(job.version->has_rows && !job.version->has_states);
    assert_null(effect_state_at(job.version->block, 0));
    version_free(job.version);
    store_close(on_ssd);
    store_close(on_dense);
    model_desc_done(&dense);
}

static void folders_are_refused(void **state)
{
    char path[256];
    (void)state;
    s0_put(&dir, &(struct s0_make){0});
    make_file(&dir, "x/states.pt", "\x80\2", 2);
    version_free(s0_load(store)); /* it lies beside what is read */
    make_path(&dir, "x/states.safetensors", path);
    assert_int_equal(unlink(path), 0);
    s0_expect(store, ERR_BAD_FILE,
              "states.pt is a pickle, which is never read; the folder holds no "
              "states.safetensors");
    make_path(&dir, "x/states.pt", path);
    assert_int_equal(unlink(path), 0);
    s0_expect(store, ERR_BAD_FILE,
              "the folder holds no adapter_config.json and no states.safetensors");
    s0_put(&dir, &(struct s0_make){0});
    make_file(&dir, "x/adapter_config.json", MAKE_CONFIG, strlen(MAKE_CONFIG));
    s0_expect(store, ERR_BAD_FILE,
              "the folder holds adapter_config.json and states.safetensors, one adapter is wanted");
    make_path(&dir, "x/adapter_config.json", path);
    assert_int_equal(unlink(path), 0);
    make_path(&dir, "x/meta.json", path);
    assert_int_equal(mkdir(path, 0700), 0);
    s0_expect(store, ERR_BAD_FILE, "meta.json is not a regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink("/etc/hostname", path), 0);
    s0_expect(store, ERR_BAD_FILE, "meta.json: a link leads out of the adapter root");
    assert_int_equal(unlink(path), 0);
    make_file(&dir, "x/states.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    s0_expect(store, REFUSED,
              "states.safetensors: tensor \"0\" is missing, layer 0 of the model is recurrent");
}

/* config.json comes while the folder is read: once, or each time anew. */
static uint32_t s0_read_n;
static bool s0_is_restless;

static void s0_after_read(void *arg, const char *name)
{
    const char *text = s0_read_n++ % 2 == 0 ? "{\"alpha\": 0.25}" : "{\"alpha\": 0.125}";
    (void)name;
    if (s0_read_n == 1 || s0_is_restless) {
        make_file(arg, "x/config.json", text, strlen(text));
    }
}

static void a_file_that_comes_late_counts(void **state)
{
    struct store_config config = {.root = dir.root,
                                  .desc = &desc,
                                  .kern = &make_kern,
                                  .held = DTYPE_F32,
                                  .after_read = s0_after_read,
                                  .arg = &dir};
    struct store *late = NULL;
    struct s0_make plain = {0};
    (void)state;
    assert_int_equal(store_open(&config, &late, NULL), 0);
    s0_put(&dir, &plain);
    struct version *v = s0_load(late);
    assert_int_equal(s0_read_n, 2);
    s0_check_state(v->block, 2, 0.25f, &plain);
    version_free(v);
    s0_put(&dir, &plain);
    s0_read_n = 0;
    s0_is_restless = true;
    s0_expect(late, ERR_CONFLICT, "the folder changes while it is read (config.json)");
    store_close(late);
}

static int setup(void **state)
{
    (void)state;
    make_dir_open(&dir);
    s0_parse_model(S0_GDN_MODEL, &desc);
    s0_parse_model(S0_SSD_MODEL, &ssd_desc);
    store = make_store(&dir, &desc, DTYPE_BF16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_close(store);
    model_desc_done(&ssd_desc);
    model_desc_done(&desc);
    make_dir_close(&dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_are_scaled),
        cmocka_unit_test(content_names_the_version),
        cmocka_unit_test(states_are_refused_by_name),
        cmocka_unit_test(texts_are_refused_by_key),
        cmocka_unit_test(other_bases_are_refused),
        cmocka_unit_test(folders_are_refused),
        cmocka_unit_test(a_file_that_comes_late_counts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
