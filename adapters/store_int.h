/* The store's parts: reading a folder (store_read.c), building the block (store_build.c). */
#ifndef ADAPTERS_STORE_INT_H
#define ADAPTERS_STORE_INT_H

#include "adapters/kind.h"
#include "adapters/store.h"

#define STORE_FILES_MAX 8 /* files that one kind reads */

struct store {
    struct store_config config;
    int root_fd; /* -1: there is no root */
};

/* What was read of a folder. */
struct store_folder {
    const struct adapter_kind *kind;
    struct adapter_file files[STORE_FILES_MAX]; /* in the kind's order */
    uint32_t file_n;
    char revision[SHA256_HEX_BYTES];
};

/* Reads all files of an adapter as they were at one moment, into private memory. */
int folder_open(const struct store *store, const char *name, struct store_folder *out,
                struct err *err);
void folder_close(struct store_folder *folder);

/* Checks values, converts to the held type, packs; fills the block and the numbers of `out`, whose
 * room has room_bytes. */
int store_build(const struct store *store, const struct parsed_adapter *parsed, size_t room_bytes,
                struct version *out, struct err *err);

extern const struct adapter_kind *const store_kinds[]; /* NULL-terminated */

/* Does root/<name>/<file> exist, without a link out of the root? If not, errno says why. */
bool store_has_file(const struct store *store, const char *name, const char *file);

#endif
