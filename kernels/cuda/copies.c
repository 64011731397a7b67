/* Bytes brought to the device while steps run: through a few pinned stages, or straight from pinned
 * memory, on a stream of their own.
 *
 * From pinned memory, too, they go in pieces of a stage, and no more of them at once: the records
 * of a step would wait behind one long copy.
 *
 * Whoever brings them asks until they are there and only then lets a step name them, so a step
 * never waits for a copy, and no copy for a step. */
#include <string.h>

#include "base/base.h"
#include "kernels/cuda/cuda_int.h"

int cuda_copies_open(struct kern_dev *dev, struct err *err)
{
    struct cuda_copies *copies = &dev->copies;
    int rc = 0;
    copies->stream = dev_stream_new();
    for (uint32_t i = 0; i < CUDA_STAGES && rc == 0; i++) {
        void *data;
        rc = dev_alloc_pinned(CUDA_STAGE_BYTES, false, &data, err);
        copies->stages[i].data = rc ? NULL : data;
        copies->stages[i].copied = dev_event_new();
    }
    return rc;
}

void cuda_copies_close(struct kern_dev *dev)
{
    struct cuda_copies *copies = &dev->copies;
    if (copies->stream) {
        dev_stream_sync(copies->stream);
    }
    for (uint32_t i = 0; i < CUDA_STAGES; i++) {
        dev_free_pinned(copies->stages[i].data);
        dev_event_free(copies->stages[i].copied);
    }
    dev_free_pinned(copies->host);
    dev_stream_free(copies->stream);
}

void *cuda_reserve_host(struct kern_dev *dev, size_t bytes)
{
    struct cuda_copies *copies = &dev->copies;
    struct err err;
    void *host;
    ASSERT(!copies->host);
    if (dev_use(dev->args.device, &err) || dev_alloc_pinned(bytes, false, &host, &err)) {
        return NULL;
    }
    copies->host = host;
    copies->host_bytes = bytes;
    return host;
}

static bool copies_is_pinned(const struct cuda_copies *copies, const void *from, size_t bytes)
{
    uintptr_t at = (uintptr_t)from - (uintptr_t)copies->host;
    return at < copies->host_bytes && bytes <= copies->host_bytes - at;
}

/* Notes what has arrived; it does so in order. */
static void copies_look(struct cuda_copies *copies)
{
    while (copies->ended_n < copies->begun_n && !copies->is_lost) {
        uint32_t at = (uint32_t)(copies->ended_n % CUDA_STAGES);
        int rc = dev_event_query(copies->stages[at].copied);
        if (rc == 1) {
            return;
        }
        copies->is_lost = rc != 0;
        copies->ended_n++;
    }
}

/* The ticket is the number of stages that were in use so far. */
size_t cuda_bring(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes,
                  uint64_t *out_ticket)
{
    struct cuda_copies *copies = &dev->copies;
    bool is_pinned = copies_is_pinned(copies, from, bytes);
    size_t done = 0;
    dev_use(dev->args.device, NULL);
    copies_look(copies);
    if (copies->is_lost) {
        *out_ticket = copies->begun_n;
        return bytes;
    }
    while (done < bytes && copies->begun_n - copies->ended_n < CUDA_STAGES) {
        uint32_t at = (uint32_t)(copies->begun_n++ % CUDA_STAGES);
        struct cuda_pinned *stage = &copies->stages[at];
        size_t n = MIN(bytes - done, CUDA_STAGE_BYTES);
        const char *piece = (const char *)from + done;
        if (!is_pinned) {
            memcpy(stage->data, piece, n);
            piece = stage->data;
        }
        dev_copy_in(copies->stream, (char *)to_dev + done, piece, n);
        dev_event_record(stage->copied, copies->stream);
        done += n;
    }
    *out_ticket = copies->begun_n;
    return done;
}

bool cuda_is_brought(struct kern_dev *dev, uint64_t ticket)
{
    struct cuda_copies *copies = &dev->copies;
    dev_use(dev->args.device, NULL);
    copies_look(copies);
    return copies->is_lost || copies->ended_n >= ticket;
}
