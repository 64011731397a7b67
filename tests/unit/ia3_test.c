/* IA3 folders: the vectors in the block to the bit, what peft saved against a second reader, and
 * every damaged or foreign folder refused with its exact sentence. */
#include "tests/unit/adapter_make.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/safetensors.h"

#define REFUSED ERR_ADAPTER_INCOMPATIBLE

/* Exactly what peft 0.21 saves, but for the lists. */
#define IA3_CONFIG_OF(targets, feedforward)                                                        \
    "{\"auto_mapping\":null,\"base_model_name_or_path\":\"q\",\"exclude_modules\":null,"           \
    "\"fan_in_fan_out\":false,\"feedforward_modules\":" feedforward ",\"inference_mode\":true,"    \
    "\"init_ia3_weights\":true,\"modules_to_save\":null,\"peft_type\":\"IA3\","                    \
    "\"peft_version\":\"0.21.2\",\"revision\":null,\"target_modules\":" targets                    \
    ",\"task_type\":\"CAUSAL_LM\"}"
#define IA3_TARGETS "[\"down_proj\",\"v_proj\",\"k_proj\"]"
#define IA3_CONFIG  IA3_CONFIG_OF(IA3_TARGETS, "[\"down_proj\"]")

#define PREFIX "base_model.model.model.layers."

/* A tensor of the folder, of the model of adapter_make.h. */
struct ia3_tensor {
    const char *module; /* behind PREFIX */
    uint32_t n;
    bool is_in;
};

#define IA3_TENSORS 6
static const struct ia3_tensor ia3_good[IA3_TENSORS] = {
    {"0.mlp.down_proj", 24, true},    {"0.self_attn.k_proj", 8, false},
    {"0.self_attn.v_proj", 8, false}, {"1.mlp.down_proj", 24, true},
    {"1.self_attn.k_proj", 8, false}, {"1.self_attn.v_proj", 8, false},
};

/* All zero: a correct folder. */
struct ia3_make {
    const char *config;               /* NULL = IA3_CONFIG */
    const struct ia3_tensor *tensors; /* NULL = ia3_good; ended by one without a module */
    const char *skip;                 /* this module's tensor is left out */
    const char *change;               /* this module's tensor gets what is set below */
    const char *name;                 /* the whole name */
    uint32_t dims[3];                 /* dims[0] == 0: as they should be; ended by 0 */
    const char *dtype;
    float value; /* at element 3, when not 0 */
    bool is_empty;
};

static float ia3_value(uint32_t t, uint32_t e)
{
    return 1 + make_value(t, e);
}

static void ia3_add_value(const char *dtype, float value, struct buf *data)
{
    uint16_t half = strcmp(dtype, "F16") == 0 ? f16_from_f32(value) : bf16_from_f32(value);
    int64_t whole = 1;
    if (strcmp(dtype, "F32") == 0) {
        buf_add(data, &value, sizeof value);
    } else if (strcmp(dtype, "I64") == 0) {
        buf_add(data, &whole, sizeof whole);
    } else {
        buf_add(data, &half, sizeof half);
    }
}

static void ia3_add_tensor(const struct ia3_make *m, uint32_t t, const struct ia3_tensor *tensor,
                           struct buf *head, struct buf *data)
{
    bool is_changed = m->change && strcmp(m->change, tensor->module) == 0;
    const char *dtype = is_changed && m->dtype ? m->dtype : "F32";
    const uint32_t right[3] = {tensor->is_in ? 1 : tensor->n, tensor->is_in ? tensor->n : 1};
    const uint32_t *dims = is_changed && m->dims[0] > 0 ? m->dims : right;
    size_t from = data->n;
    uint32_t n = 1;
    buf_add_str(head, head->n > 1 ? ",\"" : "\"");
    if (is_changed && m->name) {
        buf_add_str(head, m->name);
    } else {
        buf_printf(head, PREFIX "%s.ia3_l", tensor->module);
    }
    buf_printf(head, "\":{\"dtype\":\"%s\",\"shape\":[", dtype);
    for (uint32_t i = 0; i < 3 && dims[i] > 0; i++) {
        buf_printf(head, "%s%u", i > 0 ? "," : "", dims[i]);
        n *= dims[i];
    }
    for (uint32_t e = 0; e < n; e++) {
        bool is_set = is_changed && m->value != 0 && e == 3;
        ia3_add_value(dtype, is_set ? m->value : ia3_value(t, e), data);
    }
    buf_printf(head, "],\"data_offsets\":[%zu,%zu]}", from, data->n);
}

static struct make_dir dir;
static struct model_desc desc;
static struct store *store;

/* Writes the folder "x" anew. */
static void ia3_put(const struct ia3_make *m)
{
    char path[256];
    struct buf head = {0};
    struct buf data = {0};
    struct buf file = {0};
    const struct ia3_tensor *tensors = m->tensors ? m->tensors : ia3_good;
    const char *config = m->config ? m->config : IA3_CONFIG;
    make_path(&dir, "x", path);
    mkdir(path, 0755);
    buf_add_str(&head, "{");
    for (uint32_t t = 0; t < IA3_TENSORS && tensors[t].module && !m->is_empty; t++) {
        if (!m->skip || strcmp(m->skip, tensors[t].module) != 0) {
            ia3_add_tensor(m, t, &tensors[t], &head, &data);
        }
    }
    buf_add_str(&head, "}");
    while (head.n % 8 != 0) {
        buf_add_str(&head, " ");
    }
    uint64_t n = head.n;
    buf_add(&file, &n, sizeof n);
    buf_add(&file, head.data, head.n);
    if (data.n > 0) {
        buf_add(&file, data.data, data.n);
    }
    make_file(&dir, "x/adapter_config.json", config, strlen(config));
    make_file(&dir, "x/adapter_model.safetensors", file.data, file.n);
    buf_done(&head);
    buf_done(&data);
    buf_done(&file);
}

/* Prepares "x"; it must load. The caller frees the version. */
static struct version *ia3_load(void)
{
    struct prepare_job job;
    make_prepare(store, "x", &job);
    assert_string_equal(job.err.text, "");
    assert_non_null(job.version);
    return job.version;
}

/* The vector of a site in a block; NULL for none. */
static const float *ia3_vector(const void *block, uint32_t site, bool is_in)
{
    const struct effect_scale *scale = effect_scale_at(block, site);
    assert_non_null(scale);
    uint64_t at = is_in ? scale->in_at : scale->out_at;
    assert_int_equal(at % EFFECT_ALIGN, 0);
    return at == 0 ? NULL : (const float *)(const void *)((const char *)block + at);
}

/* The folder's tensors stand at their sites, nothing at the others. */
static void ia3_check(const struct version *v, const struct ia3_make *m)
{
    const struct ia3_tensor *tensors = m->tensors ? m->tensors : ia3_good;
    uint32_t tensor_n = 0;
    for (uint32_t s = 0; s < desc.site_n; s++) {
        const float *got[2] = {ia3_vector(v->block, s, false), ia3_vector(v->block, s, true)};
        for (uint32_t t = 0; t < IA3_TENSORS && tensors[t].module; t++) {
            if (strcmp(desc.sites[s].module + strlen("model.layers."), tensors[t].module) != 0) {
                continue;
            }
            const float *values = got[tensors[t].is_in];
            assert_non_null(values);
            for (uint32_t e = 0; e < tensors[t].n; e++) {
                assert_true(values[e] == ia3_value(t, e));
            }
            got[tensors[t].is_in] = NULL;
            tensor_n++;
        }
        assert_null(got[0]);
        assert_null(got[1]);
        assert_int_equal(effect_lowrank_at(v->block, s)->rank, 0);
    }
    assert_string_equal(v->kind, "ia3");
    assert_true(v->has_rows && v->has_scales && !v->has_states);
    assert_null(effect_state_at(v->block, 0));
    assert_int_equal(v->modules_applied, tensor_n);
    assert_int_equal(v->modules_total, tensor_n);
    assert_int_equal(v->rank_max, 0);
    assert_true(v->conversion_error == 0);
}

static const struct ia3_tensor ia3_whole[] = {{"1.self_attn.q_proj", 16, false}, {0}};
static const struct ia3_tensor ia3_o[] = {
    {"0.self_attn.o_proj", 16, true}, {"1.self_attn.o_proj", 16, true}, {0}};
static const struct ia3_tensor ia3_outs[] = {{"0.mlp.down_proj", 16, false},
                                             {"0.mlp.gate_proj", 24, false},
                                             {"1.mlp.down_proj", 16, false},
                                             {"1.mlp.gate_proj", 24, false},
                                             {0}};

static void vectors_stand_at_their_sites(void **state)
{
    (void)state;
    static const struct ia3_make makes[] = {
        {0},
        {.change = "0.mlp.down_proj", .dtype = "F16"},
        {.change = "1.self_attn.k_proj", .dtype = "BF16"},
        {.tensors = ia3_whole,
         .config = IA3_CONFIG_OF("[\"model.layers.1.self_attn.q_proj\"]", "[]")},
        {.tensors = ia3_o,
         .config = IA3_CONFIG_OF("[\"self_attn.o_proj\"]", "[\"self_attn.o_proj\"]")},
        {.tensors = ia3_outs, .config = IA3_CONFIG_OF("[\"gate_proj\",\"down_proj\"]", "[]")},
    };
    for (size_t i = 0; i < ARRAY_N(makes); i++) {
        ia3_put(&makes[i]);
        struct version *v = ia3_load();
        ia3_check(v, &makes[i]);
        version_free(v);
    }
}

/* tests/golden, read a second time here. */
static void saved_by_peft(void **state)
{
    static const char golden[] = TEST_ROOT "/tests/golden/qwen2-ia3";
    struct model_desc model = {0};
    struct tensor_set set;
    struct err err = {0};
    struct prepare_job job;
    struct store *peft = NULL;
    uint32_t used_n = 0;
    (void)state;
    assert_int_equal(model_desc_read(golden, &model, &err), 0);
    assert_int_equal(
        tensor_set_open(
            &set, TEST_ROOT "/tests/golden/qwen2-ia3/adapters/ia3/adapter_model.safetensors", &err),
        0);
    struct store_config config = {.root = TEST_ROOT "/tests/golden/qwen2-ia3/adapters",
                                  .desc = &model,
                                  .kern = &make_kern,
                                  .held = DTYPE_BF16};
    assert_int_equal(store_open(&config, &peft, &err), 0);
    make_prepare(peft, "ia3", &job);
    assert_string_equal(job.err.text, "");
    for (uint32_t s = 0; s < model.site_n; s++) {
        char name[LIMIT_TENSOR_NAME + 40];
        snprintf(name, sizeof name, "base_model.model.%s.ia3_l", model.sites[s].module);
        const struct tensor *t = tensor_set_find(&set, name);
        bool is_in = strstr(name, "down_proj") != NULL;
        const float *got = ia3_vector(job.version->block, s, is_in);
        assert_null(ia3_vector(job.version->block, s, !is_in));
        assert_int_equal(got != NULL, t != NULL);
        if (t) {
            assert_memory_equal(got, t->data, t->bytes);
            used_n++;
        }
    }
    assert_int_equal(used_n, IA3_TENSORS);
    assert_int_equal(job.version->modules_applied, used_n);
    version_free(job.version);
    store_close(peft);
    tensor_set_close(&set);
    model_desc_done(&model);
}

/* Prepares "x", which must be refused. */
static void ia3_expect(int code, const char *text)
{
    struct prepare_job job;
    char want[ERR_TEXT_BYTES];
    snprintf(want, sizeof want, "could not load adapter \"x\": %s", text);
    make_prepare(store, "x", &job);
    assert_string_equal(job.err.text, want);
    assert_int_equal(job.err.code, code);
    assert_null(job.version);
}

struct ia3_malformed {
    struct ia3_make make;
    int code;
    const char *text; /* behind `could not load adapter "x": ` */
};

#define K0      "0.self_attn.k_proj"
#define D1      "1.mlp.down_proj"
#define K0_NAME "tensor \"" PREFIX K0 ".ia3_l\" "
#define D1_NAME "tensor \"" PREFIX D1 ".ia3_l\" "

static const struct ia3_malformed malformed_tensors[] = {
    {{.skip = K0}, ERR_BAD_FILE, K0_NAME "is missing, \"target_modules\" names \"k_proj\""},
    {{.skip = D1}, ERR_BAD_FILE, D1_NAME "is missing, \"target_modules\" names \"down_proj\""},
    {{.change = K0, .name = PREFIX "0.self_attn.o_proj.ia3_l"},
     ERR_BAD_FILE,
     "tensor \"" PREFIX "0.self_attn.o_proj.ia3_l\" is of a module that \"target_modules\" does "
     "not name"},
    {{.change = K0, .name = PREFIX "2.self_attn.k_proj.ia3_l"},
     REFUSED,
     "tensor \"" PREFIX "2.self_attn.k_proj.ia3_l\" belongs to no linear of the model's layers"},
    {{.change = K0, .name = PREFIX K0 ".lora_A.weight"},
     REFUSED,
     "tensor \"" PREFIX K0 ".lora_A.weight\" is not a vector of the form "
     "base_model.model.<module>.ia3_l"},
    {{.change = K0, .name = "model.layers." K0 ".ia3_l"},
     REFUSED,
     "tensor \"model.layers." K0 ".ia3_l\" is not a vector of the form "
     "base_model.model.<module>.ia3_l"},
    {{.change = K0, .dims = {1, 8}},
     REFUSED,
     K0_NAME "has shape [1, 8], [8, 1] is wanted: the outputs of the model's linear"},
    {{.change = D1, .dims = {24, 1}},
     REFUSED,
     D1_NAME "has shape [24, 1], [1, 24] is wanted: the inputs of the model's linear"},
    {{.change = D1, .dims = {1, 16}},
     REFUSED,
     D1_NAME "has shape [1, 16], [1, 24] is wanted: the inputs of the model's linear"},
    {{.change = K0, .dims = {8}},
     REFUSED,
     K0_NAME "has shape [8], [8, 1] is wanted: the outputs of the model's linear"},
    {{.change = K0, .dims = {8, 1, 1}},
     REFUSED,
     K0_NAME "has shape [8, 1, 1], [8, 1] is wanted: the outputs of the model's linear"},
    {{.change = K0, .dtype = "I64"},
     REFUSED,
     K0_NAME "has type I64, only F32, F16 and BF16 are supported"},
    {{.change = K0, .value = NAN}, ERR_BAD_FILE, K0_NAME "has a NaN at index 3"},
    {{.change = D1, .value = -INFINITY}, ERR_BAD_FILE, D1_NAME "has an infinity at index 3"},
    {{.change = K0, .value = NAN, .dtype = "BF16"}, ERR_BAD_FILE, K0_NAME "has a NaN at index 3"},
    {{.change = D1, .value = INFINITY, .dtype = "F16"},
     ERR_BAD_FILE,
     D1_NAME "has an infinity at index 3"},
    {{.is_empty = true}, ERR_BAD_FILE, "adapter_model.safetensors: holds no tensors"},
};

static const struct ia3_tensor ia3_q[] = {
    {"0.self_attn.q_proj", 16, true}, {"1.self_attn.q_proj", 16, true}, {0}};
static const struct ia3_tensor ia3_gate[] = {
    {"0.mlp.gate_proj", 16, true}, {"1.mlp.gate_proj", 16, true}, {0}};

#define SHARED(module)                                                                             \
    "adapter_config.json: \"feedforward_modules\" names \"model.layers.0." module                  \
    "\", whose input other linears share: only its outputs can be scaled"
#define IA3_KEYS(rest) "{\"peft_type\":\"IA3\",\"target_modules\":" IA3_TARGETS rest "}"
#define IA3_FEED       ",\"feedforward_modules\":[\"down_proj\"]"

static const struct ia3_malformed malformed_configs[] = {
    {{.config = IA3_CONFIG_OF("[\"k_proj\",\"v_proj\"]", "[\"down_proj\"]")},
     ERR_BAD_FILE,
     "adapter_config.json: \"feedforward_modules\" names \"down_proj\", \"target_modules\" does "
     "not"},
    {{.config = IA3_CONFIG_OF("[\"self_attn.o_proj\"]", "[\"o_proj\"]"), .tensors = ia3_o},
     ERR_BAD_FILE, /* as peft: a subset, name by name */
     "adapter_config.json: \"feedforward_modules\" names \"o_proj\", \"target_modules\" does not"},
    {{.config = IA3_CONFIG_OF("[\"q_proj\"]", "[\"q_proj\"]"), .tensors = ia3_q},
     REFUSED,
     SHARED("self_attn.q_proj")},
    {{.config = IA3_CONFIG_OF("[\"gate_proj\"]", "[\"gate_proj\"]"), .tensors = ia3_gate},
     REFUSED,
     SHARED("mlp.gate_proj")},
    {{.config = IA3_CONFIG_OF("[\"down_proj\",\"v_proj\",\"k_proj\",\"fc1\"]", "[\"down_proj\"]")},
     REFUSED,
     "adapter_config.json: \"target_modules\" names \"fc1\", the model's layers have no such "
     "linear"},
    {{.config = IA3_CONFIG_OF("[\"down_proj\",\"v_proj\",\"k_proj\",\"roj\"]", "[\"down_proj\"]")},
     REFUSED,
     "adapter_config.json: \"target_modules\" names \"roj\", the model's layers have no such "
     "linear"},
    {{.config = IA3_CONFIG_OF("\".*_proj\"", "[]")},
     REFUSED,
     "adapter_config.json: \"target_modules\" is \".*_proj\", only a list of names is supported"},
    {{.config = IA3_CONFIG_OF(IA3_TARGETS, "\".*down_proj\"")},
     REFUSED,
     "adapter_config.json: \"feedforward_modules\" is \".*down_proj\", only a list of names is "
     "supported"},
    {{.config = IA3_CONFIG_OF(IA3_TARGETS, "null")},
     REFUSED,
     "adapter_config.json: \"feedforward_modules\" is null, only a list of names is supported"},
    {{.config = IA3_CONFIG_OF("[\"k_proj\",7]", "[]")},
     REFUSED,
     "adapter_config.json: \"target_modules\" is [\"k_proj\",7], each must be a name"},
    {{.config = IA3_CONFIG_OF("[\"k_proj\",\"\"]", "[]")},
     REFUSED,
     "adapter_config.json: \"target_modules\" is [\"k_proj\",\"\"], each must be a name"},
    {{.config = IA3_CONFIG_OF("[]", "[]")},
     ERR_BAD_FILE,
     "adapter_config.json: \"target_modules\" is an empty list"},
    {{.config = "{\"peft_type\":\"IA3\"}"},
     ERR_BAD_FILE,
     "adapter_config.json: \"target_modules\" is missing"},
    {{.config = IA3_KEYS("")},
     ERR_BAD_FILE,
     "adapter_config.json: \"feedforward_modules\" is missing"},
    {{.config = IA3_KEYS(IA3_FEED ",\"scaling\":2")},
     REFUSED,
     "adapter_config.json: \"scaling\" is 2, which is not supported"},
    {{.config = IA3_KEYS(IA3_FEED ",\"modules_to_save\":[\"lm_head\"]")},
     REFUSED,
     "adapter_config.json: \"modules_to_save\" is [\"lm_head\"], which is not supported"},
    {{.config = IA3_KEYS(IA3_FEED ",\"exclude_modules\":[\"k_proj\"]")},
     REFUSED,
     "adapter_config.json: \"exclude_modules\" is [\"k_proj\"], which is not supported"},
    {{.config = IA3_KEYS(IA3_FEED ",\"fan_in_fan_out\":true")},
     REFUSED,
     "adapter_config.json: \"fan_in_fan_out\" is true, which is not supported"},
    {{.config = "{\"target_modules\":" IA3_TARGETS IA3_FEED "}"},
     ERR_BAD_FILE,
     "adapter_config.json: \"peft_type\" is missing"},
    {{.config = "{\"peft_type\":\"ia3\",\"target_modules\":" IA3_TARGETS IA3_FEED "}"},
     REFUSED,
     "adapter_config.json: \"peft_type\" is \"ia3\", only \"LORA\" and \"IA3\" are supported"},
    {{.config = "[\"IA3\"]"}, ERR_BAD_FILE, "adapter_config.json: is not an object"},
};

static void ia3_expect_all(const struct ia3_malformed *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ia3_put(&cases[i].make);
        ia3_expect(cases[i].code, cases[i].text);
    }
    ia3_put(&(struct ia3_make){0}); /* it was good but for the one thing */
    version_free(ia3_load());
}

static void tensors_are_refused_by_name(void **state)
{
    (void)state;
    ia3_expect_all(malformed_tensors, ARRAY_N(malformed_tensors));
}

static void configs_are_refused_by_key(void **state)
{
    (void)state;
    ia3_expect_all(malformed_configs, ARRAY_N(malformed_configs));
}

/* The same files of a folder are one kind's and then the other's. */
static void a_folder_may_change_its_kind(void **state)
{
    (void)state;
    struct version *was = NULL;
    for (uint32_t i = 0; i < 4; i++) {
        if (i % 2 == 0) {
            make_adapter(&dir, "x", &MAKE_GOOD);
        } else {
            ia3_put(&(struct ia3_make){0});
        }
        struct version *v = ia3_load();
        assert_string_equal(v->kind, i % 2 == 0 ? "lora" : "ia3");
        assert_int_equal(v->has_scales, i % 2);
        assert_int_equal(effect_scale_at(v->block, 0) != NULL, i % 2);
        assert_int_equal(v->rank_max, i % 2 == 0 ? 2 : 0);
        assert_true(!was || strcmp(was->revision, v->revision) != 0);
        version_free(was);
        was = v;
    }
    version_free(was);
    /* one's config with the other's tensors is nobody's */
    make_file(&dir, "x/adapter_config.json", MAKE_CONFIG, strlen(MAKE_CONFIG));
    ia3_expect(REFUSED, "tensor \"" PREFIX "0.mlp.down_proj.ia3_l\" is not a factor of "
                        "the form base_model.model.<module>.lora_A.weight or .lora_B.weight");
    make_adapter(&dir, "x", &MAKE_GOOD);
    make_file(&dir, "x/adapter_config.json", IA3_CONFIG, strlen(IA3_CONFIG));
    ia3_expect(REFUSED, "tensor \"" PREFIX "0.self_attn.q_proj.lora_A.weight\" is not a vector of "
                        "the form base_model.model.<module>.ia3_l");
}

static int setup(void **state)
{
    (void)state;
    make_open(&dir, MAKE_MODEL, DTYPE_BF16, &desc, &store);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    make_close(&dir, &desc, store);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_stand_at_their_sites),
        cmocka_unit_test(saved_by_peft),
        cmocka_unit_test(tensors_are_refused_by_name),
        cmocka_unit_test(configs_are_refused_by_key),
        cmocka_unit_test(a_folder_may_change_its_kind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
