/* Rich errors: from our error record to a gRPC status with details.
 *
 * Every failure that leaves the daemon carries a google.rpc.Status with exactly one ErrorInfo
 * (domain "graft", reason = the error code's name), and, where the code calls for it, RetryInfo,
 * BadRequest, PreconditionFailure, QuotaFailure or ResourceInfo. */
#ifndef RPC_ERROR_H
#define RPC_ERROR_H

#include "base/arena.h"
#include "base/err.h"
#include "base/limits.h"

#define RPC_ERROR_META_MAX 4

struct Google__Rpc__Status; /* google/rpc/status.pb-c.h */

struct rpc_error {
    struct err err;                            /* code != 0 */
    char field[64];                            /* path of the wrong field; "" = none */
    char resource[LIMIT_REQUEST_ID_BYTES + 1]; /* name of the thing asked for; "" = none */
    struct {
        const char *key; /* static */
        char value[24];
    } meta[RPC_ERROR_META_MAX]; /* ErrorInfo.metadata */
    unsigned meta_n;
};

void rpc_error_add_meta(struct rpc_error *error, const char *key, uint64_t value);

/* The google.rpc.Status of an error; everything in it lives in the arena. */
struct Google__Rpc__Status *rpc_error_status(const struct rpc_error *error, struct arena *arena);

/* Milliseconds after which a client may try again; 0 when it had better not. */
int64_t rpc_error_retry_ms(int code);

#endif
