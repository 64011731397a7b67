/* Regular expressions of tokenizer files, run by PCRE2.
 *
 * The files are written for Oniguruma (Ruby syntax). A pattern is translated construct by construct
 * to mean the same in PCRE2, and what is not known to mean the same is refused by name: \s is the
 * property White_Space, \w the property list Oniguruma uses, \p{Han} the script and not its
 * extensions, ^ and $ are line borders. Absent on purpose: a list of known patterns. */
#ifndef TEXT_PATTERN_H
#define TEXT_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct pattern; /* immutable; any thread may use it at once */

/* Compiles n bytes of valid UTF-8. `is_literal`: the text itself, no expression. `label` starts the
 * error message. */
int pattern_open(const char *label, const char *source, size_t n, bool is_literal,
                 struct pattern **out, struct err *err);
void pattern_close(struct pattern *pattern);

/* What matching needs besides the pattern: one per thread at work. */
struct pattern_room;
struct pattern_room *pattern_room_new(void);
void pattern_room_free(struct pattern_room *room);

/* The matches of a pattern in a text, from left to right, none inside another, and no empty match
 * where the last match ended. Set the first four, zero the rest. */
struct pattern_scan {
    const struct pattern *pattern;
    struct pattern_room *room;
    const char *text; /* valid UTF-8 */
    size_t n;
    size_t at;        /* where the search goes on */
    bool has_matched; /* the last match ended at `at` (or before it, by one character) */
    size_t last_end;
    size_t begin; /* of the match */
    size_t end;
};

/* 1: begin and end are the next match; 0: no more; negative: an ERR_ code (a limit of the matcher
 * was reached). */
int pattern_scan_next(struct pattern_scan *scan, struct err *err);

/* Translates a pattern to PCRE2's syntax; for pattern_open, and for tests. */
int pattern_translate(const char *label, const char *source, size_t n, struct buf *out,
                      struct err *err);

#endif
