/* Roles are thread-local; signals are left to the loop thread. */
#include "base/thread.h"

#include <signal.h>
#include <stdio.h>

static _Thread_local enum thread_role thread_current_role;

static void *thread_main(void *arg)
{
    struct thread *thread = arg;
    thread_set_role(thread->role);
    pthread_setname_np(pthread_self(), thread->name);
    thread->fn(thread->arg);
    return NULL;
}

void thread_start(struct thread *thread, enum thread_role role, const char *name,
                  void (*fn)(void *arg), void *arg)
{
    sigset_t all;
    sigset_t before;
    thread->role = role;
    thread->fn = fn;
    thread->arg = arg;
    snprintf(thread->name, sizeof thread->name, "%s", name);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread->handle, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    ASSERT_CMP(rc, ==, 0);
}

void thread_join(struct thread *thread)
{
    int rc = pthread_join(thread->handle, NULL);
    ASSERT_CMP(rc, ==, 0);
}

void thread_set_role(enum thread_role role)
{
    thread_current_role = role;
}

enum thread_role thread_role(void)
{
    return thread_current_role;
}
