/* Addresses, and the sockets that listen on them. */
#ifndef SERVER_ADDRESS_H
#define SERVER_ADDRESS_H

#include <sys/socket.h>

#include "base/err.h"

/* A listening socket and what must be undone with it. */
struct listener {
    int fd;
    int lock_fd;    /* of a unix socket's lock file, else -1 */
    char path[108]; /* of a unix socket, else "" */
    char name[160]; /* as people read it, with the port that was really bound */
};

/* Binds "unix:PATH" (mode 0660, guarded by PATH.lock so that a second instance is refused and a
 * stale socket is replaced) or "tcp://HOST:PORT" (loopback unless is_tcp_open). Non-blocking.
 * Errors: INVALID_PARAMETER, CONFLICT when somebody else has it, IO_FAILURE. */
int listener_open(struct listener *listener, const char *address, bool is_tcp_open,
                  struct err *err);

/* Closes, and removes a unix socket and its lock. */
void listener_close(struct listener *listener);

#endif
