/* Which implementation of the kernels serves, and what its device offers. Main thread. */
#ifndef BACKEND_H
#define BACKEND_H

#include <stdio.h>

#include "kernels/kern.h"
#include "model/model.h"
#include "options.h"

struct backend {
    const struct kern *kern;
    uint32_t device;           /* kern_open.device */
    char note[ERR_TEXT_BYTES]; /* --backend auto took the CPU: why; else "" */
};

/* For --backend and --devices. "auto" takes CUDA where a device can be opened and the CPU
 * otherwise. Errors: NO_DEVICE with the reason; NOT_IMPLEMENTED for several devices. */
int backend_choose(const struct options *options, struct backend *out, struct err *err);

/* Type to hold weights of `checkpoint` in, for --dtype "auto", "bf16" or "f32". INVALID_PARAMETER
 * when the backend cannot hold it. */
int backend_held(const struct kern *kern, const char *wanted, enum dtype checkpoint,
                 enum dtype *out, struct err *err);

/* INVALID_PARAMETER, with the width, for a model whose shape the backend's kernels cannot take. */
int backend_fits(const struct kern *kern, const struct model_desc *desc, struct err *err);

/* Memory of the backend's device. */
struct backend_memory {
    uint64_t budget; /* --gpu-memory of what is free; 0 when the backend computes in the host's */
    uint64_t taken;  /* by the driver, this process's context and kernels, and others */
};

/* Errors: NO_MEMORY when --gpu-memory is more than there is; NO_DEVICE. */
int backend_memory(const struct backend *backend, const struct options *options,
                   struct backend_memory *out, struct err *err);

/* Prints the devices for --check. */
void backend_check(FILE *out);

#endif
