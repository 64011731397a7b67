/* Chat messages to token ids.
 *
 * A template is recognised by what it contains, never run: ChatML by <|im_start|>, Llama-3 by
 * <|start_header_id|>. Exactly the messages given are rendered, then the header of an assistant's
 * answer: no default system prompt, date, tools or thinking block. ChatML gets a BOS when its
 * template mentions bos_token, Llama-3 always; once, and never a second one from post_processor.
 *
 * Control tokens are put in by id, and the text of a message is encoded with the recognition of
 * special tokens off (and of the style's own control tokens, should a file not call them special):
 * what a user writes can not end their message or open another one. Added tokens that are not
 * special are still recognised. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "text/tokenizer.h"

enum chat_style {
    CHAT_NONE, /* the model has no chat template */
    CHAT_CHATML,
    CHAT_LLAMA3,
    CHAT_UNKNOWN, /* it has one of another style */
};

struct chat_message {
    const char *role;    /* 1 to LIMIT_CHAT_ROLE_BYTES letters a-z */
    const char *content; /* valid UTF-8; Llama-3 trims it, as its template does */
    size_t content_n;
};

enum chat_style chat_style(const struct tokenizer *tk);

/* "none", "chatml", "llama3", "unknown". Static storage. */
const char *chat_style_name(enum chat_style style);

/* Appends the ids of n >= 1 messages and of the assistant's header. Any thread; allocates. On
 * failure *out holds what it held. Errors: NOT_IMPLEMENTED when the style is not CHATML or LLAMA3
 * or the vocabulary lacks its control tokens; INVALID_PARAMETER for a message. */
int chat_render(const struct tokenizer *tk, const struct chat_message *messages, size_t n,
                struct token_vec *out, struct err *err);

#endif
