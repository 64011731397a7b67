/* Decoding with a bound on how much a small message may grow. */
#include "rpc/codec.h"

#include "base/base.h"

/* Packed ids grow fourfold, short strings and messages by an object's header. */
#define RPC_UNPACK_GROWTH 12
#define RPC_UNPACK_BASE   (64u << 10)

struct unpack_memory {
    struct arena *arena;
    size_t left;
};

static void *unpack_alloc(void *arg, size_t bytes)
{
    struct unpack_memory *memory = arg;
    if (bytes > memory->left) {
        return NULL;
    }
    memory->left -= bytes;
    return arena_alloc(memory->arena, bytes);
}

static void unpack_free(void *arg, void *p)
{
    (void)arg; /* the arena frees */
    (void)p;
}

ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n,
                             struct arena *arena)
{
    struct unpack_memory memory = {arena, RPC_UNPACK_BASE + n * RPC_UNPACK_GROWTH};
    ProtobufCAllocator allocator = {unpack_alloc, unpack_free, &memory};
    return protobuf_c_message_unpack(type, &allocator, n, data);
}
