/* From Oniguruma's syntax to PCRE2's. The rule is to copy what is known to mean the same in both,
 * to rewrite what is known to differ, and to refuse the rest with the construct's own text. */
#include "text/pattern.h"

#include <string.h>

#include "text/utf8.h"

/* The superscripts and fractions of Latin-1 are words to Oniguruma, though no property says so. */
#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

struct syntax {
    const char *label;
    const char *source;
    size_t n;
    size_t at;
    bool in_set;
    struct buf *out;
    struct err *err;
};

static int syntax_refuse(const struct syntax *s, size_t from, size_t n)
{
    return err_set(s->err, ERR_BAD_FILE,
                   "%s: pattern uses \"%.*s\" at byte %zu, which is not implemented", s->label,
                   (int)MIN(n, s->n - from), s->source + from, from);
}

static bool syntax_is(const struct syntax *s, size_t at, const char *text)
{
    size_t n = strlen(text);
    return s->n - at >= n && memcmp(s->source + at, text, n) == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \p{Name}: one or two letters are a general category; other names are scripts, which PCRE2 would
 * take with their extensions unless told otherwise. */
static int syntax_property(struct syntax *s)
{
    static const char alphabetic[] = "Alphabetic";
    size_t from = s->at;
    size_t open = from + 2;
    const char *close =
        open < s->n && s->source[open] == '{' ? memchr(s->source + open, '}', s->n - open) : NULL;
    if (!close) {
        return syntax_refuse(s, from, 3);
    }
    size_t name = open + 1;
    size_t end = (size_t)(close - s->source);
    bool negated = name < end && s->source[name] == '^';
    name += negated;
    for (size_t i = name; i < end; i++) {
        if (!is_letter(s->source[i]) && s->source[i] != '_') {
            return syntax_refuse(s, from, end + 1 - from);
        }
    }
    bool is_known = end - name == strlen(alphabetic) && syntax_is(s, name, alphabetic);
    buf_printf(s->out, "\\%c{%s%s%.*s}", s->source[from + 1], negated ? "^" : "",
               end - name > 2 && !is_known ? "sc:" : "", (int)(end - name), s->source + name);
    s->at = end + 1;
    return 0;
}

/* \uHHHH and \x{H...}; \xHH would be a raw byte to Oniguruma. */
static int syntax_code_point(struct syntax *s)
{
    size_t from = s->at;
    size_t digits = from + 2;
    size_t n = 0;
    bool braced = s->source[from + 1] == 'x';
    if (braced) {
        if (digits >= s->n || s->source[digits] != '{') {
            return syntax_refuse(s, from, 4);
        }
        digits++;
    }
    while (digits + n < s->n && n < 6 && is_hex(s->source[digits + n])) {
        n += 1;
        if (!braced && n == 4) {
            break;
        }
    }
    size_t end = digits + n + braced;
    bool whole = braced ? n > 0 && end <= s->n && s->source[end - 1] == '}' : n == 4;
    if (!whole) {
        return syntax_refuse(s, from, end - from);
    }
    buf_printf(s->out, "\\x{%.*s}", (int)n, s->source + digits);
    s->at = end;
    return 0;
}

/* Escapes of one letter, outside a set and inside one; NULL where it is refused. */
static const struct {
    char letter;
    const char *outside;
    const char *inside;
} letters[] = {
    {'s', "\\p{White_Space}", "\\p{White_Space}"},
    {'S', "\\P{White_Space}", "\\P{White_Space}"},
    {'d', "\\p{Nd}", "\\p{Nd}"},
    {'D', "\\P{Nd}", "\\P{Nd}"},
    {'w', "[" WORD_SET "]", WORD_SET},
    {'W', "[^" WORD_SET "]", NULL},
    {'v', "\\x{0b}", "\\x{0b}"},
    {'n', "\\n", "\\n"},
    {'r', "\\r", "\\r"},
    {'t', "\\t", "\\t"},
    {'f', "\\f", "\\f"},
    {'a', "\\a", "\\a"},
    {'e', "\\e", "\\e"},
    {'A', "\\A", NULL},
    {'z', "\\z", NULL},
};

static int syntax_escape(struct syntax *s)
{
    if (s->at + 1 >= s->n) {
        return syntax_refuse(s, s->at, 1);
    }
    char c = s->source[s->at + 1];
    if (c == 'p' || c == 'P') {
        return syntax_property(s);
    }
    if (c == 'u' || c == 'x') {
        return syntax_code_point(s);
    }
    if ((unsigned char)c < 0x80 && !is_letter(c) && !is_digit(c)) {
        buf_add(s->out, s->source + s->at, 2);
        s->at += 2;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_N(letters); i++) {
        const char *text = s->in_set ? letters[i].inside : letters[i].outside;
        if (letters[i].letter == c && text) {
            buf_add_str(s->out, text);
            s->at += 2;
            return 0;
        }
    }
    return syntax_refuse(s, s->at, 2);
}

/* The opening of a set, with its ^. A ] right there and a [ or && inside are where the two syntaxes
 * part. */
static int syntax_set_open(struct syntax *s)
{
    size_t from = s->at;
    s->at += 1;
    if (s->at < s->n && s->source[s->at] == '^') {
        s->at += 1;
    }
    if (s->at >= s->n || s->source[s->at] == ']') {
        return syntax_refuse(s, from, s->at + 1 - from);
    }
    buf_add(s->out, s->source + from, s->at - from);
    s->in_set = true;
    return 0;
}

static int syntax_in_set(struct syntax *s)
{
    char c = s->source[s->at];
    if (c == '[' || syntax_is(s, s->at, "&&")) {
        return syntax_refuse(s, s->at, 2);
    }
    s->in_set = c != ']';
    buf_add(s->out, &c, 1);
    s->at += 1;
    return 0;
}

/* Groups that are the same in both. Inline options are, when they open the pattern. */
static int syntax_group(struct syntax *s)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (syntax_is(s, s->at, "(*")) {
        return syntax_refuse(s, s->at, 2);
    }
    if (!syntax_is(s, s->at, "(?")) {
        buf_add(s->out, "(", 1);
        s->at += 1;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_N(known); i++) {
        if (syntax_is(s, s->at, known[i])) {
            buf_add_str(s->out, known[i]);
            s->at += strlen(known[i]);
            return 0;
        }
    }
    if (s->at == 0 && syntax_is(s, 0, "(?i)")) {
        buf_add_str(s->out, "(?i)");
        s->at = 4;
        return 0;
    }
    return syntax_refuse(s, s->at, 4);
}

/* {n}, {n,} and {n,m} repeat; {,n}, {n}? and {n,m}+ mean different things, and any other brace is
 * a character. */
static int syntax_brace(struct syntax *s)
{
    size_t at = s->at + 1;
    size_t low = at;
    while (at < s->n && is_digit(s->source[at])) {
        at++;
    }
    size_t low_n = at - low;
    bool has_comma = at < s->n && s->source[at] == ',';
    at += has_comma;
    size_t high = at;
    while (has_comma && at < s->n && is_digit(s->source[at])) {
        at++;
    }
    bool is_repeat = at < s->n && s->source[at] == '}' && (low_n > 0 || at > high);
    if (!is_repeat) {
        buf_add_str(s->out, "\\{");
        s->at += 1;
        return 0;
    }
    at++;
    char next = at < s->n ? s->source[at] : '\0';
    if (low_n == 0 || next == '+' || (next == '?' && !has_comma)) {
        return syntax_refuse(s, s->at, at + 1 - s->at);
    }
    buf_add(s->out, s->source + s->at, at - s->at);
    s->at = at;
    return 0;
}

int pattern_translate(const char *label, const char *source, size_t n, struct buf *out,
                      struct err *err)
{
    struct syntax s = {label, source, n, 0, false, out, err};
    while (s.at < n) {
        char c = source[s.at];
        int rc = 0;
        if (c == '\\') {
            rc = syntax_escape(&s);
        } else if (s.in_set) {
            rc = syntax_in_set(&s);
        } else if (c == '[') {
            rc = syntax_set_open(&s);
        } else if (c == '(') {
            rc = syntax_group(&s);
        } else if (c == '{') {
            rc = syntax_brace(&s);
        } else {
            buf_add(out, &c, 1);
            s.at += 1;
        }
        if (rc) {
            return rc;
        }
    }
    return 0;
}
