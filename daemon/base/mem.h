/* The one door to the heap, and memory in large pages.
 *
 * Programs link jemalloc, sanitizer builds use libc's malloc. After mem_seal() the calling thread
 * may not come here any more: engine and rank threads seal themselves when they have started, and
 * a call from a sealed thread is a programmer error. Out of memory aborts: pools that may be too
 * large are checked against the machine before they are taken. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

#include "base/err.h"

void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_zalloc_n(size_t n, size_t bytes_each); /* overflow of the product aborts */
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *s);
void mem_free(void *p);

/* Forbids the heap to the calling thread from now on. */
void mem_seal(void);

/* Zeroed anonymous memory, aligned to 2 MiB, huge pages asked for, pages not yet touched.
 * Fails with ERR_NO_MEMORY. mem_pages_free takes the same byte count. */
int mem_pages_alloc(size_t bytes, void **out, struct err *err);
void mem_pages_free(void *p, size_t bytes);

/* Bytes this process may still take: the smaller of what the machine has available and what the
 * cgroup (v2 or v1) leaves. */
size_t mem_available(void);

#endif
