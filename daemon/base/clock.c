/* Two clocks of the kernel, both read without a system call. */
#include "base/clock.h"

#include <time.h>

int64_t clock_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * CLOCK_NS_PER_S + ts.tv_nsec;
}

int64_t clock_unix_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * 1000LL + ts.tv_nsec / CLOCK_NS_PER_MS;
}

void clock_pause_ns(int64_t ns)
{
    struct timespec pause = {.tv_sec = (time_t)(ns / CLOCK_NS_PER_S),
                             .tv_nsec = (long)(ns % CLOCK_NS_PER_S)};
    nanosleep(&pause, NULL);
}
