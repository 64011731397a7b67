/* Capture and replay: a graph holds the launches, copies and fills of one captured stream, and its
 * replay is one item of a stream whose nodes run one by one, other streams' work between them.
 *
 * Capture refuses what CUDA refuses to the capturing thread: to reserve or free memory, to wait for
 * the captured stream or ask after it, a wait for work from outside, a copy of pageable memory, a
 * replay. A capture of several streams, which CUDA has, is refused too: nothing here needs it. */
#include "kernels/emu/emu_host.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t graph_n; /* ever begun */

void emu_graph_add(dev_graph *graph, emu_item *item)
{
    graph->launch_n += item->kind == EMU_LAUNCH ? 1 : 0;
    emu_items_add(&graph->nodes, item);
}

void emu_graph_drop(dev_graph *graph)
{
    if (--graph->ref_n > 0) {
        return;
    }
    while (graph->nodes.first) {
        emu_item *node = graph->nodes.first;
        graph->nodes.first = node->next;
        emu_item_free(node);
    }
    free(graph);
}

void emu_graph_break(dev_graph *capture, const char *what)
{
    if (!capture->broken[0]) {
        snprintf(capture->broken, sizeof capture->broken,
                 "%s is not permitted while a graph is captured", what);
    }
}

void emu_graph_refuse(dev_graph *capture, const char *what)
{
    emu_graph_break(capture, what);
    emu_fail("%s", capture->broken);
}

void dev_graph_begin(struct dev_stream *stream)
{
    emu_lock();
    if (stream->capture) {
        emu_graph_refuse(stream->capture, "dev_graph_begin on the captured stream");
    } else {
        dev_graph *graph = static_cast<dev_graph *>(calloc(1, sizeof *graph));
        ASSERT(graph);
        graph->ref_n = 1;
        graph->id = ++graph_n;
        graph->thread = pthread_self();
        stream->capture = graph;
    }
    emu_unlock();
}

int dev_graph_end(struct dev_stream *stream, struct dev_graph **out, struct err *err)
{
    emu_lock();
    int rc = 0;
    dev_graph *graph = stream->capture;
    if (!graph) {
        rc = err_set(err, ERR_DEVICE_FAILURE, "could not capture a graph: none was begun");
    } else if (!pthread_equal(graph->thread, pthread_self())) {
        emu_graph_break(graph, "another thread");
    }
    stream->capture = NULL;
    if (graph && graph->broken[0]) {
        rc = err_set(err, ERR_DEVICE_FAILURE, "could not capture a graph: %s", graph->broken);
    }
    if (rc == 0) {
        *out = graph;
    } else if (graph) {
        emu_graph_drop(graph);
    }
    emu_unlock();
    return rc;
}

static void graph_count(const dev_graph *graph)
{
    emu_words_n.replays++;
    emu_words_n.launches += graph->launch_n;
    for (const emu_item *node = graph->nodes.first; node; node = node->next) {
        emu_words_n.copies += node->kind != EMU_LAUNCH ? 1 : 0;
        emu_words_n.copy_bytes += node->bytes;
    }
}

void dev_graph_launch(struct dev_stream *stream, struct dev_graph *graph)
{
    emu_item *item = emu_item_new(EMU_REPLAY, "dev_graph_launch");
    emu_lock();
    if (stream->capture) {
        emu_graph_refuse(stream->capture, "dev_graph_launch on the captured stream");
        emu_item_free(item);
    } else {
        item->graph = graph;
        graph->ref_n++;
        graph_count(graph);
        emu_stream_push(stream, item);
    }
    emu_unlock();
}

uint32_t dev_graph_launch_n(const struct dev_graph *graph)
{
    return graph->launch_n;
}

/* Replays that are queued keep it until they have run, as on CUDA. */
void dev_graph_free(struct dev_graph *graph)
{
    if (graph) {
        emu_lock();
        emu_graph_drop(graph);
        emu_unlock();
    }
}
