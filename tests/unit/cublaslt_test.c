/* The ABI that kernels/cuda/cublaslt_abi.h states, against the library's own header; and its
 * functions by name, against the library, where this machine has it. */
#include "tests/test.h"

#include <assert.h>
#include <dlfcn.h>
#include <stdio.h>

#include "base/base.h"
#include "kernels/cuda/cublaslt_abi.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#define SAME(ours, theirs) static_assert((int)(ours) == (int)(theirs), #theirs)
SAME(CUBLASLT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(CUBLASLT_R_32F, CUDA_R_32F);
SAME(CUBLASLT_R_16F, CUDA_R_16F);
SAME(CUBLASLT_R_16BF, CUDA_R_16BF);
SAME(CUBLASLT_OP_T, CUBLAS_OP_T);
SAME(CUBLASLT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(CUBLASLT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(CUBLASLT_PREF_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(CUBLASLT_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(CUBLASLT_PREF_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(CUBLASLT_CONFIG_SPLIT_K, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
SAME(CUBLASLT_CONFIG_REDUCTION, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
SAME(0, CUBLASLT_REDUCTION_SCHEME_NONE);
SAME(CUBLASLT_INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE);
SAME(CUBLASLT_EXECUTION_FAILED, CUBLAS_STATUS_EXECUTION_FAILED);
SAME(CUBLASLT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(sizeof(struct cublaslt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(struct cublaslt_found), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(struct cublaslt_found, algo), offsetof(cublasLtMatmulHeuristicResult_t, algo));
SAME(offsetof(struct cublaslt_found, workspace_bytes),
     offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(struct cublaslt_found, state), offsetof(cublasLtMatmulHeuristicResult_t, state));

/* Every call with the types that ours has, the library's handles and enums being void * and int. */
static inline void has_these_types(const struct cublaslt_calls *ours, void *p, const void *q)
{
    struct cublaslt_algo *algo = p;
    (void)sizeof(ours->create(p) + cublasLtCreate(p));
    (void)sizeof(ours->version() + cublasLtGetVersion());
    (void)sizeof(ours->desc_create(p, 0, 0) +
                 cublasLtMatmulDescCreate(p, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    (void)sizeof(ours->layout_create(p, 0, 1, 2, 3) +
                 cublasLtMatrixLayoutCreate(p, CUDA_R_32F, 1, 2, 3));
    (void)sizeof(ours->find(p, p, p, p, p, p, p, 1, p, p) +
                 cublasLtMatmulAlgoGetHeuristic(p, p, p, p, p, p, p, 1, p, p));
    (void)sizeof(ours->matmul(p, p, q, q, p, q, p, q, q, p, p, p, algo, p, 0, p) +
                 cublasLtMatmul(p, p, q, q, p, q, p, q, q, p, p, p, p, p, 0, p));
}
#define HAS_HEADER true
#else
#define HAS_HEADER false
#endif

static void every_function_is_there(void **state)
{
    (void)state;
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    void *library = NULL;
    for (size_t i = 0; i < ARRAY_N(names) && !library; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    printf("header %s, library %s\n", HAS_HEADER ? "compared" : "not available",
           library ? "compared" : "not available");
    for (size_t i = 0; i < CUBLASLT_CALL_N && library; i++) {
        if (!dlsym(library, cublaslt_names[i])) {
            fail_msg("%s", cublaslt_names[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_function_is_there)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
