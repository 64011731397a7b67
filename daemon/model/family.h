/* A family: what sets one line of checkpoints apart from the others, as one small table.
 *
 * All families of this header share the decoder of walk.c; a family states which of its optional
 * parts exist, what config.json means when it is silent, and what its tensors are called. Keys that
 * only it has are read by a function of its own. */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct config;
struct model_desc;

enum family_flags {
    FAMILY_QKV_BIAS = 1,       /* q, k and v always have a bias, o never */
    FAMILY_ATTENTION_BIAS = 2, /* "attention_bias" gives q, k, v and o one */
    FAMILY_MLP_BIAS = 4,       /* "mlp_bias" gives gate, up and down one */
    FAMILY_QK_NORM = 8,        /* RMS norm over head_dim of q and k, before the rotation */
    FAMILY_WINDOW_KEYS = 16,   /* has the sliding window keys (a window in use is refused) */
    FAMILY_CENTRED_NORM = 32,  /* norms multiply by 1 + their weight, but the recurrent mixer's */
    FAMILY_QUERY_GATE = 64,    /* q_proj holds a gate for each head */
    FAMILY_PARTIAL_ROPE = 128, /* "partial_rotary_factor", and M-RoPE keys that text ignores */
};

struct family {
    const char *model_type;   /* "qwen3" */
    const char *architecture; /* "Qwen3ForCausalLM" */
    /* Of files that keep the text model's keys in "text_config" and hold tensors of other parts,
     * whose names begin with one of outer_parts; NULL where there are none. */
    const char *outer_type;
    const char *outer_architecture;
    const char *const *outer_parts;
    uint32_t flags;
    uint32_t head_dim;      /* when config.json has none; 0 = hidden_size / num_attention_heads */
    uint32_t kv_head_n;     /* when config.json has none; 0 = num_attention_heads */
    double norm_eps;        /* when config.json has none */
    const char *mlp;        /* "mlp" */
    const char *post_norm;  /* "post_attention_layernorm" */
    const char *final_norm; /* "norm" */
    /* Keys of its own, and what reads them into a desc that has all others; NULL = none. */
    const char *const *keys;
    int (*read)(const struct config *config, struct model_desc *desc, struct err *err);
};

/* Whether the tensor is one of another part's. */
bool family_is_other_part(const struct family *family, const char *tensor);

extern const struct family family_llama;
extern const struct family family_qwen2;
extern const struct family family_qwen3;
extern const struct family family_qwen35;
extern const struct family family_falcon_h1;

#endif
