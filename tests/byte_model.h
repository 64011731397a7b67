/* A server_model whose vocabulary is the 256 bytes, for tests that need no more of a model. */
#ifndef TESTS_BYTE_MODEL_H
#define TESTS_BYTE_MODEL_H

#include <stdlib.h>

#include "base/buf.h"
#include "server/server.h"
#include "text/tokenizer.h"

/* The character that stands for a byte in byte-level vocabularies. */
static inline uint32_t byte_model_char(uint32_t byte)
{
    bool is_plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint32_t hidden_n = 0;
    for (uint32_t i = 0; i < byte; i++) {
        hidden_n += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    }
    return is_plain ? byte : 256 + hidden_n;
}

/* The process keeps the tokenizer: a test opens one. */
static inline void byte_model_open(struct server_model *out)
{
    static struct tokenizer *tokenizer;
    struct buf json = {0};
    struct err err = {0};
    buf_add_str(&json, "{\"added_tokens\":[{\"id\":256,\"content\":\"<|end|>\",\"special\":true,"
                       "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                       "\"normalized\":false}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":"
                       "\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                       "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":"
                       "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
                       "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"merges\":[],"
                       "\"vocab\":{");
    for (uint32_t i = 0; i < 256; i++) {
        buf_printf(&json, "%s\"\\u%04x\":%u", i ? "," : "", byte_model_char(i), i);
    }
    buf_add_str(&json, "}}}");
    if (tokenizer_open_json("byte model", json.data, json.n, &tokenizer, &err)) {
        abort();
    }
    buf_done(&json);
    *out = (struct server_model){
        .name = "bytes",
        .vocab_n = tokenizer_vocab_n(tokenizer),
        .context_max = 1024,
        .eos_tokens = {256},
        .eos_n = 1,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .tokenizer = tokenizer,
    };
}

#endif
