/* A family: what sets one line of checkpoints apart from the others, as one small table.
 *
 * All families of this header share the decoder of walk.c; a family states only which of its
 * optional parts exist and what config.json means when it is silent. */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include <stdint.h>

enum family_flags {
    FAMILY_QKV_BIAS = 1,       /* q, k and v always have a bias, o never */
    FAMILY_ATTENTION_BIAS = 2, /* "attention_bias" gives q, k, v and o one */
    FAMILY_MLP_BIAS = 4,       /* "mlp_bias" gives gate, up and down one */
    FAMILY_QK_NORM = 8,        /* RMS norm over head_dim of q and k, before the rotation */
    FAMILY_WINDOW_KEYS = 16,   /* has the sliding window keys (a window in use is refused) */
};

struct family {
    const char *model_type;   /* "qwen3" */
    const char *architecture; /* "Qwen3ForCausalLM" */
    uint32_t flags;
    uint32_t head_dim;  /* when config.json has none; 0 = hidden_size / num_attention_heads */
    uint32_t kv_head_n; /* when config.json has none; 0 = num_attention_heads */
};

extern const struct family family_llama;
extern const struct family family_qwen2;
extern const struct family family_qwen3;

#endif
