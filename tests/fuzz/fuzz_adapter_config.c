/* Any bytes as adapter_config.json, and behind a NUL byte as adapter_model.safetensors (without one
 * a correct file is used): refused with a text, or factors that fit the model's sites. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/store_int.h"
#include "base/mem.h"
#include "model/model.h"

#define FUZZ_MODEL                                                                                 \
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_size\":4,"        \
    "\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":2,"                   \
    "\"num_key_value_heads\":1,\"head_dim\":2,\"vocab_size\":8,\"rms_norm_eps\":1e-6,"             \
    "\"rope_theta\":10000.0,\"max_position_embeddings\":16,\"hidden_act\":\"silu\","               \
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}"

/* q_proj of the one layer, rank 1: A [1, 4], B [4, 1] */
#define FUZZ_NAME "base_model.model.model.layers.0.self_attn.q_proj.lora_"
#define FUZZ_HEAD                                                                                  \
    "{\"" FUZZ_NAME "A.weight\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[0,16]},"      \
    "\"" FUZZ_NAME "B.weight\":{\"dtype\":\"F32\",\"shape\":[4,1],\"data_offsets\":[16,32]}}"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t fuzz_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return (size_t)n * k * dtype_bytes(held);
}

/* Reads every byte of the source, writes every byte of the packed form. */
static void fuzz_weight_pack(enum dtype held, const struct kern_matrix *m, void *out)
{
    const unsigned char *from = m->data;
    unsigned char *to = out;
    size_t from_n = (size_t)m->n * m->k * dtype_bytes(m->dtype);
    size_t to_n = fuzz_weight_bytes(held, m->n, m->k);
    unsigned char sum = 0;
    ASSERT((uintptr_t)from % dtype_bytes(m->dtype) == 0);
    for (size_t i = 0; i < from_n; i++) {
        sum = (unsigned char)(sum + from[i]);
    }
    memset(to, sum, to_n);
}

static const struct kern fuzz_kern = {.weight_bytes = fuzz_weight_bytes,
                                      .weight_pack = fuzz_weight_pack};
static struct model_desc fuzz_desc;
static unsigned char fuzz_weights[8 + sizeof FUZZ_HEAD - 1 + 32];

static void fuzz_init(void)
{
    uint64_t head_n = sizeof FUZZ_HEAD - 1;
    struct err err = {0};
    ASSERT(model_desc_parse("config.json", FUZZ_MODEL, strlen(FUZZ_MODEL), &fuzz_desc, &err) == 0);
    memcpy(fuzz_weights, &head_n, sizeof head_n);
    memcpy(fuzz_weights + 8, FUZZ_HEAD, head_n);
    for (size_t i = 0; i < 8; i++) {
        float value = (float)i / 8;
        memcpy(fuzz_weights + 8 + head_n + 4 * i, &value, sizeof value);
    }
}

static void fuzz_check_parsed(const struct parsed_adapter *parsed)
{
    ASSERT(parsed->lowrank_n > 0 && parsed->lowrank_n <= fuzz_desc.site_n);
    ASSERT_CMP(parsed->modules_total, ==, parsed->lowrank_n);
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        const struct parsed_lowrank *p = &parsed->lowranks[i];
        ASSERT_CMP(p->site, <, fuzz_desc.site_n);
        ASSERT(i == 0 || p->site > parsed->lowranks[i - 1].site);
        ASSERT(p->rank > 0 && p->rank <= LIMIT_LOWRANK_RANK && isfinite(p->scale));
        ASSERT(p->a.n == p->rank && p->a.k == fuzz_desc.sites[p->site].k);
        ASSERT(p->b.k == p->rank && p->b.n == fuzz_desc.sites[p->site].n);
    }
}

static void fuzz_build(const struct parsed_adapter *parsed, enum dtype held)
{
    struct store store = {.config = {.desc = &fuzz_desc, .kern = &fuzz_kern, .held = held}};
    struct version *version = mem_zalloc(sizeof *version);
    struct err err = {0};
    int rc = store_build(&store, parsed, 0, version, &err);
    ASSERT(rc == err.code && (rc == 0) == (err.text[0] == '\0'));
    ASSERT(rc == 0 || !version->block);
    version_free(version);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (fuzz_desc.site_n == 0) {
        fuzz_init();
    }
    const uint8_t *nul = n > 0 ? memchr(data, 0, n) : NULL;
    size_t config_n = nul ? (size_t)(nul - data) : n;
    struct adapter_file files[2] = {
        {.name = "adapter_config.json", .data = data, .n = config_n},
        {.name = "adapter_model.safetensors", .data = fuzz_weights, .n = sizeof fuzz_weights}};
    if (nul) {
        files[1].data = nul + 1;
        files[1].n = n - config_n - 1;
    }
    struct adapter_source source = {.files = files, .file_n = 2};
    struct parsed_adapter parsed = {0};
    struct err err = {0};
    arena_init(&parsed.arena);
    int rc = kind_lora.parse(&source, &fuzz_desc, &parsed, &err);
    ASSERT(rc == err.code && (rc == 0) == (err.text[0] == '\0'));
    if (rc == 0) {
        fuzz_check_parsed(&parsed);
        fuzz_build(&parsed, DTYPE_F32);
        fuzz_build(&parsed, DTYPE_BF16);
    }
    arena_done(&parsed.arena);
    return 0;
}
