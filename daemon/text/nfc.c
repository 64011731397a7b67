/* NFC segment by segment: a segment runs from one character that never combines with what stands
 * before it to the next. utf8proc supplies decompositions, combining classes and compositions; the
 * canonical ordering is ours, because utf8proc's is quadratic in a long run of marks and a client
 * chooses the text.
 *
 * The library's tables are those of Unicode 9. A mark that came later has no combining class there:
 * it stays where it stands, and neither moves nor lets anything past. Models were trained on that,
 * so it is kept. */
#include "text/nfc.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/utf8.h"

#define FIRST_MARK     0x300 /* no character below changes or combines with one before it */
#define FIRST_MARK_LED 0xCC  /* the first byte of U+0300 */
#define HANGUL_VOWEL   0x1160
#define HANGUL_LAST    0x11FF
#define EXPAND_MAX     8   /* code points of one canonical decomposition (4 are the most) */
#define CLASS_N        256 /* canonical combining classes */
#define SHORT_RUN      24  /* marks that are ordered by insertion */

struct nfc_work {
    utf8proc_int32_t *cps;
    size_t n;
    size_t cap;
    utf8proc_int32_t *sorted; /* [sorted_cap] for long runs of marks */
    size_t sorted_cap;
};

bool nfc_is_plain(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] >= FIRST_MARK_LED) {
            return false;
        }
    }
    return true;
}

/* Marks with a combining class that came between Unicode 10 and 14, and U+11930, the second half of
 * the one composition that came in that time (U+11938). */
static const struct {
    utf8proc_int32_t first;
    utf8proc_int32_t last;
} nfc_newer[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF},
};

static bool nfc_is_newer(utf8proc_int32_t cp)
{
    size_t low = 0;
    size_t high = ARRAY_N(nfc_newer);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > nfc_newer[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < ARRAY_N(nfc_newer) && cp >= nfc_newer[low].first;
}

static unsigned nfc_class(utf8proc_int32_t cp)
{
    unsigned cp_class = (unsigned)utf8proc_get_property(cp)->combining_class;
    return cp_class != 0 && nfc_is_newer(cp) ? 0 : cp_class;
}

/* Whether a character never combines with the one before it. */
static bool nfc_is_border(uint32_t cp)
{
    if (cp < FIRST_MARK) {
        return true;
    }
    if (cp >= HANGUL_VOWEL && cp <= HANGUL_LAST) {
        return false;
    }
    int category = utf8proc_get_property((utf8proc_int32_t)cp)->category;
    bool is_mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                   category == UTF8PROC_CATEGORY_ME;
    return !is_mark || nfc_is_newer((utf8proc_int32_t)cp);
}

static void nfc_sort_short(utf8proc_int32_t *cps, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        utf8proc_int32_t cp = cps[i];
        unsigned cp_class = nfc_class(cp);
        size_t at = i;
        while (at > 0 && nfc_class(cps[at - 1]) > cp_class) {
            cps[at] = cps[at - 1];
            at--;
        }
        cps[at] = cp;
    }
}

static void nfc_sort_long(struct nfc_work *work, utf8proc_int32_t *cps, size_t n)
{
    size_t start[CLASS_N + 1] = {0};
    if (n > work->sorted_cap) {
        work->sorted_cap = n;
        work->sorted = mem_realloc(work->sorted, n * sizeof *work->sorted);
    }
    for (size_t i = 0; i < n; i++) {
        start[nfc_class(cps[i]) + 1]++;
    }
    for (size_t c = 1; c <= CLASS_N; c++) {
        start[c] += start[c - 1];
    }
    for (size_t i = 0; i < n; i++) {
        work->sorted[start[nfc_class(cps[i])]++] = cps[i];
    }
    memcpy(cps, work->sorted, n * sizeof *cps);
}

/* Puts every run of marks into canonical order: by class, equal classes as they stood. */
static void nfc_order(struct nfc_work *work)
{
    for (size_t i = 0; i < work->n;) {
        size_t end = i;
        while (end < work->n && nfc_class(work->cps[end]) != 0) {
            end++;
        }
        if (end - i > SHORT_RUN) {
            nfc_sort_long(work, work->cps + i, end - i);
        } else {
            nfc_sort_short(work->cps + i, end - i);
        }
        i = end + 1;
    }
}

static void nfc_decompose(struct nfc_work *work, uint32_t cp)
{
    int last_class = 0;
    if (work->n + EXPAND_MAX > work->cap) {
        work->cap = MAX(2 * work->cap, 64);
        work->cps = mem_realloc(work->cps, work->cap * sizeof *work->cps);
    }
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)cp, work->cps + work->n, EXPAND_MAX,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last_class);
    ASSERT(n > 0 && n <= EXPAND_MAX);
    work->n += (size_t)n;
}

/* Normalises one segment of n bytes. A segment that is already in the form keeps its map. */
static void nfc_segment(struct nfc_work *work, const char *s, size_t n, uint32_t begin,
                        struct mapped *out)
{
    work->n = 0;
    for (size_t at = 0; at < n;) {
        size_t char_n;
        nfc_decompose(work, utf8_get(s + at, &char_n));
        at += char_n;
    }
    nfc_order(work);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(work->cps, (utf8proc_ssize_t)work->n,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    ASSERT(composed > 0);
    size_t at = 0;
    utf8proc_ssize_t same = 0;
    while (same < composed && at < n) {
        size_t char_n;
        if (utf8_get(s + at, &char_n) != (uint32_t)work->cps[same]) {
            break;
        }
        at += char_n;
        same++;
    }
    if (same == composed && at == n) {
        mapped_copy(out, s, n, begin);
        return;
    }
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char text[4];
        size_t char_n = utf8_put((uint32_t)work->cps[i], text);
        mapped_add(out, text, char_n, begin, begin + (uint32_t)n);
    }
}

void nfc_add(const char *text, size_t n, uint32_t base, struct mapped *out)
{
    struct nfc_work work = {0};
    size_t begin = 0;
    size_t at = 0;
    while (at < n) {
        /* Below U+0300 nothing changes, except that the last one may take a mark that follows. */
        while (at < n && (unsigned char)text[at] < FIRST_MARK_LED) {
            at++;
        }
        size_t plain_end = at;
        if (at < n && at > begin) {
            plain_end = at - utf8_last_n(text, at);
        }
        mapped_copy(out, text + begin, plain_end - begin, base + (uint32_t)begin);
        begin = plain_end;
        if (at == n) {
            break;
        }
        for (bool first = begin == at; at < n; first = false) {
            size_t char_n;
            uint32_t cp = utf8_get(text + at, &char_n);
            if (!first && nfc_is_border(cp)) {
                nfc_segment(&work, text + begin, at - begin, base + (uint32_t)begin, out);
                begin = at;
                if (cp < FIRST_MARK) {
                    break;
                }
            }
            at += char_n;
        }
        if (at == n) {
            nfc_segment(&work, text + begin, n - begin, base + (uint32_t)begin, out);
            begin = n;
        }
    }
    mem_free(work.cps);
    mem_free(work.sorted);
}
