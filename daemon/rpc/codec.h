/* Protocol buffer messages in arenas. */
#ifndef RPC_CODEC_H
#define RPC_CODEC_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

/* Decodes n bytes; the message lives in the arena, strings and bytes included. NULL when the bytes
 * are no such message, when a string in it is not UTF-8 or holds a NUL (which C would take for its
 * end), or when it unpacks to many times its size. Any thread. */
ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n,
                             struct arena *arena);

#endif
