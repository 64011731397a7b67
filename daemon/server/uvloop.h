/* libuv. Its header brings MIN and MAX of its own, written differently from base's. */
#ifndef SERVER_UVLOOP_H
#define SERVER_UVLOOP_H

#include <uv.h>

#undef MIN
#undef MAX
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
