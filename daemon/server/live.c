/* A chained hash table over the ids, a list per stream. */
#include "server/live.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

static uint32_t live_bucket(const char *id)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id; id++) {
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    }
    return hash % LIVE_BUCKETS;
}

struct lane *live_find(const struct live *live, const char *id)
{
    struct lane *lane = live->by_id[live_bucket(id)];
    while (lane && strcmp(lane->request.id, id) != 0) {
        lane = lane->next_by_id;
    }
    return lane;
}

struct lane *live_find_lane(const struct stream *stream, uint32_t stream_id)
{
    struct lane *lane = stream->lanes;
    while (lane && lane->stream_id != stream_id) {
        lane = lane->next;
    }
    return lane;
}

void live_add(struct live *live, struct lane *lane)
{
    struct lane **bucket = &live->by_id[live_bucket(lane->request.id)];
    struct stream *stream = lane->stream;
    ASSERT(!lane->is_live);
    lane->next_by_id = *bucket;
    *bucket = lane;
    lane->next = stream->lanes;
    if (lane->next) {
        lane->next->prev = lane;
    }
    stream->lanes = lane;
    stream->lane_n++;
    lane->is_live = true;
    live->n++;
}

void live_remove(struct live *live, struct lane *lane)
{
    struct lane **link = &live->by_id[live_bucket(lane->request.id)];
    ASSERT(lane->is_live);
    while (*link != lane) {
        link = &(*link)->next_by_id;
    }
    *link = lane->next_by_id;
    if (lane->prev) {
        lane->prev->next = lane->next;
    } else {
        lane->stream->lanes = lane->next;
    }
    if (lane->next) {
        lane->next->prev = lane->prev;
    }
    lane->stream->lane_n--;
    lane->is_live = false;
    live->n--;
}

struct lane *lane_new(struct stream *stream)
{
    struct lane *lane = mem_zalloc(sizeof *lane);
    arena_init(&lane->arena);
    lane->stream = stream;
    lane->out.stop_index = -1;
    lane->request.arrival_ns = clock_now_ns();
    rpc_call_ref(stream->user.call);
    return lane;
}

static void logprob_list_done(struct logprob_list *list)
{
    buf_done(&list->tokens);
    buf_done(&list->values);
    buf_done(&list->top_n);
    buf_done(&list->top_tokens);
    buf_done(&list->top_values);
}

void lane_shrink(struct lane *lane)
{
    lane->request.tokens = NULL;
    lane->request.biases = NULL;
    lane->echo_text = NULL;
    token_vec_done(&lane->tokens);
    arena_done(&lane->arena);
}

void lane_free(struct lane *lane)
{
    struct rpc_call *call = lane->stream->user.call;
    ASSERT(!lane->is_live);
    logprob_list_done(&lane->out.logprobs);
    logprob_list_done(&lane->out.prompt_logprobs);
    buf_done(&lane->out.text);
    buf_done(&lane->out.tokens);
    stop_done(&lane->stops);
    token_vec_done(&lane->tokens);
    arena_done(&lane->arena);
    mem_free(lane);
    rpc_call_unref(call);
}
