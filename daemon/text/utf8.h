/* UTF-8 one character at a time, strict: no overlong forms, no surrogates, nothing over U+10FFFF.
 */
#ifndef TEXT_UTF8_H
#define TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

enum utf8_status {
    UTF8_WHOLE, /* a character of *out_n bytes */
    UTF8_SHORT, /* all n bytes are the beginning of a character */
    UTF8_BAD,   /* *out_n bytes are a maximal ill-formed part, to be replaced by one U+FFFD */
};

/* Looks at the character that begins at s; n >= 1. */
enum utf8_status utf8_scan(const char *s, size_t n, size_t *out_n);

/* Offset of the first byte that is not part of a whole character; n when the text is valid. */
size_t utf8_bad_at(const char *s, size_t n);

/* The character at s, which must be whole and valid; *out_n is its length. */
uint32_t utf8_get(const char *s, size_t *out_n);

/* The length of the character that ends at s + n; the text must be valid and n >= 1. */
size_t utf8_last_n(const char *s, size_t n);

/* Writes at most 4 bytes and returns how many. */
size_t utf8_put(uint32_t cp, char *out);

/* The property White_Space. */
bool utf8_is_space(uint32_t cp);

#endif
