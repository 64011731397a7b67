/* Every served file as one serialized google.protobuf.FileDescriptorSet, imports included, without
 * source positions: what the reflection service answers from. Generated at build time. */
#ifndef PROTO_DESCRIPTORS_H
#define PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char proto_descriptors[];
extern const size_t proto_descriptors_bytes;

#endif
