/* The accept loop and the four-byte peek. See the header for why it is ours. */
#include "server/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define ACCEPT_BURST   64    /* connections taken before other work gets its turn */
#define PEEK_BYTES     4     /* "PRI " */
#define PEEK_WAIT_MS   10000 /* for the first four bytes, and for an HTTP client to leave */
#define PEEK_AGAIN_MS  20    /* between looks at a connection that sent one to three bytes */
#define HTTP_DRAIN_MAX 65536 /* bytes of an HTTP request that are read and forgotten */

enum conn_state { CONN_PEEK, CONN_HTTP, CONN_ADOPTED, CONN_CLOSING };

struct conn {
    struct acceptor *acceptor;
    struct conn *prev, *next;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;
    enum conn_state state;
    int handle_n; /* open libuv handles */
    int64_t deadline_ms;
    size_t drained;
};

static void conn_handle_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    if (--conn->handle_n == 0) {
        mem_free(conn);
    }
}

static void conn_close(struct conn *conn)
{
    struct acceptor *acceptor = conn->acceptor;
    if (conn->state == CONN_CLOSING) {
        return;
    }
    conn->state = CONN_CLOSING;
    if (conn->prev) {
        conn->prev->next = conn->next;
    } else {
        acceptor->conns = conn->next;
    }
    if (conn->next) {
        conn->next->prev = conn->prev;
    }
    acceptor->conn_n--;
    uv_poll_stop(&conn->poll);
    uv_close((uv_handle_t *)&conn->poll, conn_handle_closed);
    uv_close((uv_handle_t *)&conn->timer, conn_handle_closed);
    close(conn->fd);
}

static void conn_polled(uv_poll_t *poll, int status, int events);

static void conn_timed(uv_timer_t *timer)
{
    struct conn *conn = timer->data;
    int64_t left = conn->deadline_ms - (int64_t)uv_now(conn->acceptor->uv);
    if (left <= 0) {
        conn_close(conn);
        return;
    }
    uv_timer_start(&conn->timer, conn_timed, (uint64_t)left, 0);
    uv_poll_start(&conn->poll, UV_READABLE | UV_DISCONNECT, conn_polled);
}

/* gRPC gets a descriptor of its own; ours only tells when the connection ends. */
static void conn_adopt(struct conn *conn)
{
    int one = 1;
    int fd = fcntl(conn->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        log_msg(LOG_WARN, "could not hand a connection over: %s", strerror(errno));
        conn_close(conn);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on unix sockets */
    conn->state = CONN_ADOPTED;
    uv_timer_stop(&conn->timer);
    uv_poll_start(&conn->poll, UV_DISCONNECT, conn_polled);
    rpc_server_adopt(conn->acceptor->rpc, fd);
}

/* Answers 404 and waits for the client to close, so that a reset does not eat the answer. */
static void conn_refuse_http(struct conn *conn)
{
    static const char answer[] = "HTTP/1.1 404 Not Found\r\n"
                                 "Content-Type: text/plain; charset=utf-8\r\n"
                                 "Content-Length: 28\r\n"
                                 "Connection: close\r\n"
                                 "\r\n"
                                 "this port speaks gRPC only.\n";
    conn->state = CONN_HTTP;
    /* A fresh socket takes this much at once, or the client gets nothing. */
    ssize_t n = send(conn->fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
    if (n < 0 || shutdown(conn->fd, SHUT_WR)) {
        conn_close(conn);
    }
}

static void conn_drain_http(struct conn *conn)
{
    char bytes[4096];
    ssize_t n = recv(conn->fd, bytes, sizeof bytes, 0);
    conn->drained += n > 0 ? (size_t)n : 0;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || conn->drained > HTTP_DRAIN_MAX) {
        conn_close(conn);
    }
}

static void conn_peek(struct conn *conn)
{
    char head[PEEK_BYTES];
    ssize_t n = recv(conn->fd, head, sizeof head, MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        conn_close(conn);
    } else if (memcmp(head, "PRI ", (size_t)n) == 0) {
        if (n == PEEK_BYTES) {
            conn_adopt(conn);
        } else {
            /* Readable but not enough: look again soon instead of spinning. */
            uv_poll_stop(&conn->poll);
            uv_timer_start(&conn->timer, conn_timed, PEEK_AGAIN_MS, 0);
        }
    } else if (head[0] >= 'A' && head[0] <= 'Z') {
        conn_refuse_http(conn);
    } else {
        conn_close(conn);
    }
}

static void conn_polled(uv_poll_t *poll, int status, int events)
{
    struct conn *conn = poll->data;
    if (status < 0) {
        conn_close(conn);
    } else if (conn->state == CONN_ADOPTED) {
        conn_close(conn); /* the only event asked for is its end */
    } else if (conn->state == CONN_HTTP) {
        conn_drain_http(conn);
    } else if (events & UV_READABLE) {
        conn_peek(conn);
    } else {
        conn_close(conn);
    }
}

static void conn_open(struct acceptor *acceptor, int fd)
{
    struct conn *conn = mem_zalloc(sizeof *conn);
    conn->acceptor = acceptor;
    conn->fd = fd;
    conn->handle_n = 2;
    conn->poll.data = conn;
    conn->timer.data = conn;
    conn->deadline_ms = (int64_t)uv_now(acceptor->uv) + PEEK_WAIT_MS;
    conn->next = acceptor->conns;
    if (conn->next) {
        conn->next->prev = conn;
    }
    acceptor->conns = conn;
    acceptor->conn_n++;
    uv_poll_init(acceptor->uv, &conn->poll, fd);
    uv_timer_init(acceptor->uv, &conn->timer);
    uv_timer_start(&conn->timer, conn_timed, PEEK_WAIT_MS, 0);
    uv_poll_start(&conn->poll, UV_READABLE | UV_DISCONNECT, conn_polled);
}

/* Out of descriptors: with the spare one the client can be accepted and closed, else it would wait
 * in the backlog and the listener would stay readable for ever. */
static void accept_without_room(struct acceptor *acceptor, int listen_fd)
{
    log_msg(LOG_WARN, "refused a connection: %s", strerror(errno));
    if (acceptor->spare_fd >= 0) {
        close(acceptor->spare_fd);
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            close(fd);
        }
    }
    acceptor->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void acceptor_polled(uv_poll_t *poll, int status, int events)
{
    struct acceptor *acceptor = poll->data;
    int listen_fd = acceptor->listeners[poll - acceptor->polls].fd;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPT_BURST; i++) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                accept_without_room(acceptor, listen_fd);
            }
            return;
        }
        if (acceptor->conn_n >= LIMIT_CONNECTIONS) {
            if (!acceptor->is_full_logged) {
                log_msg(LOG_WARN, "refused a connection: %u are open, limit is %d",
                        acceptor->conn_n, LIMIT_CONNECTIONS);
            }
            acceptor->is_full_logged = true;
            close(fd);
            continue;
        }
        acceptor->is_full_logged = false;
        conn_open(acceptor, fd);
    }
}

void acceptor_start(struct acceptor *acceptor, uv_loop_t *uv, struct rpc_server *rpc)
{
    acceptor->uv = uv;
    acceptor->rpc = rpc;
    acceptor->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (uint32_t i = 0; i < acceptor->listener_n; i++) {
        acceptor->polls[i].data = acceptor;
        uv_poll_init(uv, &acceptor->polls[i], acceptor->listeners[i].fd);
        uv_poll_start(&acceptor->polls[i], UV_READABLE, acceptor_polled);
    }
}

void acceptor_stop(struct acceptor *acceptor)
{
    for (uint32_t i = 0; i < acceptor->listener_n; i++) {
        uv_poll_stop(&acceptor->polls[i]);
        uv_close((uv_handle_t *)&acceptor->polls[i], NULL);
    }
    while (acceptor->conns) {
        conn_close(acceptor->conns);
    }
    if (acceptor->spare_fd >= 0) {
        close(acceptor->spare_fd);
    }
}
