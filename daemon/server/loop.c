/* Signals, drain and jobs.
 *
 * The first SIGTERM or SIGINT drains: health says NOT_SERVING, running requests finish, new ones
 * are refused by name while the listeners stay open to say so. The second one, or the end of the
 * drain timeout, cancels what runs. A signal before the model is ready just ends the process. */
#include "server/loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/job.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_int.h"

#define LOOP_WAIT_NS        1000000 /* between looks at a full ring */
#define LOOP_CANCEL_WAIT_MS 10000   /* from cancelling everything to giving up */

/* A job on libuv's worker threads. */
struct loop_job {
    uv_work_t work;
    struct loop *loop;
    struct job *job;
};

/* The engine never waits for this thread, so its inbox gets room again. */
static void loop_to_engine(struct loop *loop, struct msg msg)
{
    struct ports *ports = loop->server->ports;
    while (!ring_push(&ports->inbox[INBOX_LOOP], &msg)) {
        struct timespec pause = {0, LOOP_WAIT_NS};
        wake_signal(&ports->engine_wake);
        nanosleep(&pause, NULL);
    }
    wake_signal(&ports->engine_wake);
}

static void loop_to_egress(struct loop *loop, enum egress_msg_type type)
{
    struct egress_msg msg = {.type = type};
    bool is_room = ring_push(&loop->server->egress_from_loop, &msg);
    ASSERT(is_room); /* a handful of messages in a lifetime */
    wake_signal(&loop->server->ports->egress_wake);
}

static void loop_job_run(uv_work_t *work)
{
    struct loop_job *job = work->data;
    thread_set_role(THREAD_IO);
    job->job->run(job->job);
}

static void loop_take_jobs(struct loop *loop);

static void loop_job_done(uv_work_t *work, int status)
{
    struct loop_job *job = work->data;
    ASSERT_CMP(status, ==, 0);
    loop_to_engine(job->loop, (struct msg){.type = MSG_JOB_DONE, .ptr = job->job});
    job->loop->job_n--;
    if (job->loop->is_stopping) {
        uv_async_send(&job->loop->state_async);
    }
    mem_free(job);
}

static void loop_take_jobs(struct loop *loop)
{
    struct job *job;
    while (ring_pop(&loop->server->ports->jobs, &job)) {
        struct loop_job *work = mem_zalloc(sizeof *work);
        work->loop = loop;
        work->job = job;
        work->work.data = work;
        loop->job_n++;
        int rc = uv_queue_work(&loop->uv, &work->work, loop_job_run, loop_job_done);
        ASSERT_CMP(rc, ==, 0);
    }
}

static void loop_jobs_woken(uv_async_t *async)
{
    loop_take_jobs(async->data);
}

static void loop_given_up(uv_timer_t *timer)
{
    struct loop *loop = timer->data;
    log_msg(LOG_ERROR, "requests did not end %d s after they were cancelled: giving up",
            LOOP_CANCEL_WAIT_MS / 1000);
    for (uint32_t i = 0; i < loop->acceptor.listener_n; i++) {
        listener_close(&loop->acceptor.listeners[i]);
    }
    _exit(1);
}

static void loop_cancel(struct loop *loop)
{
    struct server *server = loop->server;
    if (ring_flag_is_raised(&server->is_cancelling)) {
        return;
    }
    log_msg(LOG_INFO, "cancelling what still runs");
    ring_flag_raise(&server->is_cancelling);
    loop_to_egress(loop, EGRESS_CANCEL_ALL);
    loop_to_engine(loop, (struct msg){.type = MSG_CANCEL_ALL});
    uv_timer_start(&loop->drain_timer, loop_given_up, LOOP_CANCEL_WAIT_MS, 0);
}

static void loop_drain_timed_out(uv_timer_t *timer)
{
    log_msg(LOG_WARN, "the drain timeout is over");
    loop_cancel(timer->data);
}

static void loop_drain(struct loop *loop)
{
    struct server *server = loop->server;
    int64_t timeout_ms = server->options.drain_timeout_ns / CLOCK_NS_PER_MS;
    log_msg(LOG_INFO, "draining: running requests finish, new ones are refused");
    ring_flag_raise(&server->is_draining);
    loop_to_egress(loop, EGRESS_HEALTH);
    loop_to_engine(loop, (struct msg){.type = MSG_DRAIN});
    uv_timer_start(&loop->drain_timer, loop_drain_timed_out, (uint64_t)timeout_ms, 0);
}

static void loop_signalled(uv_poll_t *poll, int status, int events)
{
    struct loop *loop = poll->data;
    struct signalfd_siginfo info;
    (void)status;
    (void)events;
    while (read(loop->signal_fd, &info, sizeof info) == sizeof info) {
        loop->signal_n++;
        if (!ring_flag_is_raised(&loop->server->is_ready)) {
            /* Nothing runs yet and the main thread may be reading for minutes. */
            log_msg(LOG_INFO, "stopped before the model was ready");
            for (uint32_t i = 0; i < loop->acceptor.listener_n; i++) {
                listener_close(&loop->acceptor.listeners[i]);
            }
            _exit(0);
        }
        if (loop->signal_n == 1) {
            loop_drain(loop);
        } else {
            loop_cancel(loop);
        }
    }
}

/* Everything has been answered: server_wait may return; the listeners stay until server_stop. */
static void loop_finish(struct loop *loop)
{
    uv_timer_stop(&loop->drain_timer);
    ring_flag_raise(&loop->server->is_finished);
    wake_signal(&loop->server->finished_wake);
}

static void loop_stop(struct loop *loop)
{
    if (!loop->is_stopping) {
        loop->is_stopping = true;
        acceptor_stop(&loop->acceptor);
        uv_close((uv_handle_t *)&loop->signal_poll, NULL);
        uv_close((uv_handle_t *)&loop->drain_timer, NULL);
        uv_close((uv_handle_t *)&loop->jobs_async, NULL);
    }
    if (loop->job_n == 0) {
        uv_close((uv_handle_t *)&loop->state_async, NULL); /* the last handle: uv_run returns */
    }
}

static void loop_state_woken(uv_async_t *async)
{
    struct loop *loop = async->data;
    if (ring_flag_is_raised(&loop->is_ready_told) && !loop->is_ready_seen) {
        loop->is_ready_seen = true;
        loop_to_egress(loop, EGRESS_HEALTH);
    }
    if (ring_flag_is_raised(&loop->is_drained)) {
        loop_finish(loop);
    }
    if (ring_flag_is_raised(&loop->is_stop_asked)) {
        loop_stop(loop);
    }
}

int loop_init(struct loop *loop, struct server *server, struct err *err)
{
    sigset_t signals;
    loop->server = server;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    loop->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (loop->signal_fd < 0) {
        return err_set(err, ERR_IO_FAILURE, "could not watch for signals: %s", strerror(errno));
    }
    uv_loop_init(&loop->uv);
    loop->signal_poll.data = loop;
    loop->jobs_async.data = loop;
    loop->state_async.data = loop;
    loop->drain_timer.data = loop;
    uv_poll_init(&loop->uv, &loop->signal_poll, loop->signal_fd);
    uv_poll_start(&loop->signal_poll, UV_READABLE, loop_signalled);
    uv_async_init(&loop->uv, &loop->jobs_async, loop_jobs_woken);
    uv_async_init(&loop->uv, &loop->state_async, loop_state_woken);
    uv_timer_init(&loop->uv, &loop->drain_timer);
    return 0;
}

static void loop_main(void *arg)
{
    struct loop *loop = arg;
    acceptor_start(&loop->acceptor, &loop->uv, loop->server->rpc);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_start(struct loop *loop)
{
    thread_start(&loop->thread, THREAD_LOOP, "loop", loop_main, loop);
}

void loop_wake(struct loop *loop)
{
    uv_async_send(&loop->state_async);
}

void loop_tell_drained(struct loop *loop)
{
    ring_flag_raise(&loop->is_drained);
    loop_wake(loop);
}

void loop_notify_jobs(void *arg)
{
    struct loop *loop = arg;
    uv_async_send(&loop->jobs_async);
}

void loop_join(struct loop *loop)
{
    thread_join(&loop->thread);
    int rc = uv_loop_close(&loop->uv);
    ASSERT_CMP(rc, ==, 0);
    close(loop->signal_fd);
}
