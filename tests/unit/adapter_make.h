/* Writes small LoRA folders for tests: a correct one, with at most one thing wrong on demand. The
 * model is a two-layer decoder; the kern of this file packs matrices as plain f32 rows, so a test
 * can read the block. */
#ifndef TESTS_UNIT_ADAPTER_MAKE_H
#define TESTS_UNIT_ADAPTER_MAKE_H

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "adapters/store.h"
#include "base/buf.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "model/model.h"

/* Exactly what peft 0.21 saves for r = 2, alpha = 4 on q_proj and v_proj. */
#define MAKE_CONFIG_HEAD                                                                           \
    "{\"alora_invocation_tokens\":null,\"alpha_pattern\":{},\"arrow_config\":null,"                \
    "\"auto_mapping\":null,\"base_model_name_or_path\":null,\"bias\":\"none\","                    \
    "\"corda_config\":null,\"ensure_weight_tying\":false,\"eva_config\":null,"                     \
    "\"exclude_modules\":null,\"fan_in_fan_out\":false,\"inference_mode\":true,"                   \
    "\"init_lora_weights\":true,\"kasa_config\":null,\"layer_replication\":null,"                  \
    "\"layers_pattern\":null,\"layers_to_transform\":null,\"loftq_config\":{},\"lora_bias\":"      \
    "false,\"lora_dropout\":0.0,\"lora_ga_config\":null,\"megatron_config\":null,"                 \
    "\"megatron_core\":\"megatron.core\",\"modules_to_save\":null,\"monteclora_config\":null,"     \
    "\"peft_type\":\"LORA\",\"peft_version\":\"0.21.2\",\"qalora_group_size\":16,"                 \
    "\"rank_pattern\":{},\"revision\":null,\"target_parameters\":null,"                            \
    "\"task_type\":\"CAUSAL_LM\",\"trainable_token_indices\":null,\"use_bdlora\":null,"            \
    "\"use_dora\":false,\"use_qalora\":false,\"velora_config\":null,"
#define MAKE_CONFIG                                                                                \
    MAKE_CONFIG_HEAD                                                                               \
    "\"use_rslora\":false,\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\",\"v_proj\"]}"

/* hidden 16, ffn 24, 2 heads and 1 KV head of 8 */
#define MAKE_MODEL                                                                                 \
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_size\":16,"       \
    "\"intermediate_size\":24,\"num_hidden_layers\":2,\"num_attention_heads\":2,"                  \
    "\"num_key_value_heads\":1,\"head_dim\":8,\"vocab_size\":32,\"rms_norm_eps\":1e-6,"            \
    "\"rope_theta\":10000.0,\"max_position_embeddings\":128,\"hidden_act\":\"silu\","              \
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}"

#define MAKE_TENSORS 8
#define MAKE_NAME    "base_model.model.model.layers.%u.self_attn.%s.lora_%s.weight"

/* Tensors are numbered layer * 4 + (q, v) * 2 + (A, B). -1: leave the tensors alone. */
struct make {
    const char *config; /* NULL = MAKE_CONFIG */
    int skip;           /* leaves a tensor out */
    int change;         /* this tensor gets what is set below */
    const char *name;
    uint32_t rows, cols; /* 0 = as it should be */
    const char *dtype;   /* NULL = F32 */
    bool is_flat;        /* one dimension instead of two */
    float value;         /* at element 5 of the changed tensor, when not 0 */
    float scale;         /* times every value of the changed tensor, when not 0 */
    bool is_unaligned;   /* a header length that is no multiple of 4 */
};

#define MAKE_GOOD ((struct make){.skip = -1, .change = -1})

struct make_dir {
    char root[64];
};

void make_dir_open(struct make_dir *dir);
void make_dir_close(struct make_dir *dir);
void make_path(const struct make_dir *dir, const char *rest, char path[256]);
void make_file(const struct make_dir *dir, const char *rest, const void *data, size_t n);
/* Value number e of tensor t: multiples of 1/64, exact in bf16. */
float make_value(uint32_t t, uint32_t e);
/* The shape of tensor t of a correct file. */
void make_shape(uint32_t t, uint32_t *out_rows, uint32_t *out_cols);
void make_weights(const struct make *m, struct buf *out);
/* Writes <root>/<name> with both files. */
void make_adapter(const struct make_dir *dir, const char *name, const struct make *m);
void make_model(struct model_desc *desc);
/* A store over the directory; the caller closes it. */
struct store *make_store(const struct make_dir *dir, const struct model_desc *desc,
                         enum dtype held);
/* All three at once, for a setup and its teardown; model: config.json's text. */
void make_open(struct make_dir *dir, const char *model, enum dtype held, struct model_desc *desc,
               struct store **store);
void make_close(struct make_dir *dir, struct model_desc *desc, struct store *store);
/* Runs a job for `name`; the version, if any, is the caller's to free. */
void make_prepare(const struct store *store, const char *name, struct prepare_job *job);

extern const struct kern make_kern;

#endif
