/* A piece of blocking work that one thread asks another to have done on an io worker.
 *
 * The asker embeds `struct job` in its own record, sends a pointer through a ring, and gets the
 * same pointer back when run() has returned. Whoever runs jobs knows nothing about them. */
#ifndef BASE_JOB_H
#define BASE_JOB_H

struct job {
    void (*run)(struct job *job); /* on an io worker: may block and allocate */
};

#endif
