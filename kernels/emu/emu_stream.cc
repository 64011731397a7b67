/* Streams, events and copies of the emulated device.
 *
 * Queued work runs as late as is legal. It starts when it is *due*: because a host waits for it or
 * for an event behind it, asks after it, or has filled the queue; or, since a host may watch mapped
 * memory without calling a word, when nobody asked for lag_ns. Until then everything a program does
 * too early (writing a pinned block, reading a result, freeing) happens before the work.
 *
 * Among streams whose next item may run a seed picks, item by item. Lateness alone would hide work
 * that comes too early for another stream, so under a seed other than 0 each batch of work draws a
 * lot whether it may already run beside work that is due, although nobody asked for it. No stream
 * is passed over for ever: a GPU runs streams side by side. */
#include "kernels/emu/emu_host.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_ITEMS  1024u /* more make the host wait, as on a GPU */
#define STREAMS_MAX   64u
#define PASSED_MAX    64u /* picks that a due stream may be passed over */
#define BLOCK_THREADS 1024u
#define GRID_YZ       65535u

static dev_stream *streams; /* by index */
static uint32_t stream_n;   /* ever made */
static uint64_t pick_n;

emu_item *emu_item_new(emu_kind kind, const char *word)
{
    emu_item *item = static_cast<emu_item *>(calloc(1, sizeof *item));
    ASSERT(item);
    item->kind = kind;
    item->word = word;
    return item;
}

void emu_mark_drop(emu_mark *mark)
{
    if (mark && --mark->ref_n == 0) {
        free(mark);
    }
}

void emu_item_free(emu_item *item)
{
    if (item->kind == EMU_RECORD) {
        item->mark->is_done = true;
    }
    emu_mark_drop(item->mark);
    if (item->graph) {
        emu_graph_drop(item->graph);
    }
    free(item->launch);
    free(item->staged);
    free(item);
}

void emu_items_add(emu_items *items, emu_item *item)
{
    if (items->last) {
        items->last->next = item;
    } else {
        items->first = item;
    }
    items->last = item;
}

static bool stream_has_undue(const dev_stream *stream)
{
    return stream->due_n < stream->queued_n;
}

void emu_stream_due(dev_stream *stream, uint64_t number)
{
    if (number > stream->due_n) {
        stream->due_n = number;
        emu_wake();
    }
}

void emu_stream_wait(dev_stream *stream, uint64_t number)
{
    emu_stream_due(stream, number);
    while (stream->done_n < number && !emu_is_failed()) {
        emu_await();
    }
}

/* Work has come when all there was had been due: a new batch. */
static void stream_batch(dev_stream *stream)
{
    uint64_t lot = emu_hash((uint64_t)emu_knobs.order_seed << 32 | stream->index << 20 |
                            (stream->batch_n & 0xfffffu));
    stream->batch_n++;
    stream->is_eager = emu_knobs.order_seed && (lot & 1);
    stream->late_ns = emu_now_ns() + (int64_t)emu_knobs.lag_ns;
    emu_wake();
}

void emu_stream_push(dev_stream *stream, emu_item *item)
{
    if (stream->capture) {
        emu_graph_add(stream->capture, item);
        return;
    }
    if (stream->queued_n - stream->done_n >= STREAM_ITEMS) {
        emu_stream_wait(stream, stream->queued_n - STREAM_ITEMS + 1);
    }
    if (emu_is_failed()) {
        emu_item_free(item);
        return;
    }
    if (!stream_has_undue(stream)) {
        stream_batch(stream);
    }
    emu_items_add(&stream->items, item);
    stream->queued_n++;
    if (item->kind == EMU_RECORD) {
        item->mark->number = stream->queued_n;
    }
}

/* The host's half of a failed check: told when the item runs, so that what it says is what a GPU
 * would have met. */
static bool item_place_ok(const emu_item *item, const void *p, emu_place wanted, const char *verb)
{
    emu_place place = emu_memory_place(p, item->bytes);
    if (wanted == EMU_PAGEABLE || place == wanted) {
        return true;
    }
    emu_fail("%s: %s %zu bytes at %p that are %s by now", item->word, verb, item->bytes, p,
             emu_place_name(place));
    return false;
}

/* Runs a launch, copy or fill, without the lock. */
static void item_work(const emu_item *item)
{
    if (!emu_op_starts(item->launch ? item->launch->name : NULL)) {
        return;
    }
    if (item->kind != EMU_LAUNCH && (!item_place_ok(item, item->to, item->to_place, "writes") ||
                                     !item_place_ok(item, item->from, item->from_place, "reads"))) {
        return;
    }
    emu_unlock();
    if (item->kind == EMU_LAUNCH) {
        emu_run(*item->launch);
    } else if (item->kind == EMU_COPY) {
        memmove(item->to, item->from, item->bytes);
    } else {
        memset(item->to, item->value, item->bytes);
    }
    if (item->kind != EMU_LAUNCH) {
        emu_order();
    }
    emu_lock();
}

static void stream_drop_first(dev_stream *stream)
{
    emu_item *item = stream->items.first;
    stream->items.first = item->next;
    if (!item->next) {
        stream->items.last = NULL;
    }
    stream->done_n++;
    if (stream->due_n < stream->done_n) {
        stream->due_n = stream->done_n;
    }
    emu_item_free(item);
}

/* Runs the first item of a stream, or the next node of the graph that stands first. */
static void stream_run(dev_stream *stream)
{
    emu_item *item = stream->items.first;
    if (item->kind == EMU_REPLAY) {
        if (!stream->is_replaying) {
            stream->is_replaying = true;
            stream->node = item->graph->nodes.first;
        }
        if (stream->node) {
            emu_item *node = stream->node;
            stream->node = node->next;
            item_work(node);
        }
        if (stream->node) {
            return;
        }
        stream->is_replaying = false;
    } else if (item->kind != EMU_RECORD && item->kind != EMU_WAIT) {
        item_work(item);
    }
    stream_drop_first(stream);
    emu_progress();
}

static bool stream_is_ready(const dev_stream *stream)
{
    const emu_item *item = stream->items.first;
    return item && (item->kind != EMU_WAIT || item->mark->is_done);
}

/* What due work waits for is due as well. */
static void streams_follow_events(void)
{
    bool is_changed = true;
    while (is_changed) {
        is_changed = false;
        for (dev_stream *s = streams; s; s = s->next) {
            const emu_item *item = s->items.first;
            if (s->done_n < s->due_n && item->kind == EMU_WAIT && !item->mark->is_done &&
                item->mark->stream->due_n < item->mark->number) {
                item->mark->stream->due_n = item->mark->number;
                is_changed = true;
            }
        }
    }
}

static void streams_reap(void)
{
    for (dev_stream **at = &streams; *at;) {
        dev_stream *stream = *at;
        if (stream->is_closed && !stream->items.first) {
            *at = stream->next;
            free(stream);
        } else {
            at = &stream->next;
        }
    }
}

/* Makes due what has waited long enough; when the next does. */
static int64_t streams_time(void)
{
    int64_t now = emu_now_ns();
    int64_t at = EMU_NEVER;
    for (dev_stream *s = streams; s; s = s->next) {
        if (stream_has_undue(s) && s->late_ns <= now) {
            s->due_n = s->queued_n;
        } else if (stream_has_undue(s) && s->late_ns < at) {
            at = s->late_ns;
        }
    }
    return at;
}

/* Of the streams that may run, of which the first `due_n` are due. */
static dev_stream *stream_pick(dev_stream **found, uint32_t due_n, uint32_t n)
{
    dev_stream *pick = found[0];
    if (emu_knobs.order_seed) {
        pick = found[emu_hash((uint64_t)emu_knobs.order_seed << 40 ^ pick_n++) % n];
    }
    for (uint32_t i = 0; i < due_n; i++) {
        if (found[i]->passed_n >= PASSED_MAX) {
            pick = found[i];
        }
        found[i]->passed_n++;
    }
    pick->passed_n = 0;
    return pick;
}

bool emu_stream_step(int64_t *out_at_ns)
{
    dev_stream *found[STREAMS_MAX];
    uint32_t n = 0;
    streams_reap();
    *out_at_ns = streams_time();
    streams_follow_events();
    for (dev_stream *s = streams; s; s = s->next) {
        if (s->done_n < s->due_n && stream_is_ready(s)) {
            found[n++] = s;
        }
    }
    if (n == 0) {
        return false;
    }
    uint32_t due_n = n;
    for (dev_stream *s = streams; s; s = s->next) {
        if (s->done_n == s->due_n && s->is_eager && stream_is_ready(s)) {
            found[n++] = s;
        }
    }
    stream_run(stream_pick(found, due_n, n));
    return true;
}

void emu_streams_drop(void)
{
    for (dev_stream *s = streams; s; s = s->next) {
        while (s->items.first) {
            stream_drop_first(s);
        }
        s->due_n = s->queued_n;
        s->is_replaying = false;
        s->batch_n = s->passed_n = 0;
    }
    pick_n = 0;
}

dev_graph *emu_capture_of(pthread_t thread)
{
    for (dev_stream *s = streams; s; s = s->next) {
        if (s->capture && pthread_equal(s->capture->thread, thread)) {
            return s->capture;
        }
    }
    return NULL;
}

struct dev_stream *dev_stream_new(void)
{
    emu_lock();
    emu_start();
    dev_stream *stream = static_cast<dev_stream *>(calloc(1, sizeof *stream));
    ASSERT(stream);
    uint32_t n = 0;
    dev_stream **at = &streams;
    for (; *at; at = &(*at)->next) {
        n++;
    }
    ASSERT_CMP(n, <, STREAMS_MAX);
    *at = stream;
    stream->index = stream_n++;
    emu_unlock();
    return stream;
}

/* Its work still runs, as on CUDA; the device's thread frees it then. */
void dev_stream_free(struct dev_stream *stream)
{
    if (!stream) {
        return;
    }
    emu_lock();
    if (stream->capture) {
        emu_graph_refuse(stream->capture, "dev_stream_free of the captured stream");
        emu_graph_drop(stream->capture);
        stream->capture = NULL;
    }
    stream->is_closed = true;
    emu_stream_due(stream, stream->queued_n);
    emu_wake();
    emu_unlock();
}

int dev_stream_query(struct dev_stream *stream)
{
    emu_lock();
    emu_words_n.queries++;
    int rc = 0;
    if (stream->capture) {
        emu_graph_refuse(stream->capture, "dev_stream_query of the captured stream");
    } else {
        emu_stream_due(stream, stream->queued_n);
        rc = stream->done_n < stream->queued_n;
    }
    rc = emu_is_failed() ? ERR_DEVICE_FAILURE : rc;
    emu_unlock();
    return rc;
}

int dev_stream_sync(struct dev_stream *stream)
{
    emu_lock();
    emu_words_n.waits++;
    if (stream->capture) {
        emu_graph_refuse(stream->capture, "dev_stream_sync of the captured stream");
    } else {
        emu_stream_wait(stream, stream->queued_n);
    }
    int rc = emu_is_failed() ? ERR_DEVICE_FAILURE : 0;
    emu_unlock();
    return rc;
}

/* Why a launch cannot be, or NULL. */
static const char *launch_refusal(const emu_launch &launch)
{
    if (launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0 || launch.grid.y > GRID_YZ ||
        launch.grid.z > GRID_YZ || launch.grid.x > INT32_MAX) {
        return "a grid of a size that no device takes";
    }
    uint64_t threads = (uint64_t)launch.block.x * launch.block.y * launch.block.z;
    if (threads == 0 || threads > BLOCK_THREADS) {
        return "a block of a size that no device takes";
    }
    return NULL;
}

void emu_queue(dev_stream *stream, const emu_launch &launch)
{
    emu_item *item = emu_item_new(EMU_LAUNCH, "launch");
    item->launch = static_cast<emu_launch *>(aligned_alloc(alignof(emu_launch), sizeof launch));
    ASSERT(item->launch);
    memcpy(static_cast<void *>(item->launch), &launch, sizeof launch);
    emu_lock();
    item->launch->is_pdl = launch.is_pdl && emu_knobs.major >= 9;
    const char *refusal = launch_refusal(launch);
    if (launch.smem > emu_knobs.shared_per_block) {
        emu_fail("%s: %zu bytes of dynamic shared memory, a block may have %zu", launch.name,
                 launch.smem, emu_knobs.shared_per_block);
    } else if (refusal) {
        emu_fail("%s: %s", launch.name, refusal);
    }
    emu_words_n.launches += stream->capture ? 0 : 1;
    emu_stream_push(stream, item);
    emu_unlock();
}

/* The failed check at the call. */
static bool copy_place(const emu_item *item, const void *p, bool is_host, emu_place *out)
{
    emu_place place = emu_memory_place(p, item->bytes);
    bool is_ok = is_host ? place == EMU_PINNED || place == EMU_MAPPED || place == EMU_PAGEABLE
                         : place == EMU_DEVICE;
    if (!is_ok) {
        emu_fail("%s: %zu bytes at %p are %s", item->word, item->bytes, p, emu_place_name(place));
    }
    *out = place;
    return is_ok;
}

/* Checks a copy or fill, and queues it. CUDA reads pageable memory before the call returns, and
 * writes it before it returns. */
static void copy_queue(dev_stream *stream, emu_item *item, bool is_in, bool is_out)
{
    emu_lock();
    bool is_ok = copy_place(item, item->to, is_out, &item->to_place);
    if (item->kind == EMU_COPY) {
        is_ok = copy_place(item, item->from, is_in, &item->from_place) && is_ok;
    }
    bool is_staged = is_ok && is_in && item->from_place == EMU_PAGEABLE;
    bool is_waiting = is_ok && is_out && item->to_place == EMU_PAGEABLE;
    if (stream->capture && (is_staged || is_waiting)) {
        emu_graph_refuse(stream->capture, "a copy of memory that is not pinned");
        is_ok = is_staged = is_waiting = false;
    }
    if (!is_ok) {
        emu_item_free(item);
        emu_unlock();
        return;
    }
    if (is_staged) {
        emu_unlock();
        item->staged = malloc(item->bytes);
        ASSERT(item->staged);
        item->from = memcpy(item->staged, item->from, item->bytes);
        emu_lock();
    }
    if (!stream->capture) {
        emu_words_n.copies++;
        emu_words_n.copy_bytes += item->bytes;
    }
    emu_stream_push(stream, item);
    if (is_waiting) {
        emu_words_n.waits++;
        emu_stream_wait(stream, stream->queued_n);
    }
    emu_unlock();
}

static emu_item *copy_item(const char *word, void *to, const void *from, size_t bytes)
{
    emu_item *item = emu_item_new(EMU_COPY, word);
    item->to = to;
    item->from = from;
    item->bytes = bytes;
    return item;
}

void dev_copy_in(struct dev_stream *stream, void *to_dev, const void *from, size_t bytes)
{
    if (bytes > 0) {
        copy_queue(stream, copy_item("dev_copy_in", to_dev, from, bytes), true, false);
    }
}

void dev_copy_out(struct dev_stream *stream, void *to, const void *from_dev, size_t bytes)
{
    if (bytes > 0) {
        copy_queue(stream, copy_item("dev_copy_out", to, from_dev, bytes), false, true);
    }
}

void dev_copy(struct dev_stream *stream, void *to_dev, const void *from_dev, size_t bytes)
{
    if (bytes > 0) {
        copy_queue(stream, copy_item("dev_copy", to_dev, from_dev, bytes), false, false);
    }
}

void dev_fill(struct dev_stream *stream, void *to_dev, uint8_t value, size_t bytes)
{
    if (bytes > 0) {
        emu_item *item = copy_item("dev_fill", to_dev, NULL, bytes);
        item->kind = EMU_FILL;
        item->value = value;
        copy_queue(stream, item, false, false);
    }
}

struct dev_event *dev_event_new(void)
{
    dev_event *event = static_cast<dev_event *>(calloc(1, sizeof *event));
    ASSERT(event);
    return event;
}

void dev_event_free(struct dev_event *event)
{
    if (event) {
        emu_lock();
        emu_mark_drop(event->mark);
        emu_unlock();
        free(event);
    }
}

void dev_event_record(struct dev_event *event, struct dev_stream *stream)
{
    emu_mark *mark = static_cast<emu_mark *>(calloc(1, sizeof *mark));
    ASSERT(mark);
    emu_lock();
    mark->ref_n = 1;
    mark->capture_id = stream->capture ? stream->capture->id : 0;
    if (!stream->capture) {
        emu_item *item = emu_item_new(EMU_RECORD, "dev_event_record");
        item->mark = mark;
        mark->ref_n = 2;
        mark->stream = stream;
        emu_stream_push(stream, item);
    }
    emu_mark_drop(event->mark);
    event->mark = mark;
    emu_unlock();
}

void dev_event_wait(struct dev_stream *stream, struct dev_event *event)
{
    emu_lock();
    emu_mark *mark = event->mark;
    if (stream->capture) {
        if (!mark || mark->capture_id != stream->capture->id) {
            emu_graph_refuse(stream->capture, "a wait for an event from outside");
        }
    } else if (mark && mark->capture_id) {
        emu_fail("dev_event_wait: the event was recorded in a capture, which has one stream here");
    } else if (mark && !mark->is_done) {
        emu_item *item = emu_item_new(EMU_WAIT, "dev_event_wait");
        item->mark = mark;
        mark->ref_n++;
        emu_stream_push(stream, item);
    }
    emu_unlock();
}

int dev_event_query(struct dev_event *event)
{
    emu_lock();
    emu_words_n.queries++;
    const emu_mark *mark = event->mark;
    int rc = 0;
    if (mark && mark->capture_id) {
        emu_fail("dev_event_query: the event was recorded in a capture");
    } else if (mark && !mark->is_done) {
        emu_stream_due(mark->stream, mark->number);
        rc = 1;
    }
    rc = emu_is_failed() ? ERR_DEVICE_FAILURE : rc;
    emu_unlock();
    return rc;
}
