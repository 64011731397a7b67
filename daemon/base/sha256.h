/* SHA-256 through libcrypto (which uses the CPU's SHA instructions). */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES     32
#define SHA256_HEX_BYTES 65 /* 64 lower-case digits and a NUL */

struct sha256 {
    void *ctx;
};

void sha256_init(struct sha256 *sha);
void sha256_update(struct sha256 *sha, const void *data, size_t n);

/* Also frees the context. */
void sha256_final(struct sha256 *sha, uint8_t out_digest[SHA256_BYTES]);

void sha256_hex(const uint8_t digest[SHA256_BYTES], char out_hex[SHA256_HEX_BYTES]);

#endif
