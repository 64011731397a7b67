/* The portable path: plain C, what every machine without a path of its own runs.
 *
 * On x86 the file is compiled twice, for any machine and (CPU_FUSED) for those with FMA
 * instructions, where fmaf is one; the bits are equal. */
#include "kernels/cpu/path.h"
#include "kernels/cpu/path_gemm.h"
#include "kernels/cpu/path_recurrent.h"
#include "kernels/cpu/path_rows.h"

#ifdef CPU_FUSED
#define PORTABLE(name) name##_fused
#else
#define PORTABLE(name) name
#endif

const struct cpu_mm PORTABLE(cpu_mm_portable)[3] = GEMM_TABLE;
const struct cpu_rows PORTABLE(cpu_rows_portable) = ROWS_TABLE;
const struct cpu_recurrent PORTABLE(cpu_recurrent_portable) = RECURRENT_TABLE;

const struct cpu_path PORTABLE(cpu_path_portable) = {
    .isa = KERN_ISA_PORTABLE,
    .held =
        {[DTYPE_F32] = &PORTABLE(cpu_mm_portable)[2], [DTYPE_BF16] = &PORTABLE(cpu_mm_portable)[0]},
    .exact =
        {[DTYPE_F32] = &PORTABLE(cpu_mm_portable)[2], [DTYPE_BF16] = &PORTABLE(cpu_mm_portable)[1]},
    .rows = &PORTABLE(cpu_rows_portable),
    .recurrent = &PORTABLE(cpu_recurrent_portable),
};
