/* Prints what device the CUDA backend would use, for tests/gpu.sh. Exit status 3 without one, and
 * the reason. */
#include <stdio.h>

#include "kernels/cuda/host.h"

int main(void)
{
    uint32_t n = 0;
    struct dev_info info = {0};
    struct err err = {0};
    int rc = dev_count(&n, &err);
    rc = rc ? rc : dev_describe(0, &info, &err);
    if (rc) {
        printf("%s\n", err.text);
        return 3;
    }
    printf(
        "%s%s, compute capability %u.%u, %u SMs at %.2f GHz, %.1f GB at %.2f GHz, driver for CUDA "
        "%u.%u\n",
        info.name, info.is_emulated ? " (emulated)" : "", info.major, info.minor, info.sm_n,
        info.clock_khz * 1e-6, (double)info.memory_bytes * 1e-9, info.memory_clock_khz * 1e-6,
        info.driver_version / 1000, info.driver_version % 1000 / 10);
    return 0;
}
