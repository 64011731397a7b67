/* Kernels with one fault each, and their correct twins: what the emulation of the execution model
 * must find, and what it must be silent about. */
#ifndef TESTS_EMU_FAULTS_H
#define TESTS_EMU_FAULTS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAULT_THREADS 64u /* of a block */

/* Builds that find a fault: without sanitizers, with ASan and UBSan, with TSan. */
enum fault_build { FAULT_PLAIN = 1, FAULT_ASAN = 2, FAULT_RACE = 4, FAULT_ALL = 7 };

enum fault_out { FAULT_RIGHT = 0, FAULT_WRONG = 10, FAULT_NAN = 11 };

struct fault {
    const char *name; /* of the kernel; its line in faults.cu is marked with it */
    enum fault_out (*run)(bool is_faulty);
    int told_in;       /* enum fault_build: told with kernel, block, thread and line */
    int seen_in;       /* seen as a NaN in the outputs, and only there */
    const char *says;  /* what is told */
    const char *place; /* of the running thread, in ascending order */
};

/* Ends with a NULL name. */
extern const struct fault faults[];

#ifdef __cplusplus
}
#endif

#endif
