/* A safetensors file is a header of JSON, then the values in the same order. */
#include "tests/test.h"

#include "tests/mixing/files.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/base.h"
#include "kernels/random.h"

#define LAYERS 3
#define HIDDEN 72
#define FFN    136
#define HEADS  4
#define KV     2
#define DIM    16
/* the gated delta rule */
#define GDN_KEYS   2
#define GDN_VALUES 4
#define GDN_KEY    16
#define GDN_VALUE  24
#define GDN_CONV   (2 * GDN_KEYS * GDN_KEY + GDN_VALUES * GDN_VALUE)
/* Mamba-2 */
#define SSD_HEADS  4
#define SSD_DIM    24
#define SSD_GROUPS 2
#define SSD_STATE  20
#define SSD_WIDE   (SSD_HEADS * SSD_DIM)
#define SSD_CONV   (SSD_WIDE + 2 * SSD_GROUPS * SSD_STATE)

#define COMMON_CONFIG                                                                              \
    "\"hidden_size\":72,\"intermediate_size\":136,\"num_hidden_layers\":3,"                        \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_size\":139,"      \
    "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":256,\"hidden_act\":\"silu\","               \
    "\"tie_word_embeddings\":true,\"eos_token_id\":2,\"torch_dtype\":\"float32\","

static const char *const model_configs[FILES_FAMILIES] = {
    "{\"architectures\":[\"Qwen3_5ForCausalLM\"],\"model_type\":\"qwen3_5_text\"," COMMON_CONFIG
    "\"layer_types\":[\"linear_attention\",\"full_attention\",\"linear_attention\"],"
    "\"linear_key_head_dim\":16,\"linear_value_head_dim\":24,\"linear_num_key_heads\":2,"
    "\"linear_num_value_heads\":4,\"partial_rotary_factor\":0.5,\"rope_theta\":10000.0}",
    "{\"architectures\":[\"FalconH1ForCausalLM\"],\"model_type\":\"falcon_h1\"," COMMON_CONFIG
    "\"mamba_d_ssm\":96,\"mamba_n_heads\":4,\"mamba_d_head\":24,\"mamba_n_groups\":2,"
    "\"mamba_d_state\":20,\"mamba_rms_norm\":true,\"mamba_norm_before_gate\":false,"
    "\"key_multiplier\":0.8,\"ssm_multipliers\":[0.9,1.1,0.7,1.2,0.95],"
    "\"mlp_multipliers\":[1.1,0.9],\"lm_head_multiplier\":1.5,\"rope_theta\":10000.0}",
};

struct linear {
    const char *module;
    uint32_t n;
    uint32_t k;
    uint32_t layers; /* a bit for each layer that has it */
};

static const struct linear qwen35_linears[] = {
    {"self_attn.q_proj", 2 * HEADS *DIM, HIDDEN, 2},
    {"self_attn.k_proj", KV *DIM, HIDDEN, 2},
    {"self_attn.v_proj", KV *DIM, HIDDEN, 2},
    {"self_attn.o_proj", HIDDEN, HEADS *DIM, 2},
    {"linear_attn.in_proj_qkv", GDN_CONV, HIDDEN, 5},
    {"linear_attn.in_proj_z", GDN_VALUES *GDN_VALUE, HIDDEN, 5},
    {"linear_attn.in_proj_b", GDN_VALUES, HIDDEN, 5},
    {"linear_attn.in_proj_a", GDN_VALUES, HIDDEN, 5},
    {"linear_attn.out_proj", HIDDEN, GDN_VALUES *GDN_VALUE, 5},
    {"mlp.gate_proj", FFN, HIDDEN, 7},
    {"mlp.up_proj", FFN, HIDDEN, 7},
    {"mlp.down_proj", HIDDEN, FFN, 7},
};

static const struct linear falcon_linears[] = {
    {"self_attn.q_proj", HEADS *DIM, HIDDEN, 7},
    {"self_attn.k_proj", KV *DIM, HIDDEN, 7},
    {"self_attn.v_proj", KV *DIM, HIDDEN, 7},
    {"self_attn.o_proj", HIDDEN, HEADS *DIM, 7},
    {"mamba.in_proj", SSD_WIDE + SSD_CONV + SSD_HEADS, HIDDEN, 7},
    {"mamba.out_proj", HIDDEN, SSD_WIDE, 7},
    {"feed_forward.gate_proj", FFN, HIDDEN, 7},
    {"feed_forward.up_proj", FFN, HIDDEN, 7},
    {"feed_forward.down_proj", HIDDEN, FFN, 7},
};

/* Tensors that are no linears: mean and spread of their values. */
struct extra {
    const char *name;
    uint32_t rows, cols; /* cols 0: a vector; taps: [rows, 1, cols] */
    bool is_taps;
    float mean, spread;
    uint32_t layers;
};

static const struct extra qwen35_extras[] = {
    {"input_layernorm.weight", HIDDEN, 0, false, 0, 0.3f, 7},
    {"post_attention_layernorm.weight", HIDDEN, 0, false, 0, 0.3f, 7},
    {"self_attn.q_norm.weight", DIM, 0, false, 0, 0.3f, 2},
    {"self_attn.k_norm.weight", DIM, 0, false, 0, 0.3f, 2},
    {"linear_attn.conv1d.weight", GDN_CONV, 4, true, 0, 0.8f, 5},
    {"linear_attn.A_log", GDN_VALUES, 0, false, -1, 1, 5},
    {"linear_attn.dt_bias", GDN_VALUES, 0, false, -1, 1, 5},
    {"linear_attn.norm.weight", GDN_VALUE, 0, false, 1, 0.3f, 5},
};

static const struct extra falcon_extras[] = {
    {"input_layernorm.weight", HIDDEN, 0, false, 1, 0.3f, 7},
    {"pre_ff_layernorm.weight", HIDDEN, 0, false, 1, 0.3f, 7},
    {"mamba.conv1d.weight", SSD_CONV, 4, true, 0, 0.8f, 7},
    {"mamba.conv1d.bias", SSD_CONV, 0, false, 0, 0.2f, 7},
    {"mamba.A_log", SSD_HEADS, 0, false, -1, 1, 7},
    {"mamba.D", SSD_HEADS, 0, false, 1, 0.3f, 7},
    {"mamba.dt_bias", SSD_HEADS, 0, false, -1, 1, 7},
    {"mamba.norm.weight", SSD_WIDE, 0, false, 1, 0.3f, 7},
};

/* What one family's files are made of. */
struct family {
    const struct linear *linears;
    uint32_t linear_n;
    const struct extra *extras;
    uint32_t extra_n;
    const char *final_norm;
    float final_mean;
    uint32_t state[3];
};

static const struct family families[FILES_FAMILIES] = {
    {qwen35_linears,
     ARRAY_N(qwen35_linears),
     qwen35_extras,
     ARRAY_N(qwen35_extras),
     "model.norm.weight",
     0,
     {GDN_VALUES, GDN_KEY, GDN_VALUE}},
    {falcon_linears,
     ARRAY_N(falcon_linears),
     falcon_extras,
     ARRAY_N(falcon_extras),
     "model.final_layernorm.weight",
     1,
     {SSD_HEADS, SSD_DIM, SSD_STATE}},
};

/* Rank, and as bits which of the linears a LoRA adapter changes; the last ones that there are. */
static const struct {
    uint32_t rank;
    uint32_t sites;
} loras[FILES_LORA] = {{8, 0xFFF}, {1, 0x0A5}, {3, 0x03F}, {16, 0xFFF}, {6, 0xE70}, {33, 0x948}};

/* A tensor file as it grows. */
struct weights {
    struct buf head;
    struct buf body;
    uint64_t seed;
};

/* Values are mean + spread * u, u in [-1, 1). */
static void add_dims(struct weights *w, const char *name, const char *shape, uint32_t n, float mean,
                     float spread)
{
    size_t from = w->body.n;
    for (uint32_t i = 0; i < n; i++) {
        float value = mean + spread * (2 * kern_random(w->seed, i) - 1);
        buf_add(&w->body, &value, sizeof value);
    }
    w->seed++;
    buf_printf(&w->head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
               w->head.n ? "," : "{", name, shape, from, w->body.n);
}

/* cols 0 makes a vector. */
static void add(struct weights *w, const char *name, uint32_t rows, uint32_t cols, float mean,
                float spread)
{
    char shape[32];
    snprintf(shape, sizeof shape, cols ? "%u,%u" : "%u", rows, cols);
    add_dims(w, name, shape, rows * (cols ? cols : 1), mean, spread);
}

static void write_file(const char *path, const struct buf *head, const struct buf *body)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(head->data, 1, head->n, f), head->n);
    if (body) {
        assert_int_equal(fwrite(body->data, 1, body->n, f), body->n);
    }
    assert_int_equal(fclose(f), 0);
}

static void finish(struct weights *w, const char *path)
{
    struct buf head = {0};
    buf_add_str(&w->head, "}");
    while (w->head.n % 8 != 0) {
        buf_add_str(&w->head, " ");
    }
    uint64_t n = w->head.n;
    buf_add(&head, &n, sizeof n);
    buf_add(&head, w->head.data, w->head.n);
    write_file(path, &head, &w->body);
    buf_done(&head);
    buf_done(&w->head);
    buf_done(&w->body);
}

static void make_model(const struct files *files)
{
    const struct family *family = &families[files->family];
    struct weights w = {.seed = 1};
    struct buf config = {0};
    char name[160];
    char shape[32];
    char path[192];
    add(&w, "model.embed_tokens.weight", FILES_VOCAB, HIDDEN, 0, 0.6f);
    add(&w, family->final_norm, HIDDEN, 0, family->final_mean, 0.3f);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < family->extra_n; i++) {
            const struct extra *e = &family->extras[i];
            uint32_t n = e->rows * (e->cols ? e->cols : 1);
            snprintf(name, sizeof name, "model.layers.%u.%s", l, e->name);
            snprintf(shape, sizeof shape, e->is_taps ? "%u,1,%u" : "%u", e->rows, e->cols);
            if (e->layers >> l & 1) {
                add_dims(&w, name, shape, n, e->mean, e->spread);
            }
        }
        for (uint32_t i = 0; i < family->linear_n; i++) {
            const struct linear *linear = &family->linears[i];
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, linear->module);
            if (linear->layers >> l & 1) {
                add(&w, name, linear->n, linear->k, 0, 2 / sqrtf((float)linear->k));
            }
        }
    }
    snprintf(path, sizeof path, "%s/model.safetensors", files->model);
    finish(&w, path);
    buf_add_str(&config, model_configs[files->family]);
    snprintf(path, sizeof path, "%s/config.json", files->model);
    write_file(path, &config, NULL);
    buf_done(&config);
}

static void make_folder(const struct files *files, uint32_t index)
{
    char path[192];
    snprintf(path, sizeof path, "%s/a%u", files->adapters, index);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* Writes both files of an adapter and lets them go. */
static void finish_adapter(const struct files *files, uint32_t index, struct weights *w,
                           const char *weights_name, struct buf *config, const char *config_name)
{
    char path[192];
    make_folder(files, index);
    snprintf(path, sizeof path, "%s/a%u/%s", files->adapters, index, weights_name);
    finish(w, path);
    snprintf(path, sizeof path, "%s/a%u/%s", files->adapters, index, config_name);
    write_file(path, config, NULL);
    buf_done(config);
}

static void make_lora(const struct files *files, uint32_t index, uint32_t which)
{
    const struct family *family = &families[files->family];
    uint32_t rank = loras[which].rank;
    struct weights w = {.seed = 1000 * (index + 1)};
    struct buf config = {0};
    char name[160];
    buf_printf(&config,
               "{\"peft_type\":\"LORA\",\"r\":%u,\"lora_alpha\":%u,\"use_rslora\":%s,"
               "\"bias\":\"none\",\"task_type\":\"CAUSAL_LM\",\"target_modules\":[",
               rank, 2 * rank, which % 2 ? "true" : "false");
    bool is_first = true;
    for (uint32_t i = 0; i < family->linear_n; i++) {
        const struct linear *linear = &family->linears[i];
        if (!(loras[which].sites >> i & 1)) {
            continue;
        }
        buf_printf(&config, "%s\"%s\"", is_first ? "" : ",", strchr(linear->module, '.') + 1);
        is_first = false;
        for (uint32_t l = 0; l < LAYERS; l++) {
            const char *prefix = "base_model.model.model.layers.";
            if (!(linear->layers >> l & 1)) {
                continue;
            }
            snprintf(name, sizeof name, "%s%u.%s.lora_A.weight", prefix, l, linear->module);
            add(&w, name, rank, linear->k, 0, 1 / sqrtf((float)linear->k));
            snprintf(name, sizeof name, "%s%u.%s.lora_B.weight", prefix, l, linear->module);
            add(&w, name, linear->n, rank, 0, 0.5f / sqrtf((float)rank));
        }
    }
    buf_add_str(&config, "]}");
    finish_adapter(files, index, &w, "adapter_model.safetensors", &config, "adapter_config.json");
}

/* Outputs of k and v, and inputs of down and of the recurrent mixer's way out. */
static void make_ia3(const struct files *files, uint32_t index)
{
    static const char *const words[] = {"k_proj", "v_proj", "down_proj", "out_proj"};
    const struct family *family = &families[files->family];
    struct weights w = {.seed = 1000 * (index + 1)};
    struct buf config = {0};
    char name[160];
    for (uint32_t i = 0; i < family->linear_n; i++) {
        const struct linear *linear = &family->linears[i];
        const char *word = strchr(linear->module, '.') + 1;
        uint32_t at = 0;
        while (at < ARRAY_N(words) && strcmp(words[at], word) != 0) {
            at++;
        }
        for (uint32_t l = 0; l < LAYERS && at < ARRAY_N(words); l++) {
            snprintf(name, sizeof name, "base_model.model.model.layers.%u.%s.ia3_l", l,
                     linear->module);
            if (linear->layers >> l & 1) {
                add(&w, name, at < 2 ? linear->n : 1, at < 2 ? 1 : linear->k, 1, 0.6f);
            }
        }
    }
    buf_add_str(&config, "{\"peft_type\":\"IA3\",\"target_modules\":[\"k_proj\",\"v_proj\","
                         "\"down_proj\",\"out_proj\"],\"feedforward_modules\":[\"down_proj\","
                         "\"out_proj\"]}");
    finish_adapter(files, index, &w, "adapter_model.safetensors", &config, "adapter_config.json");
}

static void make_state(const struct files *files, uint32_t index)
{
    const uint32_t *d = families[files->family].state;
    struct weights w = {.seed = 1000 * (index + 1)};
    struct buf config = {0};
    char name[16];
    char shape[48];
    snprintf(shape, sizeof shape, "%u,%u,%u", d[0], d[1], d[2]);
    for (uint32_t l = 0; l < LAYERS; l++) {
        snprintf(name, sizeof name, "%u", l);
        if (files->family == FILES_FALCON || l != 1) {
            add_dims(&w, name, shape, d[0] * d[1] * d[2], 0, 1);
        }
    }
    buf_printf(&config, "{\"alpha\":%s,\"normalize\":%s}", index == 2 ? "1.5" : "20",
               index == 2 ? "false" : "true");
    finish_adapter(files, index, &w, "states.safetensors", &config, "config.json");
}

static void make_adapter(const struct files *files, uint32_t index)
{
    static const uint32_t lora_at[FILES_LORA] = {0, 1, 3, 5, 6, 8};
    for (uint32_t i = 0; i < FILES_LORA; i++) {
        if (lora_at[i] == index) {
            make_lora(files, index, i);
            return;
        }
    }
    if (index % 5 == 2) {
        make_state(files, index);
    } else {
        make_ia3(files, index);
    }
}

void files_open(struct files *files, enum files_family family)
{
    files->family = family;
    snprintf(files->root, sizeof files->root, "/tmp/graft-mixing-XXXXXX");
    assert_non_null(mkdtemp(files->root));
    snprintf(files->model, sizeof files->model, "%s/model", files->root);
    snprintf(files->adapters, sizeof files->adapters, "%s/adapters", files->root);
    assert_int_equal(mkdir(files->model, 0700), 0);
    assert_int_equal(mkdir(files->adapters, 0700), 0);
    make_model(files);
    for (uint32_t i = 0; i < FILES_ADAPTERS; i++) {
        make_adapter(files, i);
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void files_close(struct files *files)
{
    assert_int_equal(nftw(files->root, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}
