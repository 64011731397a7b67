/* Reading a folder: openat2 keeps every step below the root, and a comparison of what was read with
 * what lies there afterwards tells whether all files are of one moment. Links that stay inside the
 * root are followed (a ConfigMap mount is made of them). */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "adapters/store_int.h"
#include "base/mem.h"

#define STORE_PATH_BYTES (LIMIT_ADAPTER_NAME_BYTES + 64)
#define STORE_READ_TRIES 2

/* One reading of a folder, from the first file to the last. */
struct folder_reading {
    struct stat stats[STORE_FILES_MAX]; /* of the files that were there */
    bool is_optional;                   /* the file at hand may be missing */
    bool is_short;                      /* a file ended early */
};

static int open_beneath(const struct store *store, const char *path, uint64_t flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd;
    do {
        /* EAGAIN: a rename elsewhere raced with the walk */
        fd = syscall(SYS_openat2, store->root_fd, path, &how, sizeof how);
    } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    return (int)fd;
}

static void store_path(char path[STORE_PATH_BYTES], const char *name, const char *file)
{
    snprintf(path, STORE_PATH_BYTES, "%s/%s", name, file);
}

bool store_has_file(const struct store *store, const char *name, const char *file)
{
    char path[STORE_PATH_BYTES];
    store_path(path, name, file);
    int fd = open_beneath(store, path, O_PATH);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static int open_error(const char *what, struct err *err)
{
    if (errno == EXDEV) {
        return err_set(err, ERR_BAD_FILE, "%s: a link leads out of the adapter root", what);
    }
    if (errno == ELOOP) {
        return err_set(err, ERR_BAD_FILE, "%s: the links are too many or lead in a circle", what);
    }
    if (errno == ENOENT || errno == ENOTDIR) {
        return err_set(err, ERR_BAD_FILE, "%s is missing", what);
    }
    return err_set(err, ERR_IO_FAILURE, "%s: %s", what, strerror(errno));
}

/* The first kind from `first` on whose markers are all there, or NULL. */
static const struct adapter_kind *folder_find_kind(const struct store *store, const char *name,
                                                   uint32_t *first)
{
    for (; store_kinds[*first]; (*first)++) {
        const char *const *marker = store_kinds[*first]->marker_files;
        while (*marker && store_has_file(store, name, *marker)) {
            marker++;
        }
        if (!*marker) {
            return store_kinds[(*first)++];
        }
    }
    return NULL;
}

/* Why no kind knows the folder. */
static int folder_unknown(const struct store *store, const char *name, struct err *err)
{
    for (uint32_t i = 0; store_kinds[i]; i++) {
        const char *marker = store_kinds[i]->marker_files[0];
        if (!store_has_file(store, name, marker) && errno != ENOENT) {
            return open_error(marker, err); /* it is there, but cannot be reached */
        }
    }
    for (uint32_t i = 0; store_kinds[i]; i++) {
        const char *const *file = store_kinds[i]->unsafe_files;
        for (; *file; file++) {
            if (store_has_file(store, name, *file)) {
                return err_set(err, ERR_BAD_FILE,
                               "%s is a pickle, which is never read; the folder holds no %s", *file,
                               store_kinds[i]->marker_files[0]);
            }
        }
    }
    return err_set(err, ERR_BAD_FILE, "the folder holds no %s and no %s", kind_lora.marker_files[0],
                   kind_s0.marker_files[0]);
}

/* Which kind the folder is of. */
static int folder_match(const struct store *store, const char *name, struct store_folder *folder,
                        struct err *err)
{
    uint32_t at = 0;
    if (store->root_fd < 0) {
        return err_set(err, ERR_ADAPTER_NOT_FOUND, "no adapter root is configured (--adapters)");
    }
    int fd = open_beneath(store, name, O_PATH | O_DIRECTORY);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        return err_set(err, ERR_ADAPTER_NOT_FOUND, "the adapter root has no folder of that name");
    }
    if (fd < 0) {
        return open_error("the folder", err);
    }
    close(fd);
    folder->kind = folder_find_kind(store, name, &at);
    if (!folder->kind) {
        return folder_unknown(store, name, err);
    }
    const struct adapter_kind *other = folder_find_kind(store, name, &at);
    while (other && other->files == folder->kind->files) { /* told apart once they are read */
        other = folder_find_kind(store, name, &at);
    }
    if (other) {
        return err_set(err, ERR_BAD_FILE, "the folder holds %s and %s, one adapter is wanted",
                       folder->kind->marker_files[0], other->marker_files[0]);
    }
    return 0;
}

static int file_check(const char *file, const struct stat *st, struct err *err)
{
    if (!S_ISREG(st->st_mode)) {
        return err_set(err, ERR_BAD_FILE, "%s is not a regular file", file);
    }
    const char *dot = strrchr(file, '.');
    bool is_json = dot && strcmp(dot, ".json") == 0;
    uint64_t limit = is_json ? LIMIT_CONFIG_JSON_BYTES : LIMIT_ADAPTER_FILE_BYTES;
    if ((uint64_t)st->st_size > limit) {
        return err_set(err, ERR_BAD_FILE, "%s is %llu bytes long, limit is %llu", file,
                       (unsigned long long)st->st_size, (unsigned long long)limit);
    }
    /* Read into memory, then packed into a block of about the same size. */
    size_t left = mem_available();
    if (left > 0 && (uint64_t)st->st_size * 2 > left) {
        return err_set(err, ERR_NO_MEMORY, "%s is %llu bytes long, %zu bytes of memory are left",
                       file, (unsigned long long)st->st_size, left);
    }
    return 0;
}

/* Fills `out` from fd; *out_is_short when the file ended early. */
static int file_fill(int fd, struct adapter_file *out, size_t bytes, bool *out_is_short,
                     struct err *err)
{
    void *data;
    size_t done = 0;
    if (mem_pages_alloc(bytes, &data, err)) {
        return err_prefix(err, ERR_NO_MEMORY, "%s", out->name);
    }
    out->data = data;
    out->n = bytes;
    while (done < bytes) {
        ssize_t n = pread(fd, (char *)data + done, bytes - done, (off_t)done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_set(err, ERR_IO_FAILURE, "%s: %s", out->name, strerror(errno));
        }
        if (n == 0) {
            *out_is_short = true;
            return 0;
        }
        done += (size_t)n;
    }
    return 0;
}

static int file_open(const struct store *store, const char *name, const char *file, struct stat *st)
{
    char path[STORE_PATH_BYTES];
    store_path(path, name, file);
    /* O_NONBLOCK: a FIFO must not hold the worker. */
    int fd = open_beneath(store, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0 && fstat(fd, st) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int file_missing(const struct store *store, const char *name,
                        const struct adapter_kind *kind, const char *file, struct err *err)
{
    int saved = errno;
    for (uint32_t i = 0; saved == ENOENT && kind->unsafe_files[i]; i++) {
        if (store_has_file(store, name, kind->unsafe_files[i])) {
            return err_set(err, ERR_BAD_FILE, "%s is a pickle, which is never read; save it as %s",
                           kind->unsafe_files[i], file);
        }
    }
    errno = saved;
    return open_error(file, err);
}

/* Reads one file; a missing one that is optional is passed over. */
static int folder_read_file(const struct store *store, const char *name, const char *file,
                            struct store_folder *folder, struct folder_reading *reading,
                            struct err *err)
{
    uint32_t i = folder->file_n;
    ASSERT_CMP(i, <, STORE_FILES_MAX);
    int fd = file_open(store, name, file, &reading->stats[i]);
    if (fd < 0 && reading->is_optional && errno == ENOENT) {
        return 0;
    }
    if (fd < 0) {
        return file_missing(store, name, folder->kind, file, err);
    }
    folder->files[i] = (struct adapter_file){.name = file};
    folder->file_n++; /* so that folder_close sees what was taken */
    int rc = file_check(file, &reading->stats[i], err);
    if (!rc) {
        rc = file_fill(fd, &folder->files[i], (size_t)reading->stats[i].st_size, &reading->is_short,
                       err);
    }
    close(fd);
    return rc;
}

/* Of the kinds that have the same files, the one whose they are; the last one takes what none says
 * to be its own. */
static void folder_settle_kind(struct store_folder *folder)
{
    struct adapter_source source = {.files = folder->files, .file_n = folder->file_n};
    const char *const *files = folder->kind->files;
    for (uint32_t i = 0; store_kinds[i]; i++) {
        const struct adapter_kind *kind = store_kinds[i];
        if (kind->files == files) {
            folder->kind = kind;
            if (kind->is_of && kind->is_of(&source)) {
                return;
            }
        }
    }
}

/* Reads every file once. */
static int folder_read(const struct store *store, const char *name, struct store_folder *folder,
                       struct folder_reading *reading, struct err *err)
{
    int rc = 0;
    reading->is_optional = false;
    for (const char *const *file = folder->kind->files; rc == 0 && *file; file++) {
        rc = folder_read_file(store, name, *file, folder, reading, err);
    }
    reading->is_optional = true;
    for (const char *const *file = folder->kind->optional_files; rc == 0 && *file; file++) {
        rc = folder_read_file(store, name, *file, folder, reading, err);
    }
    return rc;
}

/* An optional file that is there now and was not read, or NULL. */
static const char *folder_appeared(const struct store *store, const char *name,
                                   const struct store_folder *folder)
{
    struct adapter_source source = {.files = folder->files, .file_n = folder->file_n};
    for (const char *const *file = folder->kind->optional_files; *file; file++) {
        if (!adapter_source_file(&source, *file) && store_has_file(store, name, *file)) {
            return *file;
        }
    }
    return NULL;
}

/* The first file that is not what it was when it was read, or NULL. */
static const char *folder_changed(const struct store *store, const char *name,
                                  const struct store_folder *folder, const struct stat *stats)
{
    for (uint32_t i = 0; i < folder->file_n; i++) {
        struct stat now;
        int fd = file_open(store, name, folder->files[i].name, &now);
        if (fd < 0) {
            return folder->files[i].name;
        }
        close(fd);
        const struct stat *was = &stats[i];
        if (now.st_dev != was->st_dev || now.st_ino != was->st_ino || now.st_size != was->st_size ||
            now.st_mtim.tv_sec != was->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != was->st_mtim.tv_nsec ||
            now.st_ctim.tv_sec != was->st_ctim.tv_sec ||
            now.st_ctim.tv_nsec != was->st_ctim.tv_nsec) {
            return folder->files[i].name;
        }
    }
    return folder_appeared(store, name, folder);
}

static int file_compare(const void *a, const void *b)
{
    const struct adapter_file *const *x = a;
    const struct adapter_file *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* SHA-256 over (name, NUL, length as 8 little-endian bytes, bytes) of each file, by name. */
static void folder_hash(struct store_folder *folder)
{
    struct sha256 sha;
    uint8_t digest[SHA256_BYTES];
    const struct adapter_file *sorted[STORE_FILES_MAX] = {0};
    for (uint32_t i = 0; i < folder->file_n; i++) {
        sorted[i] = &folder->files[i];
    }
    qsort(sorted, folder->file_n, sizeof(struct adapter_file *), file_compare);
    sha256_init(&sha);
    for (uint32_t i = 0; i < folder->file_n; i++) {
        uint8_t length[8];
        for (int k = 0; k < 8; k++) {
            length[k] = (uint8_t)((uint64_t)sorted[i]->n >> (8 * k));
        }
        sha256_update(&sha, sorted[i]->name, strlen(sorted[i]->name) + 1);
        sha256_update(&sha, length, sizeof length);
        sha256_update(&sha, sorted[i]->data, sorted[i]->n);
    }
    sha256_final(&sha, digest);
    sha256_hex(digest, folder->revision);
}

int folder_open(const struct store *store, const char *name, struct store_folder *out,
                struct err *err)
{
    struct folder_reading reading;
    const char *changed = NULL;
    for (int i = 0; i < STORE_READ_TRIES; i++) {
        reading = (struct folder_reading){0};
        *out = (struct store_folder){0};
        int rc = folder_match(store, name, out, err);
        if (!rc && store->config.before_read) {
            store->config.before_read(store->config.arg, name);
        }
        rc = rc ? rc : folder_read(store, name, out, &reading, err);
        if (rc) {
            folder_close(out);
            if (i + 1 == STORE_READ_TRIES) {
                return rc;
            }
            if (err) { /* it may have been another folder when the look at it began */
                *err = (struct err){0};
            }
            continue;
        }
        if (store->config.after_read) {
            store->config.after_read(store->config.arg, name);
        }
        changed = folder_changed(store, name, out, reading.stats);
        if (!changed && !reading.is_short) {
            folder_settle_kind(out);
            folder_hash(out);
            return 0;
        }
        folder_close(out);
    }
    return err_set(err, ERR_CONFLICT, "the folder changes while it is read (%s)",
                   changed ? changed : "a file became shorter");
}

void folder_close(struct store_folder *folder)
{
    for (uint32_t i = 0; i < folder->file_n; i++) {
        mem_pages_free((void *)(uintptr_t)folder->files[i].data, folder->files[i].n);
    }
    folder->file_n = 0;
}
