/* The heap behind one door, huge pages, and what the machine still has to give. */
#include "base/mem.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static _Thread_local bool mem_is_sealed;

static void *mem_checked(void *p, size_t bytes)
{
    if (UNLIKELY(!p)) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        abort();
    }
    return p;
}

void *mem_alloc(size_t bytes)
{
    ASSERT(!mem_is_sealed);
    return mem_checked(malloc(MAX(bytes, 1)), bytes);
}

void *mem_zalloc(size_t bytes)
{
    ASSERT(!mem_is_sealed);
    return mem_checked(calloc(1, MAX(bytes, 1)), bytes);
}

void *mem_zalloc_n(size_t n, size_t bytes_each)
{
    size_t bytes;
    ASSERT(!__builtin_mul_overflow(n, bytes_each, &bytes));
    return mem_zalloc(bytes);
}

void *mem_realloc(void *p, size_t bytes)
{
    ASSERT(!mem_is_sealed);
    return mem_checked(realloc(p, MAX(bytes, 1)), bytes);
}

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc(n), s, n);
}

void mem_free(void *p)
{
    ASSERT(!mem_is_sealed || !p);
    free(p);
}

void mem_seal(void)
{
    mem_is_sealed = true;
}

int mem_pages_alloc(size_t bytes, void **out, struct err *err)
{
    /* One huge page more than asked for, so that an aligned start can be cut out. */
    size_t want = ROUND_UP(MAX(bytes, 1), HUGE_PAGE_BYTES);
    char *raw = mmap(NULL, want + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return err_set(err, ERR_NO_MEMORY, "could not map %zu bytes of memory", bytes);
    }
    char *start = (char *)ROUND_UP((uintptr_t)raw, HUGE_PAGE_BYTES);
    size_t head = (size_t)(start - raw);
    if (head > 0) {
        munmap(raw, head);
    }
    if (head < HUGE_PAGE_BYTES) {
        munmap(start + want, HUGE_PAGE_BYTES - head);
    }
    madvise(start, want, MADV_HUGEPAGE); /* a refusal costs speed only */
    *out = start;
    return 0;
}

void mem_pages_free(void *p, size_t bytes)
{
    if (p) {
        munmap(p, ROUND_UP(MAX(bytes, 1), HUGE_PAGE_BYTES));
    }
}

/* First number in a small file; `missing` when there is none ("max" reads as none). */
static uint64_t mem_file_number(const char *path, const char *key, uint64_t missing)
{
    FILE *f = fopen(path, "re");
    char line[256];
    uint64_t value = missing;
    while (f && fgets(line, sizeof line, f)) {
        size_t key_n = strlen(key);
        if (strncmp(line, key, key_n) == 0) {
            char *end;
            unsigned long long n = strtoull(line + key_n, &end, 10);
            value = end != line + key_n ? n : missing;
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return value;
}

size_t mem_available(void)
{
    uint64_t left = mem_file_number("/proc/meminfo", "MemAvailable:", 0) * 1024;
    const uint64_t none = UINT64_MAX;
    uint64_t max = mem_file_number("/sys/fs/cgroup/memory.max", "", none);
    uint64_t used = mem_file_number("/sys/fs/cgroup/memory.current", "", 0);
    if (max == none) {
        max = mem_file_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", "", none);
        used = mem_file_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", "", 0);
    }
    if (max != none) {
        /* Cached file pages that nobody has touched lately are given back when they are wanted. */
        uint64_t cached =
            mem_file_number("/sys/fs/cgroup/memory.stat", "inactive_file ", 0) +
            mem_file_number("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file ", 0);
        used -= MIN(used, cached);
        left = MIN(left, max > used ? max - used : 0);
    }
    return left;
}
