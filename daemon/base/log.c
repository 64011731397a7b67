/* One line is built in a fixed buffer and written with one call, so lines never mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES 2048

static const char *const log_level_names[] = {"error", "warn", "info", "debug"};

static enum log_level log_level_limit = LOG_INFO;
static enum log_format log_line_format = LOG_TEXT;

/* Kept free behind what is added: a quote, a brace and the newline. */
#define LOG_END_BYTES 3

/* A line under construction. */
struct log_line {
    char text[LOG_LINE_BYTES];
    size_t n;
};

static bool log_add(struct log_line *line, const char *fmt, ...) PRINTF_FMT(2, 3);

/* All of it, or nothing where there is no room. */
static bool log_add(struct log_line *line, const char *fmt, ...)
{
    size_t max = sizeof line->text - LOG_END_BYTES;
    size_t room = max > line->n ? max - line->n : 0;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line->text + line->n, room, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room) {
        return false;
    }
    line->n += (size_t)n;
    return true;
}

/* Takes the beginning of a character back, up to `start`; `next` is the byte it was cut before. */
static void log_cut(struct log_line *line, size_t start, char next)
{
    if (((unsigned char)next & 0xC0) != 0x80) {
        return;
    }
    while (line->n > start && ((unsigned char)line->text[line->n - 1] & 0xC0) == 0x80) {
        line->n--;
    }
    if (line->n > start && (unsigned char)line->text[line->n - 1] >= 0xC0) {
        line->n--;
    }
}

/* As much as there is room for, control characters by JSON's rules, which text lines use as well.
 */
static void log_add_text(struct log_line *line, const char *s, bool is_quoted)
{
    size_t start = line->n;
    bool is_room = true;
    while (*s && is_room) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20) {
            is_room = log_add(line, "\\u%04x", c);
        } else {
            is_room = log_add(line, is_quoted && (c == '"' || c == '\\') ? "\\%c" : "%c", c);
        }
        s += is_room;
    }
    log_cut(line, start, *s);
}

/* Nothing when there is no room for the opening quote. */
static bool log_add_quoted(struct log_line *line, const char *s)
{
    if (!log_add(line, "\"")) {
        return false;
    }
    log_add_text(line, s, true);
    line->text[line->n++] = '"'; /* of LOG_END_BYTES */
    return true;
}

static void log_start(struct log_line *line, enum log_level level, const char *event)
{
    struct timespec ts;
    struct tm tm;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    line->n = 0;
    if (log_line_format == LOG_JSON) {
        log_add(line, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"event\":\"%s\"", stamp,
                ts.tv_nsec / 1000000, log_level_names[level], event);
    } else {
        log_add(line, "%s.%03ldZ %s %s", stamp, ts.tv_nsec / 1000000, log_level_names[level],
                event);
    }
}

static void log_finish(struct log_line *line)
{
    if (log_line_format == LOG_JSON) {
        line->text[line->n++] = '}';
    }
    line->text[line->n++] = '\n';
    ssize_t rc = write(STDERR_FILENO, line->text, line->n);
    (void)rc; /* nobody is left to tell */
}

void log_init(enum log_level level, enum log_format format)
{
    log_level_limit = level;
    log_line_format = format;
}

bool log_level_parse(const char *word, enum log_level *out_level)
{
    for (size_t i = 0; i < ARRAY_N(log_level_names); i++) {
        if (strcmp(word, log_level_names[i]) == 0) {
            *out_level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
    struct log_line line;
    char text[LOG_LINE_BYTES + 4]; /* the line is what cuts it, between two characters */
    if (level > log_level_limit) {
        return;
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    log_start(&line, level, "graftd");
    if (log_line_format == LOG_JSON) {
        log_add(&line, ",\"message\":");
        log_add_quoted(&line, text);
    } else {
        log_add(&line, " ");
        log_add_text(&line, text, false);
    }
    log_finish(&line);
}

/* Left out when there is no room for it; a string is cut. */
static void log_add_field(struct log_line *line, const struct log_field *f)
{
    size_t start = line->n;
    bool is_room = log_add(line, log_line_format == LOG_JSON ? ",\"%s\":" : " %s=", f->key);
    if (f->type == LOG_FIELD_INT) {
        is_room = is_room && log_add(line, "%lld", (long long)f->integer);
    } else if (f->type == LOG_FIELD_REAL) {
        is_room = is_room && log_add(line, "%.6g", f->real);
    } else {
        is_room = is_room && log_add_quoted(line, f->str ? f->str : "");
    }
    line->n = is_room ? line->n : start;
}

void log_fields(enum log_level level, const char *event, const struct log_field *fields,
                size_t field_n)
{
    struct log_line line;
    if (level > log_level_limit) {
        return;
    }
    log_start(&line, level, event);
    for (size_t i = 0; i < field_n; i++) {
        log_add_field(&line, &fields[i]);
    }
    log_finish(&line);
}
