/* Strict, typed access to jansson values with errors that name file, key and value. */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define JSON_INFINITY   "Infinity"
#define JSON_INFINITY_N (sizeof JSON_INFINITY - 1)

/* A copy of the text in which each Infinity outside of strings is in quotes; NULL when there is
 * none. mem_free frees it. */
static char *json_quote_infinity(const char *data, size_t n, size_t *out_n)
{
    char *copy = NULL;
    size_t copy_n = 0;
    size_t done = 0; /* bytes of data in the copy */
    bool is_string = false;
    if (n < JSON_INFINITY_N || !memmem(data, n, JSON_INFINITY, JSON_INFINITY_N)) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (data[i] == '"') {
            is_string = !is_string;
        } else if (is_string && data[i] == '\\') {
            i++;
        } else if (!is_string && n - i >= JSON_INFINITY_N &&
                   memcmp(data + i, JSON_INFINITY, JSON_INFINITY_N) == 0) {
            copy = copy ? copy : mem_alloc(n + n / JSON_INFINITY_N * 2 + 2);
            memcpy(copy + copy_n, data + done, i - done);
            copy_n += i - done;
            memcpy(copy + copy_n, "\"" JSON_INFINITY "\"", JSON_INFINITY_N + 2);
            copy_n += JSON_INFINITY_N + 2;
            done = i + JSON_INFINITY_N;
            i = done - 1;
        }
    }
    if (copy) {
        memcpy(copy + copy_n, data + done, n - done);
        *out_n = copy_n + n - done;
    }
    return copy;
}

int json_parse(const char *label, const void *data, size_t n, json_t **out, struct err *err)
{
    json_error_t je;
    char *quoted = json_quote_infinity(data, n, &n);
    json_t *value =
        json_loadb(quoted ? quoted : data, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    mem_free(quoted);
    if (!value) {
        return err_set(err, ERR_BAD_FILE, "%s: line %d: not valid JSON: %s", label, je.line,
                       je.text);
    }
    *out = value;
    return 0;
}

bool json_is_nothing(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

int json_read_file(const char *path, size_t bytes_max, json_t **out, struct err *err)
{
    struct file_map map;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    if (map.n > bytes_max) {
        rc = err_set(err, ERR_BAD_FILE, "%s: is %zu bytes long, limit is %zu", path, map.n,
                     bytes_max);
    } else {
        rc = json_parse(path, map.data, map.n, out, err);
    }
    file_map_close(&map);
    return rc;
}

void json_brief(const json_t *value, char *text, size_t text_bytes)
{
    char *s = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    size_t n = s ? strlen(s) : 0;
    size_t keep = MIN(n, text_bytes - 1);
    memcpy(text, s ? s : "", keep);
    text[keep] = '\0';
    if (n > keep && text_bytes > 4) {
        memcpy(text + text_bytes - 4, "...", 4);
    }
    free(s);
}

static int json_type_error(const char *label, const char *key, const char *wanted,
                           const json_t *value, struct err *err)
{
    char brief[80];
    json_brief(value, brief, sizeof brief);
    return err_set(err, ERR_BAD_FILE, "%s: \"%s\" is %s, %s is wanted", label, key, brief, wanted);
}

int json_get_int(const char *label, const json_t *obj, const char *key, int64_t min, int64_t max,
                 int64_t *out, struct err *err)
{
    json_t *v = json_object_get(obj, key);
    int64_t n;
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (json_is_integer(v)) {
        n = json_integer_value(v);
    } else if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) &&
               fabs(json_real_value(v)) < 9e15) {
        n = (int64_t)json_real_value(v);
    } else {
        return json_type_error(label, key, "an integer", v, err);
    }
    if (n < min || n > max) {
        return err_set(err, ERR_BAD_FILE, "%s: \"%s\" is %lld, it must lie in %lld to %lld", label,
                       key, (long long)n, (long long)min, (long long)max);
    }
    *out = n;
    return 0;
}

int json_need_int(const char *label, const json_t *obj, const char *key, int64_t min, int64_t max,
                  int64_t *out, struct err *err)
{
    json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) {
        return err_set(err, ERR_BAD_FILE, "%s: \"%s\" is missing", label, key);
    }
    return json_get_int(label, obj, key, min, max, out, err);
}

int json_get_real(const char *label, const json_t *obj, const char *key, double *out,
                  struct err *err)
{
    json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_number(v)) {
        return json_type_error(label, key, "a number", v, err);
    }
    *out = json_number_value(v);
    return 0;
}

int json_get_bool(const char *label, const json_t *obj, const char *key, bool *out, struct err *err)
{
    json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_boolean(v)) {
        return json_type_error(label, key, "true or false", v, err);
    }
    *out = json_is_true(v);
    return 0;
}

int json_get_str(const char *label, const json_t *obj, const char *key, const char **out,
                 struct err *err)
{
    json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_string(v)) {
        return json_type_error(label, key, "a string", v, err);
    }
    *out = json_string_value(v);
    return 0;
}
