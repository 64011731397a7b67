/* fault: another implementation that is late or fails when a plan says so. For tests.
 *
 * Half of the contract's functions get no device (weight_bytes, kv_bytes, open itself), so what is
 * wrapped and the plan are set for the process, once, before the first use. A device keeps the plan
 * it was opened with. Results are those of the inner implementation, bit for bit. */
#ifndef KERNELS_FAULT_FAULT_H
#define KERNELS_FAULT_FAULT_H

#include <stdint.h>

#include "kernels/kern.h"

/* Zero in a field turns that fault off. Steps and calls count from 1, per device. */
struct fault_plan {
    uint64_t seed;
    uint64_t delay_ns;          /* begin_step sleeps 0..delay_ns, drawn from (seed, step) */
    uint32_t fail_step;         /* read_step fails at this step ... */
    uint32_t fail_step_n;       /* ... and after it, so many steps in all; 0 = for good */
    float fail_chance;          /* and at any step with this probability, from (seed, step) */
    uint32_t hang_step;         /* from this step on none ends: read_step says "not yet" ... */
    int64_t silence_ns;         /* ... and after so long that the device is lost */
    uint32_t reserve_fail_call; /* this call of reserve or kv_open fails */
    size_t reserve_bytes_max;   /* so does one that brings their sum above this */
};

extern struct kern kern_fault; /* written by fault_set only */

/* Sets what kern_fault wraps and the plan of devices opened from now on (copied). Any thread, but
 * never beside another call of kern_fault. */
void fault_set(const struct kern *inner, const struct fault_plan *plan);

#endif
