/* The AVX-512 path: one register per vector, blocks of 12 rows by 32 columns (24 accumulators, 4
 * of weights). fp32 arithmetic throughout: bf16 pairs are widened by a shift and a mask. */
#define CPU_VEC_AVX512
#define GEMM_ROWS 12
#define GEMM_WIDE 12

#include "kernels/cpu/path.h"
#include "kernels/cpu/path_gemm.h"
#include "kernels/cpu/path_recurrent.h"
#include "kernels/cpu/path_rows.h"

const struct cpu_mm cpu_mm_avx512[3] = GEMM_TABLE;
const struct cpu_rows cpu_rows_avx512 = ROWS_TABLE;
const struct cpu_recurrent cpu_recurrent_avx512 = RECURRENT_TABLE;

const struct cpu_path cpu_path_avx512 = {
    .isa = KERN_ISA_AVX512,
    .held = {[DTYPE_F32] = &cpu_mm_avx512[2], [DTYPE_BF16] = &cpu_mm_avx512[0]},
    .exact = {[DTYPE_F32] = &cpu_mm_avx512[2], [DTYPE_BF16] = &cpu_mm_avx512[1]},
    .rows = &cpu_rows_avx512,
    .recurrent = &cpu_recurrent_avx512,
};
