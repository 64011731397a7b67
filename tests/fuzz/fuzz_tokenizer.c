/* tokenizer.json: whatever the bytes, opening refuses or gives a tokenizer that encodes and
 * decodes.
 *
 * An input is the file, then (after a zero byte, where there is one) a text to encode. What comes
 * back must keep the room's promises: spans inside the text, ids inside the vocabulary, whole UTF-8
 * out, and the same text out of stop strings that never match. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "text/chat.h"
#include "text/detok.h"
#include "text/stop.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#define TEXT_MAX 256 /* so that a slow pattern costs little */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char usual[] =
    "I'll  go\n e\xCC\x81 \xE4\xBD\xA0 <s>\xF0\x9F\x91\x8D 123 \xE1\x84\x80";

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void decode(const struct tokenizer *tk, const struct token_vec *ids)
{
    static const char *const stops[] = {"\x01\x02\x03never", "\xE4\xBD\xA0\x01"};
    struct buf piece = {0};
    struct buf all = {0};
    struct buf passed = {0};
    struct detok d;
    struct stop_match s;
    detok_init(&d, tk, false);
    check(stop_init(&s, stops, ARRAY_N(stops), NULL) == 0);
    for (size_t i = 0; i <= ids->n; i++) {
        buf_clear(&piece);
        if (i < ids->n) {
            detok_push(&d, ids->ids[i], &piece);
        } else {
            detok_finish(&d, &piece);
        }
        check(piece.n == 0 || utf8_bad_at(piece.data, piece.n) == piece.n);
        buf_add(&all, piece.data, piece.n);
        if (stop_push(&s, piece.n > 0 ? piece.data : "", piece.n, &passed) >= 0) {
            break;
        }
    }
    stop_finish(&s, &passed);
    check(passed.n <= all.n && (passed.n == 0 || memcmp(passed.data, all.data, passed.n) == 0));
    stop_done(&s);
    buf_done(&piece);
    buf_done(&all);
    buf_done(&passed);
}

static void encode(const struct tokenizer *tk, const char *text, size_t n)
{
    struct token_vec ids = {0};
    struct span_vec spans = {0};
    struct err err = {0};
    for (unsigned mode = 0; mode < 4; mode++) {
        struct encode_opts opts = {mode & 1, mode & 2, mode == 3 ? &spans : NULL};
        ids.n = 0;
        if (tokenizer_encode_with(tk, text, n, &opts, &ids, &err)) {
            check(ids.n == 0 && err.text[0] != '\0');
            break;
        }
        for (size_t i = 0; i < ids.n; i++) {
            size_t bytes_n;
            check(ids.ids[i] < tokenizer_vocab_n(tk));
            (void)tokenizer_token_bytes(tk, ids.ids[i], &bytes_n);
        }
        for (size_t i = 0; i < spans.n; i++) {
            check(spans.spans[i].begin <= spans.spans[i].end && spans.spans[i].end <= n);
        }
        decode(tk, &ids);
    }
    token_vec_done(&ids);
    span_vec_done(&spans);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct tokenizer *tk;
    struct err err = {0};
    const uint8_t *zero = n > 0 ? memchr(data, 0, n) : NULL;
    size_t json_n = zero ? (size_t)(zero - data) : n;
    if (tokenizer_open_json("fuzz", n > 0 ? (const char *)data : "", json_n, &tk, &err)) {
        check(err.code != 0 && err.text[0] != '\0');
        return 0;
    }
    encode(tk, usual, sizeof usual - 1);
    if (zero) {
        size_t text_n = n - json_n - 1;
        encode(tk, (const char *)zero + 1, text_n < TEXT_MAX ? text_n : TEXT_MAX);
    }
    tokenizer_close(tk);
    return 0;
}
