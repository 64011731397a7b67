/* The host half of the emulated device, inside. Private to the emulation.
 *
 * One lock (emu_host.cc) guards everything here; "under the lock" is the rule unless a comment says
 * otherwise. The device is a thread of its own that takes items from streams and runs them without
 * the lock. */
#ifndef KERNELS_EMU_EMU_HOST_H
#define KERNELS_EMU_EMU_HOST_H

#include <pthread.h>

#include "base/err.h"
#include "kernels/cuda/host.h"
#include "kernels/emu/emu.h"
#include "kernels/emu/emu_knobs.h"

#define EMU_NEVER INT64_MAX

/* Where a range of addresses lies. BEYOND: it leaves the piece it starts or ends in. */
enum emu_place { EMU_PAGEABLE, EMU_DEVICE, EMU_PINNED, EMU_MAPPED, EMU_FREED, EMU_BEYOND };

enum emu_kind { EMU_LAUNCH, EMU_COPY, EMU_FILL, EMU_RECORD, EMU_WAIT, EMU_REPLAY };

/* One record of an event: where in which stream it stands. `stream` lives while it is not done. */
struct emu_mark {
    uint32_t ref_n;
    bool is_done;
    dev_stream *stream;
    uint64_t number;
    uint64_t capture_id; /* not 0: it stands in a capture instead */
};

/* What waits on a stream or stands in a graph. */
struct emu_item {
    emu_item *next;
    emu_kind kind;
    const char *word;   /* of host.h that made it */
    emu_launch *launch; /* owned */
    dev_graph *graph;   /* EMU_REPLAY: a reference */
    emu_mark *mark;     /* EMU_RECORD, EMU_WAIT: a reference */
    void *staged;       /* owned: a copy of pageable memory */
    void *to;
    const void *from;
    emu_place to_place, from_place; /* where they must still lie when it runs */
    size_t bytes;
    uint8_t value;
};

struct emu_items {
    emu_item *first, *last;
};

struct dev_event {
    emu_mark *mark; /* of the newest record, or NULL */
};

/* Items are numbered from 1: up to done_n they have run, up to due_n they may run now, up to
 * queued_n they exist. Those behind due_n become due at late_ns. */
struct dev_stream {
    dev_stream *next;
    uint32_t index;
    emu_items items;
    uint64_t done_n, due_n, queued_n;
    int64_t late_ns;
    uint32_t passed_n; /* picks of other streams while this one's next item was due and ready */
    uint32_t batch_n;  /* times that work came when all there was had been due */
    bool is_eager;     /* by the seed: what is not due may still run beside what is */
    bool is_closed;
    bool is_replaying;
    emu_item *node; /* of the graph that runs: the next one */
    dev_graph *capture;
};

struct dev_graph {
    uint32_t ref_n;
    uint64_t id; /* from 1 */
    emu_items nodes;
    uint32_t launch_n;
    pthread_t thread; /* the capturing one */
    char broken[ERR_TEXT_BYTES];
};

/* emu_host.cc: the lock, the device's thread, and its failure. */
void emu_lock(void);
void emu_unlock(void);
void emu_start(void);    /* the device's thread, once */
void emu_wake(void);     /* the device: there is something to look at */
void emu_await(void);    /* until the device has done something; without the lock meanwhile */
void emu_progress(void); /* hosts: the device has done something */
bool emu_is_failed(void);
const char *emu_failure(void);
void emu_fail(const char *fmt, ...) PRINTF_FMT(1, 2); /* the first one stays */
/* The device's thread: whether the operation that is about to run may; it may fail or hang. The
 * kernel's name of a launch, else NULL. */
bool emu_op_starts(const char *kernel);
uint64_t emu_hash(uint64_t v);
int64_t emu_now_ns(void);
extern struct emu_words emu_words_n;

/* emu_memory.cc. Fresh memory is filled with 0xff, freed memory too; freed memory is kept from use
 * for a while, and poisoned where ASan is. */
int emu_memory_take(emu_place place, size_t bytes, void **out, struct err *err);
bool emu_memory_give(bool is_device, void *p); /* false: nothing live begins there */
emu_place emu_memory_place(const void *p, size_t bytes);
const char *emu_place_name(emu_place place);
size_t emu_memory_left(void); /* of the device */

/* emu_stream.cc. */
void emu_stream_push(dev_stream *stream, emu_item *item); /* owns it; may wait for room */
void emu_stream_due(dev_stream *stream, uint64_t number); /* all up to it may run */
void emu_stream_wait(dev_stream *stream, uint64_t number);
/* The device's thread: runs one item, or says when to look again (EMU_NEVER: when woken). */
bool emu_stream_step(int64_t *out_at_ns);
void emu_streams_drop(void);                 /* the device's thread: forgets what is queued */
dev_graph *emu_capture_of(pthread_t thread); /* the capture that a thread has begun, or NULL */
emu_item *emu_item_new(emu_kind kind, const char *word);
void emu_item_free(emu_item *item);
void emu_items_add(emu_items *items, emu_item *item);
void emu_mark_drop(emu_mark *mark);

/* emu_graph.cc. */
void emu_graph_add(dev_graph *graph, emu_item *item); /* owns it */
void emu_graph_drop(dev_graph *graph);                /* one reference */
/* A word that capture does not permit: the capture is broken; refuse also fails the device, as the
 * same word over CUDA would leave an error behind. */
void emu_graph_break(dev_graph *capture, const char *what);
void emu_graph_refuse(dev_graph *capture, const char *what);

#endif
