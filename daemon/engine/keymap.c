/* Linear probing; a removal moves later entries of the same run back, so that runs stay whole. */
#include "engine/keymap.h"

#include "base/base.h"
#include "base/mem.h"
#include "kernels/random.h"

void keymap_init(struct keymap *map, uint32_t n_max)
{
    uint32_t entry_n = 4;
    while (entry_n < 2 * n_max) {
        entry_n *= 2;
    }
    *map = (struct keymap){.mask = entry_n - 1};
    map->entries = mem_zalloc_n(entry_n, sizeof *map->entries);
}

void keymap_done(struct keymap *map)
{
    mem_free(map->entries);
    *map = (struct keymap){0};
}

static uint32_t keymap_home(const struct keymap *map, uint64_t key)
{
    return (uint32_t)kern_mix64(key) & map->mask;
}

/* The entry that holds the key, or the free one where it would go. */
static uint32_t keymap_find(const struct keymap *map, uint64_t key)
{
    uint32_t at = keymap_home(map, key);
    while (map->entries[at].is_used && map->entries[at].key != key) {
        at = (at + 1) & map->mask;
    }
    return at;
}

void keymap_put(struct keymap *map, uint64_t key, uint32_t id)
{
    struct keymap_entry *entry = &map->entries[keymap_find(map, key)];
    ASSERT(!entry->is_used);
    ASSERT_CMP(map->n, <=, map->mask / 2);
    *entry = (struct keymap_entry){key, id, true};
    map->n++;
}

bool keymap_get(const struct keymap *map, uint64_t key, uint32_t *out_id)
{
    const struct keymap_entry *entry = &map->entries[keymap_find(map, key)];
    if (entry->is_used) {
        *out_id = entry->id;
    }
    return entry->is_used;
}

void keymap_remove(struct keymap *map, uint64_t key)
{
    uint32_t hole = keymap_find(map, key);
    ASSERT(map->entries[hole].is_used);
    for (uint32_t at = (hole + 1) & map->mask; map->entries[at].is_used;
         at = (at + 1) & map->mask) {
        uint32_t home = keymap_home(map, map->entries[at].key);
        /* An entry may move back to the hole unless its home lies behind the hole. */
        if (((at - home) & map->mask) >= ((at - hole) & map->mask)) {
            map->entries[hole] = map->entries[at];
            hole = at;
        }
    }
    map->entries[hole].is_used = false;
    map->n--;
}
