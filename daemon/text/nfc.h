/* Unicode normalisation form C. */
#ifndef TEXT_NFC_H
#define TEXT_NFC_H

#include "text/mapped.h"

/* Appends the NFC of n bytes of valid UTF-8 to `out`; `base` is the original offset of text[0].
 * Takes time and memory in proportion to n, whatever the text. */
void nfc_add(const char *text, size_t n, uint32_t base, struct mapped *out);

/* True when no character of the text can be changed or composed by NFC: a quick test that is
 * allowed to say false. */
bool nfc_is_plain(const char *text, size_t n);

#endif
