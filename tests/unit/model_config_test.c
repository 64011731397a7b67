/* config.json and generation_config.json: the files of real releases, and what is refused. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/kern.h"
#include "model/model.h"

/* As the releases carry them, in the spelling of transformers 4. */
static const char llama_3_2_1b[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,"
    "\"hidden_act\":\"silu\",\"hidden_size\":2048,\"initializer_range\":0.02,"
    "\"intermediate_size\":8192,\"max_position_embeddings\":131072,\"mlp_bias\":false,"
    "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":16,"
    "\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":{"
    "\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"transformers_version\":"
    "\"4.45.0.dev0\",\"use_cache\":true,\"vocab_size\":128256}";

static const char qwen2_5_0_5b[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":151643,"
    "\"eos_token_id\":151645,\"hidden_act\":\"silu\",\"hidden_size\":896,\"initializer_range\":0."
    "02,"
    "\"intermediate_size\":4864,\"max_position_embeddings\":32768,\"max_window_layers\":21,"
    "\"model_type\":\"qwen2\",\"num_attention_heads\":14,\"num_hidden_layers\":24,"
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,"
    "\"sliding_window\":32768,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\","
    "\"transformers_version\":\"4.43.1\",\"use_cache\":true,\"use_sliding_window\":false,"
    "\"vocab_size\":151936}";

static const char qwen3_0_6b[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"bos_token_id\":151643,\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\","
    "\"hidden_size\":1024,\"initializer_range\":0.02,\"intermediate_size\":3072,"
    "\"max_position_embeddings\":40960,\"max_window_layers\":28,\"model_type\":\"qwen3\","
    "\"num_attention_heads\":16,\"num_hidden_layers\":28,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.51.0\","
    "\"use_cache\":true,\"use_sliding_window\":false,\"vocab_size\":151936}";

static void parse(const char *json, struct model_desc *desc)
{
    struct err err = {0};
    if (model_desc_parse("config.json", json, strlen(json), desc, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static void reads_llama(void **state)
{
    (void)state;
    struct model_desc d;
    parse(llama_3_2_1b, &d);
    assert_string_equal(d.family, "llama");
    assert_string_equal(d.architecture, "LlamaForCausalLM");
    assert_int_equal(d.layer_n, 16);
    assert_int_equal(d.kv_layer_n, 16);
    assert_int_equal(d.head_n * d.head_dim, 2048);
    assert_int_equal(d.kv_head_n, 8);
    assert_int_equal(d.context_max, 131072);
    assert_true(d.is_tied);
    assert_false(d.has_qkv_bias || d.has_o_bias || d.has_mlp_bias || d.has_qk_norm);
    assert_int_equal(d.checkpoint_dtype, DTYPE_BF16);
    assert_int_equal(model_default_held(&d), DTYPE_BF16);
    assert_true(d.attention_scale == 0.125f);
    /* The three bands of llama3: as transformers computes them. */
    assert_int_equal(d.rotary_n, 64);
    assert_true(d.inv_freq[0] == 1.0f);
    assert_true(fabsf(d.inv_freq[14] / 3.21144611e-03f - 1) < 1e-6f);
    assert_true(fabsf(d.inv_freq[16] / 4.29556705e-04f - 1) < 1e-6f);
    assert_true(fabsf(d.inv_freq[31] / 9.41830649e-08f - 1) < 1e-6f);
    assert_string_equal(d.sites[d.layers[15].site[SITE_DOWN]].module,
                        "model.layers.15.mlp.down_proj");
    assert_int_equal(d.sites[d.layers[0].site[SITE_DOWN]].k, 8192);
    assert_int_equal(d.sites[d.layers[0].site[SITE_DOWN]].split, SPLIT_ROW);
    assert_int_equal(d.sites[d.layers[0].site[SITE_K]].n, 512);
    model_desc_done(&d);
}

static void reads_qwen(void **state)
{
    (void)state;
    struct model_desc d;
    struct kern_open args = {0};
    parse(qwen2_5_0_5b, &d);
    assert_string_equal(d.family, "qwen2");
    assert_int_equal(d.head_dim, 64);
    assert_true(d.has_qkv_bias);
    assert_false(d.has_o_bias || d.has_mlp_bias || d.has_qk_norm);
    model_kern_limits(&d, &args);
    assert_int_equal(args.k_max, 4864);
    assert_int_equal(args.n_max, 2 * 4864);
    assert_int_equal(args.vocab_n, 151936);
    model_desc_done(&d);
    parse(qwen3_0_6b, &d);
    assert_string_equal(d.family, "qwen3");
    assert_int_equal(d.head_dim, 128);
    assert_int_equal(d.sites[d.layers[0].site[SITE_O]].k, 2048);
    assert_true(d.has_qk_norm);
    assert_false(d.has_qkv_bias);
    model_desc_done(&d);
}

static void finds_sites(void **state)
{
    (void)state;
    struct model_desc d;
    parse(qwen3_0_6b, &d);
    assert_int_equal(model_site_find(&d, "model.layers.0.self_attn.q_proj"), SITE_Q);
    assert_int_equal(model_site_find(&d, "model.layers.27.mlp.up_proj"),
                     d.layers[27].site[SITE_UP]);
    for (uint32_t i = 0; i < d.site_n; i++) {
        assert_int_equal(model_site_find(&d, d.sites[i].module), i);
    }
    static const char *const none[] = {"",
                                       "lm_head",
                                       "model.layers.28.mlp.up_proj",
                                       "model.layers.01.mlp.up_proj",
                                       "model.layers.-1.mlp.up_proj",
                                       "model.layers.1.mlp",
                                       "model.layers.1mlp.up_proj",
                                       "model.layers.99999999999999999999.mlp.up_proj",
                                       "model.layers.1.mlp.up_proj.x"};
    for (size_t i = 0; i < ARRAY_N(none); i++) {
        assert_int_equal(model_site_find(&d, none[i]), -1);
    }
    model_desc_done(&d);
}

/* A small whole config of a family, without one key and with something added in front. */
static void build(char *out, size_t out_bytes, const char *type, const char *drop, const char *add)
{
    static const char *const keys[] = {"\"vocab_size\":300",
                                       "\"hidden_size\":64",
                                       "\"intermediate_size\":96",
                                       "\"num_hidden_layers\":2",
                                       "\"num_attention_heads\":4",
                                       "\"num_key_value_heads\":2",
                                       "\"max_position_embeddings\":512"};
    size_t at = 0;
    const char *word = strcmp(type, "llama") == 0   ? "Llama"
                       : strcmp(type, "qwen2") == 0 ? "Qwen2"
                                                    : "Qwen3";
    at += (size_t)snprintf(out + at, out_bytes - at, "{%s", add);
    if (!strstr(drop, "model_type")) {
        at += (size_t)snprintf(out + at, out_bytes - at, ",\"model_type\":\"%s\"", type);
    }
    if (!strstr(drop, "architectures")) {
        at += (size_t)snprintf(out + at, out_bytes - at, ",\"architectures\":[\"%sForCausalLM\"]",
                               word);
    }
    for (size_t i = 0; i < ARRAY_N(keys); i++) {
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(strchr(keys[i], ':') - keys[i] - 2), keys[i] + 1);
        if (!strstr(drop, key)) {
            at += (size_t)snprintf(out + at, out_bytes - at, ",%s", keys[i]);
        }
    }
    snprintf(out + at, out_bytes - at, "}");
}

struct variant {
    const char *type, *drop, *add;
    const char *error; /* NULL: accepted */
    int code;
};

static const struct variant variants[] = {
    {"llama", "", "\"a\":null,\"b\":false,\"c\":[],\"d\":{},\"e\":\"\"", NULL, 0},
    {"llama", "", "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}", NULL,
     0},
    {"llama", "", "\"attention_bias\":true,\"mlp_bias\":true", NULL, 0},
    {"qwen2", "", "\"sliding_window\":4096,\"use_sliding_window\":false", NULL, 0},
    {"qwen2", "", "\"sliding_window\":null,\"use_sliding_window\":true", NULL, 0},
    {"qwen3", "", "\"layer_types\":[\"full_attention\",\"full_attention\"]", NULL, 0},
    {"llama", "model_type", "\"x\":null", "\"model_type\" is missing", ERR_BAD_FILE},
    {"llama", "model_type", "\"model_type\":\"mistral\"",
     "\"model_type\" is \"mistral\", only llama, qwen2, qwen3, qwen3_5 and falcon_h1 are "
     "implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "architectures", "\"x\":null",
     "\"architectures\" is missing, for model_type \"llama\" only [\"LlamaForCausalLM\"] is "
     "implemented",
     ERR_NOT_IMPLEMENTED},
    {"qwen3", "architectures", "\"architectures\":[\"Qwen3Model\"]",
     "\"architectures\" is [\"Qwen3Model\"], for model_type \"qwen3\" only [\"Qwen3ForCausalLM\"] "
     "is implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "hidden_size", "\"x\":null", "\"hidden_size\" is missing", ERR_BAD_FILE},
    {"llama", "vocab_size", "\"vocab_size\":\"300\"",
     "\"vocab_size\" is \"300\", an integer is wanted", ERR_BAD_FILE},
    {"llama", "num_hidden_layers", "\"num_hidden_layers\":1000",
     "\"num_hidden_layers\" is 1000, it must lie in 1 to 256", ERR_BAD_FILE},
    {"llama", "num_key_value_heads", "\"num_key_value_heads\":3",
     "\"num_attention_heads\" 4 is no multiple of \"num_key_value_heads\" 3", ERR_BAD_FILE},
    {"llama", "num_attention_heads", "\"num_attention_heads\":6",
     "\"hidden_size\" 64 is no multiple of \"num_attention_heads\" 6", ERR_BAD_FILE},
    {"llama", "", "\"head_dim\":15", "the head dimension is 15, it must be even and at most 256",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"rms_norm_eps\":0", "\"rms_norm_eps\" is 0, it must lie between 0 and 1",
     ERR_BAD_FILE},
    {"llama", "", "\"hidden_act\":\"gelu\"", "\"hidden_act\" is \"gelu\", only silu is implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"pretraining_tp\":2", "\"pretraining_tp\" is 2, only 1 is implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"dtype\":\"float64\"",
     "\"dtype\" is \"float64\", only float32, float16 and bfloat16 are implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"quantization_config\":{\"bits\":4}",
     "\"quantization_config\" is {\"bits\":4}, which is not implemented for \"llama\"",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"sliding_window\":4096",
     "\"sliding_window\" is 4096, which is not implemented for \"llama\"", ERR_NOT_IMPLEMENTED},
    {"qwen2", "", "\"mlp_bias\":true",
     "\"mlp_bias\" is true, which is not implemented for \"qwen2\"", ERR_NOT_IMPLEMENTED},
    {"qwen2", "", "\"sliding_window\":4096,\"use_sliding_window\":true",
     "\"sliding_window\" is 4096 with \"use_sliding_window\" true: sliding windows are not "
     "implemented",
     ERR_NOT_IMPLEMENTED},
    {"qwen3", "", "\"layer_types\":[\"full_attention\",\"sliding_attention\"]",
     "\"layer_types\" has \"sliding_attention\" for layer 1, only full_attention is implemented",
     ERR_NOT_IMPLEMENTED},
    {"qwen3", "", "\"layer_types\":[\"full_attention\"]",
     "\"layer_types\" is not a list of 2, one for each layer", ERR_BAD_FILE},
    {"llama", "", "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}",
     "\"rope_scaling\" asks for rope type \"yarn\", only default and llama3 are implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"llama3\"}",
     "\"rope_scaling\" has \"rope_type\" \"llama3\" and \"type\" \"linear\"", ERR_BAD_FILE},
    {"llama", "", "\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}",
     "\"rope_parameters\" has \"partial_rotary_factor\" 0.5, which is not implemented",
     ERR_NOT_IMPLEMENTED},
    {"llama", "", "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0}",
     "\"rope_scaling\" needs a \"low_freq_factor\" above 0 and below 1e9 for rope type llama3",
     ERR_BAD_FILE},
    {"llama", "",
     "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":4,"
     "\"high_freq_factor\":1}",
     "\"rope_scaling\" has factor 8, low_freq_factor 4 and high_freq_factor 1: the first must be "
     "at "
     "least 1, the last above the second",
     ERR_BAD_FILE},
    {"llama", "", "\"rope_theta\":10000,\"rope_parameters\":{\"rope_theta\":500000}",
     "\"rope_theta\" is 10000, in \"rope_parameters\" it is 500000", ERR_BAD_FILE},
    {"llama", "", "\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":{\"rope_theta\":5}",
     "has both \"rope_scaling\" and \"rope_parameters\", and they differ", ERR_BAD_FILE},
    {"llama", "", "\"rope_theta\":-1", "\"rope_theta\" is -1, it must lie in 1 to 1e15",
     ERR_BAD_FILE},
};

static void takes_or_refuses_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(variants); i++) {
        const struct variant *v = &variants[i];
        char json[2048];
        char want[512];
        struct model_desc d;
        struct err err = {0};
        build(json, sizeof json, v->type, v->drop, v->add);
        int rc = model_desc_parse("c", json, strlen(json), &d, &err);
        snprintf(want, sizeof want, "%s%s", v->error ? "c: " : "", v->error ? v->error : "");
        assert_string_equal(err.text, want);
        assert_int_equal(rc, v->code);
        if (rc == 0) {
            model_desc_done(&d);
        }
    }
}

static void refuses_no_object(void **state)
{
    (void)state;
    struct model_desc d;
    struct err err;
    assert_int_equal(model_desc_parse("c", "[1]", 3, &d, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "c: is not a JSON object");
    assert_int_equal(model_desc_read("/nonexistent", &d, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "/nonexistent/config.json: No such file or directory");
}

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/graft-config-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int drop_dir(void **state)
{
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    unlink(path);
    return rmdir(dir);
}

static void reads_generation(void **state)
{
    (void)state;
    struct model_generation g;
    struct err err;
    put_file("config.json", llama_3_2_1b);
    assert_int_equal(model_generation_read(dir, 128256, &g, &err), 0);
    assert_false(g.is_greedy);
    assert_true(g.temperature == 1 && g.top_p == 1 && g.min_p == 0 && g.repetition_penalty == 1);
    assert_int_equal(g.top_k, 0);
    assert_int_equal(g.eos_n, 3);
    assert_int_equal(g.eos_tokens[2], 128009);
    assert_int_equal(g.bos_token, 128000);
    put_file("generation_config.json",
             "{\"do_sample\":false,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":20,\"min_p\":0.05,"
             "\"repetition_penalty\":1.1,\"eos_token_id\":7,\"bos_token_id\":null,"
             "\"max_length\":4096,\"transformers_version\":\"4.45.0\"}");
    assert_int_equal(model_generation_read(dir, 128256, &g, &err), 0);
    assert_true(g.is_greedy);
    assert_true(g.temperature == 0.6f && g.top_p == 0.9f && g.min_p == 0.05f);
    assert_true(g.repetition_penalty == 1.1f);
    assert_int_equal(g.top_k, 20);
    assert_int_equal(g.eos_n, 1);
    assert_int_equal(g.eos_tokens[0], 7);
    assert_int_equal(g.bos_token, 128000);
}

/* Of an outer model's file: what it says itself, else what its text model says. */
static void reads_outer_tokens(void **state)
{
    (void)state;
    struct model_generation g;
    struct err err = {0};
    put_file("config.json", "{\"eos_token_id\":[5,6],\"text_config\":{\"eos_token_id\":7,"
                            "\"bos_token_id\":3}}");
    assert_int_equal(model_generation_read(dir, 10, &g, &err), 0);
    assert_true(g.eos_n == 2 && g.eos_tokens[0] == 5 && g.eos_tokens[1] == 6);
    assert_int_equal(g.bos_token, 3);
    put_file("config.json", "{\"eos_token_id\":null,\"text_config\":{\"eos_token_id\":7}}");
    assert_int_equal(model_generation_read(dir, 10, &g, &err), 0);
    assert_true(g.eos_n == 1 && g.eos_tokens[0] == 7);
    put_file("config.json", "{\"eos_token_id\":10,\"text_config\":{}}");
    assert_int_equal(model_generation_read(dir, 10, &g, &err), ERR_BAD_FILE);
    assert_non_null(strstr(err.text, "\"eos_token_id\" has 10"));
}

static void refuses_generation(void **state)
{
    (void)state;
    static const struct {
        const char *json, *error;
    } lies[] = {
        {"[]", "is not a JSON object"},
        {"{\"top_p\":0}", "\"top_p\" is 0, it must lie in above 0 to 1"},
        {"{\"temperature\":-1}", "\"temperature\" is -1, it must lie in 0 to 100"},
        {"{\"top_k\":-2}", "\"top_k\" is -2, it must lie in -1 to 2147483647"},
        {"{\"num_beams\":4}", "\"num_beams\" is 4: this is not implemented"},
        {"{\"suppress_tokens\":[1]}", "\"suppress_tokens\" is [1]: this is not implemented"},
        {"{\"do_sample\":1}", "\"do_sample\" is 1, true or false is wanted"},
        {"{\"eos_token_id\":[1,300]}",
         "\"eos_token_id\" has 300, which is no token of a vocabulary of 300"},
        {"{\"eos_token_id\":\"x\"}",
         "\"eos_token_id\" has \"x\", which is no token of a vocabulary of 300"},
        {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
         "\"eos_token_id\" lists 17 tokens, limit is 16"},
    };
    put_file("config.json", "{}");
    for (size_t i = 0; i < ARRAY_N(lies); i++) {
        struct model_generation g;
        struct err err;
        char want[256];
        put_file("generation_config.json", lies[i].json);
        snprintf(want, sizeof want, "%s/generation_config.json: %s", dir, lies[i].error);
        int code = strstr(want, "not implemented") ? ERR_NOT_IMPLEMENTED : ERR_BAD_FILE;
        assert_int_equal(model_generation_read(dir, 300, &g, &err), code);
        assert_string_equal(err.text, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_llama),
        cmocka_unit_test(reads_qwen),
        cmocka_unit_test(finds_sites),
        cmocka_unit_test(takes_or_refuses_keys),
        cmocka_unit_test(refuses_no_object),
        cmocka_unit_test_setup_teardown(reads_generation, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(reads_outer_tokens, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(refuses_generation, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
