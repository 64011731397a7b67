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

#define LAYERS 2
#define HIDDEN 72
#define FFN    136
#define HEADS  4
#define KV     2
#define DIM    16

static const char model_config[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_size\":72,"
    "\"intermediate_size\":136,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_size\":139,\"rms_norm_eps\":1e-6,"
    "\"rope_theta\":10000.0,\"max_position_embeddings\":256,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"eos_token_id\":2,\"torch_dtype\":\"float32\"}";

struct linear {
    const char *module;
    uint32_t n;
    uint32_t k;
};

static const struct linear linears[] = {
    {"self_attn.q_proj", HEADS *DIM, HIDDEN}, {"self_attn.k_proj", KV *DIM, HIDDEN},
    {"self_attn.v_proj", KV *DIM, HIDDEN},    {"self_attn.o_proj", HIDDEN, HEADS *DIM},
    {"mlp.gate_proj", FFN, HIDDEN},           {"mlp.up_proj", FFN, HIDDEN},
    {"mlp.down_proj", HIDDEN, FFN},
};

/* Rank, and as bits which of the linears an adapter changes. */
static const struct {
    uint32_t rank;
    uint32_t sites;
} adapters[FILES_ADAPTERS] = {{8, 0x7F}, {1, 0x05}, {3, 0x0F}, {16, 0x7F}, {6, 0x70}, {33, 0x48}};

/* A tensor file as it grows. */
struct weights {
    struct buf head;
    struct buf body;
    uint64_t seed;
};

/* Values are mean + spread * u, u in [-1, 1). cols 0 makes a vector. */
static void add(struct weights *w, const char *name, uint32_t rows, uint32_t cols, float mean,
                float spread)
{
    uint32_t n = rows * (cols ? cols : 1);
    size_t from = w->body.n;
    for (uint32_t i = 0; i < n; i++) {
        float value = mean + spread * (2 * kern_random(w->seed, i) - 1);
        buf_add(&w->body, &value, sizeof value);
    }
    w->seed++;
    buf_printf(&w->head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%u", w->head.n ? "," : "{", name,
               rows);
    if (cols) {
        buf_printf(&w->head, ",%u", cols);
    }
    buf_printf(&w->head, "],\"data_offsets\":[%zu,%zu]}", from, w->body.n);
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
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    static const char *const head_norms[] = {"self_attn.q_norm", "self_attn.k_norm"};
    struct weights w = {.seed = 1};
    struct buf config = {0};
    char name[160];
    char path[192];
    add(&w, "model.embed_tokens.weight", FILES_VOCAB, HIDDEN, 0, 0.6f);
    add(&w, "model.norm.weight", HIDDEN, 0, 1, 0.3f);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, norms[i]);
            add(&w, name, HIDDEN, 0, 1, 0.3f);
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, head_norms[i]);
            add(&w, name, DIM, 0, 1, 0.3f);
        }
        for (uint32_t i = 0; i < ARRAY_N(linears); i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, linears[i].module);
            add(&w, name, linears[i].n, linears[i].k, 0, 2 / sqrtf((float)linears[i].k));
        }
    }
    snprintf(path, sizeof path, "%s/model.safetensors", files->model);
    finish(&w, path);
    buf_add_str(&config, model_config);
    snprintf(path, sizeof path, "%s/config.json", files->model);
    write_file(path, &config, NULL);
    buf_done(&config);
}

static void make_adapter(const struct files *files, uint32_t index)
{
    uint32_t rank = adapters[index].rank;
    struct weights w = {.seed = 1000 * (index + 1)};
    struct buf config = {0};
    char name[160];
    char path[192];
    buf_printf(&config,
               "{\"peft_type\":\"LORA\",\"r\":%u,\"lora_alpha\":%u,\"use_rslora\":%s,"
               "\"bias\":\"none\",\"task_type\":\"CAUSAL_LM\",\"target_modules\":[",
               rank, 2 * rank, index % 2 ? "true" : "false");
    bool is_first = true;
    for (uint32_t i = 0; i < ARRAY_N(linears); i++) {
        if (!(adapters[index].sites >> i & 1)) {
            continue;
        }
        buf_printf(&config, "%s\"%s\"", is_first ? "" : ",", strchr(linears[i].module, '.') + 1);
        is_first = false;
        for (uint32_t l = 0; l < LAYERS; l++) {
            const char *prefix = "base_model.model.model.layers.";
            snprintf(name, sizeof name, "%s%u.%s.lora_A.weight", prefix, l, linears[i].module);
            add(&w, name, rank, linears[i].k, 0, 1 / sqrtf((float)linears[i].k));
            snprintf(name, sizeof name, "%s%u.%s.lora_B.weight", prefix, l, linears[i].module);
            add(&w, name, linears[i].n, rank, 0, 0.5f / sqrtf((float)rank));
        }
    }
    buf_add_str(&config, "]}");
    snprintf(path, sizeof path, "%s/a%u", files->adapters, index);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/a%u/adapter_model.safetensors", files->adapters, index);
    finish(&w, path);
    snprintf(path, sizeof path, "%s/a%u/adapter_config.json", files->adapters, index);
    write_file(path, &config, NULL);
    buf_done(&config);
}

void files_open(struct files *files)
{
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
