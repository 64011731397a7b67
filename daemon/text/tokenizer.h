/* Strings to token ids and back: byte-level BPE from a model's tokenizer.json.
 *
 * Ids are those of the `tokenizers` library. What a file asks for and is not implemented here is
 * refused by its name when the file is read, so that encoding never guesses. Two members of the
 * file are ignored on purpose, as `transformers` does: "truncation" and "padding". */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tokenizer; /* immutable once open; any thread may use it at once */

/* A growing list of ids. A zeroed one is empty. */
struct token_vec {
    uint32_t *ids;
    size_t n;
    size_t cap;
};

void token_vec_done(struct token_vec *vec);
void token_vec_add(struct token_vec *vec, uint32_t id);

/* The bytes of the text given that a token stands for. A token that holds part of a character has
 * the whole character here, so neighbours may overlap; a token that post_processor added has 0, 0.
 */
struct token_span {
    uint32_t begin;
    uint32_t end;
};

/* A growing list of spans. A zeroed one is empty. */
struct span_vec {
    struct token_span *spans;
    size_t n;
    size_t cap;
};

void span_vec_done(struct span_vec *vec);

/* Reads tokenizer.json, and for chat tokenizer_config.json and chat_template.jinja where they
 * exist. Blocks on the disk, allocates. Errors: BAD_FILE, NOT_IMPLEMENTED, IO_FAILURE. */
int tokenizer_open(const char *model_dir, struct tokenizer **out, struct err *err);

/* The same from the text of a tokenizer.json alone; `label` is the name that errors show. */
int tokenizer_open_json(const char *label, const void *json, size_t n, struct tokenizer **out,
                        struct err *err);
void tokenizer_close(struct tokenizer *tk); /* NULL is allowed */

struct encode_opts {
    bool add_special;       /* put round the text what post_processor adds */
    bool parse_special;     /* special tokens written in the text become their ids */
    struct span_vec *spans; /* NULL: not wanted; else one span is appended per id */
};

/* Appends the ids of n bytes of text. Any thread; allocates. On failure *out and the spans hold
 * what they held. Errors (INVALID_PARAMETER): the text is not UTF-8 (named by its first bad byte),
 * is longer than LIMIT_TEXT_BYTES, or makes a pattern reach a limit of its matcher. */
int tokenizer_encode_with(const struct tokenizer *tk, const char *text, size_t n,
                          const struct encode_opts *opts, struct token_vec *out, struct err *err);

/* The same with parse_special (the library's default) and without spans. */
int tokenizer_encode(const struct tokenizer *tk, const char *text, size_t n, bool add_special,
                     struct token_vec *out, struct err *err);

/* The largest id + 1. Ids between may be unknown. */
uint32_t tokenizer_vocab_n(const struct tokenizer *tk);

/* No text of more bytes can become `n` tokens or fewer: what need not be encoded to know that it is
 * too long. SIZE_MAX when a token takes white space without bound. */
size_t tokenizer_text_bytes_max(const struct tokenizer *tk, uint32_t n);

bool tokenizer_is_special(const struct tokenizer *tk, uint32_t id);

/* The raw bytes a token stands for, which need not be valid UTF-8; borrowed from the tokenizer.
 * NULL when the id is unknown. */
const char *tokenizer_token_bytes(const struct tokenizer *tk, uint32_t id, size_t *out_n);

/* The id of a token by its content as the file writes it. False when there is none. */
bool tokenizer_token_id(const struct tokenizer *tk, const char *content, uint32_t *out_id);

/* The tokens that tokenizer_config.json names; false when it names none or an unknown one. */
bool tokenizer_bos_id(const struct tokenizer *tk, uint32_t *out_id);
bool tokenizer_eos_id(const struct tokenizer *tk, uint32_t *out_id);

/* The chat template's text, NULL when the model has none. */
const char *tokenizer_chat_template(const struct tokenizer *tk);

#endif
