/* Decoding with a bound on how much a small message may grow, and with strings checked.
 *
 * protobuf-c forgets the length of a string; the allocator remembers the size of every block in
 * front of it, which tells a string with a NUL inside from a whole one. */
#include "rpc/codec.h"

#include <string.h>

#include "base/base.h"

/* Packed ids grow fourfold, short strings and messages by an object's header, ids that a client did
 * not pack (two bytes each) by the decoder's notes of 40 bytes. */
#define UNPACK_GROWTH 32
#define UNPACK_BASE   (64u << 10)
#define UNPACK_HEADER 16 /* keeps the alignment */

struct unpack_memory {
    struct arena *arena;
    size_t left;
};

static void *unpack_alloc(void *arg, size_t bytes)
{
    struct unpack_memory *memory = arg;
    if (bytes > memory->left || memory->left - bytes < UNPACK_HEADER) {
        return NULL;
    }
    memory->left -= bytes + UNPACK_HEADER;
    char *block = arena_alloc(memory->arena, bytes + UNPACK_HEADER);
    memcpy(block, &bytes, sizeof bytes);
    return block + UNPACK_HEADER;
}

static void unpack_free(void *arg, void *p)
{
    (void)arg; /* the arena frees */
    (void)p;
}

/* Length of the UTF-8 character at s, 0 when there is none. The text ends with a NUL, so a look at
 * the next byte is always allowed. */
static size_t utf8_char_n(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] > 0xF4 || (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return n;
}

static bool string_is_sound(const char *s)
{
    size_t bytes;
    if (!s || s[0] == '\0') {
        /* The default's shared empty string has no header; nor can it be told from "\0...". */
        return true;
    }
    memcpy(&bytes, s - UNPACK_HEADER, sizeof bytes);
    if (strlen(s) + 1 != bytes) {
        return false;
    }
    for (const unsigned char *p = (const unsigned char *)s; *p != '\0';) {
        size_t n = utf8_char_n(p);
        if (n == 0) {
            return false;
        }
        p += n;
    }
    return true;
}

static bool message_is_sound(const ProtobufCMessage *message);

static bool value_is_sound(const ProtobufCFieldDescriptor *field, const void *value)
{
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        return string_is_sound(*(char *const *)value);
    }
    const ProtobufCMessage *sub = *(ProtobufCMessage *const *)value;
    return !sub || message_is_sound(sub);
}

/* Depth is bounded by the schema: no served message holds itself but descriptors, which clients do
 * not send. */
static bool message_is_sound(const ProtobufCMessage *message)
{
    const char *base = (const char *)message;
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        const void *value = base + field->offset;
        if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE) {
            continue;
        }
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(const void *)(base + field->quantifier_offset);
            const char *array = *(const char *const *)value;
            for (size_t j = 0; j < n; j++) {
                if (!value_is_sound(field, array + j * sizeof(void *))) {
                    return false;
                }
            }
        } else if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
                   *(const uint32_t *)(const void *)(base + field->quantifier_offset) !=
                       field->id) {
            continue;
        } else if (!value_is_sound(field, value)) {
            return false;
        }
    }
    return true;
}

ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n,
                             struct arena *arena)
{
    struct unpack_memory memory = {arena, UNPACK_BASE + n * UNPACK_GROWTH};
    ProtobufCAllocator allocator = {unpack_alloc, unpack_free, &memory};
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, n, data);
    return message && message_is_sound(message) ? message : NULL;
}
