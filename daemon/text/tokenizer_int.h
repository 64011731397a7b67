/* What the files of this room share: a tokenizer's tables. Not for other rooms. */
#ifndef TEXT_TOKENIZER_INT_H
#define TEXT_TOKENIZER_INT_H

#include <jansson.h>

#include "base/arena.h"
#include "base/limits.h"
#include "text/pattern.h"
#include "text/tokenizer.h"
#include "text/trie.h"

#define TOKEN_NONE UINT32_MAX

enum token_flag {
    TOKEN_ADDED = 1,
    TOKEN_SPECIAL = 2,
    TOKEN_CONTROL = 4, /* never read from a chat message: special, or part of a chat style */
    TOKEN_LSTRIP = 8,
    TOKEN_RSTRIP = 16,
    TOKEN_SINGLE_WORD = 32,
    TOKEN_NORMALIZED = 64,
    TOKEN_MODEL = 128, /* in the model's own vocabulary */
};

struct token {
    const char *content; /* as the file writes it; NULL: no token has this id */
    const char *bytes;   /* what it stands for */
    uint32_t content_n;
    uint32_t bytes_n;
    unsigned flags;
};

/* What two tokens become, and how early. The slot is free while pair is MERGE_FREE. */
#define MERGE_FREE UINT64_MAX
struct merge {
    uint64_t pair;
    uint32_t rank;
    uint32_t id;
};

struct pre_step {
    struct pattern *pattern; /* splits; NULL: does not */
    bool has_prefix_space;   /* ByteLevel's add_prefix_space */
};

struct id_list {
    uint32_t ids[LIMIT_TEMPLATE_TOKENS];
    size_t n;
};

struct tokenizer {
    struct arena arena;
    const char *label;
    struct token *tokens; /* [vocab_n] by id */
    uint32_t vocab_n;
    size_t token_bytes_max; /* of text that one token can stand for; SIZE_MAX: no bound */
    uint32_t *by_content;   /* open addressing, id + 1 */
    uint32_t by_content_mask;
    struct merge *merges; /* open addressing */
    uint32_t merges_mask;
    uint32_t byte_ids[256]; /* the tokens of single bytes, TOKEN_NONE where there is none */
    bool is_ignoring_merges;
    bool is_nfc;
    bool is_byte_level;           /* a ByteLevel step was read */
    bool has_template;            /* a TemplateProcessing step was read */
    struct trie raw_added;        /* added tokens found before normalisation */
    struct trie normalized_added; /* and after it */
    struct pattern *word;         /* one word character; NULL unless a token is single_word */
    struct pre_step steps[LIMIT_PRE_TOKENIZERS];
    size_t steps_n;
    size_t byte_level_at;  /* the ByteLevel step: those behind it see its alphabet */
    struct id_list before; /* what post_processor adds, in the order of the result */
    struct id_list after;
    uint32_t bos; /* TOKEN_NONE: not named */
    uint32_t eos;
    const char *chat_template; /* NULL: none */
};

/* The id of n bytes of content, TOKEN_NONE when unknown. */
uint32_t tokenizer_find(const struct tokenizer *tk, const char *content, size_t n);

/* The merge of two ids, NULL when there is none. */
const struct merge *tokenizer_merge(const struct tokenizer *tk, uint32_t left, uint32_t right);

/* vocab.c: reads "model" and "added_tokens". The normaliser must be known before. */
int vocab_load(struct tokenizer *tk, const json_t *root, struct err *err);

/* pipeline.c: reads "normalizer"; then "pre_tokenizer", "post_processor" and "decoder". */
int pipeline_load_normalizer(struct tokenizer *tk, const json_t *root, struct err *err);
int pipeline_load(struct tokenizer *tk, const json_t *root, struct err *err);

/* chat.c: reads what chat needs from a model directory. */
int chat_load(struct tokenizer *tk, const char *model_dir, struct err *err);

/* Marks the control tokens of every chat style as such. */
void chat_mark_controls(struct tokenizer *tk);

#endif
