/* Read-only private mappings of regular files. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map_fd(struct file_map *map, int fd, const char *label, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return err_set(err, ERR_IO_FAILURE, "%s: %s", label, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(err, ERR_BAD_FILE, "%s: is not a regular file", label);
    }
    *map = (struct file_map){0};
    if (st.st_size == 0) {
        return 0;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        return err_set(err, ERR_IO_FAILURE, "%s: could not map: %s", label, strerror(errno));
    }
    map->data = p;
    map->n = (size_t)st.st_size;
    return 0;
}

int file_map_open(struct file_map *map, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        return err_set(err, errno == ENOENT ? ERR_BAD_FILE : ERR_IO_FAILURE, "%s: %s", path,
                       strerror(errno));
    }
    int rc = file_map_fd(map, fd, path, err);
    close(fd);
    return rc;
}

void file_map_close(struct file_map *map)
{
    if (map->data) {
        munmap((void *)(uintptr_t)map->data, map->n);
    }
    *map = (struct file_map){0};
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}
