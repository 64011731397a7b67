/* Memory of the emulated device and pinned memory of the host: pieces that are live, and pieces
 * that were lately freed.
 *
 * Freed bytes become 0xff at once and stay out of use for a while, so whoever still reads them sees
 * NaNs and wild indices, and a copy that names them is refused. CUDA's free waits for the device;
 * here it does not, because a program that needs that wait would stall a GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/emu/emu_host.h"

#define MEMORY_ALIGN  256u
#define FREED_MAX     256u
#define FREED_BYTES   ((size_t)256 << 20)
#define MEMORY_POISON 0xff

#ifdef EMU_BUILD_ASAN
extern "C" {
void __asan_poison_memory_region(const volatile void *p, size_t bytes);
void __asan_unpoison_memory_region(const volatile void *p, size_t bytes);
}
#endif

struct piece {
    piece *next;
    char *p;
    size_t bytes;
    emu_place place;
};

static piece *live;
static piece *freed; /* newest first */
static size_t used;

static void memory_poison(const piece *piece)
{
    memset(piece->p, MEMORY_POISON, piece->bytes);
#ifdef EMU_BUILD_ASAN
    __asan_poison_memory_region(piece->p, piece->bytes);
#endif
}

static void memory_unpoison(const piece *piece)
{
#ifdef EMU_BUILD_ASAN
    __asan_unpoison_memory_region(piece->p, piece->bytes);
#endif
    (void)piece;
}

int emu_memory_take(emu_place place, size_t bytes, void **out, struct err *err)
{
    void *p;
    if (emu_is_failed()) {
        return err_set(err, ERR_DEVICE_FAILURE, "%s", emu_failure());
    }
    if (place == EMU_DEVICE && bytes > emu_memory_left()) {
        return err_set(err, ERR_NO_MEMORY,
                       "could not reserve %zu bytes of GPU memory: %zu are free", bytes,
                       emu_memory_left());
    }
    if (posix_memalign(&p, MEMORY_ALIGN, bytes ? bytes : 1)) {
        return err_set(err, ERR_NO_MEMORY, "could not take %zu bytes for the emulated device",
                       bytes);
    }
    memset(p, MEMORY_POISON, bytes);
    piece *made = static_cast<piece *>(malloc(sizeof *made));
    ASSERT(made);
    *made = {live, static_cast<char *>(p), bytes, place};
    live = made;
    used += place == EMU_DEVICE ? bytes : 0;
    *out = p;
    return 0;
}

/* The oldest freed pieces go back to the heap. */
static void memory_trim(void)
{
    piece **at = &freed;
    size_t bytes = 0;
    for (uint32_t n = 0; *at && n < FREED_MAX && bytes + (*at)->bytes <= FREED_BYTES; n++) {
        bytes += (*at)->bytes;
        at = &(*at)->next;
    }
    while (*at) {
        piece *old = *at;
        *at = old->next;
        memory_unpoison(old);
        free(old->p);
        free(old);
    }
}

bool emu_memory_give(bool is_device, void *p)
{
    piece **at = &live;
    while (*at && ((*at)->p != p || ((*at)->place == EMU_DEVICE) != is_device)) {
        at = &(*at)->next;
    }
    piece *gone = *at;
    if (!gone) {
        return false;
    }
    *at = gone->next;
    used -= is_device ? gone->bytes : 0;
    memory_poison(gone);
    gone->next = freed;
    freed = gone;
    memory_trim();
    return true;
}

static bool piece_meets(const piece *piece, const char *p, size_t bytes)
{
    return p < piece->p + piece->bytes && p + bytes > piece->p;
}

emu_place emu_memory_place(const void *p, size_t bytes)
{
    const char *from = static_cast<const char *>(p);
    for (const piece *m = live; m; m = m->next) {
        if (piece_meets(m, from, bytes)) {
            bool is_within = from >= m->p && from + bytes <= m->p + m->bytes;
            return is_within ? m->place : EMU_BEYOND;
        }
    }
    for (const piece *m = freed; m; m = m->next) {
        if (piece_meets(m, from, bytes)) {
            return EMU_FREED;
        }
    }
    return EMU_PAGEABLE;
}

const char *emu_place_name(emu_place place)
{
    static const char *const names[] = {"pageable memory of the host",
                                        "device memory",
                                        "pinned memory",
                                        "mapped memory",
                                        "freed memory",
                                        "beyond the end of an allocation"};
    return names[place];
}

size_t emu_memory_left(void)
{
    return emu_knobs.memory_bytes > used ? emu_knobs.memory_bytes - used : 0;
}

static int memory_alloc(const char *word, emu_place place, size_t bytes, void **out,
                        struct err *err)
{
    emu_lock();
    emu_words_n.allocs++;
    int rc = 0;
    dev_graph *capture = emu_capture_of(pthread_self());
    if (capture) {
        emu_graph_break(capture, word);
        rc = err_set(err, ERR_NO_MEMORY, "could not reserve %zu bytes: %s", bytes, capture->broken);
    } else {
        rc = emu_memory_take(place, bytes, out, err);
    }
    emu_unlock();
    return rc;
}

static void memory_free(const char *word, bool is_device, void *p)
{
    if (!p) {
        return;
    }
    emu_lock();
    emu_words_n.frees++;
    dev_graph *capture = emu_capture_of(pthread_self());
    if (capture) {
        emu_graph_refuse(capture, word);
    } else if (!emu_memory_give(is_device, p)) {
        emu_fail("%s: no live allocation begins at %p, which is %s", word, p,
                 emu_place_name(emu_memory_place(p, 1)));
    }
    emu_unlock();
}

int dev_alloc(size_t bytes, void **out, struct err *err)
{
    return memory_alloc("dev_alloc", EMU_DEVICE, bytes, out, err);
}

void dev_free(void *p)
{
    memory_free("dev_free", true, p);
}

int dev_alloc_pinned(size_t bytes, bool is_mapped, void **out, struct err *err)
{
    return memory_alloc("dev_alloc_pinned", is_mapped ? EMU_MAPPED : EMU_PINNED, bytes, out, err);
}

void dev_free_pinned(void *p)
{
    memory_free("dev_free_pinned", false, p);
}

void dev_discard(void *p, size_t bytes)
{
    if (bytes == 0) {
        return;
    }
    emu_lock();
    emu_place place = emu_memory_place(p, bytes);
    if (place != EMU_DEVICE) {
        emu_fail("dev_discard: %zu bytes at %p are %s", bytes, p, emu_place_name(place));
    }
    emu_unlock();
    if (place == EMU_DEVICE) {
        memset(p, MEMORY_POISON, bytes);
    }
}
