/* AdapterService: the question leaves on the cq thread, the answer comes back on egress. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "graft/v1/adapter.pb-c.h"
#include "rpc/codec.h"
#include "server/request.h"
#include "server/server_int.h"

static int adapter_check(struct server *server, enum adapter_op_type type, const char *name,
                         struct rpc_error *error)
{
    bool is_work = type == ADAPTER_OP_LOAD || type == ADAPTER_OP_UNLOAD;
    int rc = service_gate(server, is_work, error);
    if (rc) {
        return rc;
    }
    if (name && !adapter_name_is_valid(name)) {
        return request_refuse(error, ERR_INVALID_PARAMETER, "name",
                              "\"%.80s\" is no adapter name: lower-case letters, digits and ._- "
                              "inside, at most %d",
                              name, LIMIT_ADAPTER_NAME_BYTES - 1);
    }
    service_reap(server);
    if (server->live.n >= LIMIT_LIVE) {
        return err_set(&error->err, ERR_QUEUE_FULL, "the server holds %u requests, limit is %d",
                       server->live.n, LIMIT_LIVE);
    }
    return 0;
}

/* name NULL: for LIST. */
static int adapter_ask(struct server *server, struct rpc_call *call, enum adapter_op_type type,
                       const char *name, struct rpc_error *error)
{
    int rc = adapter_check(server, type, name, error);
    if (rc) {
        return rc;
    }
    struct adapter_call *asked = mem_zalloc(sizeof *asked);
    uint32_t record_n = name ? 1 : LIMIT_ADAPTERS;
    asked->user = (struct call_user){CALL_ADAPTER_OP, call};
    asked->records = mem_zalloc_n(record_n, sizeof *asked->records);
    asked->op.type = type;
    if (name) {
        memcpy(asked->op.name, name, strlen(name) + 1);
    }
    asked->op.key = ++server->live.key_end;
    asked->op.owner = asked;
    asked->op.out = asked->records;
    asked->op.out_max = record_n;
    server->live.n++;
    rpc_call_set_user(call, asked);
    service_to_engine(
        server, (struct msg){.type = MSG_ADAPTER_OP, .key = asked->op.key, .ptr = &asked->op});
    return 0;
}

static void adapter_refused(struct rpc_call *call, int rc, struct rpc_error *error)
{
    if (rc) {
        rpc_call_finish(call, NULL, error);
    }
}

static int adapter_undecodable(struct rpc_error *error)
{
    return err_set(&error->err, ERR_INVALID_PARAMETER, "the message is not of the method's type");
}

void adapter_on_load(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct rpc_error error = {0};
    struct arena arena;
    arena_init(&arena);
    const Graft__V1__LoadAdapterRequest *request =
        (const Graft__V1__LoadAdapterRequest *)rpc_unpack(
            &graft__v1__load_adapter_request__descriptor, data, n, &arena);
    int rc = request ? adapter_ask(ctx, call, ADAPTER_OP_LOAD, request->name, &error)
                     : adapter_undecodable(&error);
    adapter_refused(call, rc, &error);
    arena_done(&arena);
}

void adapter_on_unload(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct rpc_error error = {0};
    struct arena arena;
    arena_init(&arena);
    const Graft__V1__UnloadAdapterRequest *request =
        (const Graft__V1__UnloadAdapterRequest *)rpc_unpack(
            &graft__v1__unload_adapter_request__descriptor, data, n, &arena);
    int rc = request ? adapter_ask(ctx, call, ADAPTER_OP_UNLOAD, request->name, &error)
                     : adapter_undecodable(&error);
    adapter_refused(call, rc, &error);
    arena_done(&arena);
}

void adapter_on_get(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct rpc_error error = {0};
    struct arena arena;
    arena_init(&arena);
    const Graft__V1__GetAdapterRequest *request = (const Graft__V1__GetAdapterRequest *)rpc_unpack(
        &graft__v1__get_adapter_request__descriptor, data, n, &arena);
    int rc = request ? adapter_ask(ctx, call, ADAPTER_OP_GET, request->name, &error)
                     : adapter_undecodable(&error);
    adapter_refused(call, rc, &error);
    arena_done(&arena);
}

void adapter_on_list(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct rpc_error error = {0};
    struct arena arena;
    arena_init(&arena);
    int rc = rpc_unpack(&graft__v1__list_adapters_request__descriptor, data, n, &arena)
                 ? adapter_ask(ctx, call, ADAPTER_OP_LIST, NULL, &error)
                 : adapter_undecodable(&error);
    adapter_refused(call, rc, &error);
    arena_done(&arena);
}

static void adapter_fill(struct adapter *record, Graft__V1__Adapter *out)
{
    graft__v1__adapter__init(out);
    out->name = record->name;
    out->state = (Graft__V1__AdapterState)record->state; /* same numbers */
    out->revision = record->revision;
    out->kind = record->kind;
    out->loading = record->is_loading;
    out->last_error = record->last_error;
    out->host_bytes = record->host_bytes;
    out->device_bytes = record->device_bytes;
    out->rank_max = record->rank_max;
    out->modules_applied = record->modules_applied;
    out->modules_total = record->modules_total;
    out->active_requests = record->active_n;
    out->queued_requests = record->queued_n;
    out->etag = record->etag;
    out->retiring_versions = record->retiring_n;
    out->conversion_error = record->conversion_error;
    out->loads = record->load_n;
    out->registered_unix_ms = record->registered_unix_ms;
    out->loaded_unix_ms = record->loaded_unix_ms;
    out->last_used_unix_ms = record->last_used_unix_ms;
}

_Static_assert((int)ADAPTER_FAILED == (int)GRAFT__V1__ADAPTER_STATE__ADAPTER_STATE_FAILED &&
                   (int)ADAPTER_REGISTERED ==
                       (int)GRAFT__V1__ADAPTER_STATE__ADAPTER_STATE_REGISTERED,
               "states have the numbers of the proto");

static void adapter_send_list(struct rpc_call *call, struct adapter_op *op, struct arena *arena)
{
    Graft__V1__ListAdaptersResponse response = GRAFT__V1__LIST_ADAPTERS_RESPONSE__INIT;
    Graft__V1__Adapter *adapters = arena_alloc(arena, op->out_n * sizeof *adapters);
    response.adapters = arena_alloc(arena, op->out_n * sizeof(void *));
    response.n_adapters = op->out_n;
    for (uint32_t i = 0; i < op->out_n; i++) {
        adapter_fill(&op->out[i], &adapters[i]);
        response.adapters[i] = &adapters[i];
    }
    rpc_call_finish(call, &response.base, NULL);
}

static void adapter_send(struct rpc_call *call, struct adapter_op *op, struct arena *arena)
{
    Graft__V1__Adapter adapter;
    Graft__V1__LoadAdapterResponse load = GRAFT__V1__LOAD_ADAPTER_RESPONSE__INIT;
    Graft__V1__UnloadAdapterResponse unload = GRAFT__V1__UNLOAD_ADAPTER_RESPONSE__INIT;
    adapter_fill(&op->out[0], &adapter);
    switch (op->type) {
    case ADAPTER_OP_LOAD:
        load.adapter = &adapter;
        load.unchanged = op->is_unchanged;
        rpc_call_finish(call, &load.base, NULL);
        break;
    case ADAPTER_OP_UNLOAD:
        unload.adapter = &adapter;
        rpc_call_finish(call, &unload.base, NULL);
        break;
    case ADAPTER_OP_GET:
        rpc_call_finish(call, &adapter.base, NULL);
        break;
    case ADAPTER_OP_LIST:
        adapter_send_list(call, op, arena);
        break;
    }
}

void adapter_answer(struct server *server, struct adapter_op *op)
{
    struct adapter_call *asked = op->owner;
    struct rpc_call *call = asked->user.call;
    struct returned back = {.type = RETURNED_OP};
    THREAD_ASSERT(THREAD_EGRESS);
    bool is_room = ring_push(&server->returned, &back);
    ASSERT(is_room); /* RING_RETURNED_N */
    rpc_call_ref(call);
    if (op->err.code) {
        struct rpc_error error = {.err = op->err};
        snprintf(error.resource, sizeof error.resource, "%s", op->name);
        rpc_call_finish(call, NULL, &error);
    } else {
        struct arena arena;
        arena_init(&arena);
        adapter_send(call, op, &arena);
        arena_done(&arena);
    }
    /* The answer is packed; the call may wait long for its client. */
    mem_free(asked->records);
    asked->records = NULL;
    rpc_call_unref(call);
}
