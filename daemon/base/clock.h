/* Time. Deadlines and durations are int64 nanoseconds of the monotonic clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLOCK_NS_PER_MS 1000000LL
#define CLOCK_NS_PER_S  1000000000LL

/* A deadline that never passes. */
#define CLOCK_NEVER INT64_MAX

int64_t clock_now_ns(void);

/* Wall clock, milliseconds since 1970, for what people and protocols read. */
int64_t clock_unix_ms(void);

/* Sleeps about so long; a signal may end it early. */
void clock_pause_ns(int64_t ns);

#ifdef __cplusplus
}
#endif

#endif
