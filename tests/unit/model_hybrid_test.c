/* config.json of models with recurrent layers: the files of real releases, and what is refused. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/kern.h"
#include "model/family.h"
#include "model/model.h"

#define LLLF "\"linear_attention\",\"linear_attention\",\"linear_attention\",\"full_attention\""

/* Qwen3.5 4B: the text model's keys inside. The outer file says something else about tying. */
static const char qwen3_5_4b[] =
    "{\"architectures\":[\"Qwen3_5ForConditionalGeneration\"],\"image_token_id\":248056,"
    "\"model_type\":\"qwen3_5\",\"text_config\":{\"attention_bias\":false,"
    "\"attention_dropout\":0.0,\"attn_output_gate\":true,\"dtype\":\"bfloat16\","
    "\"eos_token_id\":248044,\"full_attention_interval\":4,\"head_dim\":256,"
    "\"hidden_act\":\"silu\",\"hidden_size\":2560,\"initializer_range\":0.02,"
    "\"intermediate_size\":9216,\"layer_types\":[" LLLF "," LLLF "," LLLF "," LLLF "," LLLF "," LLLF
    "," LLLF "," LLLF "],"
    "\"linear_conv_kernel_dim\":4,\"linear_key_head_dim\":128,\"linear_num_key_heads\":16,"
    "\"linear_num_value_heads\":32,\"linear_value_head_dim\":128,"
    "\"max_position_embeddings\":262144,\"mlp_only_layers\":[],\"model_type\":\"qwen3_5_text\","
    "\"mtp_num_hidden_layers\":1,\"mtp_use_dedicated_embeddings\":false,"
    "\"num_attention_heads\":16,\"num_hidden_layers\":32,\"num_key_value_heads\":4,"
    "\"output_gate_type\":\"swish\",\"rms_norm_eps\":1e-06,\"tie_word_embeddings\":true,"
    "\"use_cache\":true,\"vocab_size\":248320,\"mamba_ssm_dtype\":\"float32\","
    "\"rope_parameters\":{\"mrope_interleaved\":true,\"mrope_section\":[11,11,10],"
    "\"rope_type\":\"default\",\"rope_theta\":10000000,\"partial_rotary_factor\":0.25}},"
    "\"tie_word_embeddings\":false,\"transformers_version\":\"4.57.0.dev0\","
    "\"video_token_id\":248057,\"vision_config\":{\"depth\":24,\"hidden_size\":1024},"
    "\"vision_end_token_id\":248054,\"vision_start_token_id\":248053}";

/* The text model alone, silent about all that has a default. */
static const char qwen3_5_text[] =
    "{\"architectures\":[\"Qwen3_5ForCausalLM\"],\"model_type\":\"qwen3_5_text\","
    "\"hidden_size\":4096,\"intermediate_size\":12288,\"num_hidden_layers\":32,"
    "\"num_attention_heads\":16,\"vocab_size\":248320,\"max_position_embeddings\":32768}";

static const char falcon_h1_0_5b[] =
    "{\"architectures\":[\"FalconH1ForCausalLM\"],\"attention_bias\":false,"
    "\"attention_dropout\":0.0,\"attention_in_multiplier\":1.0,"
    "\"attention_out_multiplier\":0.9375,\"bos_token_id\":1,\"embedding_multiplier\":5.656854249,"
    "\"eos_token_id\":11,\"head_dim\":64,\"hidden_act\":\"silu\",\"hidden_size\":1024,"
    "\"initializer_range\":0.02,\"intermediate_size\":2048,\"key_multiplier\":0.390625,"
    "\"lm_head_multiplier\":0.0390625,\"mamba_chunk_size\":128,\"mamba_conv_bias\":true,"
    "\"mamba_d_conv\":4,\"mamba_d_head\":64,\"mamba_d_ssm\":1536,\"mamba_d_state\":128,"
    "\"mamba_expand\":2,\"mamba_n_groups\":1,\"mamba_n_heads\":24,"
    "\"mamba_norm_before_gate\":false,\"mamba_proj_bias\":false,\"mamba_rms_norm\":false,"
    "\"mamba_use_mlp\":true,\"max_position_embeddings\":16384,\"mlp_bias\":false,"
    "\"mlp_expansion_factor\":8,\"mlp_multipliers\":[0.883883476,0.5859375],"
    "\"model_type\":\"falcon_h1\",\"num_attention_heads\":8,\"num_hidden_layers\":36,"
    "\"num_key_value_heads\":2,\"num_logits_to_keep\":1,\"pad_token_id\":0,"
    "\"projectors_bias\":false,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,"
    "\"rope_theta\":100000000000.0,\"ssm_in_multiplier\":1.25,"
    "\"ssm_multipliers\":[0.353553391,0.25,0.353553391,0.5,0.353553391],"
    "\"ssm_out_multiplier\":0.235702260,\"tie_word_embeddings\":false,"
    "\"time_step_floor\":0.0001,\"time_step_max\":0.1,\"time_step_min\":0.001,"
    "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.52.0.dev0\",\"use_cache\":true,"
    "\"vocab_size\":32784}";

static void parse(const char *json, struct model_desc *desc)
{
    struct err err = {0};
    if (model_desc_parse("config.json", json, strlen(json), desc, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static void check_site(const struct model_desc *d, uint32_t l, enum site_place place,
                       const char *module, uint32_t n, uint32_t k, enum site_split split)
{
    assert_int_not_equal(d->layers[l].site[place], SITE_NONE);
    const struct site *site = &d->sites[d->layers[l].site[place]];
    assert_string_equal(site->module, module);
    assert_int_equal(site->n, n);
    assert_int_equal(site->k, k);
    assert_int_equal(site->split, split);
    assert_int_equal(site->place, place);
    assert_int_equal(site->layer, l);
    assert_int_equal(model_site_find(d, module), site - d->sites);
}

/* Attention in every fourth layer, the delta rule in the others. */
static void check_qwen_layers(const struct model_desc *d)
{
    assert_int_equal(d->layer_n, 32);
    assert_int_equal(d->kv_layer_n, 8);
    assert_int_equal(d->state_layer_n, 24);
    assert_int_equal(d->site_n, 8 * 7 + 24 * 8);
    for (uint32_t l = 0; l < d->layer_n; l++) {
        const struct layer_desc *layer = &d->layers[l];
        bool is_attention = l % 4 == 3;
        assert_int_equal(layer->mixer, is_attention ? MIXER_ATTENTION : MIXER_GDN);
        assert_int_equal(layer->kv_layer, is_attention ? l / 4 : LAYER_NONE);
        assert_int_equal(layer->state_layer, is_attention ? LAYER_NONE : l - l / 4);
        for (enum site_place p = SITE_Q; p <= SITE_SSD_OUT; p++) {
            bool has_it = is_attention ? p <= SITE_O : p >= SITE_GDN_QKV && p <= SITE_GDN_OUT;
            assert_true((layer->site[p] != SITE_NONE) == has_it);
        }
    }
}

static void check_qwen_sites(const struct model_desc *d)
{
    check_site(d, 3, SITE_Q, "model.layers.3.self_attn.q_proj", 8192, 2560, SPLIT_COLUMN);
    check_site(d, 3, SITE_K, "model.layers.3.self_attn.k_proj", 1024, 2560, SPLIT_COLUMN);
    check_site(d, 31, SITE_V, "model.layers.31.self_attn.v_proj", 1024, 2560, SPLIT_COLUMN);
    check_site(d, 3, SITE_O, "model.layers.3.self_attn.o_proj", 2560, 4096, SPLIT_ROW);
    check_site(d, 0, SITE_GDN_QKV, "model.layers.0.linear_attn.in_proj_qkv", 8192, 2560,
               SPLIT_COLUMN);
    check_site(d, 0, SITE_GDN_Z, "model.layers.0.linear_attn.in_proj_z", 4096, 2560, SPLIT_COLUMN);
    check_site(d, 0, SITE_GDN_B, "model.layers.0.linear_attn.in_proj_b", 32, 2560, SPLIT_COLUMN);
    check_site(d, 30, SITE_GDN_A, "model.layers.30.linear_attn.in_proj_a", 32, 2560, SPLIT_COLUMN);
    check_site(d, 0, SITE_GDN_OUT, "model.layers.0.linear_attn.out_proj", 2560, 4096, SPLIT_ROW);
    check_site(d, 2, SITE_UP, "model.layers.2.mlp.up_proj", 9216, 2560, SPLIT_COLUMN);
    check_site(d, 3, SITE_DOWN, "model.layers.3.mlp.down_proj", 2560, 9216, SPLIT_ROW);
    /* as adapters of the outer model call it */
    assert_int_equal(model_site_find(d, "model.language_model.layers.0.linear_attn.in_proj_z"),
                     d->layers[0].site[SITE_GDN_Z]);
    assert_int_equal(model_site_find(d, "model.layers.0.self_attn.q_proj"), -1);
    assert_int_equal(model_site_find(d, "model.layers.3.linear_attn.in_proj_z"), -1);
}

static void reads_qwen_release(void **state)
{
    struct model_desc d;
    struct kern_open args = {0};
    uint32_t dims[3];
    (void)state;
    parse(qwen3_5_4b, &d);
    assert_string_equal(d.architecture, "Qwen3_5ForCausalLM");
    assert_string_equal(d.family, "qwen3_5_text");
    check_qwen_layers(&d);
    check_qwen_sites(&d);
    assert_true(d.is_tied); /* the inner word counts */
    assert_int_equal(d.context_max, 262144);
    assert_int_equal(d.checkpoint_dtype, DTYPE_BF16);
    assert_true(d.norm_eps == 1e-6f && d.attention_scale == 0.0625f);
    assert_true(d.has_qk_norm && d.has_attention_gate);
    assert_false(d.has_qkv_bias || d.has_o_bias || d.has_mlp_bias || d.gdn.is_fused);
    assert_true(d.table->flags & FAMILY_CENTRED_NORM);
    assert_true(d.embed_multiplier == 1 && d.head_multiplier == 1 && d.gate_multiplier == 1 &&
                d.attention_multiplier == 1 && d.ssd_multiplier == 1 && d.mlp_multiplier == 1);
    assert_int_equal(d.rotary_n, 64);
    assert_true(fabsf(d.inv_freq[1] / 0.604296390f - 1) < 1e-6f); /* 1e7^(-2/64) */
    assert_true(fabsf(d.inv_freq[31] / 1.654817e-7f - 1) < 1e-5f);
    model_state_dims(&d, dims);
    assert_true(dims[0] == 32 && dims[1] == 128 && dims[2] == 128);
    struct kern_state room = model_state(&d, 3);
    assert_int_equal(room.layer_n, 24);
    assert_int_equal(room.slot_n, 3);
    assert_int_equal(room.state_n, 524288); /* 2 MiB, 48 MiB of a sequence */
    assert_int_equal(room.conv_n, 8192);
    model_kern_limits(&d, &args);
    assert_int_equal(args.k_max, 9216);
    assert_int_equal(args.n_max, 2 * 9216);
    model_desc_done(&d);
}

/* What the outer file says of tying counts where the inner one is silent. */
static void reads_outer_tying(void **state)
{
    static const char *const inner[] = {"", "\"tie_word_embeddings\":false,",
                                        "\"tie_word_embeddings\":null,"};
    (void)state;
    for (size_t i = 0; i < ARRAY_N(inner); i++) {
        char json[1024];
        struct model_desc d;
        snprintf(json, sizeof json,
                 "{\"architectures\":[\"Qwen3_5ForConditionalGeneration\"],"
                 "\"model_type\":\"qwen3_5\",\"tie_word_embeddings\":true,\"text_config\":{%s"
                 "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":4,"
                 "\"num_attention_heads\":4,\"vocab_size\":300,"
                 "\"max_position_embeddings\":512}}",
                 inner[i]);
        parse(json, &d);
        assert_true(d.is_tied == (i != 1));
        model_desc_done(&d);
    }
}

static void reads_qwen_text(void **state)
{
    struct model_desc d;
    (void)state;
    parse(qwen3_5_text, &d);
    check_qwen_layers(&d);
    assert_int_equal(d.head_dim, 256);
    assert_int_equal(d.kv_head_n, 4);
    assert_true(d.gdn.key_head_n == 16 && d.gdn.value_head_n == 32);
    assert_true(d.gdn.key_dim == 128 && d.gdn.value_dim == 128);
    assert_int_equal(d.rotary_n, 64);
    assert_true(fabsf(d.inv_freq[1] / 0.749894209f - 1) < 1e-6f); /* 10000^(-2/64) */
    assert_true(d.norm_eps == 1e-6f);
    assert_false(d.is_tied);
    model_desc_done(&d);
}

static void reads_falcon_release(void **state)
{
    static const float pieces[] = {0.353553391f, 0.25f, 0.353553391f, 0.5f, 0.353553391f};
    struct model_desc d;
    uint32_t dims[3];
    (void)state;
    parse(falcon_h1_0_5b, &d);
    assert_string_equal(d.family, "falcon_h1");
    assert_int_equal(d.layer_n, 36);
    assert_int_equal(d.kv_layer_n, 36);
    assert_int_equal(d.state_layer_n, 36);
    assert_int_equal(d.site_n, 36 * 9);
    for (uint32_t l = 0; l < d.layer_n; l++) {
        assert_int_equal(d.layers[l].mixer, MIXER_ATTENTION_SSD);
        assert_true(d.layers[l].kv_layer == l && d.layers[l].state_layer == l);
        assert_int_equal(d.layers[l].site[SITE_GDN_QKV], SITE_NONE);
    }
    check_site(&d, 0, SITE_Q, "model.layers.0.self_attn.q_proj", 512, 1024, SPLIT_COLUMN);
    check_site(&d, 0, SITE_K, "model.layers.0.self_attn.k_proj", 128, 1024, SPLIT_COLUMN);
    check_site(&d, 35, SITE_SSD_IN, "model.layers.35.mamba.in_proj", 3352, 1024, SPLIT_COLUMN);
    check_site(&d, 35, SITE_SSD_OUT, "model.layers.35.mamba.out_proj", 1024, 1536, SPLIT_ROW);
    check_site(&d, 1, SITE_GATE, "model.layers.1.feed_forward.gate_proj", 2048, 1024, SPLIT_COLUMN);
    check_site(&d, 1, SITE_DOWN, "model.layers.1.feed_forward.down_proj", 1024, 2048, SPLIT_ROW);
    assert_true(d.embed_multiplier == 5.656854249f && d.head_multiplier == 0.0390625f);
    assert_true(d.attention_scale == 0.125f * 0.390625f && d.attention_multiplier == 0.9375f);
    assert_true(d.ssd_multiplier == 0.235702260f);
    assert_true(d.gate_multiplier == 0.883883476f && d.mlp_multiplier == 0.5859375f);
    for (size_t i = 0; i < ARRAY_N(pieces); i++) {
        assert_true(d.ssd.multipliers[i] == pieces[i] * 1.25f);
    }
    assert_int_equal(d.ssd.norm_order, KERN_SSD_NO_NORM);
    assert_true(d.ssd.has_conv_bias);
    assert_false(d.has_attention_gate || d.has_qk_norm || d.is_tied);
    assert_false(d.table->flags & FAMILY_CENTRED_NORM);
    assert_int_equal(d.rotary_n, 64);
    assert_true(fabsf(d.inv_freq[1] / 0.453158364f - 1) < 1e-6f); /* 1e11^(-2/64) */
    model_state_dims(&d, dims);
    assert_true(dims[0] == 24 && dims[1] == 64 && dims[2] == 128);
    assert_int_equal(model_state(&d, 1).state_n, 196608);
    assert_int_equal(model_state(&d, 1).conv_n, 1792);
    model_desc_done(&d);
}

/* Small whole configs, without the keys named in `drop` and with something added. */
static const char *const qwen_keys[] = {"\"model_type\":\"qwen3_5_text\"",
                                        "\"architectures\":[\"Qwen3_5ForCausalLM\"]",
                                        "\"vocab_size\":300",
                                        "\"hidden_size\":64",
                                        "\"intermediate_size\":96",
                                        "\"num_hidden_layers\":4",
                                        "\"num_attention_heads\":4",
                                        "\"num_key_value_heads\":2",
                                        "\"head_dim\":32",
                                        "\"max_position_embeddings\":512",
                                        "\"linear_num_key_heads\":2",
                                        "\"linear_num_value_heads\":4",
                                        NULL};
static const char *const falcon_keys[] = {"\"model_type\":\"falcon_h1\"",
                                          "\"architectures\":[\"FalconH1ForCausalLM\"]",
                                          "\"vocab_size\":300",
                                          "\"hidden_size\":64",
                                          "\"intermediate_size\":96",
                                          "\"num_hidden_layers\":4",
                                          "\"num_attention_heads\":4",
                                          "\"num_key_value_heads\":2",
                                          "\"max_position_embeddings\":512",
                                          "\"mamba_n_heads\":4",
                                          "\"mamba_d_head\":8",
                                          "\"mamba_d_ssm\":32",
                                          "\"mamba_d_state\":16",
                                          NULL};

static void build(char *out, size_t out_bytes, const char *const *keys, const char *drop,
                  const char *add)
{
    size_t at = (size_t)snprintf(out, out_bytes, "{%s", add);
    for (; *keys; keys++) {
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(strchr(*keys, ':') - *keys - 2), *keys + 1);
        if (strcmp(drop, key) != 0) {
            at += (size_t)snprintf(out + at, out_bytes - at, ",%s", *keys);
        }
    }
    snprintf(out + at, out_bytes - at, "}");
}

struct variant {
    const char *drop, *add;
    const char *error; /* NULL: accepted */
    int code;
};

#define ONLY ERR_NOT_IMPLEMENTED

static const struct variant qwen_variants[] = {
    {"", "\"x\":null", NULL, 0},
    {"", "\"output_gate_type\":\"silu\",\"attn_output_gate\":null", NULL, 0},
    {"", "\"layer_types\":null,\"full_attention_interval\":2", NULL, 0},
    {"", "\"partial_rotary_factor\":1", NULL, 0},
    {"", "\"rope_theta\":5,\"rope_parameters\":{\"partial_rotary_factor\":0.0625}", NULL, 0},
    {"", "\"mtp_num_hidden_layers\":3,\"attention_bias\":true", NULL, 0},
    {"", "\"attn_output_gate\":false", "\"attn_output_gate\" is false, only true is implemented",
     ONLY},
    {"", "\"output_gate_type\":\"sigmoid\"",
     "\"output_gate_type\" is \"sigmoid\", only \"swish\" is implemented", ONLY},
    {"", "\"mamba_ssm_dtype\":\"bfloat16\"",
     "\"mamba_ssm_dtype\" is \"bfloat16\", only \"float32\" is implemented", ONLY},
    {"", "\"linear_conv_kernel_dim\":3", "\"linear_conv_kernel_dim\" is 3, it must lie in 4 to 4",
     ERR_BAD_FILE},
    {"", "\"linear_key_head_dim\":257", "\"linear_key_head_dim\" is 257, it must lie in 1 to 256",
     ERR_BAD_FILE},
    {"linear_num_value_heads", "\"linear_num_value_heads\":3",
     "\"linear_num_value_heads\" 3 is no multiple of \"linear_num_key_heads\" 2", ERR_BAD_FILE},
    {"", "\"foo_multiplier\":2",
     "\"foo_multiplier\" is 2, which is not implemented for \"qwen3_5_text\"", ONLY},
    {"", "\"mamba_d_ssm\":64",
     "\"mamba_d_ssm\" is 64, which is not implemented for \"qwen3_5_text\"", ONLY},
    {"", "\"mlp_bias\":true", "\"mlp_bias\" is true, which is not implemented for \"qwen3_5_text\"",
     ONLY},
    {"", "\"num_experts\":8", "\"num_experts\" is 8, which is not implemented for \"qwen3_5_text\"",
     ONLY},
    {"", "\"layer_types\":[" LLLF "," LLLF "]",
     "\"layer_types\" is not a list of 4, one for each layer", ERR_BAD_FILE},
    {"", "\"layer_types\":\"full_attention\"",
     "\"layer_types\" is not a list of 4, one for each layer", ERR_BAD_FILE},
    {"", "\"layer_types\":[\"full_attention\",\"linear_attention\",\"sliding_attention\",null]",
     "\"layer_types\" has \"sliding_attention\" for layer 2, only linear_attention and "
     "full_attention are implemented",
     ONLY},
    {"", "\"layer_types\":[\"full_attention\",null,null,null]",
     "\"layer_types\" has null for layer 1, only linear_attention and full_attention are "
     "implemented",
     ONLY},
    {"",
     "\"layer_types\":[\"linear_attention\",\"linear_attention\",\"linear_attention\","
     "\"linear_attention\"]",
     "no layer has attention, one at least must have it", ONLY},
    {"", "\"full_attention_interval\":5", "no layer has attention, one at least must have it",
     ONLY},
    {"", "\"full_attention_interval\":0",
     "\"full_attention_interval\" is 0, it must lie in 1 to 256", ERR_BAD_FILE},
    {"", "\"partial_rotary_factor\":0.09375",
     "\"partial_rotary_factor\" is 0.09375: of 32 dimensions an even number from 2 on must be "
     "rotated",
     ERR_BAD_FILE},
    {"", "\"partial_rotary_factor\":0.3",
     "\"partial_rotary_factor\" is 0.3: of 32 dimensions an even number from 2 on must be rotated",
     ERR_BAD_FILE},
    {"", "\"rope_parameters\":{\"partial_rotary_factor\":1.25}",
     "\"partial_rotary_factor\" is 1.25: of 32 dimensions an even number from 2 on must be "
     "rotated",
     ERR_BAD_FILE},
    {"", "\"partial_rotary_factor\":0",
     "\"partial_rotary_factor\" is 0: of 32 dimensions an even number from 2 on must be rotated",
     ERR_BAD_FILE},
    {"", "\"rope_parameters\":{\"mrope_sections\":[1]}",
     "\"rope_parameters\" has \"mrope_sections\" [1], which is not implemented", ONLY},
    {"architectures", "\"architectures\":[\"Qwen3_5ForConditionalGeneration\"]",
     "\"architectures\" is [\"Qwen3_5ForConditionalGeneration\"], for model_type "
     "\"qwen3_5_text\" only [\"Qwen3_5ForCausalLM\"] is implemented",
     ONLY},
};

static const struct variant falcon_variants[] = {
    {"", "\"x\":null", NULL, 0},
    {"", "\"time_step_limit\":[0.0,{\"__float__\":\"Infinity\"}]", NULL, 0},
    {"", "\"time_step_limit\":[0,\"Infinity\"]", NULL, 0},
    {"", "\"time_step_limit\":[0.0,Infinity]", NULL, 0}, /* as Python writes it */
    {"", "\"time_step_limit\":[0,1e38]", NULL, 0},
    {"mamba_d_head", "\"mamba_d_head\":\"auto\"", NULL, 0},
    {"", "\"attention_bias\":true,\"mlp_bias\":true,\"mamba_conv_bias\":false", NULL, 0},
    {"", "\"time_step_limit\":[0.0,0.1]",
     "\"time_step_limit\" is [0.0,0.10000000000000001], only 0 to infinity is implemented", ONLY},
    {"", "\"time_step_limit\":[0.5,\"Infinity\"]",
     "\"time_step_limit\" is [0.5,\"Infinity\"], only 0 to infinity is implemented", ONLY},
    {"", "\"mamba_proj_bias\":true", "\"mamba_proj_bias\" is true, only false is implemented",
     ONLY},
    {"", "\"projectors_bias\":true", "\"projectors_bias\" is true, only false is implemented",
     ONLY},
    {"", "\"mamba_use_mlp\":false", "\"mamba_use_mlp\" is false, only true is implemented", ONLY},
    {"", "\"mamba_rms_norm\":1", "\"mamba_rms_norm\" is 1, true or false is wanted", ERR_BAD_FILE},
    {"", "\"foo_multiplier\":2",
     "\"foo_multiplier\" is 2, which is not implemented for \"falcon_h1\"", ONLY},
    {"", "\"layer_types\":[\"full_attention\"]",
     "\"layer_types\" is [\"full_attention\"], which is not implemented for \"falcon_h1\"", ONLY},
    {"", "\"partial_rotary_factor\":0.5",
     "\"partial_rotary_factor\" is 0.5, which is not implemented for \"falcon_h1\"", ONLY},
    {"", "\"key_multiplier\":0", "\"key_multiplier\" is 0, it must be finite and not 0",
     ERR_BAD_FILE},
    {"", "\"lm_head_multiplier\":1e39",
     "\"lm_head_multiplier\" is 1e+39, it must be finite and not 0", ERR_BAD_FILE},
    {"", "\"embedding_multiplier\":1e-50",
     "\"embedding_multiplier\" is 1e-50, it must be finite and not 0", ERR_BAD_FILE},
    {"", "\"mlp_multipliers\":[1]",
     "\"mlp_multipliers\" is [1], it must be a list of 2 numbers other than 0", ERR_BAD_FILE},
    {"", "\"ssm_multipliers\":[1,1,0,1,1]",
     "\"ssm_multipliers\" is [1,1,0,1,1], it must be a list of 5 numbers other than 0",
     ERR_BAD_FILE},
    {"", "\"ssm_multipliers\":2",
     "\"ssm_multipliers\" is 2, it must be a list of 5 numbers other than 0", ERR_BAD_FILE},
    {"", "\"attention_in_multiplier\":1e20",
     "the multipliers of the scores come to inf, which must be finite and not 0", ERR_BAD_FILE},
    {"", "\"attention_in_multiplier\":1e15,\"attention_out_multiplier\":1e30",
     "the multipliers of attention come to inf, which must be finite and not 0", ERR_BAD_FILE},
    {"", "\"ssm_in_multiplier\":1e-30,\"ssm_multipliers\":[1,1,1,1,1e-30]",
     "the multipliers of mamba.in_proj come to 0, which must be finite and not 0", ERR_BAD_FILE},
    {"", "\"attention_bias\":true,\"attention_in_multiplier\":2",
     "\"attention_bias\" is true and \"attention_in_multiplier\" is 2, \"key_multiplier\" 1: with "
     "a bias both must be 1",
     ONLY},
    {"", "\"mamba_d_conv\":3", "\"mamba_d_conv\" is 3, it must lie in 4 to 4", ERR_BAD_FILE},
    {"", "\"mamba_n_groups\":3", "\"mamba_n_heads\" 4 is no multiple of \"mamba_n_groups\" 3",
     ERR_BAD_FILE},
    {"mamba_d_ssm", "\"mamba_d_ssm\":48",
     "\"mamba_d_ssm\" is 48: 4 heads of 8 are something else, or a head is larger than 256",
     ERR_BAD_FILE},
    {"mamba_d_head", "\"mamba_d_head\":512", "\"mamba_d_head\" is 512, it must lie in 1 to 256",
     ERR_BAD_FILE},
    {"mamba_d_state", "\"mamba_d_state\":257", "\"mamba_d_state\" is 257, it must lie in 1 to 256",
     ERR_BAD_FILE},
};

static void check_variants(const char *const *keys, const struct variant *variants, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct variant *v = &variants[i];
        char json[2048];
        char want[512];
        struct model_desc d;
        struct err err = {0};
        build(json, sizeof json, keys, v->drop, v->add);
        int rc = model_desc_parse("c", json, strlen(json), &d, &err);
        snprintf(want, sizeof want, "%s%s", v->error ? "c: " : "", v->error ? v->error : "");
        assert_string_equal(err.text, want);
        assert_int_equal(rc, v->code);
        if (rc == 0) {
            model_desc_done(&d);
        }
    }
}

static void takes_or_refuses_keys(void **state)
{
    (void)state;
    check_variants(qwen_keys, qwen_variants, ARRAY_N(qwen_variants));
    check_variants(falcon_keys, falcon_variants, ARRAY_N(falcon_variants));
}

/* The outer file's own keys, and what stands in for the text model. */
static void refuses_outer_files(void **state)
{
    static const char *const outer[] = {"\"model_type\":\"qwen3_5\"",
                                        "\"architectures\":[\"Qwen3_5ForConditionalGeneration\"]",
                                        NULL};
    static const struct variant variants[] = {
        {"", "\"x\":null", "\"text_config\" is no object, \"model_type\" \"qwen3_5\" needs one",
         ERR_BAD_FILE},
        {"", "\"text_config\":[1]",
         "\"text_config\" is no object, \"model_type\" \"qwen3_5\" needs one", ERR_BAD_FILE},
        {"", "\"text_config\":{\"model_type\":\"qwen3\"}",
         "\"text_config\" has \"model_type\" \"qwen3\", only \"qwen3_5_text\" is implemented",
         ONLY},
        {"", "\"text_config\":{},\"hidden_size\":64",
         "\"hidden_size\" is 64, which is not implemented beside \"text_config\"", ONLY},
        {"", "\"text_config\":{},\"quantization_config\":{\"bits\":4}",
         "\"quantization_config\" is {\"bits\":4}, which is not implemented beside "
         "\"text_config\"",
         ONLY},
        {"", "\"text_config\":{\"vocab_size\":300}", "\"hidden_size\" is missing", ERR_BAD_FILE},
        {"architectures", "\"architectures\":[\"Qwen3_5ForCausalLM\"],\"text_config\":{}",
         "\"architectures\" is [\"Qwen3_5ForCausalLM\"], for model_type \"qwen3_5\" only "
         "[\"Qwen3_5ForConditionalGeneration\"] is implemented",
         ONLY},
    };
    (void)state;
    check_variants(outer, variants, ARRAY_N(variants));
}

static void orders_and_widths(void **state)
{
    static const struct {
        const char *drop, *add;
        enum kern_ssd_norm order;
        uint32_t head_dim;
    } cases[] = {
        {"", "\"mamba_rms_norm\":true", KERN_SSD_NORM_FIRST, 8},
        {"", "\"mamba_rms_norm\":true,\"mamba_norm_before_gate\":false", KERN_SSD_NORM_LAST, 8},
        {"", "\"mamba_rms_norm\":true,\"mamba_norm_before_gate\":null", KERN_SSD_NORM_LAST, 8},
        {"", "\"mamba_norm_before_gate\":true", KERN_SSD_NO_NORM, 8},
        {"mamba_d_head", "\"mamba_d_head\":null", KERN_SSD_NO_NORM, 8},
        {"mamba_d_ssm", "\"mamba_d_ssm\":null,\"mamba_expand\":1,\"mamba_rms_norm\":false",
         KERN_SSD_NO_NORM, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        char json[2048];
        struct model_desc d;
        struct err err = {0};
        build(json, sizeof json, falcon_keys, cases[i].drop, cases[i].add);
        int rc = model_desc_parse("c", json, strlen(json), &d, &err);
        if (cases[i].head_dim == 0) { /* 1 times 64 wide, which 4 heads of 8 are not */
            assert_string_equal(err.text, "c: \"mamba_d_ssm\" is 64: 4 heads of 8 are something "
                                          "else, or a head is larger than 256");
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(d.ssd.norm_order, cases[i].order);
        assert_int_equal(d.ssd.head_dim, cases[i].head_dim);
        assert_true(d.ssd.has_conv_bias);
        model_desc_done(&d);
    }
}

static void null_is_no_bias(void **state)
{
    char json[2048];
    struct model_desc d;
    (void)state;
    build(json, sizeof json, falcon_keys, "", "\"mamba_conv_bias\":null");
    parse(json, &d);
    assert_false(d.ssd.has_conv_bias);
    model_desc_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_qwen_release),   cmocka_unit_test(reads_qwen_text),
        cmocka_unit_test(reads_falcon_release), cmocka_unit_test(takes_or_refuses_keys),
        cmocka_unit_test(refuses_outer_files),  cmocka_unit_test(orders_and_widths),
        cmocka_unit_test(reads_outer_tying),    cmocka_unit_test(null_is_no_bias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
