/* Request key -> sequence id: a hash table of fixed size, open addressing, no tombstones. */
#ifndef ENGINE_KEYMAP_H
#define ENGINE_KEYMAP_H

#include <stdbool.h>
#include <stdint.h>

struct keymap_entry {
    uint64_t key;
    uint32_t id;
    bool is_used;
};

struct keymap {
    struct keymap_entry *entries;
    uint32_t mask;
    uint32_t n;
};

/* Room for n_max keys; allocates. */
void keymap_init(struct keymap *map, uint32_t n_max);
void keymap_done(struct keymap *map);

/* The key must not be in it. */
void keymap_put(struct keymap *map, uint64_t key, uint32_t id);

/* False when the key is not in it. */
bool keymap_get(const struct keymap *map, uint64_t key, uint32_t *out_id);

/* The key must be in it. */
void keymap_remove(struct keymap *map, uint64_t key);

#endif
