/* Qwen3, dense. */
#include "model/family.h"

const struct family family_qwen3 = {
    .model_type = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .flags = FAMILY_ATTENTION_BIAS | FAMILY_QK_NORM | FAMILY_WINDOW_KEYS,
    .head_dim = 128,
    .kv_head_n = 32,
    .norm_eps = 1e-6,
    .mlp = "mlp",
    .post_norm = "post_attention_layernorm",
    .final_norm = "norm",
};
