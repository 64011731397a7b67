/* Errors: one list of codes, and a small record for those that a person will read.
 *
 * A function that can fail for an operating reason returns `int`: 0 or a negative ERR_ code. Where
 * a person reads the failure (files, adapters, requests, devices) the last parameter is a `struct
 * err *`; err_set fills it and returns the code, callers may err_prefix context while it travels
 * up, and it is logged or answered once, where it stops. Text follows the form `could not load
 * adapter "x": tensor "t" has rank 24, limit is 16`.
 *
 * The name of a code is the ErrorInfo.reason clients see; the number is its gRPC status. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, gRPC status code */
#define ERR_LIST(X)                                                                                \
    X(INVALID_PARAMETER, 3)                                                                        \
    X(CONTEXT_LENGTH_EXCEEDED, 3)                                                                  \
    X(ADAPTER_NOT_FOUND, 5)                                                                        \
    X(MODEL_NOT_FOUND, 5)                                                                          \
    X(REQUEST_NOT_FOUND, 5)                                                                        \
    X(REQUEST_EXISTS, 6)                                                                           \
    X(PERMISSION_DENIED, 7)                                                                        \
    X(QUEUE_FULL, 8)                                                                               \
    X(KV_MEMORY_EXHAUSTED, 8)                                                                      \
    X(ADAPTER_MEMORY_EXHAUSTED, 8)                                                                 \
    X(SLOW_CONSUMER, 8)                                                                            \
    X(NO_MEMORY, 8)                                                                                \
    X(ADAPTER_INCOMPATIBLE, 9)                                                                     \
    X(BAD_FILE, 9)                                                                                 \
    X(NO_DEVICE, 9)                                                                                \
    X(CONFLICT, 10)                                                                                \
    X(NOT_IMPLEMENTED, 12)                                                                         \
    X(INTERNAL, 13)                                                                                \
    X(IO_FAILURE, 14)                                                                              \
    X(ADAPTER_LOADING, 14)                                                                         \
    X(DRAINING, 14)                                                                                \
    X(STARTING, 14)                                                                                \
    X(DEVICE_FAILURE, 14)                                                                          \
    X(CANCELLED, 1)                                                                                \
    X(DEADLINE_EXCEEDED, 4)

enum err_code_index {
#define X(name, status) ERR_INDEX_##name,
    ERR_LIST(X)
#undef X
        ERR_INDEX_N
};

enum err_code {
    ERR_NONE = 0,
#define X(name, status) ERR_##name = -1 - ERR_INDEX_##name,
    ERR_LIST(X)
#undef X
};

#define ERR_TEXT_BYTES 512

struct err {
    int code;                  /* 0 or ERR_... */
    char text[ERR_TEXT_BYTES]; /* English, no final full stop, always valid UTF-8 */
};

/* Formats the text, stores the code and returns it. `err` may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF_FMT(3, 4);

/* Puts "<prefix>: " before the text and returns err->code. `err` may be NULL (returns `code`). */
int err_prefix(struct err *err, int code, const char *fmt, ...) PRINTF_FMT(3, 4);

/* Takes out of a text every byte that is not part of a UTF-8 sequence: names that a format cut in
 * the middle of a character would make a message that no client can decode. */
void err_scrub(char *text);

/* "INVALID_PARAMETER" for ERR_INVALID_PARAMETER; "NONE" for 0. Static storage. */
const char *err_name(int code);

/* The gRPC status code for a code of the list; 0 for 0, 2 (UNKNOWN) for anything else. */
int err_grpc_status(int code);

#ifdef __cplusplus
}
#endif

#endif
