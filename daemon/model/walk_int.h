/* What the walk and its blocks share. */
#ifndef MODEL_WALK_INT_H
#define MODEL_WALK_INT_H

#include <string.h>

#include "kernels/kern.h"
#include "model/model.h"
#include "model/walk.h"

/* In: walk->x = norm(h). Out: walk->parts[0], what the mixer or the feed-forward adds to the
 * residual before its multiplier; of Mamba-2, which stands beside attention, walk->parts[1]. */
void block_attention(const struct walk *walk, uint32_t layer);
void block_gdn(const struct walk *walk, uint32_t layer);
void block_ssd(const struct walk *walk, uint32_t layer);
void block_mlp(const struct walk *walk, uint32_t layer);

/* Fills op->sites with op->site_n sites of the layer, from place `first` on. */
void walk_sites(const struct walk *walk, uint32_t layer, enum site_place first,
                struct kern_linear *op);

/* One linear back to the residual: `part` becomes the partial sum of x through the site. */
void walk_part(const struct walk *walk, uint32_t layer, enum site_place place, void *x, void *part);

/* The view of a batch that the ops of its step read; it points into the batch. */
struct kern_step walk_view(const struct walk *walk, const struct batch *batch);

#endif
