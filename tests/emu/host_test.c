/* The words of kernels/cuda/host.h on the emulated device: when work runs and in which order, what
 * capture, memory and launches refuse, and how the device is lost on purpose. */
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/host_kernels.h"

#define VALUE_N  64u
#define BYTES    (VALUE_N * sizeof(float))
#define LONG_NS  20000000000u /* nobody waits that long: work runs only when it is asked for */
#define SHORT_NS 1000000u
#define SEED_N   16u
#define THREAD_N 4u
#define ROUND_N  64u

static struct dev_stream *a;
static struct dev_stream *b;
static float *dev;    /* device [VALUE_N] */
static float *dev2;   /* device [VALUE_N] */
static float *pinned; /* [VALUE_N] */
static struct emu_knobs first_knobs;

static void *take(size_t bytes)
{
    void *p = NULL;
    struct err err = {0};
    assert_int_equal(dev_alloc(bytes, &p, &err), 0);
    return p;
}

static void *take_pinned(size_t bytes)
{
    void *p = NULL;
    struct err err = {0};
    assert_int_equal(dev_alloc_pinned(bytes, false, &p, &err), 0);
    return p;
}

static int setup(void **state)
{
    (void)state;
    emu_knobs = first_knobs;
    emu_knobs.order_seed = 0;
    emu_knobs.lag_ns = LONG_NS;
    emu_reset();
    a = dev_stream_new();
    b = dev_stream_new();
    dev = take(BYTES);
    dev2 = take(BYTES);
    pinned = take_pinned(BYTES);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    emu_knobs = first_knobs;
    emu_reset();
    dev_free(dev);
    dev_free(dev2);
    dev_free_pinned(pinned);
    dev_stream_free(a);
    dev_stream_free(b);
    assert_string_equal(dev_failure(), "");
    return 0;
}

static void put_all(float *to, float value)
{
    for (uint32_t i = 0; i < VALUE_N; i++) {
        to[i] = value;
    }
}

static float get_first(struct dev_stream *stream, const float *from)
{
    float value = 0.0f;
    dev_copy_out(stream, &value, from, sizeof value);
    return value;
}

/* The device failed with these words in its text. */
static void assert_failed(const char *words)
{
    if (!strstr(dev_failure(), words)) {
        fail_msg("\"%s\" does not say \"%s\"", dev_failure(), words);
    }
    assert_int_equal(dev_stream_sync(b), ERR_DEVICE_FAILURE);
    assert_int_equal(dev_stream_query(b), ERR_DEVICE_FAILURE);
}

static void test_nothing_runs_unasked(void **state)
{
    (void)state;
    put_all(pinned, 1.0f);
    dev_copy_in(a, dev, pinned, BYTES);
    dev_copy_out(a, pinned, dev, BYTES);
    usleep(5000);
    put_all(pinned, 2.0f); /* before the copy reads it */
    dev_fill(b, dev2, 0, BYTES);
    assert_int_equal(dev_stream_sync(b), 0); /* another stream's work is no reason */
    put_all(pinned, 3.0f);
    assert_int_equal(dev_stream_sync(a), 0);
    assert_true(get_first(a, dev) == 3.0f);
}

/* A host that watches mapped memory calls no word: time alone starts the work. */
static void test_time_starts_work(void **state)
{
    (void)state;
    void *p = NULL;
    struct err err;
    assert_int_equal(dev_alloc_pinned(sizeof(struct host_result), true, &p, &err), 0);
    struct host_result *result = p;
    emu_knobs.lag_ns = SHORT_NS;
    result->number = 0;
    dev_fill(a, dev, 7, sizeof(uint32_t));
    host_publish(a, result, (const uint32_t *)(const void *)dev, 1);
    while (__atomic_load_n(&result->number, __ATOMIC_ACQUIRE) == 0) {
    }
    assert_int_equal(result->token, 0x07070707);
    assert_int_equal(dev_stream_sync(a), 0);
    dev_free_pinned(p);
}

static void test_query_starts_work(void **state)
{
    (void)state;
    struct dev_event *event = dev_event_new();
    assert_int_equal(dev_event_query(event), 0); /* never recorded */
    assert_int_equal(dev_stream_query(a), 0);
    dev_fill(a, dev, 0, BYTES);
    dev_event_record(event, a);
    dev_fill(a, dev2, 0, BYTES);
    while (dev_event_query(event) == 1) {
    }
    assert_int_equal(dev_event_query(event), 0);
    int rc;
    while ((rc = dev_stream_query(a)) == 1) {
    }
    assert_int_equal(rc, 0);
    dev_event_free(event);
}

/* CUDA reads memory that is not pinned at the call, and writes it before the call returns. */
static void test_pageable_memory(void **state)
{
    (void)state;
    float values[VALUE_N];
    put_all(values, 5.0f);
    dev_copy_in(a, dev, values, BYTES);
    put_all(values, 6.0f);
    dev_copy_out(a, values, dev, BYTES);
    assert_true(values[0] == 5.0f && values[VALUE_N - 1] == 5.0f);
}

/* b waits for a's first half only; a's second half is not due. */
static void test_event_orders_streams(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < SEED_N; seed++) {
        emu_knobs.order_seed = seed;
        emu_reset();
        struct dev_event *event = dev_event_new();
        dev_fill(a, dev, 0, BYTES);
        put_all(pinned, 4.0f);
        dev_copy_in(a, dev, pinned, BYTES);
        dev_event_record(event, a);
        dev_event_wait(b, event);
        dev_event_free(event); /* what waits for it goes on waiting */
        host_scale(b, dev2, dev, 2.0f, VALUE_N);
        assert_true(get_first(b, dev2) == 8.0f);
    }
}

/* Two streams without order write the same place: seeds show both results, each of them always the
 * same one, and seed 0 the one in which nothing runs that was not asked for. */
static void test_seeds_show_both_orders(void **state)
{
    (void)state;
    uint32_t first_n = 0;
    for (uint32_t seed = 0; seed < SEED_N; seed++) {
        float seen[2];
        for (uint32_t again = 0; again < 2; again++) {
            emu_knobs.order_seed = seed;
            emu_reset();
            dev_fill(a, dev, 0, BYTES);
            dev_fill(b, dev, 1, BYTES);
            assert_int_equal(dev_stream_sync(a), 0);
            seen[again] = get_first(a, dev);
            assert_int_equal(dev_stream_sync(b), 0);
        }
        assert_true(seen[0] == seen[1]);
        assert_true(seed > 0 || seen[0] == 0.0f);
        first_n += seen[0] == 0.0f;
    }
    assert_in_range(first_n, 1, SEED_N - 1);
}

static void test_graph_replays(void **state)
{
    (void)state;
    struct dev_graph *graph = NULL;
    struct err err = {0};
    struct emu_words words;
    emu_reset(); /* what the set-up took is not counted */
    dev_graph_begin(a);
    dev_copy_in(a, dev, pinned, BYTES);
    host_scale(a, dev2, dev, 2.0f, VALUE_N);
    host_scale(a, dev2, dev2, 3.0f, VALUE_N);
    assert_int_equal(dev_graph_end(a, &graph, &err), 0);
    assert_int_equal(dev_graph_launch_n(graph), 2);
    assert_int_equal(dev_stream_query(a), 0); /* nothing of it ran */
    for (uint32_t i = 0; i < 3; i++) {
        put_all(pinned, (float)i);
        dev_graph_launch(a, graph);
        assert_true(get_first(a, dev2) == 6.0f * (float)i);
    }
    put_all(pinned, 10.0f);
    dev_graph_launch(a, graph);
    dev_graph_free(graph); /* the queued replay keeps it */
    assert_true(get_first(a, dev2) == 60.0f);
    emu_words_get(&words);
    assert_int_equal(words.replays, 4);
    assert_int_equal(words.launches, 8);
    assert_int_equal(words.copies, 8);
    assert_int_equal(words.copy_bytes, 4 * (BYTES + sizeof(float)));
    assert_int_equal(words.waits, 4);
    assert_int_equal(words.allocs + words.frees, 0);
}

static void refuse_alloc(void)
{
    void *p;
    struct err err;
    assert_int_equal(dev_alloc(1, &p, &err), ERR_NO_MEMORY);
}
static void refuse_alloc_pinned(void)
{
    void *p;
    struct err err;
    assert_int_equal(dev_alloc_pinned(1, true, &p, &err), ERR_NO_MEMORY);
}
static void refuse_free(void)
{
    dev_free(dev);
}
static void refuse_free_pinned(void)
{
    dev_free_pinned(pinned);
}
static void refuse_sync(void)
{
    dev_stream_sync(a);
}
static void refuse_query(void)
{
    dev_stream_query(a);
}
static void refuse_outside_event(void)
{
    struct dev_event *event = dev_event_new();
    dev_fill(b, dev2, 0, BYTES);
    dev_event_record(event, b);
    dev_event_wait(a, event);
    dev_event_free(event);
}
static void refuse_pageable_in(void)
{
    float value = 0.0f;
    dev_copy_in(a, dev, &value, sizeof value);
}
static void refuse_pageable_out(void)
{
    float value;
    dev_copy_out(a, &value, dev, sizeof value);
}
static void refuse_second_begin(void)
{
    dev_graph_begin(a);
}

static void test_capture_refuses(void **state)
{
    static const struct {
        void (*word)(void);
        const char *says;
    } rows[] = {
        {refuse_alloc, "dev_alloc is not permitted"},
        {refuse_alloc_pinned, "dev_alloc_pinned is not permitted"},
        {refuse_free, "dev_free is not permitted"},
        {refuse_free_pinned, "dev_free_pinned is not permitted"},
        {refuse_sync, "dev_stream_sync of the captured stream is not permitted"},
        {refuse_query, "dev_stream_query of the captured stream is not permitted"},
        {refuse_outside_event, "a wait for an event from outside is not permitted"},
        {refuse_pageable_in, "a copy of memory that is not pinned is not permitted"},
        {refuse_pageable_out, "a copy of memory that is not pinned is not permitted"},
        {refuse_second_begin, "dev_graph_begin on the captured stream is not permitted"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        struct dev_graph *graph = NULL;
        struct err err = {0};
        dev_graph_begin(a);
        host_scale(a, dev2, dev, 2.0f, VALUE_N);
        rows[i].word();
        assert_int_equal(dev_graph_end(a, &graph, &err), ERR_DEVICE_FAILURE);
        assert_null(graph);
        if (!strstr(err.text, rows[i].says)) {
            fail_msg("\"%s\" does not say \"%s\"", err.text, rows[i].says);
        }
        emu_reset();
    }
}

/* What a capture permits: an event of its own, words on other streams. */
static void test_capture_permits(void **state)
{
    (void)state;
    struct dev_event *event = dev_event_new();
    struct dev_graph *graph = NULL;
    struct err err = {0};
    dev_fill(a, dev, 0, BYTES); /* queued before, runs as ever */
    dev_graph_begin(a);
    host_scale(a, dev2, dev, 2.0f, VALUE_N);
    dev_event_record(event, a);
    dev_event_wait(a, event);
    assert_int_equal(dev_stream_sync(b), 0);
    assert_int_equal(dev_graph_end(a, &graph, &err), 0);
    dev_graph_launch(a, graph);
    assert_true(get_first(a, dev2) == 0.0f);
    dev_graph_free(graph);
    dev_event_wait(b, event); /* recorded in a capture: stands for nothing outside */
    assert_failed("recorded in a capture");
    dev_event_free(event);
}

static void test_memory_is_limited(void **state)
{
    (void)state;
    struct dev_info info;
    struct err err = {0};
    void *p = NULL;
    void *q = NULL;
    assert_int_equal(dev_describe(0, &info, &err), 0);
    size_t taken = info.memory_bytes - info.free_bytes;
    emu_knobs.memory_bytes = taken + 4096;
    assert_int_equal(dev_alloc(4097, &p, &err), ERR_NO_MEMORY);
    assert_string_equal(err.text, "could not reserve 4097 bytes of GPU memory: 4096 are free");
    assert_int_equal(dev_alloc(4096, &p, &err), 0);
    assert_int_equal((uintptr_t)p % 256, 0);
    assert_int_equal(dev_alloc(1, &q, &err), ERR_NO_MEMORY);
    dev_free(p);
    assert_int_equal(dev_alloc(4096, &p, &err), 0);
    float fresh[2];
    dev_copy_out(a, fresh, p, sizeof fresh);
    assert_true(fresh[0] != fresh[0]); /* NaN: nobody wrote it */
    dev_free(p);
    assert_int_equal(dev_stream_sync(a), 0);
}

static void copy_freed(void)
{
    void *p = take(BYTES);
    dev_free(p);
    dev_copy_in(a, p, pinned, BYTES);
}
static void copy_freed_in_flight(void)
{
    void *p = take(BYTES);
    dev_copy_out(a, pinned, p, BYTES);
    dev_free(p);
    dev_stream_sync(a);
}
static void copy_pinned_freed_in_flight(void)
{
    void *p = take_pinned(BYTES);
    dev_copy_in(a, dev, p, BYTES);
    dev_free_pinned(p);
    dev_stream_sync(a);
}
static void copy_foreign(void)
{
    static float foreign[VALUE_N];
    dev_copy(a, dev, foreign, BYTES);
}
static void copy_from_device_as_host(void)
{
    dev_copy_in(a, dev, dev2, BYTES);
}
static void copy_beyond(void)
{
    dev_fill(a, dev, 0, BYTES + 1);
}
static void free_twice(void)
{
    void *p = take(BYTES);
    dev_free(p);
    dev_free(p);
}
static void free_pinned_as_device(void)
{
    dev_free(pinned);
}
static void discard_beyond(void)
{
    dev_discard(dev + 1, BYTES);
}

static void test_memory_refuses(void **state)
{
    static const struct {
        void (*word)(void);
        const char *says;
    } rows[] = {
        {copy_freed, "are freed memory"},
        {copy_freed_in_flight, "dev_copy_out: reads 256 bytes at"},
        {copy_pinned_freed_in_flight, "that are freed memory by now"},
        {copy_foreign, "are pageable memory of the host"},
        {copy_from_device_as_host, "are device memory"},
        {copy_beyond, "beyond the end of an allocation"},
        {free_twice, "which is freed memory"},
        {free_pinned_as_device, "which is pinned memory"},
        {discard_beyond, "beyond the end of an allocation"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        rows[i].word();
        assert_failed(rows[i].says);
        emu_reset();
    }
}

/* Every target's limit of shared memory per block, at the limit and one byte beyond. */
static void test_launch_limits(void **state)
{
    static const size_t limits[] = {99u << 10, 163u << 10, 227u << 10};
    (void)state;
    for (size_t i = 0; i < ARRAY_N(limits); i++) {
        emu_knobs.shared_per_block = limits[i];
        host_scale_as(a, dev, 32, limits[i]);
        assert_int_equal(dev_stream_sync(a), 0);
        host_scale_as(a, dev, 32, limits[i] + 1);
        assert_failed("bytes of dynamic shared memory, a block may have");
        emu_reset();
    }
    host_scale_as(a, dev, 1025, 0);
    assert_failed("a block of a size that no device takes");
    emu_reset();
    host_scale_as(a, dev, 0, 0);
    assert_failed("a block of a size that no device takes");
}

static void test_device_fails(void **state)
{
    (void)state;
    struct dev_event *event = dev_event_new();
    struct err err = {0};
    void *p = NULL;
    emu_knobs.fail_op = 2;
    dev_fill(a, dev, 0, BYTES);
    dev_fill(a, dev, 1, BYTES);
    dev_event_record(event, a);
    assert_string_equal(dev_failure(), "");
    assert_int_equal(dev_stream_sync(a), ERR_DEVICE_FAILURE);
    assert_failed("the emulated device failed at operation 2, as asked");
    assert_int_equal(dev_event_query(event), ERR_DEVICE_FAILURE);
    assert_int_equal(dev_alloc(1, &p, &err), ERR_DEVICE_FAILURE);
    dev_fill(a, dev, 3, BYTES); /* is dropped */
    assert_int_equal(dev_stream_sync(a), ERR_DEVICE_FAILURE);
    emu_knobs.op_kernel = "scale";
    emu_reset();
    dev_fill(a, dev, 0, BYTES);
    host_scale(a, dev, dev, 2.0f, VALUE_N);
    dev_fill(a, dev, 0, BYTES);
    assert_int_equal(dev_stream_sync(a), 0);
    host_scale(a, dev, dev, 2.0f, VALUE_N);
    assert_int_equal(dev_stream_sync(a), ERR_DEVICE_FAILURE);
    emu_knobs.fail_op = 0;
    emu_reset();
    assert_true(get_first(a, dev) == 0.0f);
    dev_event_free(event);
}

static void test_device_hangs(void **state)
{
    (void)state;
    struct dev_event *event = dev_event_new();
    emu_knobs.hang_op = 1;
    dev_fill(a, dev, 0, BYTES);
    dev_event_record(event, a);
    dev_fill(b, dev2, 0, BYTES);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(dev_stream_query(a), 1);
        assert_int_equal(dev_event_query(event), 1);
        usleep(500);
    }
    assert_int_equal(dev_stream_query(b), 1); /* the device is one */
    assert_string_equal(dev_failure(), "");
    emu_knobs.hang_op = 0;
    emu_reset();
    assert_int_equal(dev_stream_query(a), 0);
    dev_event_free(event);
}

static void test_queue_is_bounded(void **state)
{
    (void)state;
    put_all(pinned, 1.0f);
    dev_copy_in(a, dev, pinned, BYTES);
    for (uint32_t i = 0; i < 3000; i++) {
        host_scale(a, dev, dev, i % 2 ? 2.0f : 0.5f, VALUE_N);
    }
    assert_true(get_first(a, dev) == 1.0f);
}

/* Both streams are due before anything runs: b's work is not left until a, which comes first, runs
 * dry. */
static void test_no_stream_starves(void **state)
{
    (void)state;
    void *p = NULL;
    struct err err;
    assert_int_equal(dev_alloc_pinned(sizeof(uint32_t), true, &p, &err), 0);
    uint32_t *is_over = p;
    *is_over = 0;
    dev_fill(a, dev2, 1, BYTES);
    assert_int_equal(dev_stream_sync(a), 0);
    host_hold(a, is_over);
    for (uint32_t i = 0; i < 500; i++) {
        dev_fill(a, dev, 0, BYTES);
    }
    dev_copy_out(a, pinned, dev2, BYTES);
    dev_fill(b, dev2, 0, BYTES);
    bool is_held = dev_stream_query(a) == 1 && dev_stream_query(b) == 1;
    __atomic_store_n(is_over, 1, __ATOMIC_RELEASE);
    assert_true(is_held);
    assert_int_equal(dev_stream_sync(a), 0);
    assert_true(pinned[0] == 0.0f);
    dev_free_pinned(p);
}

static void test_stream_is_freed_with_work(void **state)
{
    (void)state;
    struct dev_stream *stream = dev_stream_new();
    struct dev_event *event = dev_event_new();
    put_all(pinned, 9.0f);
    dev_copy_in(stream, dev, pinned, BYTES);
    dev_event_record(event, stream);
    dev_stream_free(stream);
    dev_event_wait(a, event);
    assert_true(get_first(a, dev) == 9.0f);
    dev_event_free(event);
}

/* Each thread has a stream; their steps wait for one another's in a ring. */
struct worker {
    struct dev_stream *stream;
    struct dev_event *mine;
    struct dev_event *before;
    float *values;
    pthread_t thread;
};

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    float *staging = take_pinned(BYTES);
    for (uint32_t round = 0; round < ROUND_N; round++) {
        put_all(staging, (float)round);
        dev_copy_in(w->stream, w->values, staging, BYTES);
        dev_event_wait(w->stream, w->before);
        host_scale(w->stream, w->values, w->values, 2.0f, VALUE_N);
        dev_event_record(w->mine, w->stream);
        if (get_first(w->stream, w->values) != 2.0f * (float)round) {
            return w;
        }
    }
    dev_free_pinned(staging);
    return NULL;
}

static void test_threads(void **state)
{
    struct worker workers[THREAD_N];
    (void)state;
    emu_knobs.order_seed = 3;
    emu_knobs.lag_ns = SHORT_NS;
    emu_reset();
    for (uint32_t i = 0; i < THREAD_N; i++) {
        workers[i] = (struct worker){.stream = dev_stream_new(), .mine = dev_event_new()};
        workers[i].values = take(BYTES);
    }
    for (uint32_t i = 0; i < THREAD_N; i++) {
        workers[i].before = workers[(i + THREAD_N - 1) % THREAD_N].mine;
    }
    for (uint32_t i = 0; i < THREAD_N; i++) {
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREAD_N; i++) {
        void *bad;
        assert_int_equal(pthread_join(workers[i].thread, &bad), 0);
        assert_null(bad);
    }
    for (uint32_t i = 0; i < THREAD_N; i++) {
        dev_event_free(workers[i].mine);
        dev_free(workers[i].values);
        dev_stream_free(workers[i].stream);
    }
}

static void test_no_device(void **state)
{
    (void)state;
    uint32_t n = 0;
    struct err err = {0};
    assert_int_equal(dev_count(&n, &err), 0);
    assert_int_equal(n, 1);
    assert_int_equal(dev_use(1, &err), ERR_NO_DEVICE);
    emu_knobs.device_n = 0;
    assert_int_equal(dev_count(&n, &err), ERR_NO_DEVICE);
    assert_int_equal(dev_use(0, &err), ERR_NO_DEVICE);
    emu_knobs.device_n = 1;
}

#define TEST(name)                                                                                 \
    {                                                                                              \
#name, name, setup, teardown, NULL                                                         \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_runs_unasked),
        TEST(test_time_starts_work),
        TEST(test_query_starts_work),
        TEST(test_pageable_memory),
        TEST(test_event_orders_streams),
        TEST(test_seeds_show_both_orders),
        TEST(test_graph_replays),
        TEST(test_capture_refuses),
        TEST(test_capture_permits),
        TEST(test_memory_is_limited),
        TEST(test_memory_refuses),
        TEST(test_launch_limits),
        TEST(test_device_fails),
        TEST(test_device_hangs),
        TEST(test_queue_is_bounded),
        TEST(test_no_stream_starves),
        TEST(test_stream_is_freed_with_work),
        TEST(test_threads),
        TEST(test_no_device),
    };
    first_knobs = emu_knobs;
    return cmocka_run_group_tests_name("emu_host", tests, NULL, NULL);
}
