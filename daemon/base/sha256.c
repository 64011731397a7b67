/* libcrypto's digest behind three functions. */
#include "base/sha256.h"

#include <openssl/evp.h>
#include <stdio.h>

#include "base/base.h"

void sha256_init(struct sha256 *sha)
{
    sha->ctx = EVP_MD_CTX_new();
    ASSERT(sha->ctx);
    ASSERT(EVP_DigestInit_ex(sha->ctx, EVP_sha256(), NULL) == 1);
}

void sha256_update(struct sha256 *sha, const void *data, size_t n)
{
    ASSERT(EVP_DigestUpdate(sha->ctx, data, n) == 1);
}

void sha256_final(struct sha256 *sha, uint8_t out_digest[SHA256_BYTES])
{
    ASSERT(EVP_DigestFinal_ex(sha->ctx, out_digest, NULL) == 1);
    EVP_MD_CTX_free(sha->ctx);
    sha->ctx = NULL;
}

void sha256_hex(const uint8_t digest[SHA256_BYTES], char out_hex[SHA256_HEX_BYTES])
{
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        snprintf(out_hex + 2 * i, 3, "%02x", digest[i]);
    }
}
