/* What kernels/cuda uses of cuBLASLt, in its C ABI: the library is opened at run time, so a build
 * may lack its header and a machine the library. The same in majors 12 and 13; tests/unit/
 * cublaslt_test.c holds all of it to the header where there is one. */
#ifndef KERNELS_CUDA_CUBLASLT_ABI_H
#define KERNELS_CUDA_CUBLASLT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define CUBLASLT_COMPUTE_32F      68
#define CUBLASLT_R_32F            0
#define CUBLASLT_R_16F            2
#define CUBLASLT_R_16BF           14
#define CUBLASLT_OP_T             1
#define CUBLASLT_DESC_TRANSA      3 /* int32_t */
#define CUBLASLT_PREF_WORKSPACE   1 /* uint64_t, bytes at most */
#define CUBLASLT_PREF_REDUCTION   3 /* uint32_t, mask of schemes; 0 = none */
#define CUBLASLT_PREF_ALIGNMENT_A 5 /* uint32_t, bytes; B, C, D follow */
#define CUBLASLT_PREF_ALIGNMENT_D 8
#define CUBLASLT_CONFIG_SPLIT_K   2 /* int32_t; up to 1: K is not split */
#define CUBLASLT_CONFIG_REDUCTION 3 /* uint32_t */
#define CUBLASLT_INVALID_VALUE    7
#define CUBLASLT_EXECUTION_FAILED 13
#define CUBLASLT_NOT_SUPPORTED    15

struct cublaslt_algo {
    uint64_t data[8];
};

struct cublaslt_found {
    struct cublaslt_algo algo;
    size_t workspace_bytes;
    int state;
    float wave_n;
    int reserved[4];
};

/* One member per function, in the order of cublaslt_names. Each but version returns a status, 0 is
 * success. Handles are opaque. */
struct cublaslt_calls {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    size_t (*version)(void); /* 130100 = 13.1.0 */
    int (*desc_create)(void **desc, int compute, int scale);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*desc_destroy)(void *desc);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*pref_create)(void **pref);
    int (*pref_set)(void *pref, int attribute, const void *value, size_t bytes);
    int (*pref_destroy)(void *pref);
    int (*find)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref,
                int wanted_n, struct cublaslt_found *out, int *out_n);
    int (*config_get)(const struct cublaslt_algo *algo, int attribute, void *value, size_t bytes,
                      size_t *out_bytes);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                  const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                  void *d, void *d_layout, const struct cublaslt_algo *algo, void *workspace,
                  size_t workspace_bytes, void *stream);
};

#define CUBLASLT_CALL_N 14

static const char *const cublaslt_names[CUBLASLT_CALL_N] = {
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulAlgoConfigGetAttribute",
    "cublasLtMatmul",
};

#endif
