/* The choice is made once, before anything is read: a build may lack CUDA, a machine its driver. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#ifdef KERN_HAS_CUDA
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/host.h"
#include "kernels/cuda/host_text.h"
#endif

#define BACKEND_CUDA_WIDTH    8  /* elements that its kernels read at once */
#define BACKEND_CUDA_HEAD_MIN 16 /* narrower heads are no shape of its attention */
#define BACKEND_CUDA_MAJOR    8  /* the oldest compute capability that it is compiled for */

/* Kept out of --gpu-memory: graphs are captured after the reservation was made. */
#define BACKEND_GRAPH_BYTES ((uint64_t)64 << 20)

#ifdef KERN_HAS_CUDA
/* 0 when the device can be used. */
static int backend_find_cuda(uint32_t device, const struct kern **out, struct err *err)
{
    struct dev_info info;
    uint32_t n = 0;
    int rc = dev_count(&n, err);
    if (rc == 0 && device >= n) {
        return err_set(err, ERR_NO_DEVICE, "there is no GPU %u: this machine has %u", device, n);
    }
    rc = rc ? rc : dev_describe(device, &info, err);
    if (rc) {
        return rc;
    }
    if (info.major < BACKEND_CUDA_MAJOR) {
        return err_set(err, ERR_NO_DEVICE,
                       "GPU %u (%.100s) has compute capability %u.%u, the kernels need %u.0",
                       device, info.name, info.major, info.minor, BACKEND_CUDA_MAJOR);
    }
    cuda_preload(device);
    *out = &kern_cuda;
    return 0;
}
#else
static int backend_find_cuda(uint32_t device, const struct kern **out, struct err *err)
{
    (void)device;
    (void)out;
    return err_set(err, ERR_NO_DEVICE, "this program was built without CUDA");
}
#endif

int backend_choose(const struct options *options, struct backend *out, struct err *err)
{
    const char *wanted = options->backend;
    struct err reason = {0};
    *out = (struct backend){.kern = strcmp(wanted, "ref") == 0 ? &kern_ref : &kern_cpu};
    if (strchr(options->devices, ',')) {
        return err_set(err, ERR_NOT_IMPLEMENTED,
                       "--devices is %.100s: several devices are not implemented",
                       options->devices);
    }
    out->device = (uint32_t)strtoul(options->devices, NULL, 10);
    if (strcmp(wanted, "cuda") == 0) {
        int rc = backend_find_cuda(out->device, &out->kern, err);
        return rc ? err_prefix(err, rc, "could not use backend \"cuda\"") : 0;
    }
    if (strcmp(wanted, "auto") == 0 && backend_find_cuda(out->device, &out->kern, &reason) != 0) {
        memcpy(out->note, reason.text, sizeof out->note);
    }
    return 0;
}

int backend_held(const struct kern *kern, const char *wanted, enum dtype checkpoint,
                 enum dtype *out, struct err *err)
{
    bool is_16_bit = kern->is_device;
    bool is_auto = strcmp(wanted, "auto") == 0;
    if (strcmp(wanted, "bf16") == 0 || (is_auto && checkpoint == DTYPE_BF16)) {
        *out = DTYPE_BF16;
    } else if (is_16_bit && is_auto && checkpoint == DTYPE_F16) {
        *out = DTYPE_F16;
    } else if (!is_16_bit) {
        *out = DTYPE_F32;
    } else {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "the CUDA backend holds weights in 16 bits, and %s: start graftd with "
                       "--dtype bf16, or with --backend cpu",
                       is_auto ? "the checkpoint is f32" : "--dtype is f32");
    }
    return 0;
}

int backend_fits(const struct kern *kern, const struct model_desc *desc, struct err *err)
{
    const struct {
        const char *name;
        uint32_t value;
    } widths[] = {{"hidden_size", desc->hidden},
                  {"intermediate_size", desc->ffn},
                  {"head_dim", desc->head_dim},
                  {"linear_num_value_heads x linear_value_head_dim",
                   desc->gdn.value_head_n * desc->gdn.value_dim},
                  {"mamba_d_ssm", desc->ssd.head_n * desc->ssd.head_dim}};
    if (!kern->is_device) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_N(widths); i++) {
        if (widths[i].value % BACKEND_CUDA_WIDTH != 0) {
            return err_set(err, ERR_INVALID_PARAMETER,
                           "the CUDA backend needs multiples of %d, and %s is %u: start graftd "
                           "with --backend cpu",
                           BACKEND_CUDA_WIDTH, widths[i].name, widths[i].value);
        }
    }
    if (desc->head_dim < BACKEND_CUDA_HEAD_MIN || desc->head_dim > LIMIT_HEAD_DIM) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "the CUDA backend needs a head_dim of %d to %d, and it is %u: start graftd "
                       "with --backend cpu",
                       BACKEND_CUDA_HEAD_MIN, LIMIT_HEAD_DIM, desc->head_dim);
    }
    return 0;
}

#ifdef KERN_HAS_CUDA
int backend_memory(const struct backend *backend, const struct options *options,
                   struct backend_memory *out, struct err *err)
{
    struct dev_info info;
    *out = (struct backend_memory){0};
    if (!backend->kern->is_device) {
        return 0;
    }
    int rc = dev_describe(backend->device, &info, err);
    if (rc) {
        return rc;
    }
    bool is_read = options_gpu_memory(options->gpu_memory, info.free_bytes, &out->budget);
    ASSERT(is_read); /* looked at when it was set */
    out->taken = info.memory_bytes - info.free_bytes;
    if (out->budget > info.free_bytes) {
        return err_set(err, ERR_NO_MEMORY,
                       "--gpu-memory is %s, %.1f MB of %.1f MB are free on GPU %u",
                       options->gpu_memory, (double)info.free_bytes * 1e-6,
                       (double)info.memory_bytes * 1e-6, backend->device);
    }
    uint64_t most = info.free_bytes - MIN(info.free_bytes, BACKEND_GRAPH_BYTES);
    out->budget = MAX(MIN(out->budget, most), 1); /* 0 would say that there is no device */
    return 0;
}

static void backend_print(const struct dev_info *info, uint32_t index, FILE *out)
{
    char text[DEV_TEXT_BYTES];
    dev_info_text(info, text);
    fprintf(out, "gpu.%u          %s\n", index, text);
}

void backend_check(FILE *out)
{
    uint32_t n = 0;
    struct err err = {0};
    int rc = dev_count(&n, &err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct dev_info info;
        rc = dev_describe(i, &info, &err);
        if (rc == 0) {
            backend_print(&info, i, out);
        }
    }
    if (rc) {
        fprintf(out, "gpu            %s\n", err.text);
    }
}
#else
int backend_memory(const struct backend *backend, const struct options *options,
                   struct backend_memory *out, struct err *err)
{
    (void)backend;
    (void)options;
    (void)err;
    *out = (struct backend_memory){0};
    return 0;
}

void backend_check(FILE *out)
{
    fprintf(out, "gpu            this program was built without CUDA\n");
}
#endif
