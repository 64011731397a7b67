/* The requests that are in the daemon, by client's id and by stream: identity, not output.
 * cq thread only. */
#ifndef SERVER_LIVE_H
#define SERVER_LIVE_H

#include "server/lane.h"

#define LIVE_BUCKETS 4096

struct live {
    struct lane *by_id[LIVE_BUCKETS];
    uint32_t n;          /* lanes and adapter operations */
    uint32_t rejected_n; /* refused lanes of sessions that egress still has */
    uint64_t bytes;      /* that lanes hold until they are freed */
    uint64_t key_end;    /* last key given out */
};

/* NULL when no live request has the id. */
struct lane *live_find(const struct live *live, const char *id);

/* The unfinished lane of a session; NULL when there is none. */
struct lane *live_find_lane(const struct stream *stream, uint32_t stream_id);

/* Enters a lane whose id is free into the tables. */
void live_add(struct live *live, struct lane *lane);
void live_remove(struct live *live, struct lane *lane);

#endif
