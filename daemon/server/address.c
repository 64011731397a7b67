/* Binding, with the lock file that keeps two instances off one unix socket.
 *
 * The lock is the file's flock, not its existence: a killed daemon leaves nothing that blocks the
 * next one. Whoever holds the lock may remove a stale socket. */
#include "server/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 1024
#define LOCK_TRIES     16

static int address_failed(struct err *err, const char *what, const char *address)
{
    int code = errno == EADDRINUSE ? ERR_CONFLICT : ERR_IO_FAILURE;
    return err_set(err, code, "could not %s \"%s\": %s", what, address, strerror(errno));
}

/* Takes the lock, or says who has it. The file may be removed by its last holder between open and
 * flock; then what we locked is no longer what others see, and we try again. */
static int lock_take(struct listener *listener, struct err *err)
{
    char path[sizeof listener->path + 8];
    snprintf(path, sizeof path, "%s.lock", listener->path);
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct stat mine;
        struct stat seen;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            return address_failed(err, "open the lock file", path);
        }
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            close(fd);
            return err_set(err, ERR_CONFLICT,
                           "another instance listens on \"unix:%s\": it holds \"%s\"",
                           listener->path, path);
        }
        if (fstat(fd, &mine) == 0 && stat(path, &seen) == 0 && mine.st_ino == seen.st_ino) {
            listener->lock_fd = fd;
            return 0;
        }
        close(fd);
    }
    return err_set(err, ERR_CONFLICT, "the lock file \"%s\" keeps changing", path);
}

static int listener_listen(struct listener *listener, const struct sockaddr *addr, socklen_t n,
                           const char *address, struct err *err)
{
    if (bind(listener->fd, addr, n)) {
        return address_failed(err, "bind", address);
    }
    if (addr->sa_family == AF_UNIX && chmod(listener->path, 0660)) {
        return address_failed(err, "set the mode of", address);
    }
    if (listen(listener->fd, LISTEN_BACKLOG)) {
        return address_failed(err, "listen on", address);
    }
    return 0;
}

static int listener_open_unix(struct listener *listener, const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof addr.sun_path) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "the socket path \"%s\" has %zu bytes, must have 1 to %zu", path,
                       strlen(path), sizeof addr.sun_path - 1);
    }
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    snprintf(listener->path, sizeof listener->path, "%s", path);
    snprintf(listener->name, sizeof listener->name, "unix:%s", path);
    int rc = lock_take(listener, err);
    if (rc) {
        listener->path[0] = '\0';
        return rc;
    }
    struct stat old;
    if (lstat(path, &old) == 0 && !S_ISSOCK(old.st_mode)) {
        listener->path[0] = '\0'; /* it is not ours to remove */
        return err_set(err, ERR_CONFLICT, "\"%s\" exists and is no socket", path);
    }
    unlink(path);
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0) {
        return address_failed(err, "make a socket for", listener->name);
    }
    return listener_listen(listener, (struct sockaddr *)&addr, sizeof addr, listener->name, err);
}

static bool is_loopback(const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET) {
        uint32_t ip = ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr);
        return ip >> 24 == 127;
    }
    return addr->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr);
}

/* Splits HOST:PORT; a HOST in brackets is an IPv6 address. */
static int split_host(const char *text, char *host, size_t host_bytes, const char **out_port)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text;
    const char *end = colon;
    if (!colon || colon[1] == '\0') {
        return -1;
    }
    if (text[0] == '[' && colon > text + 1 && colon[-1] == ']') {
        begin = text + 1;
        end = colon - 1;
    } else if (memchr(text, ':', (size_t)(colon - text))) {
        return -1;
    }
    size_t n = (size_t)(end - begin);
    if (n == 0 || n >= host_bytes || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strlen(colon + 1) > 5 || atoi(colon + 1) > 65535) {
        return -1;
    }
    memcpy(host, begin, n);
    host[n] = '\0';
    *out_port = colon + 1;
    return 0;
}

/* The address that was bound, with the port the kernel chose for 0. */
static void listener_name_tcp(struct listener *listener)
{
    struct sockaddr_storage addr = {0};
    socklen_t n = sizeof addr;
    char host[64];
    char port[8];
    if (getsockname(listener->fd, (struct sockaddr *)&addr, &n) == 0 &&
        getnameinfo((struct sockaddr *)&addr, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        bool is_v6 = addr.ss_family == AF_INET6;
        snprintf(listener->name, sizeof listener->name, "tcp://%s%s%s:%s", is_v6 ? "[" : "", host,
                 is_v6 ? "]" : "", port);
    }
}

static int listener_bind_tcp(struct listener *listener, const struct addrinfo *info,
                             const char *address, bool is_open, struct err *err)
{
    int yes = 1;
    if (!is_open && !is_loopback(info->ai_addr)) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "\"%s\" is reachable from other machines and nothing there is "
                       "authenticated: give a loopback address, or --insecure-tcp",
                       address);
    }
    listener->fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0) {
        return address_failed(err, "make a socket for", address);
    }
    setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    int rc = listener_listen(listener, info->ai_addr, info->ai_addrlen, address, err);
    if (rc == 0) {
        listener_name_tcp(listener);
    }
    return rc;
}

static int listener_open_tcp(struct listener *listener, const char *address, bool is_open,
                             struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *info = NULL;
    char host[256];
    const char *port;
    if (split_host(address + strlen("tcp://"), host, sizeof host, &port)) {
        return err_set(err, ERR_INVALID_PARAMETER, "\"%s\" is not tcp://HOST:PORT", address);
    }
    int rc = getaddrinfo(host, port, &hints, &info);
    if (rc) {
        return err_set(err, ERR_INVALID_PARAMETER, "could not resolve \"%s\": %s", address,
                       gai_strerror(rc));
    }
    rc = listener_bind_tcp(listener, info, address, is_open, err);
    freeaddrinfo(info);
    return rc;
}

int listener_open(struct listener *listener, const char *address, bool is_tcp_open, struct err *err)
{
    int rc;
    *listener = (struct listener){.fd = -1, .lock_fd = -1};
    if (strncmp(address, "unix:", 5) == 0) {
        rc = listener_open_unix(listener, address + 5, err);
    } else if (strncmp(address, "tcp://", 6) == 0) {
        rc = listener_open_tcp(listener, address, is_tcp_open, err);
    } else {
        rc = err_set(err, ERR_INVALID_PARAMETER,
                     "address \"%s\" is neither unix:PATH nor tcp://HOST:PORT", address);
    }
    if (rc) {
        listener_close(listener);
    }
    return rc;
}

void listener_close(struct listener *listener)
{
    if (listener->fd >= 0) {
        close(listener->fd);
    }
    if (listener->path[0] != '\0') {
        char lock[sizeof listener->path + 8];
        snprintf(lock, sizeof lock, "%s.lock", listener->path);
        unlink(listener->path);
        unlink(lock);
    }
    if (listener->lock_fd >= 0) {
        close(listener->lock_fd);
    }
    *listener = (struct listener){.fd = -1, .lock_fd = -1};
}
