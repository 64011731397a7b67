/* The affinity mask and the cgroup quota, v2 or v1. */
#include "base/cpus.h"

#include <sched.h>
#include <stdio.h>

#include "base/base.h"
#include "base/limits.h"

/* Whole CPUs a cgroup grants, rounded up; 0 = no quota. */
static uint32_t cpus_quota(void)
{
    long long quota = -1;
    long long period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) {
            quota = -1; /* "max" */
        }
        fclose(f);
    } else {
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re");
        FILE *g = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re");
        if (!f || !g || fscanf(f, "%lld", &quota) != 1 || fscanf(g, "%lld", &period) != 1) {
            quota = -1;
        }
        if (f) {
            fclose(f);
        }
        if (g) {
            fclose(g);
        }
    }
    return quota > 0 && period > 0 ? (uint32_t)DIV_UP(quota, period) : 0;
}

uint32_t cpus_granted(bool *out_is_quota)
{
    cpu_set_t set;
    uint32_t quota = cpus_quota();
    uint32_t n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        n = (uint32_t)MAX(CPU_COUNT(&set), 1);
    }
    *out_is_quota = quota > 0;
    n = quota > 0 ? MIN(n, quota) : n;
    return MIN(n, (uint32_t)LIMIT_THREADS);
}
