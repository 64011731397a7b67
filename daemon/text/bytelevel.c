/* The 68 bytes without a character of their own are 0x00-0x20, 0x7F-0xA0 and 0xAD. */
#include "text/bytelevel.h"

#include "text/utf8.h"

#define OWN_FIRST   0x21 /* '!' */
#define OWN_LAST    0x7E /* '~' */
#define HIGH_FIRST  0xA1
#define SOFT_HYPHEN 0xAD
#define LOW_N       0x21 /* bytes 0x00-0x20 */
#define MIDDLE_N    0x22 /* bytes 0x7F-0xA0 */
#define SHIFT       0x100

uint32_t bytelevel_char(unsigned char byte)
{
    if (byte < OWN_FIRST) {
        return SHIFT + (uint32_t)byte;
    }
    if (byte > OWN_LAST && byte < HIGH_FIRST) {
        return SHIFT + LOW_N + (uint32_t)(byte - OWN_LAST - 1);
    }
    return byte == SOFT_HYPHEN ? SHIFT + LOW_N + MIDDLE_N : byte;
}

/* The byte a character stands for, -1 for a character outside the alphabet. */
static int bytelevel_byte(uint32_t cp)
{
    if ((cp >= OWN_FIRST && cp <= OWN_LAST) || (cp >= HIGH_FIRST && cp <= 0xFF)) {
        return cp == SOFT_HYPHEN ? -1 : (int)cp;
    }
    if (cp < SHIFT || cp > SHIFT + LOW_N + MIDDLE_N) {
        return -1;
    }
    uint32_t index = cp - SHIFT;
    if (index < LOW_N) {
        return (int)index;
    }
    return index == LOW_N + MIDDLE_N ? SOFT_HYPHEN : (int)(index - LOW_N + OWN_LAST + 1);
}

bool bytelevel_bytes(const char *s, size_t n, char *out, size_t *out_n)
{
    size_t bytes = 0;
    for (size_t at = 0; at < n;) {
        size_t char_n;
        int byte = bytelevel_byte(utf8_get(s + at, &char_n));
        if (byte < 0) {
            return false;
        }
        out[bytes++] = (char)byte;
        at += char_n;
    }
    *out_n = bytes;
    return true;
}

size_t bytelevel_text(const char *s, size_t n, char *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        at += utf8_put(bytelevel_char((unsigned char)s[i]), out + at);
    }
    return at;
}
