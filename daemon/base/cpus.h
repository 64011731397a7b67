/* CPUs this process may use. */
#ifndef BASE_CPUS_H
#define BASE_CPUS_H

#include <stdbool.h>
#include <stdint.h>

/* CPUs of the affinity mask, capped by the cgroup's quota (rounded up) and LIMIT_THREADS; at least
 * 1. *out_is_quota: a quota applies, so pinning would only make things worse. */
uint32_t cpus_granted(bool *out_is_quota);

#endif
