/* The log: one line per event on stderr, as text for people or as JSON for machines.
 *
 * Safe from any thread (one write per line). Rooms below server, engine and main never log; they
 * return errors or count. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

enum log_field_type { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_REAL };

struct log_field {
    const char *key;
    enum log_field_type type;
    const char *str;
    int64_t integer;
    double real;
};

#define LOG_F_STR(k, v)  ((struct log_field){.key = (k), .type = LOG_FIELD_STR, .str = (v)})
#define LOG_F_INT(k, v)  ((struct log_field){.key = (k), .type = LOG_FIELD_INT, .integer = (v)})
#define LOG_F_REAL(k, v) ((struct log_field){.key = (k), .type = LOG_FIELD_REAL, .real = (v)})

/* Before other threads start. */
void log_init(enum log_level level, enum log_format format);

/* "error", "warn", "info", "debug"; returns false for another word. */
bool log_level_parse(const char *word, enum log_level *out_level);

void log_msg(enum log_level level, const char *fmt, ...) PRINTF_FMT(2, 3);

/* `2026-11-24T02:14:05.123Z info request id=... adapter=...`, or the same as one JSON object. */
void log_fields(enum log_level level, const char *event, const struct log_field *fields,
                size_t field_n);

#endif
