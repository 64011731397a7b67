/* Builds the details of an error: one small function per message of google.rpc. */
#include "rpc/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#define RPC_ERROR_DOMAIN             "graft"
#define RPC_ERROR_DETAILS            3 /* ErrorInfo, RetryInfo, and one more */
#define RPC_GRPC_NOT_FOUND           5
#define RPC_GRPC_ALREADY_EXISTS      6
#define RPC_GRPC_FAILED_PRECONDITION 9

/* A Status under construction. */
struct error_build {
    const struct rpc_error *error;
    struct arena *arena;
    Google__Rpc__Status *status;
};

void rpc_error_add_meta(struct rpc_error *error, const char *key, uint64_t value)
{
    ASSERT(error->meta_n < RPC_ERROR_META_MAX);
    error->meta[error->meta_n].key = key;
    snprintf(error->meta[error->meta_n].value, sizeof error->meta[0].value, "%" PRIu64, value);
    error->meta_n++;
}

int64_t rpc_error_retry_ms(int code)
{
    switch (code) {
    case ERR_QUEUE_FULL:
    case ERR_ADAPTER_LOADING:
    case ERR_STARTING:
    case ERR_IO_FAILURE:
        return 1000;
    case ERR_DRAINING:
    case ERR_DEVICE_FAILURE:
        return 5000;
    default:
        return 0;
    }
}

static void error_add(struct error_build *build, const ProtobufCMessage *detail)
{
    Google__Protobuf__Any *any = arena_alloc(build->arena, sizeof *any);
    char url[96];
    google__protobuf__any__init(any);
    snprintf(url, sizeof url, "type.googleapis.com/%s", detail->descriptor->name);
    any->type_url = arena_strdup(build->arena, url);
    any->value.len = protobuf_c_message_get_packed_size(detail);
    any->value.data = arena_alloc(build->arena, any->value.len);
    protobuf_c_message_pack(detail, any->value.data);
    ASSERT(build->status->n_details < RPC_ERROR_DETAILS);
    build->status->details[build->status->n_details++] = any;
}

static void error_add_info(struct error_build *build)
{
    const struct rpc_error *error = build->error;
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Rpc__ErrorInfo__MetadataEntry entries[RPC_ERROR_META_MAX];
    Google__Rpc__ErrorInfo__MetadataEntry *entry_ptrs[RPC_ERROR_META_MAX];
    info.reason = arena_strdup(build->arena, err_name(error->err.code));
    info.domain = arena_strdup(build->arena, RPC_ERROR_DOMAIN);
    for (unsigned i = 0; i < error->meta_n; i++) {
        google__rpc__error_info__metadata_entry__init(&entries[i]);
        entries[i].key = arena_strdup(build->arena, error->meta[i].key);
        entries[i].value = arena_strdup(build->arena, error->meta[i].value);
        entry_ptrs[i] = &entries[i];
    }
    info.n_metadata = error->meta_n;
    info.metadata = entry_ptrs;
    error_add(build, &info.base);
}

static void error_add_retry(struct error_build *build, int64_t retry_ms)
{
    Google__Rpc__RetryInfo info = GOOGLE__RPC__RETRY_INFO__INIT;
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    delay.seconds = retry_ms / 1000;
    delay.nanos = (int32_t)(retry_ms % 1000 * CLOCK_NS_PER_MS);
    info.retry_delay = &delay;
    error_add(build, &info.base);
}

static void error_add_bad_request(struct error_build *build)
{
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    Google__Rpc__BadRequest__FieldViolation violation =
        GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT;
    Google__Rpc__BadRequest__FieldViolation *list[] = {&violation};
    violation.field = arena_strdup(build->arena, build->error->field);
    violation.description = build->status->message;
    bad.n_field_violations = 1;
    bad.field_violations = list;
    error_add(build, &bad.base);
}

static void error_add_resource(struct error_build *build, const char *type)
{
    Google__Rpc__ResourceInfo info = GOOGLE__RPC__RESOURCE_INFO__INIT;
    info.resource_type = arena_strdup(build->arena, type);
    info.resource_name = arena_strdup(build->arena, build->error->resource);
    err_scrub(info.resource_name);
    info.description = build->status->message;
    error_add(build, &info.base);
}

static void error_add_precondition(struct error_build *build)
{
    Google__Rpc__PreconditionFailure failure = GOOGLE__RPC__PRECONDITION_FAILURE__INIT;
    Google__Rpc__PreconditionFailure__Violation violation =
        GOOGLE__RPC__PRECONDITION_FAILURE__VIOLATION__INIT;
    Google__Rpc__PreconditionFailure__Violation *list[] = {&violation};
    violation.type = arena_strdup(build->arena, err_name(build->error->err.code));
    violation.subject = arena_strdup(build->arena, build->error->resource);
    err_scrub(violation.subject);
    violation.description = build->status->message;
    failure.n_violations = 1;
    failure.violations = list;
    error_add(build, &failure.base);
}

static void error_add_quota(struct error_build *build, const char *subject)
{
    Google__Rpc__QuotaFailure failure = GOOGLE__RPC__QUOTA_FAILURE__INIT;
    Google__Rpc__QuotaFailure__Violation violation = GOOGLE__RPC__QUOTA_FAILURE__VIOLATION__INIT;
    Google__Rpc__QuotaFailure__Violation *list[] = {&violation};
    violation.subject = arena_strdup(build->arena, subject);
    violation.description = build->status->message;
    failure.n_violations = 1;
    failure.violations = list;
    error_add(build, &failure.base);
}

/* The one detail beside ErrorInfo and RetryInfo that the kind of failure calls for, if any. */
static void error_add_specific(struct error_build *build)
{
    int code = build->error->err.code;
    int status = err_grpc_status(code);
    if (code == ERR_KV_MEMORY_EXHAUSTED) {
        error_add_quota(build, "kv-memory");
    } else if (code == ERR_ADAPTER_MEMORY_EXHAUSTED) {
        error_add_quota(build, "adapter-memory");
    } else if (status == RPC_GRPC_FAILED_PRECONDITION) {
        error_add_precondition(build);
    } else if (status == RPC_GRPC_NOT_FOUND || status == RPC_GRPC_ALREADY_EXISTS) {
        error_add_resource(build, code == ERR_ADAPTER_NOT_FOUND ? "adapter"
                                  : code == ERR_MODEL_NOT_FOUND ? "model"
                                                                : "request");
    } else if (build->error->field[0] != '\0') {
        error_add_bad_request(build);
    }
}

Google__Rpc__Status *rpc_error_status(const struct rpc_error *error, struct arena *arena)
{
    struct error_build build = {.error = error, .arena = arena};
    Google__Rpc__Status *status = arena_alloc(arena, sizeof *status);
    ASSERT(error->err.code != 0);
    google__rpc__status__init(status);
    status->code = err_grpc_status(error->err.code);
    status->message = arena_strdup(arena, error->err.text);
    status->details = arena_alloc(arena, RPC_ERROR_DETAILS * sizeof(void *));
    build.status = status;
    error_add_info(&build);
    int64_t retry_ms = rpc_error_retry_ms(error->err.code);
    if (retry_ms > 0) {
        error_add_retry(&build, retry_ms);
    }
    error_add_specific(&build);
    return status;
}
