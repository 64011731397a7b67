/* Answers from the embedded descriptor set: each question scans it, which is small.
 *
 * Questions that arrive while an answer is on its way wait in a short queue. Extensions do not
 * exist in proto3 files, so questions about them answer UNIMPLEMENTED inside the stream. */
#include "server/reflection.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/descriptors.h"
#include "rpc/codec.h"

#define REFLECTION_QUEUE_MAX     64
#define REFLECTION_BYTES_MAX     4096 /* of a question: names are shorter */
#define REFLECTION_NOT_FOUND     5
#define REFLECTION_EXHAUSTED     8
#define REFLECTION_UNIMPLEMENTED 12

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;
typedef Google__Protobuf__FileDescriptorProto reflection_file;

/* A question that waits for its answer to be sent. */
struct reflection_item {
    struct reflection_item *next;
    struct arena arena;
    const reflection_request *request; /* NULL: it was too long */
    size_t bytes;
};

struct reflection_call {
    struct call_user user;
    struct reflection_item *first, **last;
    unsigned item_n;
    bool is_half_closed;
    bool is_over;
};

void reflection_on_open(void *ctx, struct rpc_call *call)
{
    struct reflection_call *state = mem_zalloc(sizeof *state);
    (void)ctx;
    state->user = (struct call_user){CALL_REFLECTION, call};
    state->last = &state->first;
    rpc_call_set_user(call, state);
}

static void reflection_pop(struct reflection_call *state)
{
    struct reflection_item *item = state->first;
    state->first = item->next;
    state->last = state->first ? state->last : &state->first;
    state->item_n--;
    arena_done(&item->arena);
    mem_free(item);
}

void reflection_free(struct call_user *user)
{
    struct reflection_call *state = (struct reflection_call *)user;
    while (state->first) {
        reflection_pop(state);
    }
    mem_free(state);
}

static Google__Protobuf__FileDescriptorSet *reflection_set(struct arena *arena)
{
    ProtobufCMessage *set = rpc_unpack(&google__protobuf__file_descriptor_set__descriptor,
                                       proto_descriptors, proto_descriptors_bytes, arena);
    ASSERT(set);
    return (Google__Protobuf__FileDescriptorSet *)set;
}

/* The rest of `symbol` behind "<scope>." or behind nothing when scope is ""; NULL when it is
 * elsewhere. */
static const char *symbol_below(const char *symbol, const char *scope)
{
    size_t n = strlen(scope);
    if (n == 0) {
        return symbol;
    }
    return strncmp(symbol, scope, n) == 0 && symbol[n] == '.' ? symbol + n + 1 : NULL;
}

/* A name on the way to a symbol: true when it is the symbol itself; *out_rest is what is left of it
 * when it may be further inside, else NULL. */
static bool symbol_step(const char *symbol, const char *name, const char **out_rest)
{
    *out_rest = symbol_below(symbol, name);
    return strcmp(symbol, name) == 0;
}

static bool message_has(const Google__Protobuf__DescriptorProto *message, const char *symbol)
{
    const char *rest;
    if (symbol_step(symbol, message->name, &rest)) {
        return true;
    }
    for (size_t i = 0; rest && i < message->n_nested_type; i++) {
        if (message_has(message->nested_type[i], rest)) {
            return true;
        }
    }
    for (size_t i = 0; rest && i < message->n_enum_type; i++) {
        if (strcmp(rest, message->enum_type[i]->name) == 0) {
            return true;
        }
    }
    for (size_t i = 0; rest && i < message->n_field; i++) {
        if (strcmp(rest, message->field[i]->name) == 0) {
            return true;
        }
    }
    return false;
}

static bool service_has(const Google__Protobuf__ServiceDescriptorProto *service, const char *symbol)
{
    const char *rest;
    bool is_found = symbol_step(symbol, service->name, &rest);
    for (size_t i = 0; rest && i < service->n_method; i++) {
        is_found = is_found || strcmp(rest, service->method[i]->name) == 0;
    }
    return is_found;
}

static bool file_has(const reflection_file *file, const char *symbol)
{
    const char *rest = symbol_below(symbol, file->package ? file->package : "");
    for (size_t i = 0; rest && i < file->n_message_type; i++) {
        if (message_has(file->message_type[i], rest)) {
            return true;
        }
    }
    for (size_t i = 0; rest && i < file->n_enum_type; i++) {
        if (strcmp(rest, file->enum_type[i]->name) == 0) {
            return true;
        }
    }
    for (size_t i = 0; rest && i < file->n_service; i++) {
        if (service_has(file->service[i], rest)) {
            return true;
        }
    }
    return false;
}

static const reflection_file *set_find_file(const Google__Protobuf__FileDescriptorSet *set,
                                            const char *name)
{
    for (size_t i = 0; i < set->n_file; i++) {
        if (strcmp(set->file[i]->name, name) == 0) {
            return set->file[i];
        }
    }
    return NULL;
}

static const reflection_file *set_find_symbol(const Google__Protobuf__FileDescriptorSet *set,
                                              const char *symbol)
{
    for (size_t i = 0; i < set->n_file; i++) {
        if (file_has(set->file[i], symbol)) {
            return set->file[i];
        }
    }
    return NULL;
}

/* The file and, without repeats, everything it imports. */
static void answer_file(const Google__Protobuf__FileDescriptorSet *set, const reflection_file *root,
                        struct arena *arena, reflection_response *response)
{
    Grpc__Reflection__V1__FileDescriptorResponse *files = arena_alloc(arena, sizeof *files);
    const reflection_file **list = arena_alloc(arena, set->n_file * sizeof(void *));
    size_t n = 1;
    list[0] = root;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < list[i]->n_dependency; j++) {
            const reflection_file *import = set_find_file(set, list[i]->dependency[j]);
            size_t k = 0;
            while (k < n && list[k] != import) {
                k++;
            }
            if (k == n && import) {
                list[n++] = import;
            }
        }
    }
    grpc__reflection__v1__file_descriptor_response__init(files);
    files->file_descriptor_proto = arena_alloc(arena, n * sizeof *files->file_descriptor_proto);
    files->n_file_descriptor_proto = n;
    for (size_t i = 0; i < n; i++) {
        ProtobufCBinaryData *bytes = &files->file_descriptor_proto[i];
        bytes->len = protobuf_c_message_get_packed_size(&list[i]->base);
        bytes->data = arena_alloc(arena, bytes->len);
        protobuf_c_message_pack(&list[i]->base, bytes->data);
    }
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = files;
}

static void answer_services(const Google__Protobuf__FileDescriptorSet *set, struct arena *arena,
                            reflection_response *response)
{
    Grpc__Reflection__V1__ListServiceResponse *list = arena_alloc(arena, sizeof *list);
    size_t max = 0;
    grpc__reflection__v1__list_service_response__init(list);
    for (size_t i = 0; i < set->n_file; i++) {
        max += set->file[i]->n_service;
    }
    list->service = arena_alloc(arena, max * sizeof(void *));
    for (size_t i = 0; i < set->n_file; i++) {
        const reflection_file *file = set->file[i];
        for (size_t j = 0; j < file->n_service; j++) {
            Grpc__Reflection__V1__ServiceResponse *service = arena_alloc(arena, sizeof *service);
            struct buf name = {0};
            buf_printf(&name, "%s.%s", file->package, file->service[j]->name);
            grpc__reflection__v1__service_response__init(service);
            service->name = arena_strdup(arena, name.data);
            list->service[list->n_service++] = service;
            buf_done(&name);
        }
    }
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = list;
}

static void answer_error(int code, const char *message, struct arena *arena,
                         reflection_response *response)
{
    Grpc__Reflection__V1__ErrorResponse *error = arena_alloc(arena, sizeof *error);
    grpc__reflection__v1__error_response__init(error);
    error->error_code = code;
    error->error_message = arena_strdup(arena, message);
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = error;
}

static void reflection_answer(const reflection_request *request, struct arena *arena,
                              reflection_response *response)
{
    const Google__Protobuf__FileDescriptorSet *set = reflection_set(arena);
    const reflection_file *file = NULL;
    response->valid_host = request->host;
    response->original_request = (reflection_request *)request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(set, arena, response);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        file = set_find_file(set, request->file_by_filename);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        file = set_find_symbol(set, request->file_containing_symbol);
        break;
    default:
        answer_error(REFLECTION_UNIMPLEMENTED, "no served file has extensions", arena, response);
        return;
    }
    if (file) {
        answer_file(set, file, arena, response);
    } else {
        answer_error(REFLECTION_NOT_FOUND, "no served file holds that", arena, response);
    }
}

static void reflection_answer_long(size_t bytes, struct arena *arena, reflection_response *response)
{
    char text[96];
    snprintf(text, sizeof text, "the question has %zu bytes, limit is %d", bytes,
             REFLECTION_BYTES_MAX);
    answer_error(REFLECTION_EXHAUSTED, text, arena, response);
}

static void reflection_send(struct reflection_call *state)
{
    reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    struct arena arena;
    arena_init(&arena);
    if (state->first->request) {
        reflection_answer(state->first->request, &arena, &response);
    } else {
        reflection_answer_long(state->first->bytes, &arena, &response);
    }
    rpc_call_send(state->user.call, &response.base);
    arena_done(&arena);
    reflection_pop(state);
}

/* Sends what can be sent; ends the call once the client has ended and nothing waits. */
static void reflection_go_on(struct reflection_call *state)
{
    while (!state->is_over && (state->first || state->is_half_closed) &&
           rpc_call_can_send(state->user.call)) {
        if (state->first) {
            reflection_send(state);
        } else {
            state->is_over = true;
            rpc_call_finish(state->user.call, NULL, NULL);
        }
    }
}

void reflection_on_message(void *ctx, struct rpc_call *call, const void *data, size_t n)
{
    struct reflection_call *state = rpc_call_user(call);
    (void)ctx;
    if (state->is_over) {
        return;
    }
    struct reflection_item *item = mem_zalloc(sizeof *item);
    arena_init(&item->arena);
    item->bytes = n;
    if (n <= REFLECTION_BYTES_MAX) {
        item->request = (const reflection_request *)rpc_unpack(
            &grpc__reflection__v1__server_reflection_request__descriptor, data, n, &item->arena);
    }
    bool is_sound = item->request || n > REFLECTION_BYTES_MAX;
    if (!is_sound || state->item_n >= REFLECTION_QUEUE_MAX) {
        arena_done(&item->arena);
        mem_free(item);
        state->is_over = true;
        rpc_call_drop(call);
        return;
    }
    *state->last = item;
    state->last = &item->next;
    state->item_n++;
    reflection_go_on(state);
}

void reflection_on_half_close(void *ctx, struct rpc_call *call)
{
    struct reflection_call *state = rpc_call_user(call);
    (void)ctx;
    state->is_half_closed = true;
    reflection_go_on(state);
}

void reflection_on_writable(struct rpc_call *call)
{
    reflection_go_on(rpc_call_user(call));
}

void reflection_on_cancelled(struct rpc_call *call)
{
    struct reflection_call *state = rpc_call_user(call);
    if (!state->is_over) {
        state->is_over = true;
        rpc_call_drop(call);
    }
}
