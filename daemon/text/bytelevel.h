/* The byte-level alphabet: every byte is one printable character in tokenizer files, so that tokens
 * that cut a UTF-8 sequence can be written down. 188 bytes stand for the character of the same
 * number, the other 68 for U+0100 onwards in order. */
#ifndef TEXT_BYTELEVEL_H
#define TEXT_BYTELEVEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

/* The character that stands for a byte. */
uint32_t bytelevel_char(unsigned char byte);

/* Writes the bytes that the n bytes of valid UTF-8 at s stand for (never more than n) and returns
 * true; false, with *out_n untouched, when a character is not of the alphabet. */
bool bytelevel_bytes(const char *s, size_t n, char *out, size_t *out_n);

/* Writes the n bytes at s in the alphabet: at most 2 n bytes. Returns how many. */
size_t bytelevel_text(const char *s, size_t n, char *out);

#endif
