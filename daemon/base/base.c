/* Where assertions end: print and abort. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>

void base_assert_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, what);
    abort();
}

void base_assert_cmp_failed(const char *file, int line, const char *what, long long a, long long b)
{
    fprintf(stderr, "%s:%d: assertion failed: %s (%lld, %lld)\n", file, line, what, a, b);
    abort();
}
