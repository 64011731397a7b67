/* A LoRA folder as peft saves it, as an effect block: a second reader, independent of adapters/. */
#ifndef TESTS_GOLDEN_ADAPTER_H
#define TESTS_GOLDEN_ADAPTER_H

#include <stddef.h>

struct model;

/* Reads <dir>/adapters/<name>; the block is freed with mem_free. Fails the test on any error. */
void *golden_adapter_read(const char *dir, const char *name, const struct model *model,
                          size_t *out_bytes);

#endif
