/* The CUDA backend: struct kern on one NVIDIA GPU, or on the emulated one of kernels/emu.
 *
 * Weights, KV and inputs of linear ops are bf16 or fp16. A build without CUDA and without the
 * emulator has neither. */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/kern.h"

extern const struct kern kern_cuda;

/* 0 when a device can be opened; NO_DEVICE with the reason otherwise. Any thread. */
int cuda_available(struct err *err);

/* Loads what stays on a device beside what open reserves, so that dev_describe tells what is left.
 * Before the first open, same thread. */
void cuda_preload(uint32_t device);

#endif
