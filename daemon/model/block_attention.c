/* Attention: three linears of one group, the ragged attention over the cache, one linear out.
 *
 * Shapes, for R rows of a step, H query heads, G key/value heads of D dimensions:
 *     x [R, hidden] -> q [R, H * D] (fp32), k, v [R, G * D] (into the pages of the row)
 *     q, pages -> mixed [R, H * D] -> part [R, hidden]
 * With an output gate q comes with a gate of its shape, whose sigmoid mixed is times of. */
#include "model/walk_int.h"

static void attention_qkv(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    const struct layer_weights *w = &model->layers[layer];
    struct kern_linear op = {
        .x = walk->x,
        .k = desc->hidden,
        .site_n = 3,
        .post = KERN_POST_HEADS,
        .heads =
            {
                .head_n = desc->head_n,
                .kv_head_n = desc->kv_head_n,
                .head_dim = desc->head_dim,
                .q_norm = w->q_norm,
                .k_norm = w->k_norm,
                .norm_eps = desc->norm_eps,
                .kv_layer = desc->layers[layer].kv_layer,
                .q_out = walk->q,
                .gate_out = desc->has_attention_gate ? walk->gate : NULL,
            },
    };
    walk_sites(walk, layer, SITE_Q, &op);
    model->kern->linear(model->dev, &op);
}

void block_attention(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    attention_qkv(walk, layer);
    model->kern->attend(model->dev, &(struct kern_attend){
                                        .kv_layer = desc->layers[layer].kv_layer,
                                        .head_n = desc->head_n,
                                        .kv_head_n = desc->kv_head_n,
                                        .head_dim = desc->head_dim,
                                        .scale = desc->attention_scale,
                                        .q = walk->q,
                                        .gate = desc->has_attention_gate ? walk->gate : NULL,
                                        .out = walk->mixed,
                                    });
    walk_part(walk, layer, SITE_O, walk->mixed, walk->parts[0]);
}
