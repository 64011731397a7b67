/* Strict UTF-8, after table 3-7 of the Unicode standard: only the second byte of a sequence has
 * limits that depend on the first. */
#include "text/utf8.h"

enum utf8_status utf8_scan(const char *s, size_t n, size_t *out_n)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    size_t want;
    if (u[0] < 0x80) {
        *out_n = 1;
        return UTF8_WHOLE;
    }
    if (u[0] < 0xC2 || u[0] > 0xF4) {
        *out_n = 1;
        return UTF8_BAD;
    }
    want = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] == 0xE0) {
        low = 0xA0;
    } else if (u[0] == 0xED) {
        high = 0x9F;
    } else if (u[0] == 0xF0) {
        low = 0x90;
    } else if (u[0] == 0xF4) {
        high = 0x8F;
    }
    for (size_t i = 1; i < want; i++) {
        if (i == n) {
            return UTF8_SHORT;
        }
        if (u[i] < low || u[i] > high) {
            *out_n = i;
            return UTF8_BAD;
        }
        low = 0x80;
        high = 0xBF;
    }
    *out_n = want;
    return UTF8_WHOLE;
}

size_t utf8_bad_at(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t char_n = 1;
        if ((unsigned char)s[at] >= 0x80 && utf8_scan(s + at, n - at, &char_n) != UTF8_WHOLE) {
            break;
        }
        at += char_n;
    }
    return at;
}

uint32_t utf8_get(const char *s, size_t *out_n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *out_n = 1;
        return u[0];
    }
    if (u[0] < 0xE0) {
        *out_n = 2;
        return (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3F);
    }
    if (u[0] < 0xF0) {
        *out_n = 3;
        return (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3F);
    }
    *out_n = 4;
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3F) << 12 |
           (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
}

size_t utf8_last_n(const char *s, size_t n)
{
    size_t char_n = 1;
    while (char_n < n && ((unsigned char)s[n - char_n] & 0xC0) == 0x80) {
        char_n++;
    }
    return char_n;
}

size_t utf8_put(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool utf8_is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}
