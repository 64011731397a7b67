/* Opening the root, looking through it, and the jobs that prepare and discard versions. */
#include "adapters/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store_int.h"
#include "base/mem.h"
#include "model/model.h"

const struct adapter_kind *const store_kinds[] = {&kind_ia3, &kind_lora, &kind_s0, NULL};

const struct adapter_file *adapter_source_file(const struct adapter_source *source,
                                               const char *name)
{
    for (uint32_t i = 0; i < source->file_n; i++) {
        if (strcmp(source->files[i].name, name) == 0) {
            return &source->files[i];
        }
    }
    return NULL;
}

int store_open(const struct store_config *config, struct store **out, struct err *err)
{
    int fd = -1;
    if (config->root) {
        fd = open(config->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) {
            return err_set(err, ERR_BAD_FILE, "could not open the adapter root \"%s\": %s",
                           config->root, strerror(errno));
        }
    }
    struct store *store = mem_zalloc(sizeof *store);
    store->config = *config;
    store->config.root = NULL; /* borrowed for the call only */
    store->root_fd = fd;
    *out = store;
    return 0;
}

void store_close(struct store *store)
{
    if (store) {
        if (store->root_fd >= 0) {
            close(store->root_fd);
        }
        mem_free(store);
    }
}

uint32_t store_kind_names(const struct store *store, const char **list)
{
    uint32_t n = 0;
    for (uint32_t i = 0; store_kinds[i]; i++) {
        if (!store_kinds[i]->is_recurrent || store->config.desc->state_layer_n > 0) {
            ASSERT_CMP(n, <, STORE_KINDS_MAX);
            list[n++] = store_kinds[i]->name;
        }
    }
    return n;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Is the entry a folder, or a link to one inside the root, that some kind knows? */
static bool looks_like_adapter(const struct store *store, const char *name)
{
    for (uint32_t i = 0; store_kinds[i]; i++) {
        if (store_has_file(store, name, store_kinds[i]->marker_files[0])) {
            return true;
        }
    }
    return false;
}

static bool is_folder(const struct store *store, const char *name)
{
    struct stat st;
    return fstatat(store->root_fd, name, &st, 0) == 0 && S_ISDIR(st.st_mode);
}

int store_scan(const struct store *store, char (**out_names)[LIMIT_ADAPTER_NAME_BYTES],
               uint32_t *out_n, uint32_t *out_skipped_n, struct err *err)
{
    char(*names)[LIMIT_ADAPTER_NAME_BYTES] = NULL;
    uint32_t n = 0;
    uint32_t cap = 0;
    uint32_t skipped_n = 0;
    int fd =
        store->root_fd < 0 ? -1 : openat(store->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && store->root_fd >= 0) {
        int saved = errno;
        if (fd >= 0) {
            close(fd);
        }
        return err_set(err, ERR_IO_FAILURE, "could not read the adapter root: %s", strerror(saved));
    }
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        /* Hidden names are machinery (".", "..", "..data", ".git"), not adapters. */
        if (entry->d_name[0] == '.' || !is_folder(store, entry->d_name)) {
            continue;
        }
        if (!adapter_name_is_valid(entry->d_name)) {
            skipped_n++;
            continue;
        }
        if (!looks_like_adapter(store, entry->d_name)) {
            continue;
        }
        if (n == cap) {
            cap = MAX(2 * cap, 16u);
            names = mem_realloc(names, cap * sizeof *names);
        }
        memcpy(names[n++], entry->d_name, strlen(entry->d_name) + 1);
    }
    if (dir) {
        closedir(dir);
    }
    if (n > 1) {
        qsort(names, n, sizeof *names, name_compare);
    }
    *out_names = names;
    *out_n = n;
    *out_skipped_n = skipped_n;
    return 0;
}

static int folder_parse(const struct store *store, const struct store_folder *folder,
                        size_t room_bytes, struct version *out, struct err *err)
{
    struct adapter_source source = {.files = folder->files, .file_n = folder->file_n};
    struct parsed_adapter parsed = {0};
    arena_init(&parsed.arena);
    int rc = folder->kind->parse(&source, store->config.desc, &parsed, err);
    if (!rc) {
        rc = store_build(store, &parsed, room_bytes, out, err);
    }
    arena_done(&parsed.arena);
    return rc;
}

static int prepare(struct prepare_job *job, struct err *err)
{
    struct store_folder folder;
    if (!adapter_name_is_valid(job->name)) {
        return err_set(err, ERR_INVALID_PARAMETER, "this is not an adapter name");
    }
    int rc = folder_open(job->store, job->name, &folder, err);
    if (rc) {
        return rc;
    }
    job->is_unchanged = strcmp(folder.revision, job->known_revision) == 0;
    if (!job->is_unchanged) {
        struct version *version = mem_zalloc(sizeof *version);
        memcpy(version->name, job->name, sizeof version->name);
        memcpy(version->revision, folder.revision, sizeof version->revision);
        version->kind = folder.kind->name;
        version->room = job->room;
        rc = folder_parse(job->store, &folder, job->room_bytes, version, err);
        if (rc) {
            version_free(version);
        } else {
            job->version = version;
        }
    }
    folder_close(&folder);
    return rc;
}

void store_prepare(struct job *base)
{
    struct prepare_job *job = CONTAINER_OF(base, struct prepare_job, job);
    job->version = NULL;
    job->is_unchanged = false;
    job->err = (struct err){0};
    int rc = prepare(job, &job->err);
    if (rc) {
        err_prefix(&job->err, rc, "could not load adapter \"%s\"", job->name);
    }
}

void store_discard(struct job *base)
{
    struct prepare_job *job = CONTAINER_OF(base, struct prepare_job, job);
    version_free(job->version);
    job->version = NULL;
}

void version_free(struct version *version)
{
    if (version) {
        if (version->block != version->room) {
            mem_pages_free(version->block, version->block_bytes);
        }
        mem_free(version);
    }
}
