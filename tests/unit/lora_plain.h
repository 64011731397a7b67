/* A LoRA folder as peft saves it, as an effect block: a second reader, independent of adapters/. */
#ifndef TESTS_UNIT_LORA_PLAIN_H
#define TESTS_UNIT_LORA_PLAIN_H

#include <stddef.h>

struct model;

/* Reads <dir>/adapters/<name>; the block is freed with mem_free. Fails the test on any error. */
void *lora_plain_read(const char *dir, const char *name, const struct model *model,
                      size_t *out_bytes);

#endif
