/* Threads with roles. A public function that is bound to a thread asserts its role, so the
 * documentation fails loudly. A thread without a role (tests, tools) may call anything. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

#include "base/base.h"

enum thread_role {
    THREAD_ANY, /* main before the start, tests, tools */
    THREAD_LOOP,
    THREAD_CQ,
    THREAD_EGRESS,
    THREAD_ENGINE,
    THREAD_RANK,
    THREAD_IO,
};

struct thread {
    pthread_t handle;
    enum thread_role role;
    char name[16];
    void (*fn)(void *arg);
    void *arg;
};

/* Starts fn(arg) on a new thread that has the role and the name (at most 15 bytes).
 * `thread` must live until thread_join. All signals are blocked in the new thread. */
void thread_start(struct thread *thread, enum thread_role role, const char *name,
                  void (*fn)(void *arg), void *arg);
void thread_join(struct thread *thread);

void thread_set_role(enum thread_role role);
enum thread_role thread_role(void);

#define THREAD_ASSERT(wanted) ASSERT(thread_role() == (wanted) || thread_role() == THREAD_ANY)

#endif
