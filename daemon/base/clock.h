/* Time. Deadlines and durations are int64 nanoseconds of the monotonic clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_NS_PER_MS 1000000LL
#define CLOCK_NS_PER_S  1000000000LL

/* A deadline that never passes. */
#define CLOCK_NEVER INT64_MAX

int64_t clock_now_ns(void);

/* Wall clock, milliseconds since 1970, for what people and protocols read. */
int64_t clock_unix_ms(void);

#endif
