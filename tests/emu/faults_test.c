/* Every planted fault is found: told with kernel, block, thread and line, or seen in the outputs,
 * as the table of faults.cu says for this build, in several orders of blocks, warps and lanes. The
 * twins are right and silent in every build.
 *
 * A faulty kernel runs in a process of its own, because the emulation and the sanitizers end it. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/faults.h"

#define SOURCE     TEST_ROOT "/tests/emu/faults.cu"
#define TEXT_MAX   32768u
#define LINE_MAX   256
#define TWIN_SEEDS 5u

#if defined(__SANITIZE_ADDRESS__)
#define BUILD       FAULT_ASAN
#define FAULT_SEEDS 5u
#elif defined(__SANITIZE_THREAD__)
#define BUILD       FAULT_RACE
#define FAULT_SEEDS 2u /* its processes take half a second each */
#else
#define BUILD       FAULT_PLAIN
#define FAULT_SEEDS 5u
#endif

/* The line of the source that a comment marks with the fault's name. */
static int line_of(const char *name)
{
    char mark[LINE_MAX];
    char text[LINE_MAX];
    int line = 0;
    snprintf(mark, sizeof mark, "/* fault: %s */", name);
    FILE *source = fopen(SOURCE, "r");
    ASSERT(source);
    while (fgets(text, sizeof text, source)) {
        line++;
        if (strstr(text, mark)) {
            fclose(source);
            return line;
        }
    }
    fail_msg("%s: no line is marked", name);
    return 0;
}

/* Runs `child` in a process of its own: its exit status, and what it printed. */
static int run(int (*child)(const struct fault *fault, uint32_t seed), const struct fault *fault,
               uint32_t seed, char *text)
{
    FILE *printed = tmpfile();
    ASSERT(printed);
    fflush(NULL);
    pid_t pid = fork();
    ASSERT_CMP(pid, >=, 0);
    if (pid == 0) {
        dup2(fileno(printed), STDERR_FILENO);
        emu_knobs.is_strict = true;
        emu_knobs.threads_max = FAULT_THREADS;
        _exit(child(fault, seed));
    }
    int status;
    ASSERT_CMP(waitpid(pid, &status, 0), ==, pid);
    rewind(printed);
    text[fread(text, 1, TEXT_MAX - 1, printed)] = '\0';
    fclose(printed);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int faulty_child(const struct fault *fault, uint32_t seed)
{
    emu_knobs.lane_seed = seed;
    return fault->run(true);
}

/* All twins from this one on, in every order. */
static int twins_child(const struct fault *fault, uint32_t seed_n)
{
    for (; fault->name; fault++) {
        for (uint32_t seed = 0; seed < seed_n; seed++) {
            emu_knobs.lane_seed = seed;
            enum fault_out out = fault->run(false);
            if (out != FAULT_RIGHT) {
                fprintf(stderr, "%s, order %u", fault->name, seed);
                return out;
            }
        }
    }
    return FAULT_RIGHT;
}

/* A sanitizer tells the line in its own way, and of two barriers either may be the thread's that
 * came second. Where in the block is known for ascending order. */
static bool is_told(const struct fault *fault, uint32_t seed, const char *text)
{
    char kernel[LINE_MAX];
    char line[LINE_MAX];
    char waits[LINE_MAX];
    char frame[LINE_MAX];
    snprintf(kernel, sizeof kernel, "kernel %s<true> block (", fault->name);
    snprintf(line, sizeof line, " line %d\n", line_of(fault->name));
    snprintf(waits, sizeof waits, " waits at line %d for ", line_of(fault->name));
    snprintf(frame, sizeof frame, "faults.cu:%d", line_of(fault->name));
    const char *place = seed ? " thread (" : fault->place;
    return strstr(text, fault->says) && strstr(text, kernel) && strstr(text, place) &&
           (strstr(text, line) || strstr(text, waits) || strstr(text, frame));
}

static void test_fault(void **state)
{
    const struct fault *fault = *state;
    char *text = malloc(TEXT_MAX);
    ASSERT(text);
    for (uint32_t seed = 0; seed < FAULT_SEEDS; seed++) {
        if (!((fault->told_in | fault->seen_in) & BUILD)) {
            break;
        }
        int status = run(faulty_child, fault, seed, text);
        if (fault->told_in & BUILD && !is_told(fault, seed, text)) {
            fail_msg("%s, order %u: not told, status %d: %s", fault->name, seed, status, text);
        }
        if (fault->seen_in & BUILD && status != FAULT_NAN) {
            fail_msg("%s, order %u: not seen, status %d: %s", fault->name, seed, status, text);
        }
    }
    free(text);
}

static void test_twins(void **state)
{
    (void)state;
    char *text = malloc(TEXT_MAX);
    ASSERT(text);
    int status = run(twins_child, faults, TWIN_SEEDS, text);
    if (status != FAULT_RIGHT || text[0]) {
        fail_msg("the twins ended with %d: %s", status, text);
    }
    free(text);
}

int main(void)
{
    struct CMUnitTest tests[64];
    size_t n = 1;
    tests[0] = (struct CMUnitTest)cmocka_unit_test(test_twins);
    for (const struct fault *fault = faults; fault->name; fault++) {
        ASSERT_CMP(n, <, ARRAY_N(tests));
        tests[n++] =
            (struct CMUnitTest){fault->name, test_fault, NULL, NULL, (void *)(uintptr_t)fault};
    }
    return _cmocka_run_group_tests("faults", tests, n, NULL, NULL);
}
