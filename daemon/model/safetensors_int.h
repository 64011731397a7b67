/* What the two files of the safetensors reader share. */
#ifndef MODEL_SAFETENSORS_INT_H
#define MODEL_SAFETENSORS_INT_H

#include "model/safetensors.h"

/* Adds the tensors of one file in memory to an initialised set, unsorted. */
int tensor_set_add(struct tensor_set *set, const char *label, const void *data, size_t n,
                   struct err *err);
void tensor_set_sort(struct tensor_set *set);

#endif
