/* Encoding, in the library's order: added tokens in the raw text; normalisation; added tokens in
 * the normalised text; the pre-tokenizer's steps one inside the other; BPE per word.
 *
 * Everything a call needs lies in one `struct encoder` on the caller's stack and its growing rooms,
 * so that a tokenizer is never written to. */
#include <string.h>

#include "base/mem.h"
#include "text/bpe.h"
#include "text/bytelevel.h"
#include "text/mapped.h"
#include "text/nfc.h"
#include "text/tokenizer_int.h"
#include "text/utf8.h"

struct encoder {
    const struct tokenizer *tk;
    const struct encode_opts *opts;
    struct token_vec *out;
    struct pattern_room *room;
    struct bpe_room bpe;
    struct mapped normalized; /* the section at hand */
    struct mapped prefixed;   /* a word with a space put before it */
    struct buf alphabet;      /* what ByteLevel cut out, in its alphabet */
    struct err *err;
};

/* A piece of text with the map of its bytes, NULL when no spans are wanted. Behind ByteLevel it may
 * begin and end inside a character. */
struct piece {
    const char *text;
    size_t n;
    const uint32_t *begin;
    const uint32_t *end;
    const char *letters; /* the same bytes in ByteLevel's alphabet; NULL: not written out */
    size_t letters_n;
};

static struct piece piece_cut(const struct piece *piece, size_t from, size_t to)
{
    return (struct piece){.text = piece->text + from,
                          .n = to - from,
                          .begin = piece->begin ? piece->begin + from : NULL,
                          .end = piece->end ? piece->end + from : NULL};
}

/* Takes the first n bytes of what a pre-tokenizer's step sees off a piece. A letter of the alphabet
 * is a byte of the text. */
static struct piece piece_take(struct piece *rest, size_t n)
{
    if (!rest->letters) {
        struct piece part = piece_cut(rest, 0, n);
        *rest = piece_cut(rest, n, rest->n);
        return part;
    }
    size_t bytes = 0;
    for (size_t at = 0; at < n; bytes++) {
        size_t char_n;
        utf8_get(rest->letters + at, &char_n);
        at += char_n;
    }
    struct piece part = piece_cut(rest, 0, bytes);
    struct piece after = piece_cut(rest, bytes, rest->n);
    part.letters = rest->letters;
    part.letters_n = n;
    after.letters = rest->letters + n;
    after.letters_n = rest->letters_n - n;
    *rest = after;
    return part;
}

static struct piece piece_of(const struct mapped *m)
{
    return (struct piece){.text = m->text.data,
                          .n = m->text.n,
                          .begin = m->has_map ? m->begin : NULL,
                          .end = m->has_map ? m->end : NULL};
}

static void span_vec_add(struct span_vec *vec, struct token_span span)
{
    if (vec->n == vec->cap) {
        vec->cap = MAX(2 * vec->cap, 64);
        vec->spans = mem_realloc(vec->spans, vec->cap * sizeof *vec->spans);
    }
    vec->spans[vec->n++] = span;
}

static void encode_emit(struct encoder *e, uint32_t id, uint32_t begin, uint32_t end)
{
    token_vec_add(e->out, id);
    if (e->opts->spans) {
        span_vec_add(e->opts->spans, (struct token_span){begin, end});
    }
}

/* Emits a token for bytes [from, to) of a piece. */
static void encode_emit_part(struct encoder *e, uint32_t id, const struct piece *piece, size_t from,
                             size_t to)
{
    if (piece->begin) {
        encode_emit(e, id, piece->begin[from], piece->end[to - 1]);
    } else {
        encode_emit(e, id, 0, 0);
    }
}

/* Writes a piece in the alphabet, in the one room for that: good until the next one. */
static void encode_spell(struct encoder *e, struct piece *piece)
{
    buf_clear(&e->alphabet);
    buf_reserve(&e->alphabet, 2 * piece->n);
    piece->letters = e->alphabet.data;
    piece->letters_n = bytelevel_text(piece->text, piece->n, e->alphabet.data);
}

static void encode_word(struct encoder *e, struct piece *word)
{
    if (e->tk->is_ignoring_merges) {
        if (!word->letters) {
            encode_spell(e, word);
        }
        uint32_t id = tokenizer_find(e->tk, word->letters, word->letters_n);
        if (id != TOKEN_NONE && e->tk->tokens[id].flags & TOKEN_MODEL) {
            encode_emit_part(e, id, word, 0, word->n);
            return;
        }
    }
    bpe_word(e->tk, word->text, word->n, &e->bpe);
    size_t at = 0;
    for (size_t i = 0; i < e->bpe.n; i++) {
        encode_emit_part(e, e->bpe.symbols[i].id, word, at, at + e->bpe.symbols[i].n);
        at += e->bpe.symbols[i].n;
    }
}

/* The piece behind a space, which stands for what its first character stands for. */
static struct piece encode_prefix(struct encoder *e, const struct piece *piece)
{
    struct mapped *m = &e->prefixed;
    mapped_clear(m);
    if (m->has_map) {
        mapped_add(m, " ", 1, piece->begin[0], piece->end[0]);
        for (size_t i = 0; i < piece->n; i++) {
            mapped_add(m, piece->text + i, 1, piece->begin[i], piece->end[i]);
        }
    } else {
        mapped_add(m, " ", 1, 0, 0);
        mapped_add(m, piece->text, piece->n, 0, 0);
    }
    return piece_of(m);
}

/* Runs a piece of at least one byte through the pre-tokenizer from step `index` on. */
static int encode_steps(struct encoder *e, struct piece rest, size_t index)
{
    if (index == e->tk->steps_n) {
        encode_word(e, &rest);
        return 0;
    }
    const struct pre_step *step = &e->tk->steps[index];
    if (step->has_prefix_space && rest.text[0] != ' ') {
        rest = encode_prefix(e, &rest); /* there is one ByteLevel: the room is free */
    }
    if (index > e->tk->byte_level_at && !rest.letters) {
        encode_spell(e, &rest);
    }
    if (!step->pattern) {
        return encode_steps(e, rest, index + 1);
    }
    struct pattern_scan scan = {.pattern = step->pattern,
                                .room = e->room,
                                .text = rest.letters ? rest.letters : rest.text,
                                .n = rest.letters ? rest.letters_n : rest.n};
    size_t done = 0;
    int rc = 1;
    while (rc > 0) {
        rc = pattern_scan_next(&scan, e->err);
        size_t cuts[2] = {rc > 0 ? scan.begin : scan.n, rc > 0 ? scan.end : scan.n};
        for (size_t i = 0; rc >= 0 && i < 2; i++) {
            if (cuts[i] > done) {
                int failed = encode_steps(e, piece_take(&rest, cuts[i] - done), index + 1);
                rc = failed ? failed : rc;
                done = cuts[i];
            }
        }
    }
    return rc;
}

static bool encode_is_word(struct encoder *e, const char *text, size_t n)
{
    struct pattern_scan scan = {.pattern = e->tk->word, .room = e->room, .text = text, .n = n};
    return pattern_scan_next(&scan, NULL) == 1;
}

/* Whether an added token may stand at [begin, end) of a text. */
static bool added_is_allowed(struct encoder *e, const struct piece *piece,
                             const struct trie_match *match)
{
    unsigned flags = e->tk->tokens[match->value].flags;
    if (!e->opts->parse_special && flags & TOKEN_CONTROL) {
        return false;
    }
    if (flags & TOKEN_SINGLE_WORD) {
        size_t n = match->begin > 0 ? utf8_last_n(piece->text, match->begin) : 0;
        if (n > 0 && encode_is_word(e, piece->text + match->begin - n, n)) {
            return false;
        }
        if (match->end < piece->n) {
            utf8_get(piece->text + match->end, &n);
            return !encode_is_word(e, piece->text + match->end, n);
        }
    }
    return true;
}

/* Widens a match over the white space that lstrip and rstrip take. */
static void added_strip(const struct encoder *e, const struct piece *piece, size_t done,
                        struct trie_match *match)
{
    unsigned flags = e->tk->tokens[match->value].flags;
    size_t n;
    if (flags & TOKEN_LSTRIP) {
        size_t begin = match->begin;
        while (begin > 0) {
            n = utf8_last_n(piece->text, begin);
            size_t unused;
            if (!utf8_is_space(utf8_get(piece->text + begin - n, &unused))) {
                break;
            }
            begin -= n;
        }
        match->begin = MAX(begin, done);
    }
    while (flags & TOKEN_RSTRIP && match->end < piece->n &&
           utf8_is_space(utf8_get(piece->text + match->end, &n))) {
        match->end += n;
    }
}

typedef int encode_part_fn(struct encoder *e, const struct piece *part, size_t begin);

/* Cuts a piece at its added tokens, emits those and hands what lies between to `next`. A match may
 * begin inside the white space that the one before it took: both are emitted, as in the library. */
static int encode_added(struct encoder *e, const struct piece *piece, const struct trie *trie,
                        encode_part_fn *next)
{
    struct trie_match match;
    size_t done = 0;
    size_t at = 0;
    int rc = 0;
    while (rc == 0 && trie_find(trie, piece->text, piece->n, at, &match)) {
        at = match.end;
        if (!added_is_allowed(e, piece, &match)) {
            continue;
        }
        added_strip(e, piece, done, &match);
        if (done < match.begin) {
            struct piece part = piece_cut(piece, done, match.begin);
            rc = next(e, &part, done);
        }
        if (rc == 0) {
            if (piece->begin) {
                encode_emit_part(e, match.value, piece, match.begin, match.end);
            } else {
                encode_emit(e, match.value, (uint32_t)match.begin, (uint32_t)match.end);
            }
        }
        done = match.end;
    }
    if (rc == 0 && done < piece->n) {
        struct piece part = piece_cut(piece, done, piece->n);
        rc = next(e, &part, done);
    }
    return rc;
}

static int encode_words(struct encoder *e, const struct piece *part, size_t begin)
{
    (void)begin;
    return encode_steps(e, *part, 0);
}

/* A stretch of raw text without added tokens, which begins at `begin` of the whole. */
static int encode_section(struct encoder *e, const struct piece *raw, size_t begin)
{
    struct piece piece = *raw;
    bool is_changing = e->tk->is_nfc && !nfc_is_plain(raw->text, raw->n);
    if (is_changing || e->opts->spans) {
        mapped_clear(&e->normalized);
        if (is_changing) {
            nfc_add(raw->text, raw->n, (uint32_t)begin, &e->normalized);
        } else {
            mapped_copy(&e->normalized, raw->text, raw->n, (uint32_t)begin);
        }
        piece = piece_of(&e->normalized);
    }
    return encode_added(e, &piece, &e->tk->normalized_added, encode_words);
}

static void encode_list(struct encoder *e, const struct id_list *list)
{
    for (size_t i = 0; e->opts->add_special && i < list->n; i++) {
        encode_emit(e, list->ids[i], 0, 0);
    }
}

int tokenizer_encode_with(const struct tokenizer *tk, const char *text, size_t n,
                          const struct encode_opts *opts, struct token_vec *out, struct err *err)
{
    if (n > LIMIT_TEXT_BYTES) {
        return err_set(err, ERR_INVALID_PARAMETER, "text has %zu bytes, limit is %u", n,
                       LIMIT_TEXT_BYTES);
    }
    size_t bad = utf8_bad_at(text, n);
    if (bad < n) {
        return err_set(err, ERR_INVALID_PARAMETER, "text is not valid UTF-8 at byte %zu", bad);
    }
    struct encoder e = {.tk = tk, .opts = opts, .out = out, .room = pattern_room_new(), .err = err};
    struct piece whole = {.text = text, .n = n};
    size_t ids_before = out->n;
    size_t spans_before = opts->spans ? opts->spans->n : 0;
    mapped_init(&e.normalized, opts->spans != NULL);
    mapped_init(&e.prefixed, opts->spans != NULL);
    encode_list(&e, &tk->before);
    int rc = encode_added(&e, &whole, &tk->raw_added, encode_section);
    encode_list(&e, &tk->after);
    if (rc) {
        out->n = ids_before;
        if (opts->spans) {
            opts->spans->n = spans_before;
        }
    }
    pattern_room_free(e.room);
    bpe_room_done(&e.bpe);
    mapped_done(&e.normalized);
    mapped_done(&e.prefixed);
    buf_done(&e.alphabet);
    return rc;
}

int tokenizer_encode(const struct tokenizer *tk, const char *text, size_t n, bool add_special,
                     struct token_vec *out, struct err *err)
{
    struct encode_opts opts = {.add_special = add_special, .parse_special = true};
    return tokenizer_encode_with(tk, text, n, &opts, out, err);
}
