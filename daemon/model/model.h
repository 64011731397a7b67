/* A network as a list of layers: dimensions, flags, sites and weights; no maths.
 *
 * model_open reads a Hugging Face directory (config.json, *.safetensors with or without an index)
 * and loads the weights into a device, each tensor repacked once. Every tensor of the checkpoint
 * must be known to the family and every key of config.json understood or harmless, else the open is
 * refused by name. A family is one table file (family_*.c) that fills `struct model_desc`. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "kernels/kern_recurrent.h"

struct family;
struct kern;
struct kern_dev;
struct kern_open;
/* The places of a layer where a linear may stand; layer_desc.site tells which of them it has. */
enum site_place {
    SITE_Q,
    SITE_K,
    SITE_V,
    SITE_O,
    SITE_GDN_QKV,
    SITE_GDN_Z,
    SITE_GDN_B,
    SITE_GDN_A,
    SITE_GDN_OUT,
    SITE_SSD_IN,
    SITE_SSD_OUT,
    SITE_GATE,
    SITE_UP,
    SITE_DOWN,
    SITE_PLACES
};

#define SITE_NONE UINT32_MAX

/* How a site is split over tensor-parallel ranks. */
enum site_split { SPLIT_COLUMN, SPLIT_ROW };

/* A named linear position that effects can change. */
struct site {
    char module[LIMIT_TENSOR_NAME]; /* "model.layers.3.self_attn.q_proj" */
    uint32_t n;                     /* outputs */
    uint32_t k;                     /* inputs */
    enum site_split split;
    enum site_place place;
    uint32_t layer;
};

/* What a layer mixes positions with. */
enum mixer {
    MIXER_ATTENTION,
    MIXER_GDN,           /* the gated delta rule */
    MIXER_ATTENTION_SSD, /* attention and Mamba-2 side by side, summed */
};

#define LAYER_NONE UINT32_MAX

struct layer_desc {
    enum mixer mixer;
    uint32_t kv_layer;          /* ordinal among the layers that have KV, or LAYER_NONE */
    uint32_t state_layer;       /* ordinal among those that have a recurrent state, or LAYER_NONE */
    uint32_t site[SITE_PLACES]; /* site index, or SITE_NONE */
};

/* Recurrent mixers of one model, all layers alike: as in kernels/kern_recurrent.h. */
struct gdn_desc {
    uint32_t key_head_n, value_head_n, key_dim, value_dim;
    bool is_fused; /* the files hold in_proj_qkvz and in_proj_ba, interleaved by key head */
};

struct ssd_desc {
    uint32_t head_n, head_dim, group_n, state_dim;
    float multipliers[KERN_SSD_PIECE_N];
    enum kern_ssd_norm norm_order;
    bool has_conv_bias;
};

struct model_desc {
    const char *family;         /* "llama", "qwen2", "qwen3", "qwen3_5_text", "falcon_h1" */
    const struct family *table; /* its table */
    char architecture[64];      /* "Qwen3ForCausalLM" */
    char prefix[32];            /* of the files' tensor names: "model." */
    uint32_t layer_n, kv_layer_n, state_layer_n, site_n;
    uint32_t hidden, ffn, vocab_n;
    uint32_t head_n, kv_head_n, head_dim;
    uint32_t context_max; /* max_position_embeddings */
    float norm_eps;
    bool has_qkv_bias, has_o_bias, has_mlp_bias, has_qk_norm;
    bool has_attention_gate; /* the q site holds each head's query, then its gate */
    struct gdn_desc gdn;     /* where a layer is MIXER_GDN */
    struct ssd_desc ssd;     /* where a layer is MIXER_ATTENTION_SSD */
    bool is_tied;            /* the head is the embedding */
    bool is_tie_broken;      /* config.json ties them, but the files hold another head */
    float embed_multiplier, head_multiplier; /* of embeddings and of logits */
    /* Of what a mixer or the feed-forward adds to the residual, and of the gate before silu. */
    float attention_multiplier, ssd_multiplier, mlp_multiplier, gate_multiplier;
    float attention_scale; /* 1 / sqrt(head_dim), times what the family multiplies q and k by */
    float rope_scale;
    uint32_t rotary_n;
    float inv_freq[LIMIT_HEAD_DIM / 2];
    enum dtype checkpoint_dtype; /* of the checkpoint's matrices */
    struct layer_desc layers[LIMIT_LAYERS];
    struct site *sites; /* [site_n] */
    struct arena arena; /* owns sites */
};

/* generation_config.json, or its defaults (all sampled, nothing cut; eos from config.json). */
struct model_generation {
    bool is_greedy; /* do_sample false */
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k;
    uint32_t eos_tokens[LIMIT_EOS_TOKENS], eos_n;
    uint32_t bos_token; /* UINT32_MAX = none */
};

/* Reads config.json and fills desc (free with model_desc_done; on failure there is nothing to
 * free). checkpoint_dtype and is_tied are settled by the tensor files when they are readable (a
 * config may be silent or wrong about them): a head that is stored and differs from the embedding
 * counts, as in transformers. Errors name file, key, value. model_desc_parse reads memory alone. */
int model_desc_read(const char *dir, struct model_desc *out, struct err *err);
int model_desc_parse(const char *label, const void *json, size_t n, struct model_desc *out,
                     struct err *err);
/* Of config.json alone, whatever tensor files lie beside it. */
int model_desc_read_config(const char *dir, struct model_desc *out, struct err *err);
void model_desc_done(struct model_desc *desc);

int model_generation_read(const char *dir, uint32_t vocab_n, struct model_generation *out,
                          struct err *err);

/* The type to hold the weights in when nobody chose one: bf16 for a bf16 checkpoint, else f32. */
enum dtype model_default_held(const struct model_desc *desc);

/* Fills what a device must be opened for by this model: k_max, n_max, vocab_n. */
void model_kern_limits(const struct model_desc *desc, struct kern_open *args);

/* The recurrent layers' memory for slot_n sequences; layer_n is 0 where there are none. */
struct kern_state model_state(const struct model_desc *desc, uint32_t slot_n);

/* Sides of a recurrent state of one layer: [heads, rows, columns]. */
void model_state_dims(const struct model_desc *desc, uint32_t out_dims[3]);

/* Whether the linear shares its input with no other of the layer. */
bool model_site_is_alone(enum site_place place);

/* Site index of a module path such as "model.layers.0.mlp.up_proj"; -1 when there is none. */
int64_t model_site_find(const struct model_desc *desc, const char *module);

/* Weights in device memory; NULL where the layer has none. */
struct layer_weights {
    const void *w[SITE_PLACES];
    const float *bias[SITE_PLACES];
    const float *input_norm, *post_norm, *q_norm, *k_norm;
    /* of the recurrent mixer: [conv_n, LIMIT_CONV_TAPS], [conv_n], by head, of its norm */
    const float *conv_w, *conv_bias, *a_log, *dt_bias, *d, *mixer_norm;
};

#define MODEL_FINGERPRINT_BYTES (SHA256_HEX_BYTES + 32)

struct model {
    struct model_desc desc;
    struct model_generation generation;
    enum dtype held;
    size_t weight_bytes;
    /* SHA-256 over config.json and every tensor file, each with its name and length; for random
     * weights "random:SEED:" and the SHA-256 of config.json */
    char fingerprint[MODEL_FINGERPRINT_BYTES];
    const struct kern *kern;
    struct kern_dev *dev;
    const void *embed, *head; /* equal when tied */
    const float *final_norm;
    struct layer_weights layers[LIMIT_LAYERS];
};

/* Bytes the weights will take on a backend, before anything is read but config.json. */
size_t model_weight_bytes(const struct model_desc *desc, const struct kern *kern, enum dtype held);

/* Loads every tensor of `dir` into the open device and reads generation_config.json; the caller has
 * set ->desc, ->held, ->kern and ->dev. Names and shapes are checked before the first weight moves,
 * values as they do: they must be finite, also as they are held. Blocks long. On failure nothing is
 * to be freed but the desc and what the device owns. */
int model_load(struct model *model, const char *dir, struct err *err);

/* The same without tensor files: weights from kernels/weights_random.h by seed and tensor name. */
int model_load_random(struct model *model, const char *dir, uint64_t seed, struct err *err);

/* Frees the desc. The weights live and die with the device. */
void model_done(struct model *model);

#endif
