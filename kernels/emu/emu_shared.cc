/* Shared memory, and what the race build knows of it.
 *
 * Variables come from the heap, each in a piece of its own, so that ASan's red zones are exact.
 * They are filled with 0xff for every block: a value that nobody wrote is a NaN. The race build
 * takes them from arenas, one per set of fibers, because neighbouring blocks must not share. */
#include <stdlib.h>
#include <string.h>

#include "kernels/emu/emu_block.h"
#include "kernels/emu/emu_knobs.h"

#define EMU_SHARED_MAX    64
#define EMU_SHARED_STATIC ((size_t)48 << 10) /* of a block's variables, on every target */
#define EMU_ALIGN         ((size_t)128)

struct emu_shared_var {
    const void *key;
    unsigned char *p;
    size_t bytes;
    uint64_t block_n; /* filled for this block */
};

static struct {
    emu_shared_var vars[EMU_SHARED_MAX];
    unsigned n;
    size_t static_bytes;
    emu_shared_var dyn;
    size_t arena_used;
} shared;

#ifdef EMU_TSAN
alignas(128) unsigned char emu_arenas[EMU_SETS][EMU_ARENA];

static unsigned char *shared_take(size_t bytes)
{
    size_t at = shared.arena_used;
    shared.arena_used += (bytes + EMU_ALIGN - 1) / EMU_ALIGN * EMU_ALIGN;
    if (shared.arena_used > EMU_ARENA) {
        emu_die("too much shared memory for the race build", 0);
    }
    return emu_arenas[emu.set] + at;
}

static void shared_give(emu_shared_var *var)
{
    var->p = NULL;
}

/* Not memset: the sanitizer would hear of a write. */
static void shared_fill(emu_shared_var *var)
{
    for (size_t i = 0; i < var->bytes; i++) {
        static_cast<volatile unsigned char *>(var->p)[i] = 0xff;
    }
    emu_shadow_clear(var->p, var->bytes);
}

#else
static unsigned char *shared_take(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, EMU_ALIGN, bytes ? bytes : 1)) {
        emu_die("no memory for shared memory", 0);
    }
    return static_cast<unsigned char *>(p);
}

static void shared_give(emu_shared_var *var)
{
    free(var->p);
    var->p = NULL;
}

static void shared_fill(emu_shared_var *var)
{
    memset(var->p, 0xff, var->bytes);
}
#endif

/* This block's instance: the memory stays for the launch, but in the race build, where each set of
 * fibers has its own. */
static void *shared_use(emu_shared_var *var)
{
    if (var->block_n != emu.block_n) {
        var->block_n = emu.block_n;
        if (!var->p) {
            var->p = shared_take(var->bytes);
        }
        shared_fill(var);
    }
    return var->p;
}

void *emu_shared(const void *key, size_t bytes)
{
    unsigned i = 0;
    while (i < shared.n && shared.vars[i].key != key) {
        i++;
    }
    if (i == EMU_SHARED_MAX) {
        emu_die("too many shared variables", 0);
    }
    if (i == shared.n) {
        shared.vars[shared.n++] = {key, NULL, bytes, 0};
        shared.static_bytes += bytes;
        if (shared.static_bytes > EMU_SHARED_STATIC ||
            shared.static_bytes + shared.dyn.bytes > emu_knobs.shared_per_block) {
            emu_die("more shared memory, static and dynamic, than a block may have", 0);
        }
    }
    return shared_use(&shared.vars[i]);
}

void *emu_dyn_shared(void)
{
    return shared_use(&shared.dyn);
}

void emu_shared_launch(void)
{
    shared.n = 0;
    shared.static_bytes = 0;
    shared.dyn = {NULL, NULL, emu.launch->smem, 0};
}

void emu_shared_block(void)
{
#ifdef EMU_TSAN
    shared.arena_used = 0;
    shared.dyn.p = NULL;
    for (unsigned i = 0; i < shared.n; i++) {
        shared.vars[i].p = NULL;
    }
#endif
}

void emu_shared_done(void)
{
    for (unsigned i = 0; i < shared.n; i++) {
        shared_give(&shared.vars[i]);
    }
    shared_give(&shared.dyn);
}
