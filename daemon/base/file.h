/* Whole files, mapped read-only. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct file_map {
    const unsigned char *data; /* NULL when n is 0 */
    size_t n;
};

/* Maps a regular file; anything else is refused. Errors name the path. */
int file_map_open(struct file_map *map, const char *path, struct err *err);

/* The same for an open descriptor, which stays the caller's; `label` is for errors. */
int file_map_fd(struct file_map *map, int fd, const char *label, struct err *err);
void file_map_close(struct file_map *map);

bool file_exists(const char *path);

#endif
