/* The worker team: every index exactly once, results visible to the caller, sleeping and waking. */
#include "tests/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "kernels/cpu/team.h"

struct work {
    uint32_t *counts; /* plain memory: the team's own order must make it safe */
    uint32_t *by_member;
    uint32_t value;
};

static void work_unit(void *arg, uint32_t index, uint32_t member)
{
    struct work *work = arg;
    work->counts[index] += work->value;
    work->by_member[member * 16]++;
}

static void stress(uint32_t member_n, uint32_t round_n)
{
    struct team *team = team_open(member_n, 0);
    uint32_t counts[97] = {0};
    uint32_t want[97] = {0};
    uint32_t by_member[16 * 8] = {0};
    uint64_t total = 0;
    assert_int_equal(team_size(team), member_n);
    for (uint32_t round = 0; round < round_n; round++) {
        struct work work = {counts, by_member, round % 7 + 1};
        uint32_t n = round * 31 % 98;
        if (round % 50 == 0) {
            team_wake(team);
        }
        team_each(team, n, work_unit, &work);
        for (uint32_t i = 0; i < n; i++) {
            want[i] += work.value;
        }
        total += n;
        assert_memory_equal(counts, want, sizeof counts);
        if (round % 50 == 49) {
            team_rest(team);
        }
        if (round % 200 == 120) {
            struct timespec pause = {0, 300000}; /* long enough for members to fall asleep */
            nanosleep(&pause, NULL);
        }
    }
    for (uint32_t m = 0; m < member_n; m++) {
        total -= by_member[m * 16];
    }
    assert_int_equal(total, 0);
    team_close(team);
}

static void test_stress(void **state)
{
    (void)state;
    for (uint32_t member_n = 1; member_n <= 5; member_n++) {
        stress(member_n, 2000);
    }
}

static void test_open_and_close(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 50; i++) {
        struct team *team = team_open(3, i % 2);
        if (i % 3 == 0) {
            team_wake(team);
        }
        team_close(team);
    }
    team_close(NULL);
}

/* Threads of this process that the kernel does not list as sleeping, the caller left out. */
static uint32_t awake_n(void)
{
    uint32_t n = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[300];
        char state = 'S';
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
        FILE *f = fopen(path, "re");
        if (f) {
            /* "17 (name) S ..."; names here hold no bracket */
            assert_true(fscanf(f, "%*d (%*[^)]) %c", &state) <= 1);
            fclose(f);
        }
        n += state != 'S' && entry->d_name[0] != '.' && atol(entry->d_name) != getpid();
    }
    closedir(dir);
    return n;
}

/* After a step everybody goes to sleep; if one does not, this never ends. */
static void test_rest_sleeps(void **state)
{
    struct team *team = team_open(4, 0);
    uint32_t counts[97] = {0};
    uint32_t by_member[16 * 8] = {0};
    struct work work = {counts, by_member, 1};
    struct timespec pause = {0, 1000000};
    (void)state;
    for (uint32_t step = 0; step < 3; step++) {
        team_wake(team);
        team_each(team, 97, work_unit, &work);
        team_rest(team);
        for (uint32_t quiet = 0; quiet < 10; quiet = awake_n() == 0 ? quiet + 1 : 0) {
            nanosleep(&pause, NULL);
        }
    }
    team_close(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stress),
        cmocka_unit_test(test_open_and_close),
        cmocka_unit_test(test_rest_sleeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
