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

/* A line under construction; appends beyond the end are cut, the newline always fits. */
struct log_line {
    char text[LOG_LINE_BYTES];
    size_t n;
};

static void log_add(struct log_line *line, const char *fmt, ...) PRINTF_FMT(2, 3);

static void log_add(struct log_line *line, const char *fmt, ...)
{
    size_t room = sizeof line->text - 1 - line->n;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line->text + line->n, room, fmt, args);
    va_end(args);
    if (n > 0 && room > 0) {
        line->n += MIN((size_t)n, room - 1);
    }
}

/* A quoted string: JSON rules, which text lines use as well. */
static void log_add_quoted(struct log_line *line, const char *s)
{
    log_add(line, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            log_add(line, "\\%c", c);
        } else if (c < 0x20) {
            log_add(line, "\\u%04x", c);
        } else {
            log_add(line, "%c", c);
        }
    }
    log_add(line, "\"");
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
        /* A cut line must still end as an object. */
        if (line->n > sizeof line->text - 4) {
            line->n = sizeof line->text - 4;
        }
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
    char text[LOG_LINE_BYTES - 256];
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
        log_add(&line, " %s", text);
    }
    log_finish(&line);
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
        const struct log_field *f = &fields[i];
        log_add(&line, log_line_format == LOG_JSON ? ",\"%s\":" : " %s=", f->key);
        if (f->type == LOG_FIELD_INT) {
            log_add(&line, "%lld", (long long)f->integer);
        } else if (f->type == LOG_FIELD_REAL) {
            log_add(&line, "%.6g", f->real);
        } else {
            log_add_quoted(&line, f->str ? f->str : "");
        }
    }
    log_finish(&line);
}
