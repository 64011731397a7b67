/* Names, states, and the pool's book-keeping. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "adapters/adapter.h"
#include "adapters/pool.h"
#include "base/base.h"

static void names_are_checked(void **state)
{
    (void)state;
    const char *good[] = {"a", "0", "sql", "legal-v3", "a.b_c-d", "0x", "a..b"};
    const char *bad[] = {"",  "-a",  "a-",  ".a",   "a.",       "A",        "a/b", "..",
                         ".", "a b", "a\n", "a\0b", "\xc3\xa9", "con:trol", "_"};
    for (size_t i = 0; i < ARRAY_N(good); i++) {
        assert_true(adapter_name_is_valid(good[i]));
    }
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        /* "a\0b" ends at its NUL and is a legal "a" */
        assert_int_equal(adapter_name_is_valid(bad[i]), strcmp(bad[i], "a") == 0);
    }
    char name[80];
    memset(name, 'x', sizeof name);
    name[64] = '\0';
    assert_true(adapter_name_is_valid(name));
    name[64] = 'x';
    name[65] = '\0';
    assert_false(adapter_name_is_valid(name));
    assert_string_equal(adapter_state_name(ADAPTER_RETIRING), "RETIRING");
    assert_string_equal(adapter_state_name((enum adapter_state)77), "UNKNOWN");
}

static bool owner_is_odd(void *arg, uint32_t owner)
{
    (void)arg;
    return owner % 2 == 1;
}

static void pool_first_fit_and_joining(void **state)
{
    struct pool pool;
    (void)state;
    pool_init(&pool, 1024 + 63, 5);
    assert_int_equal(pool.bytes, 1024);
    uint32_t n[4];
    for (uint32_t i = 0; i < 4; i++) {
        n[i] = pool_alloc(&pool, 256, i);
        assert_int_equal(pool.nodes[n[i]].at, 256 * i);
    }
    assert_int_equal(pool_alloc(&pool, 64, 9), POOL_NONE);
    assert_true(pool_would_fit(&pool, 256, owner_is_odd, NULL));
    assert_false(pool_would_fit(&pool, 320, owner_is_odd, NULL));
    pool_free(&pool, n[0]);
    pool_free(&pool, n[2]);
    assert_true(pool_would_fit(&pool, 1024 - 256, owner_is_odd, NULL) == true);
    assert_int_equal(pool_alloc(&pool, 320, 9), POOL_NONE);
    pool_free(&pool, n[1]); /* joins on both sides */
    uint32_t big = pool_alloc(&pool, 768, 9);
    assert_int_not_equal(big, POOL_NONE);
    assert_int_equal(pool.nodes[big].at, 0);
    assert_int_equal(pool.used, 1024);
    pool_free(&pool, big);
    pool_free(&pool, n[3]);
    assert_int_equal(pool.used, 0);
    /* block_max holds also where there is room */
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_not_equal(pool_alloc(&pool, 64, i), POOL_NONE);
    }
    assert_int_equal(pool_alloc(&pool, 64, 9), POOL_NONE);
    pool_done(&pool);
    pool_init(&pool, 63, 5);
    assert_int_equal(pool_alloc(&pool, 64, 1), POOL_NONE);
    pool_done(&pool);
}

/* The list covers the pool without gaps, and no two holes touch. */
static void pool_check(const struct pool *pool)
{
    size_t at = 0;
    size_t used = 0;
    bool was_hole = false;
    for (uint32_t i = pool->first; i != POOL_NONE; i = pool->nodes[i].next) {
        bool is_hole = pool->nodes[i].owner == POOL_NONE;
        assert_int_equal(pool->nodes[i].at, at);
        assert_false(is_hole && was_hole);
        at += pool->nodes[i].bytes;
        used += is_hole ? 0 : pool->nodes[i].bytes;
        was_hole = is_hole;
    }
    assert_int_equal(at, pool->bytes);
    assert_int_equal(used, pool->used);
}

static void pool_random_churn(void **state)
{
    struct pool pool;
    uint32_t nodes[40];
    (void)state;
    srand(1);
    pool_init(&pool, 64 * 100, 40);
    for (uint32_t i = 0; i < ARRAY_N(nodes); i++) {
        nodes[i] = POOL_NONE;
    }
    for (int round = 0; round < 20000; round++) {
        uint32_t i = (uint32_t)rand() % ARRAY_N(nodes);
        if (nodes[i] != POOL_NONE) {
            pool_free(&pool, nodes[i]);
            nodes[i] = POOL_NONE;
        } else {
            nodes[i] = pool_alloc(&pool, 64 * (1 + (size_t)rand() % 20), i);
        }
        pool_check(&pool);
    }
    pool_done(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(pool_first_fit_and_joining),
        cmocka_unit_test(pool_random_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
