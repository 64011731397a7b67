/* The gated delta rule: four linears of one group side by side, the recurrence with its
 * convolution, gates and norm, one linear out.
 *
 * Shapes, for R rows of a step, G key heads of K and H value heads of V dimensions:
 *     x [R, hidden] -> mixer [R, 2 G K + H V (q, k, v) | H V (z) | H (b) | H (a)], fp32
 *     mixer, states -> mixed [R, H V] -> part [R, hidden] */
#include "model/walk_int.h"

void block_gdn(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    const struct layer_weights *w = &model->layers[layer];
    struct kern_linear in = {
        .x = walk->x,
        .k = desc->hidden,
        .site_n = 4,
        .post = KERN_POST_STORE,
        .out = walk->mixer,
    };
    walk_sites(walk, layer, SITE_GDN_QKV, &in);
    model->kern->linear(model->dev, &in);
    model->kern->gdn(model->dev, &(struct kern_gdn){
                                     .state_layer = desc->layers[layer].state_layer,
                                     .key_head_n = desc->gdn.key_head_n,
                                     .value_head_n = desc->gdn.value_head_n,
                                     .key_dim = desc->gdn.key_dim,
                                     .value_dim = desc->gdn.value_dim,
                                     .x = walk->mixer,
                                     .conv = {.w = w->conv_w, .bias = w->conv_bias},
                                     .a_log = w->a_log,
                                     .dt_bias = w->dt_bias,
                                     .norm = w->mixer_norm,
                                     .norm_eps = desc->norm_eps,
                                     .out = walk->mixed,
                                 });
    walk_part(walk, layer, SITE_GDN_OUT, walk->mixed, walk->parts[0]);
}
