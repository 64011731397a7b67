/* Strict reading of JSON files on top of jansson: bounded size, duplicate keys refused, errors that
 * name the file and the key. Objects iterate in file order (jansson keeps insertion order).
 * `label` is the file name that errors show. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Reads and parses a regular file of at most bytes_max. The caller json_decref()s *out. */
int json_read_file(const char *path, size_t bytes_max, json_t **out, struct err *err);

/* True for null, false, "", [] and {}: what says that nothing is asked for. */
bool json_is_nothing(const json_t *value);

/* Parses n bytes. Infinity, which JSON does not have but Python writes, is read as that text. */
int json_parse(const char *label, const void *data, size_t n, json_t **out, struct err *err);

/* Typed members of an object. A missing key or null gives `missing`/leaves *out untouched (get) or
 * is an error (need). A value of another type is always an error. Numbers: an integral real such
 * as 8.0 is taken for an integer. */
int json_get_int(const char *label, const json_t *obj, const char *key, int64_t min, int64_t max,
                 int64_t *out, struct err *err);
int json_need_int(const char *label, const json_t *obj, const char *key, int64_t min, int64_t max,
                  int64_t *out, struct err *err);
int json_get_real(const char *label, const json_t *obj, const char *key, double *out,
                  struct err *err);
int json_get_bool(const char *label, const json_t *obj, const char *key, bool *out,
                  struct err *err);
/* The string belongs to the object. */
int json_get_str(const char *label, const json_t *obj, const char *key, const char **out,
                 struct err *err);

/* Writes a value as compact JSON into text, cut with "..." when too long: for error messages. */
void json_brief(const json_t *value, char *text, size_t text_bytes);

#endif
