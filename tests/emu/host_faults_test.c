/* Faults of host programs that the emulated device must show: seven small programs in the shape of
 * the daemon's steady state, each with one fault and as its correct twin, under several orders.
 *
 * A program runs in a process of its own. It ends RIGHT, or WRONG when it has seen a value that is
 * not what the step before should have left, or REFUSED when a word said no. Where ASan is, reading
 * freed memory ends the process with its report instead. */
#include "tests/test.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/host_kernels.h"

#ifdef __SANITIZE_THREAD__
#define SEED_N 1u /* a process of the race build makes its fibers for seconds */
#else
#define SEED_N 8u
#endif
#define ROUND_N   8u
#define VALUE_N   64u
#define BYTES     (VALUE_N * sizeof(float))
#define LAG_NS    3000000u     /* where the host only watches memory */
#define LONG_NS   60000000000u /* elsewhere: work runs when it is asked for, never by itself */
#define FACTOR    2.0f
#define TEXT_MAX  8192u
#define TOKEN_ODD 1000u

enum outcome { RIGHT = 0, WRONG = 10, REFUSED = 11 };

struct program {
    const char *name;
    enum outcome (*run)(bool is_faulty);
    enum outcome found; /* how its fault shows */
    const char *says;   /* and what is printed then */
    bool is_poison;     /* or ASan reports it */
};

static struct dev_stream *steps;  /* what the rank thread queues */
static struct dev_stream *copies; /* what brings adapters and pages */
static float *in;                 /* device [VALUE_N] */
static float *out;                /* device [ROUND_N][VALUE_N] */
static float *seen;               /* pinned [ROUND_N][VALUE_N] */

static float *take(bool is_pinned, size_t bytes)
{
    void *p;
    struct err err;
    int rc = is_pinned ? dev_alloc_pinned(bytes, false, &p, &err) : dev_alloc(bytes, &p, &err);
    ASSERT_CMP(rc, ==, 0);
    return p;
}

static void put_all(float *to, float value)
{
    for (uint32_t i = 0; i < VALUE_N; i++) {
        to[i] = value;
    }
}

/* Brings `out` back and holds round r of it to FACTOR * (r + 1). */
static enum outcome judge(void)
{
    dev_copy_out(steps, seen, out, ROUND_N * BYTES);
    if (dev_stream_sync(steps)) {
        fprintf(stderr, "%s\n", dev_failure());
        return REFUSED;
    }
    for (uint32_t i = 0; i < ROUND_N * VALUE_N; i++) {
        if (seen[i] != FACTOR * (float)(i / VALUE_N + 1)) {
            fprintf(stderr, "round %u saw %g\n", i / VALUE_N, (double)seen[i]);
            return WRONG;
        }
    }
    return RIGHT;
}

static void step(uint32_t round, const float *from)
{
    host_scale(steps, out + round * VALUE_N, from, FACTOR, VALUE_N);
}

/* One pinned block for the batches of all steps, written again before its copy has run. */
static enum outcome pinned_block(bool is_faulty)
{
    float *block = take(true, BYTES);
    struct dev_event *copied = dev_event_new();
    for (uint32_t round = 0; round < ROUND_N; round++) {
        while (!is_faulty && dev_event_query(copied) == 1) {
            sched_yield();
        }
        put_all(block, (float)(round + 1));
        dev_copy_in(steps, in, block, BYTES);
        dev_event_record(copied, steps);
        step(round, in);
    }
    dev_event_free(copied);
    return judge();
}

/* An adapter is copied on its own stream; the step that uses it does not wait for the copy. */
static enum outcome adapter_copy(bool is_faulty)
{
    float *staging = take(true, BYTES);
    float *adapters = take(false, ROUND_N * BYTES);
    struct dev_event *copied = dev_event_new();
    for (uint32_t round = 0; round < ROUND_N; round++) {
        put_all(staging, (float)(round + 1));
        dev_copy_in(copies, adapters + round * VALUE_N, staging, BYTES);
        dev_event_record(copied, copies);
        if (!is_faulty) {
            dev_event_wait(steps, copied);
        }
        step(round, adapters + round * VALUE_N);
        dev_stream_sync(steps);
        dev_stream_sync(copies);
    }
    dev_event_free(copied);
    return judge();
}

/* A token is read from mapped memory when the step before it has arrived. */
static enum outcome early_token(bool is_faulty)
{
    void *mapped;
    struct err err;
    ASSERT_CMP(dev_alloc_pinned(sizeof(struct host_result), true, &mapped, &err), ==, 0);
    struct host_result *result = mapped;
    uint32_t *token = (uint32_t *)(void *)take(false, sizeof *token);
    uint32_t *token_in = (uint32_t *)(void *)take(true, ROUND_N * sizeof *token_in);
    *result = (struct host_result){0};
    emu_knobs.lag_ns = LAG_NS;
    for (uint32_t round = 0; round < ROUND_N; round++) {
        uint64_t number = round + 1;
        token_in[round] = TOKEN_ODD + round;
        dev_copy_in(steps, token, token_in + round, sizeof *token);
        host_publish(steps, result, token, number);
        while (__atomic_load_n(&result->number, __ATOMIC_ACQUIRE) < number - is_faulty) {
            usleep(100);
        }
        if (result->token != TOKEN_ODD + round) {
            fprintf(stderr, "step %u gave token %u\n", round, result->token);
            dev_stream_sync(steps);
            return WRONG;
        }
    }
    return dev_stream_sync(steps) ? REFUSED : RIGHT;
}

/* A page goes to another sequence, which fills it, before the step that reads it was read. */
static enum outcome page_in_flight(bool is_faulty)
{
    float *page = take(false, BYTES);
    float *restored = take(true, BYTES);
    for (uint32_t round = 0; round < ROUND_N; round++) {
        put_all(restored, (float)(round + 1));
        dev_copy_in(copies, page, restored, BYTES);
        dev_stream_sync(copies);
        step(round, page);
        if (!is_faulty) {
            dev_stream_sync(steps);
        }
        put_all(restored, -1.0f);
        dev_copy_in(copies, page, restored, BYTES);
        dev_stream_sync(copies);
        dev_stream_sync(steps);
    }
    return judge();
}

/* A version's memory is freed while an enqueued step names it. */
static enum outcome version_freed(bool is_faulty)
{
    float *staging = take(true, BYTES);
    for (uint32_t round = 0; round < ROUND_N; round++) {
        float *version = take(false, BYTES);
        put_all(staging, (float)(round + 1));
        dev_copy_in(copies, version, staging, BYTES);
        dev_stream_sync(copies);
        step(round, version);
        if (!is_faulty) {
            dev_stream_sync(steps);
        }
        dev_free(version);
        dev_stream_sync(steps);
    }
    return judge();
}

/* The same with a pool inside one reservation, which says that the bytes mean nothing any more. */
static enum outcome version_to_pool(bool is_faulty)
{
    float *staging = take(true, BYTES);
    float *version = take(false, BYTES);
    for (uint32_t round = 0; round < ROUND_N; round++) {
        put_all(staging, (float)(round + 1));
        dev_copy_in(copies, version, staging, BYTES);
        dev_stream_sync(copies);
        step(round, version);
        if (!is_faulty) {
            dev_stream_sync(steps);
        }
        dev_discard(version, BYTES);
        dev_stream_sync(steps);
    }
    return judge();
}

/* Memory is reserved in the middle of a capture. */
static enum outcome capture_allocates(bool is_faulty)
{
    struct dev_graph *graph;
    struct err err;
    float *block = take(true, BYTES);
    float *more = is_faulty ? NULL : take(false, BYTES);
    dev_graph_begin(steps);
    dev_copy_in(steps, in, block, BYTES);
    if (is_faulty) {
        void *p;
        dev_alloc(BYTES, &p, &err);
    } else {
        host_scale(steps, more, in, FACTOR, VALUE_N);
    }
    if (dev_graph_end(steps, &graph, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return REFUSED;
    }
    for (uint32_t round = 0; round < ROUND_N; round++) {
        put_all(block, (float)(round + 1));
        dev_graph_launch(steps, graph);
        dev_copy(steps, out + round * VALUE_N, more, BYTES);
        dev_stream_sync(steps);
    }
    dev_graph_free(graph);
    return judge();
}

static const struct program programs[] = {
    {"pinned block reused early", pinned_block, WRONG, "saw 16", false},
    {"missing wait for an adapter copy", adapter_copy, WRONG, "nan", false},
    {"token read before its step number", early_token, WRONG, "gave token", false},
    {"page reused in flight", page_in_flight, WRONG, "saw -2", false},
    {"version freed while an enqueued step names it", version_freed, WRONG, "nan", true},
    {"version given back while an enqueued step names it", version_to_pool, WRONG, "nan", false},
    {"allocation during capture", capture_allocates, REFUSED,
     "dev_alloc is not permitted while a graph is captured", false},
};

static NORETURN void child(const struct program *program, bool is_faulty, uint32_t seed)
{
    emu_knobs.order_seed = seed;
    emu_knobs.lag_ns = LONG_NS;
    struct err err;
    ASSERT_CMP(dev_use(0, &err), ==, 0);
    steps = dev_stream_new();
    copies = dev_stream_new();
    in = take(false, BYTES);
    out = take(false, ROUND_N * BYTES);
    seen = take(true, ROUND_N * BYTES);
    enum outcome outcome = program->run(is_faulty);
    if (outcome == RIGHT && dev_failure()[0]) {
        fprintf(stderr, "%s\n", dev_failure());
        outcome = REFUSED;
    }
    _exit(outcome);
}

/* The exit status of the program, and what it printed. */
static int run(const struct program *program, bool is_faulty, uint32_t seed, char *text)
{
    FILE *printed = tmpfile();
    ASSERT(printed);
    fflush(NULL);
    pid_t pid = fork();
    ASSERT_CMP(pid, >=, 0);
    if (pid == 0) {
        dup2(fileno(printed), STDERR_FILENO);
        child(program, is_faulty, seed);
    }
    int status;
    ASSERT_CMP(waitpid(pid, &status, 0), ==, pid);
    rewind(printed);
    text[fread(text, 1, TEXT_MAX - 1, printed)] = '\0';
    fclose(printed);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static bool is_found(const struct program *program, int status, const char *text)
{
    if (program->is_poison && strstr(text, "AddressSanitizer: use-after-poison")) {
        return true;
    }
    return status == (int)program->found && strstr(text, program->says);
}

static void test_program(void **state)
{
    const struct program *program = *state;
    char text[TEXT_MAX];
    for (uint32_t seed = 0; seed < SEED_N; seed++) {
        int status = run(program, true, seed, text);
        if (!is_found(program, status, text)) {
            fail_msg("%s, order %u: not found, status %d: %s", program->name, seed, status, text);
        }
        status = run(program, false, seed, text);
        if (status != RIGHT) {
            fail_msg("%s, order %u: the twin ended with %d: %s", program->name, seed, status, text);
        }
    }
}

int main(void)
{
    struct CMUnitTest tests[ARRAY_N(programs)];
    for (size_t i = 0; i < ARRAY_N(programs); i++) {
        tests[i] = (struct CMUnitTest){programs[i].name, test_program, NULL, NULL,
                                       (void *)(uintptr_t)&programs[i]};
    }
    return cmocka_run_group_tests_name("host_faults", tests, NULL, NULL);
}
