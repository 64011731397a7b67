/* What the walk and its blocks share. */
#ifndef MODEL_WALK_INT_H
#define MODEL_WALK_INT_H

#include "kernels/kern.h"
#include "model/model.h"
#include "model/walk.h"

/* In: walk->x = norm(h). Out: walk->part, the attention's sum for the residual. */
void block_attention(const struct walk *walk, uint32_t layer);

/* In: walk->x = norm(h). Out: walk->part, the feed-forward's sum for the residual. */
void block_mlp(const struct walk *walk, uint32_t layer);

/* The view of a batch that the ops of its step read; it points into the batch. */
struct kern_step walk_view(const struct walk *walk, const struct batch *batch);

#endif
