/* Any bytes as a safetensors file: refused with a text, or every tensor's bytes can be read. */
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct tensor_set set;
    struct err err = {0};
    char shape[100];
    int rc = tensor_set_parse(&set, "input", data, n, &err);
    if (rc) {
        ASSERT(rc == err.code && err.text[0]);
        return 0;
    }
    uint64_t total = 0;
    volatile unsigned char sum = 0;
    for (uint32_t i = 0; i < set.tensor_n; i++) {
        const struct tensor *t = &set.tensors[i];
        ASSERT(tensor_set_find(&set, t->name) == t);
        tensor_shape_text(t, shape, sizeof shape);
        for (uint64_t b = 0; b < t->bytes; b++) {
            sum = (unsigned char)(sum + ((const unsigned char *)t->data)[b]);
        }
        total += t->bytes;
    }
    ASSERT_CMP(total, <=, n);
    tensor_set_close(&set);
    return 0;
}
