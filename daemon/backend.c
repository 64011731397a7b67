/* The choice is made once, before anything is read: a build may lack CUDA, a machine its driver. */
#include "backend.h"

#include <string.h>

#include "base/base.h"
#include "base/log.h"
#ifdef KERN_HAS_CUDA
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/host.h"
#endif

#define BACKEND_CUDA_WIDTH 8 /* elements that its kernels read at once */

/* 0 when CUDA can be used here. */
static int backend_find_cuda(const struct kern **out, struct err *err)
{
#ifdef KERN_HAS_CUDA
    int rc = cuda_available(err);
    *out = rc ? *out : &kern_cuda;
    return rc;
#else
    (void)out;
    return err_set(err, ERR_NO_DEVICE, "this program was built without CUDA");
#endif
}

int backend_choose(const char *wanted, const struct kern **out, struct err *err)
{
    struct err reason = {0};
    *out = strcmp(wanted, "ref") == 0 ? &kern_ref : &kern_cpu;
    if (strcmp(wanted, "cuda") == 0) {
        int rc = backend_find_cuda(out, err);
        return rc ? err_prefix(err, rc, "could not use backend \"cuda\"") : 0;
    }
    if (strcmp(wanted, "auto") == 0 && backend_find_cuda(out, &reason) != 0) {
        log_msg(LOG_INFO, "the CPU backend serves: %s", reason.text);
    }
    return 0;
}

int backend_held(const struct kern *kern, const char *wanted, enum dtype checkpoint,
                 enum dtype *out, struct err *err)
{
    bool is_16_bit = strcmp(kern->name, "cuda") == 0;
    bool is_auto = strcmp(wanted, "auto") == 0;
    if (strcmp(wanted, "bf16") == 0 || (is_auto && checkpoint == DTYPE_BF16)) {
        *out = DTYPE_BF16;
    } else if (is_16_bit && is_auto && checkpoint == DTYPE_F16) {
        *out = DTYPE_F16;
    } else if (!is_16_bit) {
        *out = DTYPE_F32;
    } else {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "the CUDA backend holds weights in 16 bits, and the checkpoint is %s: start "
                       "graftd with --dtype bf16, or with --backend cpu",
                       dtype_name(checkpoint));
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
                  {"head_dim", desc->head_dim}};
    if (strcmp(kern->name, "cuda") != 0) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_N(widths); i++) {
        if (widths[i].value % BACKEND_CUDA_WIDTH != 0) {
            return err_set(
                err, ERR_INVALID_PARAMETER,
                "the CUDA backend needs multiples of %d, and %s is %u: start graftd with "
                "--backend cpu",
                BACKEND_CUDA_WIDTH, widths[i].name, widths[i].value);
        }
    }
    return 0;
}

uint64_t backend_free_bytes(const struct kern *kern)
{
#ifdef KERN_HAS_CUDA
    struct dev_info info;
    if (kern == &kern_cuda && dev_describe(0, &info, NULL) == 0) {
        return info.free_bytes;
    }
#endif
    (void)kern;
    return 0;
}

void backend_check(FILE *out)
{
#ifdef KERN_HAS_CUDA
    uint32_t n = 0;
    struct err err = {0};
    int rc = dev_count(&n, &err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct dev_info info;
        rc = dev_describe(i, &info, &err);
        if (rc == 0) {
            fprintf(out,
                    "gpu.%u          %s, compute capability %u.%u, %u SMs at %.2f GHz, %.1f GB "
                    "(%.1f GB free), driver for CUDA %u.%u\n",
                    i, info.name, info.major, info.minor, info.sm_n, info.clock_khz * 1e-6,
                    (double)info.memory_bytes * 1e-9, (double)info.free_bytes * 1e-9,
                    info.driver_version / 1000, info.driver_version % 1000 / 10);
        }
    }
    if (rc) {
        fprintf(out, "gpu            %s\n", err.text);
    }
#else
    fprintf(out, "gpu            not built in\n");
#endif
}
