/* Any bytes as config.json, behind a NUL byte as meta.json, behind a second one as
 * states.safetensors. An empty text is no file; without the second NUL byte correct states are
 * used. On two bases: refused with a text, or finite states of every recurrent layer. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "adapters/store_int.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "model/model.h"

#define FUZZ_BASE                                                                                  \
    "\"hidden_size\":4,\"intermediate_size\":6,\"num_attention_heads\":2,"                         \
    "\"num_key_value_heads\":1,\"head_dim\":2,\"vocab_size\":8,\"max_position_embeddings\":16,"
/* Attention in the last of three layers; states of [2, 1, 3]. */
#define FUZZ_GDN                                                                                   \
    "{" FUZZ_BASE "\"architectures\":[\"Qwen3_5ForCausalLM\"],\"model_type\":\"qwen3_5_text\","    \
    "\"num_hidden_layers\":3,\"full_attention_interval\":3,\"partial_rotary_factor\":1,"           \
    "\"linear_num_key_heads\":1,\"linear_num_value_heads\":2,\"linear_key_head_dim\":1,"           \
    "\"linear_value_head_dim\":3}"
/* States of the same shape in both layers. */
#define FUZZ_SSD                                                                                   \
    "{" FUZZ_BASE "\"architectures\":[\"FalconH1ForCausalLM\"],\"model_type\":\"falcon_h1\","      \
    "\"num_hidden_layers\":2,\"mamba_n_heads\":2,\"mamba_d_head\":1,\"mamba_d_ssm\":2,"            \
    "\"mamba_d_state\":3}"
#define FUZZ_HEAD                                                                                  \
    "{\"0\":{\"dtype\":\"F32\",\"shape\":[2,1,3],\"data_offsets\":[0,24]},"                        \
    "\"1\":{\"dtype\":\"F32\",\"shape\":[2,1,3],\"data_offsets\":[24,48]}}"
#define FUZZ_BASES   2
#define FUZZ_STATE_N 6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct model_desc fuzz_descs[FUZZ_BASES];
static unsigned char fuzz_states[8 + sizeof FUZZ_HEAD - 1 + 48];

static void fuzz_init(void)
{
    static const char *const models[FUZZ_BASES] = {FUZZ_GDN, FUZZ_SSD};
    uint64_t head_n = sizeof FUZZ_HEAD - 1;
    struct err err = {0};
    for (uint32_t i = 0; i < FUZZ_BASES; i++) {
        ASSERT(model_desc_parse("config.json", models[i], strlen(models[i]), &fuzz_descs[i],
                                &err) == 0);
        ASSERT(model_state(&fuzz_descs[i], 1).state_n == FUZZ_STATE_N);
    }
    memcpy(fuzz_states, &head_n, sizeof head_n);
    memcpy(fuzz_states + 8, FUZZ_HEAD, head_n);
    for (size_t i = 0; i < 12; i++) {
        float value = (float)i / 8 - 1;
        memcpy(fuzz_states + 8 + head_n + 4 * i, &value, sizeof value);
    }
}

static void fuzz_build(const struct model_desc *desc, const struct parsed_adapter *parsed)
{
    static const struct kern kern;
    struct store store = {.config = {.desc = desc, .kern = &kern, .held = DTYPE_BF16}};
    struct version *version = mem_zalloc(sizeof *version);
    struct err err = {0};
    ASSERT(store_build(&store, parsed, 0, version, &err) == 0);
    ASSERT(version->has_states && !version->has_rows);
    for (uint32_t l = 0; l < desc->state_layer_n; l++) {
        const float *state = effect_state_at(version->block, l);
        ASSERT(memcmp(state, parsed->states[l], FUZZ_STATE_N * sizeof *state) == 0);
    }
    version_free(version);
}

static void fuzz_parse(const struct model_desc *desc, const struct adapter_source *source)
{
    struct parsed_adapter parsed = {0};
    struct err err = {0};
    arena_init(&parsed.arena);
    int rc = kind_s0.parse(source, desc, &parsed, &err);
    ASSERT(rc == err.code && (rc == 0) == (err.text[0] == '\0'));
    if (rc == 0) {
        ASSERT(parsed.lowrank_n == 0 && parsed.modules_total == desc->state_layer_n);
        for (uint32_t i = 0; i < desc->state_layer_n * FUZZ_STATE_N; i++) {
            ASSERT(isfinite(parsed.states[i / FUZZ_STATE_N][i % FUZZ_STATE_N]));
        }
        fuzz_build(desc, &parsed);
    }
    arena_done(&parsed.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const names[] = {"config.json", "meta.json", "states.safetensors"};
    struct adapter_file files[3];
    struct adapter_source source = {.files = files};
    if (fuzz_descs[0].site_n == 0) {
        fuzz_init();
    }
    for (uint32_t i = 0; i < 3; i++) {
        const uint8_t *nul = i < 2 && n > 0 ? memchr(data, 0, n) : NULL;
        size_t file_n = nul ? (size_t)(nul - data) : n;
        bool is_cut = i == 2 || nul;
        if (i == 2 || file_n > 0) {
            files[source.file_n++] =
                (struct adapter_file){.name = names[i], .data = data, .n = file_n};
        }
        if (!is_cut) { /* the last text: correct states go with it */
            files[source.file_n++] = (struct adapter_file){
                .name = names[2], .data = fuzz_states, .n = sizeof fuzz_states};
            break;
        }
        data = nul ? nul + 1 : data;
        n -= nul ? file_n + 1 : 0;
    }
    for (uint32_t i = 0; i < FUZZ_BASES; i++) {
        fuzz_parse(&fuzz_descs[i], &source);
    }
    return 0;
}
