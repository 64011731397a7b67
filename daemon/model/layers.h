/* What the files of this room share about the layer list. */
#ifndef MODEL_LAYERS_H
#define MODEL_LAYERS_H

#include "model/model.h"

#define LAYERS_PREFIX "model.layers." /* of a site's module, whatever the files' prefix is */

/* From layers[].mixer and the sizes: ordinals, sites and their names. */
void layers_fill(struct model_desc *desc);

/* Floats of a row that the recurrent mixer reads, and values of a row it gives; 0 without one. */
uint32_t layers_mixer_n(const struct model_desc *desc);
uint32_t layers_mixer_out(const struct model_desc *desc);

#endif
