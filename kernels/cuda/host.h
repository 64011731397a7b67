/* The words of the host side: one device's memory, streams, events and graphs.
 *
 * Two implementations: host_cuda.c over the CUDA runtime (linked statically, so a program that
 * holds it starts on a machine without a driver), and kernels/emu/emu_host.cc, where a thread of
 * its own runs queued work as late as is legal. A failure of queued work is sticky:
 * dev_stream_query and dev_stream_sync answer ERR_DEVICE_FAILURE from then on, and dev_failure
 * tells why. */
#ifndef KERNELS_CUDA_HOST_H
#define KERNELS_CUDA_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct dev_stream;
struct dev_event;
struct dev_graph;

struct dev_info {
    char name[256];
    uint32_t major, minor; /* compute capability */
    uint32_t sm_n;
    size_t shared_per_block; /* bytes a block may ask for */
    size_t memory_bytes;
    size_t free_bytes;
    uint32_t driver_version; /* 13000 = 13.0 */
    uint32_t clock_khz, memory_clock_khz;
    int64_t silence_ns; /* without progress, after which it counts as lost */
    bool is_emulated;
};

/* Devices of this machine. 0 with *out_n == 0 never happens: NO_DEVICE (err says: no driver, driver
 * too old, no device) is the answer instead. */
int dev_count(uint32_t *out_n, struct err *err);

/* Makes device `index` the calling thread's; any thread that uses the words calls it once. */
int dev_use(uint32_t index, struct err *err);
int dev_describe(uint32_t index, struct dev_info *out, struct err *err);

/* Device memory, aligned to 256 bytes. NO_MEMORY with the sizes when there is not enough. */
int dev_alloc(size_t bytes, void **out, struct err *err);
void dev_free(void *p);

/* Pinned host memory; is_mapped: device code may write it through the same pointer. */
int dev_alloc_pinned(size_t bytes, bool is_mapped, void **out, struct err *err);
void dev_free_pinned(void *p);

/* Says that these bytes mean nothing any more: a page or a version went back to its pool. Nothing
 * on CUDA; the emulation makes them 0xff at once, so that queued work which still reads them shows.
 * Any thread. */
void dev_discard(void *p, size_t bytes);

struct dev_stream *dev_stream_new(void);
void dev_stream_free(struct dev_stream *stream);

/* 0 when everything queued has run, ERR_DEVICE_FAILURE after a failure, 1 while work is left. */
int dev_stream_query(struct dev_stream *stream);
int dev_stream_sync(struct dev_stream *stream); /* waits; 0 or ERR_DEVICE_FAILURE */

/* Queued copies; the source is read when the copy runs, so pinned memory stays until then. Memory
 * that is not pinned is read before dev_copy_in returns and written before dev_copy_out does, and
 * has no place in a capture. */
void dev_copy_in(struct dev_stream *stream, void *to_dev, const void *from, size_t bytes);
void dev_copy_out(struct dev_stream *stream, void *to, const void *from_dev, size_t bytes);
void dev_copy(struct dev_stream *stream, void *to_dev, const void *from_dev, size_t bytes);
void dev_fill(struct dev_stream *stream, void *to_dev, uint8_t value, size_t bytes);

struct dev_event *dev_event_new(void);
void dev_event_free(struct dev_event *event);
void dev_event_record(struct dev_event *event, struct dev_stream *stream);
void dev_event_wait(struct dev_stream *stream, struct dev_event *event);
/* 0 when what was recorded has been reached, 1 before, ERR_DEVICE_FAILURE after a failure. */
int dev_event_query(struct dev_event *event);

/* What is queued on the stream between the two becomes a graph instead of running. */
void dev_graph_begin(struct dev_stream *stream);
int dev_graph_end(struct dev_stream *stream, struct dev_graph **out, struct err *err);
void dev_graph_launch(struct dev_stream *stream, struct dev_graph *graph);
uint32_t dev_graph_launch_n(const struct dev_graph *graph); /* kernels that one replay launches */
void dev_graph_free(struct dev_graph *graph);

/* Why the device failed, "" while it has not. */
const char *dev_failure(void);
/* Fails the device: a library that queued work for it says that it could not. */
void dev_fail(const char *why);

/* A function of cuBLASLt, which is opened at the first call. NO_DEVICE: the library, or the
 * function, is not there. */
int dev_cublaslt(const char *symbol, void **out, struct err *err);
/* What a library's calls take for the stream. */
void *dev_stream_native(struct dev_stream *stream);

#ifdef __cplusplus
}
#endif

#endif
