/* Adapters of a model that goes by two paths: alone, and as the text model of an outer one. */
#include "tests/unit/adapter_make.h"

/* q_proj has gates: with one head its shape is that of adapter_make.h. */
#define OUTER_MODEL                                                                                \
    "{\"architectures\":[\"Qwen3_5ForCausalLM\"],\"model_type\":\"qwen3_5_text\","                 \
    "\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":3,"                         \
    "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"head_dim\":8,\"vocab_size\":32,"        \
    "\"max_position_embeddings\":128,\"tie_word_embeddings\":true,\"layer_types\":["               \
    "\"full_attention\",\"full_attention\",\"linear_attention\"],"                                 \
    "\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,\"linear_key_head_dim\":3,"           \
    "\"linear_value_head_dim\":5}"
#define OUTER        "model.language_model.layers."
#define OUTER_Q0_A   "base_model.model." OUTER "0.self_attn.q_proj.lora_A.weight"
#define TARGETS(...) MAKE_CONFIG_HEAD "\"use_rslora\":false,\"r\":2,\"lora_alpha\":4," __VA_ARGS__

static struct make_dir dir;
static struct model_desc desc;
static struct store *store;

static void prepare(const struct make *make, struct prepare_job *job)
{
    make_adapter(&dir, "x", make);
    make_prepare(store, "x", job);
}

static void one_linear_has_one_pair(void **state)
{
    struct prepare_job job;
    struct make make = MAKE_GOOD;
    (void)state;
    make.change = 4;
    make.name = OUTER_Q0_A;
    prepare(&make, &job);
    assert_int_equal(job.err.code, ERR_BAD_FILE);
    assert_non_null(strstr(job.err.text, "are of one linear"));
    assert_non_null(strstr(job.err.text, "\"" OUTER_Q0_A "\""));
    assert_non_null(strstr(job.err.text, "\"base_model.model.model.layers.0.self_attn.q_proj"));
    make.change = 0; /* either spelling alone is as good as the other */
    prepare(&make, &job);
    assert_int_equal(job.err.code, 0);
    version_free(job.version);
}

#define IA3_K(path, at)                                                                            \
    "\"base_model.model." path ".self_attn.k_proj.ia3_l\":{\"dtype\":\"F32\",\"shape\":[8,1],"     \
    "\"data_offsets\":[" at "]}"

static void one_linear_has_one_scale(void **state)
{
    static const char config[] = "{\"peft_type\":\"IA3\",\"target_modules\":[\"k_proj\"],"
                                 "\"feedforward_modules\":[]}";
    static const char head[] = "{" IA3_K("model.layers.0", "0,32") "," IA3_K(
        OUTER "0", "32,64") "," IA3_K("model.layers.1", "64,96") "}";
    char file[8 + sizeof head - 1 + 96] = {0};
    uint64_t head_n = sizeof head - 1;
    struct prepare_job job;
    (void)state;
    memcpy(file, &head_n, sizeof head_n);
    memcpy(file + 8, head, head_n);
    make_adapter(&dir, "y", &MAKE_GOOD);
    make_file(&dir, "y/adapter_config.json", config, sizeof config - 1);
    make_file(&dir, "y/adapter_model.safetensors", file, sizeof file);
    make_prepare(store, "y", &job);
    assert_int_equal(job.err.code, ERR_BAD_FILE);
    assert_non_null(strstr(job.err.text, "two tensors scale one linear, "
                                         "\"model.layers.0.self_attn.k_proj\""));
}

static void targets_go_by_either_path(void **state)
{
    static const char *const good[] = {
        TARGETS("\"target_modules\":[\"q_proj\",\"" OUTER "0.self_attn.v_proj\",\"" OUTER
                "1.self_attn.v_proj\"]}"),
        TARGETS("\"target_modules\":[\"q_proj\",\"model.layers.0.self_attn.v_proj\",\"" OUTER
                "1.self_attn.v_proj\"]}"),
    };
    struct prepare_job job;
    struct make make = MAKE_GOOD;
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_N(good); i++) {
        make.config = good[i / 2];
        make.change = i % 2 ? 2 : -1; /* layer 0's v_proj, A */
        make.name = "base_model.model." OUTER "0.self_attn.v_proj.lora_A.weight";
        prepare(&make, &job);
        assert_string_equal(job.err.text, "");
        assert_int_equal(job.err.code, 0);
        assert_int_equal(job.version->modules_total, 4);
        version_free(job.version);
    }
    make.config =
        TARGETS("\"target_modules\":[\"q_proj\",\"v_proj\",\"" OUTER "2.self_attn.v_proj\"]}");
    prepare(&make, &job);
    assert_non_null(strstr(job.err.text, "names \"" OUTER "2.self_attn.v_proj\", the model's "
                                         "layers have no such linear"));
}

static int setup(void **state)
{
    (void)state;
    make_open(&dir, OUTER_MODEL, DTYPE_F32, &desc, &store);
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
        cmocka_unit_test(one_linear_has_one_pair),
        cmocka_unit_test(one_linear_has_one_scale),
        cmocka_unit_test(targets_go_by_either_path),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
