/* Start and stop of the server's parts, in the order that their hand-overs need. */
#include "server/server.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_int.h"

/* cq empties it before it takes on anything new. Until then come, at most, an id and a memory of
 * everything live, a memory of every refusal, and memories of one session's lanes whose ids were
 * taken back before. */
#define RING_RETURNED_N  (4 * LIMIT_LIVE)
#define RING_FROM_CQ_N   (2 * LIMIT_LIVE)
#define RING_FROM_LOOP_N 16

#define STOP_GRACE_NS (2 * CLOCK_NS_PER_S) /* for the last messages to reach their clients */

static void server_prepare_process(void)
{
    struct rlimit files;
    sigset_t signals;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max; /* two descriptors a connection */
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int server_listen(struct server *server, struct err *err)
{
    struct acceptor *acceptor = &server->loop.acceptor;
    for (uint32_t i = 0; i < server->options.address_n; i++) {
        int rc = listener_open(&acceptor->listeners[i], server->options.addresses[i],
                               server->options.is_tcp_open, err);
        if (rc) {
            return rc;
        }
        acceptor->listener_n++;
    }
    return 0;
}

static void server_close_listeners(struct server *server)
{
    struct acceptor *acceptor = &server->loop.acceptor;
    for (uint32_t i = 0; i < acceptor->listener_n; i++) {
        listener_close(&acceptor->listeners[i]);
    }
}

int server_start(const struct server_options *options, struct server **out, struct err *err)
{
    struct server *server = mem_zalloc(sizeof *server);
    ASSERT(options->address_n > 0 && options->address_n <= LIMIT_ADDRESSES);
    server->options = *options;
    server->ports = options->ports;
    server_prepare_process();
    int rc = server_listen(server, err);
    rc = rc ? rc : loop_init(&server->loop, server, err);
    if (rc) {
        server_close_listeners(server);
        mem_free(server);
        return rc;
    }
    wake_init(&server->finished_wake);
    ring_init(&server->egress_from_cq, sizeof(struct egress_msg), RING_FROM_CQ_N);
    ring_init(&server->egress_from_loop, sizeof(struct egress_msg), RING_FROM_LOOP_N);
    ring_init(&server->returned, sizeof(struct returned), RING_RETURNED_N);
    server->ports->notify_loop = loop_notify_jobs;
    server->ports->notify_arg = &server->loop;
    struct rpc_service service = service_table(server);
    egress_start(server);
    server->rpc = rpc_server_start(&service);
    for (uint32_t i = 0; i < server->loop.acceptor.listener_n; i++) {
        log_msg(LOG_INFO, "listening on %s", server->loop.acceptor.listeners[i].name);
    }
    loop_start(&server->loop); /* which owns the listeners from here on */
    *out = server;
    return 0;
}

const char *server_address(const struct server *server, uint32_t i)
{
    return i < server->loop.acceptor.listener_n ? server->loop.acceptor.listeners[i].name : NULL;
}

void server_ready(struct server *server, const struct server_model *model)
{
    server->model = *model;
    ring_flag_raise(&server->is_ready);
    ring_flag_raise(&server->loop.is_ready_told);
    loop_wake(&server->loop);
}

void server_wait(struct server *server)
{
    for (;;) {
        uint32_t ticket = wake_ticket(&server->finished_wake);
        if (ring_flag_is_raised(&server->is_finished)) {
            return;
        }
        wake_wait(&server->finished_wake, ticket, -1);
    }
}

void server_stop(struct server *server)
{
    struct egress_msg quit = {.type = EGRESS_QUIT};
    /* The loop goes first: from then on this thread is the producer of its rings. */
    ring_flag_raise(&server->loop.is_stop_asked);
    loop_wake(&server->loop);
    loop_join(&server->loop);
    rpc_server_stop(server->rpc, STOP_GRACE_NS);
    bool is_room = ring_push(&server->egress_from_loop, &quit);
    ASSERT(is_room);
    wake_signal(&server->ports->egress_wake);
    egress_join(server);
    server_close_listeners(server);
    ring_done(&server->egress_from_cq);
    ring_done(&server->egress_from_loop);
    ring_done(&server->returned);
    mem_free(server);
}
