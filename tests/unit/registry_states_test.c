/* Leases of adapters that have states: which one a sequence begins with, and that two are refused
 * wherever they stand and whenever that is found. */
#include "tests/unit/registry_fake.h"

/* "a01" has states alone, "a02" rows alone, "a03" both, "a04" states alone, too. */
static void start(struct fake *f)
{
    fake_start(f, 8192, 8192);
    f->folders[1] = (struct fake_folder){.bytes = 100, .has_states = true, .has_no_rows = true};
    f->folders[2] = (struct fake_folder){.bytes = 100};
    f->folders[3] = (struct fake_folder){.bytes = 100, .has_states = true};
    f->folders[4] = (struct fake_folder){.bytes = 100, .has_states = true, .has_no_rows = true};
}

static int acquire(struct fake *f, const struct lease_want *want, struct lease *lease,
                   struct lease_answer *answer)
{
    return registry_acquire(f->registry, want, lease, f->now_ns, answer);
}

/* Asks, waits for what must be loaded, and asks again. */
static int hold(struct fake *f, const struct lease_want *want, struct lease *lease,
                struct lease_answer *answer)
{
    int rc = acquire(f, want, lease, answer);
    if (rc == ERR_ADAPTER_LOADING) {
        assert_true(fake_settle(f));
        rc = acquire(f, want, lease, answer);
    }
    return rc;
}

static void leases_say_what_changes(void **state)
{
    static const struct {
        struct lease_want want;
        bool has_rows[3];
        uint32_t state;
    } cases[] = {
        {{.n = 1, .names = {"a01"}}, {false}, 0},
        {{.n = 1, .names = {"a02"}}, {true}, LIMIT_REQUEST_ADAPTERS},
        {{.n = 1, .names = {"a03"}}, {true}, 0},
        {{.n = 2, .names = {"a01", "a02"}}, {false, true}, 0},
        {{.n = 2, .names = {"a02", "a01"}}, {true, false}, 1},
        {{.n = 3, .names = {"a02", "a02", "a03"}}, {true, true, true}, 2},
        {{.n = 0}, {false}, LIMIT_REQUEST_ADAPTERS},
    };
    struct fake f;
    (void)state;
    start(&f);
    for (size_t i = 0; i < 2 * ARRAY_N(cases); i++) { /* cold or not */
        const struct lease_want *want = &cases[i / 2].want;
        struct lease lease = {0};
        struct lease_answer answer;
        assert_int_equal(hold(&f, want, &lease, &answer), 0);
        assert_int_equal(lease.state, cases[i / 2].state);
        for (uint32_t k = 0; k < want->n; k++) {
            assert_int_equal(lease.has_rows[k], cases[i / 2].has_rows[k]);
        }
        registry_release(f.registry, &lease, f.now_ns);
    }
    fake_stop(&f);
}

static void two_states_are_refused(void **state)
{
    static const struct {
        struct lease_want want;
        const char *text;
    } cases[] = {
        {{.n = 2, .names = {"a01", "a04"}}, "\"a01\" and \"a04\""},
        {{.n = 2, .names = {"a04", "a01"}}, "\"a04\" and \"a01\""},
        {{.n = 3, .names = {"a01", "a02", "a03"}}, "\"a01\" and \"a03\""},
        {{.n = 3, .names = {"a02", "a03", "a01"}}, "\"a03\" and \"a01\""},
        {{.n = 2, .names = {"a01", "a01"}}, "\"a01\" and \"a01\""},
        {{.n = 2, .names = {"a01", "a04"}, .fail_if_cold = true}, "\"a01\" and \"a04\""},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        struct fake f;
        struct lease lease = {0};
        struct lease_answer answer;
        char want[200];
        start(&f);
        /* a folder says what it holds when it was read */
        if (!cases[i].want.fail_if_cold) {
            assert_int_equal(acquire(&f, &cases[i].want, &lease, &answer), ERR_ADAPTER_LOADING);
            assert_true(fake_settle(&f));
        } else {
            struct lease_want warm = {.n = 1, .names = {"a04"}};
            assert_int_equal(hold(&f, &warm, &lease, &answer), 0);
            registry_release(f.registry, &lease, f.now_ns);
            warm.names[0] = "a01";
            assert_int_equal(hold(&f, &warm, &lease, &answer), 0);
            registry_release(f.registry, &lease, f.now_ns);
        }
        for (uint32_t k = 0; k < 2; k++) { /* the waiter's turn; then a new one's, all there */
            assert_int_equal(acquire(&f, &cases[i].want, &lease, &answer), ERR_INVALID_PARAMETER);
            snprintf(want, sizeof want,
                     "adapters %s both hold initial states, a request can have one", cases[i].text);
            assert_string_equal(answer.err.text, want);
            assert_false(lease.is_held || lease.waiter);
            assert_int_equal(registry_pin_n(f.registry), 0);
        }
        fake_stop(&f);
    }
}

/* A name's new content may be of another kind: a lease keeps what it was given. */
static void contents_change_kind(void **state)
{
    struct fake f;
    struct lease old = {0};
    struct lease young = {0};
    struct lease_answer answer;
    struct lease_want want = {.n = 2, .names = {"a01", "a02"}};
    struct adapter out;
    struct adapter_op op = {
        .type = ADAPTER_OP_LOAD, .name = "a02", .key = 1, .out = &out, .out_max = 1};
    (void)state;
    start(&f);
    assert_int_equal(hold(&f, &want, &old, &answer), 0);
    f.folders[2] = (struct fake_folder){.bytes = 100, .content = 1, .has_states = true};
    registry_ask(f.registry, &op, f.now_ns);
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(acquire(&f, &want, &young, &answer), ERR_INVALID_PARAMETER);
    assert_int_equal(old.state, 0);
    want = (struct lease_want){.n = 1, .names = {"a02"}};
    assert_int_equal(acquire(&f, &want, &young, &answer), 0);
    assert_int_equal(young.state, 0);
    registry_release(f.registry, &young, f.now_ns);
    registry_release(f.registry, &old, f.now_ns);
    fake_stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leases_say_what_changes),
        cmocka_unit_test(two_states_are_refused),
        cmocka_unit_test(contents_change_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
