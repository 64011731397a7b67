/* Llama 3.x and checkpoints of its architecture. */
#include "model/family.h"

const struct family family_llama = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .flags = FAMILY_ATTENTION_BIAS | FAMILY_MLP_BIAS,
    .head_dim = 0,
    .kv_head_n = 0,
    .norm_eps = 1e-6,
    .mlp = "mlp",
    .post_norm = "post_attention_layernorm",
    .final_norm = "norm",
};
