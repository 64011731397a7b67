/* Any message as JSON, by walking its protobuf-c descriptor. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

static json_t *ctl_json(const ProtobufCMessage *message);

/* JSON has no infinities: they become strings, as in protobuf's own JSON form. */
static json_t *ctl_json_real(double value)
{
    if (isnan(value)) {
        return json_string("NaN");
    }
    if (isinf(value)) {
        return json_string(value < 0 ? "-Infinity" : "Infinity");
    }
    return json_real(value);
}

/* Many readers of JSON have no whole numbers of 64 bits: strings again. */
static json_t *ctl_json_integer(uint64_t value, bool is_signed)
{
    return is_signed ? json_sprintf("%" PRId64, (int64_t)value) : json_sprintf("%" PRIu64, value);
}

static json_t *ctl_json_value(const ProtobufCFieldDescriptor *f, const void *at)
{
    const ProtobufCEnumValue *word;
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return ctl_json_integer(*(const uint64_t *)at, false);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return ctl_json_integer(*(const uint64_t *)at, true);
    case PROTOBUF_C_TYPE_FLOAT:
        return ctl_json_real((double)*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE:
        return ctl_json_real(*(const double *)at);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM:
        word = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)at);
        return word ? json_string(word->name) : json_integer(*(const int *)at);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(char *const *)at ? *(char *const *)at : "");
    case PROTOBUF_C_TYPE_MESSAGE:
        return ctl_json(*(ProtobufCMessage *const *)at);
    case PROTOBUF_C_TYPE_BYTES:
        break;
    }
    return json_null();
}

static size_t ctl_json_value_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

static json_t *ctl_json_list(const ProtobufCFieldDescriptor *f, size_t n, const char *items)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, ctl_json_value(f, items + i * ctl_json_value_bytes(f->type)));
    }
    return list;
}

static json_t *ctl_json(const ProtobufCMessage *message)
{
    json_t *out = json_object();
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        const char *at = (const char *)message + f->offset;
        const char *quantifier = (const char *)message + f->quantifier_offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(const void *)quantifier;
            if (n > 0) {
                json_object_set_new(out, f->name,
                                    ctl_json_list(f, n, *(char *const *)(const void *)at));
            }
        } else if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            if (*(const uint32_t *)(const void *)quantifier == f->id) {
                json_object_set_new(out, f->name, ctl_json_value(f, at));
            }
        } else if (f->type != PROTOBUF_C_TYPE_MESSAGE || *(void *const *)(const void *)at) {
            json_object_set_new(out, f->name, ctl_json_value(f, at));
        }
    }
    return out;
}

void ctl_print_json(const void *message)
{
    json_t *value = ctl_json(message);
    json_dumpf(value, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(value);
}
