/* The loop thread: libuv with listeners, signals, the drain's clock, and the engine's jobs. */
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

#include "base/thread.h"
#include "server/accept.h"
#include "server/uvloop.h"

struct server;

struct loop {
    struct thread thread;
    struct server *server;
    uv_loop_t uv;
    struct acceptor acceptor;
    int signal_fd;
    uv_poll_t signal_poll;
    uv_async_t jobs_async;  /* the engine has pushed jobs */
    uv_async_t state_async; /* a flag below was raised */
    uv_timer_t drain_timer;
    struct ring_flag is_drained;    /* by egress: everything has been answered */
    struct ring_flag is_stop_asked; /* by server_stop */
    struct ring_flag is_ready_told; /* by server_ready */
    uint32_t job_n;
    uint32_t signal_n;
    bool is_ready_seen;
    bool is_stopping;
};

/* Makes the loop's handles; SIGTERM and SIGINT must be blocked already. */
int loop_init(struct loop *loop, struct server *server, struct err *err);
void loop_start(struct loop *loop);

/* egress thread, once. */
void loop_tell_drained(struct loop *loop);

/* Any thread: looks at the flags again. */
void loop_wake(struct loop *loop);

/* The engine, through ports.notify_loop. */
void loop_notify_jobs(void *arg);

/* Waits for the thread to end after is_stop_asked was raised, and frees the handles. */
void loop_join(struct loop *loop);

#endif
