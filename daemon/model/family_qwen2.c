/* Qwen2 and Qwen2.5, dense. */
#include "model/family.h"

const struct family family_qwen2 = {
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .flags = FAMILY_QKV_BIAS | FAMILY_WINDOW_KEYS,
    .head_dim = 0,
    .kv_head_n = 32,
    .norm_eps = 1e-6,
    .mlp = "mlp",
    .post_norm = "post_attention_layernorm",
    .final_norm = "norm",
};
