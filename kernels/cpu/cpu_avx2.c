/* The AVX2 path (with FMA): two registers per vector, blocks of 6 rows by 16 columns (12
 * accumulators, 2 of weights); up to 3 rows take both column tiles at once. */
#define CPU_VEC_AVX2
#define GEMM_ROWS 6
#define GEMM_WIDE 3

#include "kernels/cpu/path.h"
#include "kernels/cpu/path_gemm.h"
#include "kernels/cpu/path_recurrent.h"
#include "kernels/cpu/path_rows.h"

static const struct cpu_mm cpu_mm_avx2[3] = GEMM_TABLE;
static const struct cpu_rows cpu_rows_avx2 = ROWS_TABLE;
static const struct cpu_recurrent cpu_recurrent_avx2 = RECURRENT_TABLE;

const struct cpu_path cpu_path_avx2 = {
    .isa = KERN_ISA_AVX2,
    .held = {[DTYPE_F32] = &cpu_mm_avx2[2], [DTYPE_BF16] = &cpu_mm_avx2[0]},
    .exact = {[DTYPE_F32] = &cpu_mm_avx2[2], [DTYPE_BF16] = &cpu_mm_avx2[1]},
    .rows = &cpu_rows_avx2,
    .recurrent = &cpu_recurrent_avx2,
};
