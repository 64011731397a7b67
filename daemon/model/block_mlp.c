/* The gated feed-forward: two linears of one group, their product, one linear back.
 *
 * Shapes, for R rows of a step: x [R, hidden] -> act [R, ffn] = silu(gate x) * up x
 *     act -> part [R, hidden] */
#include "model/walk_int.h"

void block_mlp(const struct walk *walk, uint32_t layer)
{
    const struct model *model = walk->model;
    struct kern_linear up = {
        .x = walk->x,
        .k = model->desc.hidden,
        .site_n = 2,
        .post = KERN_POST_ACT_MUL,
        .gate_multiplier = model->desc.gate_multiplier,
        .out = walk->act,
    };
    walk_sites(walk, layer, SITE_GATE, &up);
    model->kern->linear(model->dev, &up);
    walk_part(walk, layer, SITE_DOWN, walk->act, walk->parts[0]);
}
