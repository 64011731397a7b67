/* Mamba-2: one linear in, the recurrence with its convolution, gate and norm, one linear out.
 *
 * Shapes, for R rows of a step, H heads of P dimensions, G groups of N states:
 *     x [R, hidden] -> mixer [R, H P (z) | H P (x) | G N (B) | G N (C) | H (dt)], fp32
 *     mixer, states -> mixed [R, H P] -> the layer's second part [R, hidden] */
#include "model/walk_int.h"

void block_ssd(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    const struct layer_weights *w = &model->layers[layer];
    struct kern_linear in = {
        .x = walk->x,
        .k = desc->hidden,
        .site_n = 1,
        .post = KERN_POST_STORE,
        .out = walk->mixer,
    };
    struct kern_ssd op = {
        .state_layer = desc->layers[layer].state_layer,
        .head_n = desc->ssd.head_n,
        .head_dim = desc->ssd.head_dim,
        .group_n = desc->ssd.group_n,
        .state_dim = desc->ssd.state_dim,
        .x = walk->mixer,
        .conv = {.w = w->conv_w, .bias = w->conv_bias},
        .a_log = w->a_log,
        .dt_bias = w->dt_bias,
        .d = w->d,
        .norm_order = desc->ssd.norm_order,
        .norm = w->mixer_norm,
        .norm_eps = desc->norm_eps,
        .out = walk->mixed,
    };
    memcpy(op.multipliers, desc->ssd.multipliers, sizeof op.multipliers);
    walk_sites(walk, layer, SITE_SSD_IN, &in);
    model->kern->linear(model->dev, &in);
    model->kern->ssd(model->dev, &op);
    walk_part(walk, layer, SITE_SSD_OUT, walk->mixed, walk->parts[1]);
}
