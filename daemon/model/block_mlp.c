/* The gated feed-forward: two linears of one group, their product, one linear back.
 *
 * Shapes, for R rows of a step: x [R, hidden] -> act [R, ffn] = silu(gate x) * up x
 *     act -> part [R, hidden] */
#include "model/walk_int.h"

void block_mlp(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    const struct model_desc *desc = &model->desc;
    const struct layer_weights *w = &model->layers[layer];
    uint32_t first = layer * SITE_PER_LAYER;
    struct kern_linear up = {
        .x = walk->x,
        .k = desc->hidden,
        .site_n = 2,
        .post = KERN_POST_ACT_MUL,
        .gate_multiplier = 1,
        .out = walk->act,
    };
    for (uint32_t i = SITE_GATE; i <= SITE_UP; i++) {
        up.sites[i - SITE_GATE] = (struct kern_linear_site){
            .site = first + i, .n = desc->ffn, .w = w->w[i], .bias = w->bias[i]};
    }
    model->kern->linear(model->dev, &up);
    struct kern_linear down = {
        .x = walk->act,
        .k = desc->ffn,
        .site_n = 1,
        .sites = {{.site = first + SITE_DOWN,
                   .n = desc->hidden,
                   .w = w->w[SITE_DOWN],
                   .bias = w->bias[SITE_DOWN]}},
        .post = KERN_POST_PART,
        .out = walk->part,
    };
    model->kern->linear(model->dev, &down);
}
