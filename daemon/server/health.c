/* grpc.health.v1: Check answers at once, Watch is kept by egress.
 *
 * "liveness" serves as long as the daemon answers at all; everything else serves between ready and
 * drain. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "grpc/health/v1/health.pb-c.h"
#include "rpc/codec.h"
#include "server/server_int.h"

#define HEALTH(word) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##word

static const char *const health_services[] = {
    "",
    "readiness",
    "liveness",
    "graft.v1.InferenceService",
    "graft.v1.AdapterService",
    "graft.v1.ModelService",
};

/* Any thread. */
static int health_status(const struct server *server, const char *service)
{
    for (size_t i = 0; i < ARRAY_N(health_services); i++) {
        if (strcmp(service, health_services[i]) == 0) {
            bool is_serving = ring_flag_is_raised(&server->is_ready) &&
                              !ring_flag_is_raised(&server->is_draining);
            return is_serving || strcmp(service, "liveness") == 0 ? HEALTH(SERVING)
                                                                  : HEALTH(NOT_SERVING);
        }
    }
    return HEALTH(SERVICE_UNKNOWN);
}

static const Grpc__Health__V1__HealthCheckRequest *health_decode(struct rpc_call *call,
                                                                 const void *data, size_t n,
                                                                 struct arena *arena)
{
    const ProtobufCMessage *request =
        rpc_unpack(&grpc__health__v1__health_check_request__descriptor, data, n, arena);
    if (!request) {
        struct rpc_error error = {0};
        err_set(&error.err, ERR_INVALID_PARAMETER, "the message is not a HealthCheckRequest");
        rpc_call_finish(call, NULL, &error);
    }
    return (const Grpc__Health__V1__HealthCheckRequest *)request;
}

void health_on_check(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct arena arena;
    arena_init(&arena);
    const Grpc__Health__V1__HealthCheckRequest *request = health_decode(call, data, n, &arena);
    if (request) {
        int status = health_status(ctx, request->service);
        struct rpc_error error = {0};
        response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
        if (status == HEALTH(SERVICE_UNKNOWN)) {
            snprintf(error.resource, sizeof error.resource, "%.100s", request->service);
            err_set(&error.err, ERR_REQUEST_NOT_FOUND, "service \"%.100s\" is not known here",
                    request->service);
            rpc_call_finish(call, NULL, &error);
        } else {
            rpc_call_finish(call, &response.base, NULL);
        }
    }
    arena_done(&arena);
}

void health_on_watch(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct arena arena;
    arena_init(&arena);
    const Grpc__Health__V1__HealthCheckRequest *request = health_decode(call, data, n, &arena);
    if (request) {
        struct watch *watch = mem_zalloc(sizeof *watch);
        watch->user = (struct call_user){CALL_WATCH, call};
        /* A name too long to be one of ours stays unknown when it is cut. */
        snprintf(watch->service, sizeof watch->service, "%s", request->service);
        watch->sent = -1;
        rpc_call_set_user(call, watch);
        rpc_call_ref(call);
        service_to_egress(ctx, (struct egress_msg){.type = EGRESS_WATCH, .call = call});
    }
    arena_done(&arena);
}

void health_send(struct server *server, struct watch *watch)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    int status = health_status(server, watch->service);
    if (status == watch->sent || watch->is_over || !rpc_call_can_send(watch->user.call)) {
        return;
    }
    watch->sent = status;
    response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    rpc_call_send(watch->user.call, &response.base);
}
