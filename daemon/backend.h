/* Which implementation of the kernels serves, and what its device offers. Main thread. */
#ifndef BACKEND_H
#define BACKEND_H

#include <stdio.h>

#include "kernels/kern.h"
#include "model/model.h"

/* For --backend: "cpu", "ref", "cuda", or "auto", which takes CUDA where a device can be opened and
 * the CPU otherwise, and logs why in one line. Errors: NO_DEVICE with the reason. */
int backend_choose(const char *wanted, const struct kern **out, struct err *err);

/* Type to hold weights of `checkpoint` in, for --dtype "auto", "bf16" or "f32". INVALID_PARAMETER
 * when the backend cannot hold it. */
int backend_held(const struct kern *kern, const char *wanted, enum dtype checkpoint,
                 enum dtype *out, struct err *err);

/* INVALID_PARAMETER, with the width, for a model whose shape the backend's kernels cannot take. */
int backend_fits(const struct kern *kern, const struct model_desc *desc, struct err *err);

/* Bytes that the backend's device has free; 0 when it computes in the host's memory. */
uint64_t backend_free_bytes(const struct kern *kern);

/* Prints the devices for --check. */
void backend_check(FILE *out);

#endif
