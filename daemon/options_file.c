/* The configuration file, through inih.
 *
 * inih cuts a line that does not fit its buffer and takes the rest for another key, joins indented
 * lines to the one above, and tells no line numbers. So it gets its lines from a reader that counts
 * them and refuses what inih would misread. */
#include "options_file.h"

#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define OPTIONS_FILE_BYTES_MAX (1u << 20)
#define OPTIONS_DROPINS_MAX    256

struct file_reader {
    const char *label;
    const char *text;
    size_t n;
    size_t at;
    uint32_t line;
    uint32_t rank;
    struct options *options;
    struct err *err;
    int rc; /* the first failure */
};

static int reader_fail(struct file_reader *reader, const char *what)
{
    reader->rc =
        err_set(reader->err, ERR_INVALID_PARAMETER, "%s:%u: %s", reader->label, reader->line, what);
    return reader->rc;
}

/* fgets for inih: one line with its newline into str[num]; NULL ends the parse. */
static char *reader_line(char *str, int num, void *stream)
{
    struct file_reader *reader = stream;
    const char *begin = reader->text + reader->at;
    size_t left = reader->n - reader->at;
    if (left == 0 || reader->rc) {
        return NULL;
    }
    const char *newline = memchr(begin, '\n', left);
    size_t n = newline ? (size_t)(newline - begin) + 1 : left;
    size_t blank_n = 0;
    reader->line++;
    reader->at += n;
    while (blank_n < n && strchr(" \t\r\n\v\f", begin[blank_n]) && begin[blank_n] != '\0') {
        blank_n++;
    }
    if (n + 1 > (size_t)num) {
        char what[80];
        snprintf(what, sizeof what, "the line has %zu bytes, limit is %d", newline ? n - 1 : n,
                 num - 2);
        reader_fail(reader, what);
    } else if (memchr(begin, '\0', n)) {
        reader_fail(reader, "the line has a NUL in it");
    } else if (blank_n > 0 && blank_n < n && begin[blank_n] != '#' && begin[blank_n] != ';') {
        reader_fail(reader, "the line begins with a space; lines can not be continued");
    }
    if (reader->rc) {
        return NULL;
    }
    memcpy(str, begin, n);
    str[n] = '\0';
    return str;
}

static int reader_setting(void *user, const char *section, const char *key, const char *value)
{
    struct file_reader *reader = user;
    const char *wanted = options_section(key);
    if (reader->rc) {
        return 0;
    }
    if (value[0] == ';') {
        reader_fail(reader, "the value begins with the sign of a comment");
    } else if (!wanted) {
        reader->rc = err_set(reader->err, ERR_INVALID_PARAMETER, "%s:%u: unknown key \"%.100s\"",
                             reader->label, reader->line, key);
    } else if (strcmp(section, wanted) != 0) {
        reader->rc = err_set(reader->err, ERR_INVALID_PARAMETER,
                             "%s:%u: key \"%s\" is in section [%.60s], belongs to [%s]",
                             reader->label, reader->line, key, section, wanted);
    } else {
        reader->rc = options_set(reader->options, key, value, reader->rank, reader->err);
        if (reader->rc) {
            err_prefix(reader->err, reader->rc, "%s:%u", reader->label, reader->line);
        }
    }
    return reader->rc == 0;
}

int options_parse_text(const char *label, const char *text, size_t n, uint32_t rank,
                       struct options *options, struct err *err)
{
    struct file_reader reader = {
        .label = label, .text = text, .n = n, .rank = rank, .options = options, .err = err};
    int line = ini_parse_stream(reader_line, &reader, reader_setting, &reader);
    if (reader.rc == 0 && line != 0) {
        reader.line = line > 0 ? (uint32_t)line : 0;
        reader_fail(&reader, "the line is neither [section] nor key = value");
    }
    return reader.rc;
}

static int read_file(const char *path, uint32_t rank, struct options *options, struct err *err)
{
    struct file_map map;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        return rc;
    }
    if (map.n > OPTIONS_FILE_BYTES_MAX) {
        rc = err_set(err, ERR_INVALID_PARAMETER, "\"%s\" has %zu bytes, limit is %u", path, map.n,
                     OPTIONS_FILE_BYTES_MAX);
    } else {
        rc = options_parse_text(path, (const char *)map.data, map.n, rank, options, err);
    }
    file_map_close(&map);
    return rc;
}

static int is_conf(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0;
}

static int read_drop_ins(const char *file, struct options *options, struct err *err)
{
    struct dirent **entries = NULL;
    char folder[4096];
    char path[4096 + 256 + 2];
    int rc = 0;
    snprintf(folder, sizeof folder, "%s.d", file);
    int n = scandir(folder, &entries, is_conf, alphasort);
    if (n < 0) {
        return errno == ENOENT ? 0
                               : err_set(err, ERR_IO_FAILURE, "could not read \"%s\": %s", folder,
                                         strerror(errno));
    }
    if (n > OPTIONS_DROPINS_MAX) {
        rc = err_set(err, ERR_INVALID_PARAMETER, "\"%s\" has %d files, limit is %d", folder, n,
                     OPTIONS_DROPINS_MAX);
    }
    for (int i = 0; i < n; i++) {
        if (rc == 0) {
            snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
            rc = read_file(path, (uint32_t)i + 2, options, err);
        }
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int options_read_files(struct options *options, struct err *err)
{
    const char *file = options->config ? options->config : OPTIONS_CONFIG_FILE;
    int rc = 0;
    if (options->config || file_exists(file)) {
        rc = read_file(file, 1, options, err);
    }
    return rc ? rc : read_drop_ins(file, options, err);
}
