/* The registry, one promise a test: loads, joins, swaps, failures, unloading, eviction, order. */
#include "tests/unit/registry_fake.h"

static int acquire(struct fake *f, const char *a, const char *b, struct lease *lease,
                   struct lease_answer *answer)
{
    struct lease_want want = fake_want(a, b);
    return registry_acquire(f->registry, &want, lease, f->now_ns, answer);
}

/* Acquires what can be had without waiting for pins. */
static void hold(struct fake *f, const char *a, const char *b, struct lease *lease)
{
    struct lease_answer answer;
    int rc = acquire(f, a, b, lease, &answer);
    if (rc == ERR_ADAPTER_LOADING) {
        assert_true(fake_settle(f));
        rc = acquire(f, a, b, lease, &answer);
    }
    assert_int_equal(rc, 0);
}

static struct adapter_op *ask(struct fake *f, struct adapter_op *op, enum adapter_op_type type,
                              const char *name)
{
    static uint64_t key;
    static struct adapter out[LIMIT_ADAPTERS];
    *op = (struct adapter_op){.type = type, .key = ++key, .out = out, .out_max = LIMIT_ADAPTERS};
    snprintf(op->name, sizeof op->name, "%s", name);
    registry_ask(f->registry, op, f->now_ns);
    return op;
}

static struct adapter get(struct fake *f, const char *name)
{
    struct adapter_op op;
    ask(f, &op, ADAPTER_OP_GET, name);
    assert_ptr_equal(registry_answered(f->registry), &op);
    assert_int_equal(op.err.code, 0);
    return op.out[0];
}

static bool is_known(struct fake *f, const char *name)
{
    struct adapter_op op;
    ask(f, &op, ADAPTER_OP_GET, name);
    assert_ptr_equal(registry_answered(f->registry), &op);
    assert_true(op.err.code == 0 || op.err.code == ERR_ADAPTER_NOT_FOUND);
    return op.err.code == 0;
}

static void set_folder(struct fake *f, uint32_t i, uint32_t bytes, uint32_t content)
{
    f->folders[i] = (struct fake_folder){.bytes = bytes, .content = content};
}

static void loads_on_first_use(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 4096, 100);
    set_folder(&f, 1, 1000, 7);
    assert_int_equal(registry_add(f.registry, "a01", NULL), 0);
    assert_int_equal(get(&f, "a01").state, ADAPTER_REGISTERED);
    assert_int_equal(acquire(&f, "a01", NULL, &lease, &answer), ERR_ADAPTER_LOADING);
    assert_int_equal(get(&f, "a01").state, ADAPTER_LOADING);
    assert_int_equal(get(&f, "a01").queued_n, 1);
    bool is_busy;
    fake_progress(&f, &is_busy);
    assert_int_equal(f.job_n, 1);
    fake_run_job(&f, 0);
    assert_int_equal(get(&f, "a01").state, ADAPTER_HOST);
    assert_int_equal(get(&f, "a01").host_bytes, 1000);
    /* 1000 bytes at 100 a call */
    for (int i = 0; i < 9; i++) {
        assert_false(fake_progress(&f, &is_busy));
        assert_true(is_busy);
        assert_int_equal(acquire(&f, "a01", NULL, &lease, &answer), ERR_ADAPTER_LOADING);
    }
    assert_true(fake_progress(&f, &is_busy));
    assert_int_equal(acquire(&f, "a01", NULL, &lease, &answer), 0);
    assert_string_equal(answer.revisions[0], get(&f, "a01").revision);
    assert_ptr_equal(f.blocks[lease.version[0]], f.pool);
    assert_int_equal(((unsigned char *)f.pool)[999], (unsigned char)(7 * 13 + 1));
    struct adapter a = get(&f, "a01");
    assert_int_equal(a.state, ADAPTER_DEVICE);
    assert_int_equal(a.active_n, 1);
    assert_int_equal(a.queued_n, 0);
    assert_int_equal(a.device_bytes, 1024);
    assert_int_equal(a.load_n, 1);
    assert_true(a.loaded_unix_ms > 0 && a.last_used_unix_ms > 0);
    assert_int_equal(registry_pin_n(f.registry), 1);
    registry_release(f.registry, &lease, f.now_ns);
    assert_int_equal(registry_pin_n(f.registry), 0);
    assert_int_equal(get(&f, "a01").state, ADAPTER_DEVICE);
    fake_stop(&f);
}

static void swap_keeps_running_versions(void **state)
{
    struct fake f;
    struct lease old = {0};
    struct lease young = {0};
    struct adapter_op op;
    (void)state;
    fake_start(&f, 4096, 64);
    set_folder(&f, 1, 640, 1);
    hold(&f, "a01", NULL, &old);
    uint64_t etag = get(&f, "a01").etag;
    /* the same content: success without work */
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    assert_null(registry_answered(f.registry));
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, 0);
    assert_true(op.is_unchanged);
    assert_int_equal(get(&f, "a01").load_n, 1);
    /* new content: the old version serves until the new one is complete */
    set_folder(&f, 1, 320, 2);
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    bool is_busy;
    fake_progress(&f, &is_busy);
    fake_run_job(&f, 0);
    fake_progress(&f, &is_busy);
    assert_int_equal(get(&f, "a01").state, ADAPTER_DEVICE);
    assert_true(get(&f, "a01").is_loading);
    hold(&f, "a01", NULL, &young);
    assert_int_equal(young.version[0], old.version[0]);
    registry_release(f.registry, &young, f.now_ns);
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_false(op.is_unchanged);
    assert_int_equal(op.out_n, 1);
    assert_int_not_equal(op.out[0].etag, etag);
    assert_int_equal(op.out[0].retiring_n, 1);
    assert_int_equal(op.out[0].device_bytes, 640 + 320);
    hold(&f, "a01", NULL, &young);
    assert_int_not_equal(young.version[0], old.version[0]);
    assert_int_equal(get(&f, "a01").active_n, 2);
    /* content that retires but still lies in memory serves again without a copy */
    set_folder(&f, 1, 640, 1);
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_false(op.is_unchanged);
    struct lease third = {0};
    hold(&f, "a01", NULL, &third);
    assert_int_equal(third.version[0], old.version[0]);
    registry_release(f.registry, &young, f.now_ns);
    assert_int_equal(registry_pool_used(f.registry), 640);
    assert_int_equal(get(&f, "a01").retiring_n, 0);
    registry_release(f.registry, &old, f.now_ns);
    registry_release(f.registry, &third, f.now_ns);
    fake_stop(&f);
}

static void failed_load_reaches_all_who_waited(void **state)
{
    struct fake f;
    struct lease leases[3] = {{{0}}};
    struct lease_answer answer;
    struct adapter_op op;
    (void)state;
    fake_start(&f, 4096, 64);
    set_folder(&f, 1, 640, 1);
    set_folder(&f, 2, 640, 1);
    f.folders[1].fail = ERR_BAD_FILE;
    assert_int_equal(acquire(&f, "a01", NULL, &leases[0], &answer), ERR_ADAPTER_LOADING);
    assert_int_equal(acquire(&f, "a02", "a01", &leases[1], &answer), ERR_ADAPTER_LOADING);
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    assert_true(fake_settle(&f));
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_BAD_FILE);
    assert_string_equal(op.err.text, "folder a01 is bad");
    assert_int_equal(get(&f, "a01").state, ADAPTER_FAILED);
    assert_string_equal(get(&f, "a01").last_error, "folder a01 is bad");
    /* A newer attempt begins, and succeeds, before the waiters ask: theirs failed all the same. */
    f.folders[1].fail = 0;
    hold(&f, "a01", NULL, &leases[2]);
    assert_string_equal(get(&f, "a01").last_error, "");
    assert_int_equal(get(&f, "a01").queued_n, 2);
    for (int i = 0; i < 2; i++) {
        int rc = i == 0 ? acquire(&f, "a01", NULL, &leases[i], &answer)
                        : acquire(&f, "a02", "a01", &leases[i], &answer);
        assert_int_equal(rc, ERR_BAD_FILE);
        assert_string_equal(answer.err.text, "folder a01 is bad");
        assert_int_equal(leases[i].waiter, 0);
    }
    assert_int_equal(get(&f, "a01").queued_n, 0);
    /* A failed reload leaves the serving version alone. */
    f.folders[1] = (struct fake_folder){.bytes = 64, .content = 9, .fail = ERR_CONFLICT};
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_CONFLICT);
    assert_int_equal(get(&f, "a01").state, ADAPTER_DEVICE);
    assert_string_equal(get(&f, "a01").last_error, "folder a01 is bad");
    hold(&f, "a01", NULL, &leases[0]);
    registry_release(f.registry, &leases[0], f.now_ns);
    registry_release(f.registry, &leases[2], f.now_ns);
    fake_stop(&f);
}

static void load_during_load_reads_again(void **state)
{
    struct fake f;
    struct adapter_op first;
    struct adapter_op second;
    struct adapter_op third;
    bool is_busy;
    (void)state;
    fake_start(&f, 4096, 64);
    set_folder(&f, 1, 640, 1);
    ask(&f, &first, ADAPTER_OP_LOAD, "a01");
    ask(&f, &second, ADAPTER_OP_LOAD, "a01"); /* not begun yet: the same read serves both */
    fake_progress(&f, &is_busy);
    ask(&f, &third, ADAPTER_OP_LOAD, "a01"); /* the read runs: a second one follows */
    fake_run_job(&f, 0);
    set_folder(&f, 1, 320, 2);
    fake_settle(&f);
    assert_int_equal(f.prepared_n, 2);
    int answered_n = 0;
    for (struct adapter_op *op; (op = registry_answered(f.registry)) != NULL; answered_n++) {
        assert_int_equal(op->err.code, 0);
        assert_false(op->is_unchanged);
    }
    assert_int_equal(answered_n, 3);
    assert_int_equal(get(&f, "a01").device_bytes, 320);
    assert_int_equal(get(&f, "a01").load_n, 2);
    fake_stop(&f);
}

static void unknown_names_are_forgotten(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease_answer answer;
    struct adapter_op op;
    (void)state;
    fake_start(&f, 4096, 64);
    assert_int_equal(acquire(&f, "a03", NULL, &lease, &answer), ERR_ADAPTER_LOADING);
    assert_true(fake_settle(&f));
    assert_true(is_known(&f, "a03"));
    assert_int_equal(acquire(&f, "a03", NULL, &lease, &answer), ERR_ADAPTER_NOT_FOUND);
    assert_false(is_known(&f, "a03"));
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a03");
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_ADAPTER_NOT_FOUND);
    assert_string_equal(op.err.text, "adapter \"a03\" is not known");
    ask(&f, &op, ADAPTER_OP_LOAD, "a03");
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_ADAPTER_NOT_FOUND);
    assert_false(is_known(&f, "a03"));
    ask(&f, &op, ADAPTER_OP_LOAD, "../etc");
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_INVALID_PARAMETER);
    assert_string_equal(op.err.text, "\"../etc\" is not an adapter name");
    /* A vanished folder: what serves goes on, then the name goes. */
    set_folder(&f, 4, 64, 1);
    hold(&f, "a04", NULL, &lease);
    f.folders[4].bytes = 0;
    ask(&f, &op, ADAPTER_OP_LOAD, "a04");
    fake_settle(&f);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_ADAPTER_NOT_FOUND);
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a04");
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, 0);
    assert_int_equal(op.out[0].state, ADAPTER_RETIRING);
    assert_true(is_known(&f, "a04"));
    registry_release(f.registry, &lease, f.now_ns);
    assert_false(is_known(&f, "a04"));
    fake_stop(&f);
}

static void unload_drains_and_next_use_loads(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease next = {0};
    struct adapter_op op;
    (void)state;
    fake_start(&f, 4096, 64);
    set_folder(&f, 1, 640, 1);
    hold(&f, "a01", NULL, &lease);
    const void *block = f.blocks[lease.version[0]];
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a01");
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(get(&f, "a01").state, ADAPTER_RETIRING);
    assert_int_equal(get(&f, "a01").active_n, 1);
    assert_string_equal(get(&f, "a01").revision, "");
    fake_settle(&f);
    assert_ptr_equal(f.blocks[lease.version[0]], block);
    registry_release(f.registry, &lease, f.now_ns);
    fake_settle(&f);
    assert_int_equal(get(&f, "a01").state, ADAPTER_REGISTERED);
    assert_int_equal(registry_pool_used(f.registry), 0);
    for (uint32_t i = 0; i < LIMIT_VERSIONS; i++) {
        assert_null(f.blocks[i]);
    }
    hold(&f, "a01", NULL, &next);
    assert_int_equal(get(&f, "a01").load_n, 2);
    registry_release(f.registry, &next, f.now_ns);
    /* Unloading while it loads for nobody drops what the read brings. */
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a01");
    registry_answered(f.registry);
    ask(&f, &op, ADAPTER_OP_LOAD, "a01");
    bool is_busy;
    fake_progress(&f, &is_busy);
    registry_cancel(f.registry, op.key);
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_CANCELLED);
    struct adapter_op unload;
    ask(&f, &unload, ADAPTER_OP_UNLOAD, "a01");
    registry_answered(f.registry);
    fake_settle(&f);
    assert_int_equal(get(&f, "a01").state, ADAPTER_REGISTERED);
    assert_int_equal(registry_pool_used(f.registry), 0);
    fake_stop(&f);
}

static void evicts_least_recently_used_by_bytes(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease held = {0};
    char name[LIMIT_ADAPTER_NAME_BYTES];
    (void)state;
    fake_start(&f, 1024, 4096);
    for (uint32_t i = 0; i < 5; i++) {
        set_folder(&f, i, 256, 1);
    }
    for (uint32_t i = 0; i < 4; i++) {
        fake_name(i, name);
        hold(&f, name, NULL, &lease);
        registry_release(f.registry, &lease, f.now_ns);
    }
    hold(&f, "a00", NULL, &held); /* pinned: a01 is now the one to go */
    hold(&f, "a04", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    assert_int_equal(get(&f, "a01").state, ADAPTER_REGISTERED);
    assert_int_equal(get(&f, "a02").state, ADAPTER_DEVICE);
    /* 512 bytes: a02 goes (least recent) but leaves 256; a03 beside it goes too, a04 stays */
    set_folder(&f, 5, 512, 1);
    hold(&f, "a05", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    assert_int_equal(get(&f, "a02").state, ADAPTER_REGISTERED);
    assert_int_equal(get(&f, "a03").state, ADAPTER_REGISTERED);
    assert_int_equal(get(&f, "a04").state, ADAPTER_DEVICE);
    assert_int_equal(registry_pool_used(f.registry), 1024);
    registry_release(f.registry, &held, f.now_ns);
    fake_stop(&f);
}

static void refuses_what_can_never_fit(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 1000, 4096); /* 960 usable */
    set_folder(&f, 1, 961, 1);
    set_folder(&f, 2, 500, 1);
    set_folder(&f, 3, 500, 1);
    assert_int_equal(acquire(&f, "a01", NULL, &lease, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    assert_int_equal(acquire(&f, "a01", NULL, &lease, &answer), ERR_ADAPTER_MEMORY_EXHAUSTED);
    assert_string_equal(answer.err.text, "could not load adapter \"a01\": it takes 961 bytes, the "
                                         "adapter pool has 960 (--adapter-memory)");
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_MEMORY_EXHAUSTED);
    assert_string_equal(answer.err.text, "the request's 2 adapters take 1024 bytes together, the "
                                         "adapter pool has 960 (--adapter-memory)");
    hold(&f, "a02", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    hold(&f, "a03", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    fake_stop(&f);
}

static void two_halves_do_not_deadlock(void **state)
{
    struct fake f;
    struct lease first = {0};
    struct lease second = {0};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 1024, 4096);
    for (uint32_t i = 0; i < 4; i++) {
        set_folder(&f, i, 512, 1);
    }
    assert_int_equal(acquire(&f, "a00", "a01", &first, &answer), ERR_ADAPTER_LOADING);
    assert_int_equal(acquire(&f, "a02", "a03", &second, &answer), ERR_ADAPTER_LOADING);
    bool is_busy;
    fake_progress(&f, &is_busy);
    /* each gets one half first */
    for (uint32_t i = f.job_n; i-- > 0;) {
        if (strcmp(f.jobs[i]->name, "a00") == 0 || strcmp(f.jobs[i]->name, "a02") == 0) {
            fake_run_job(&f, i);
        }
    }
    fake_progress(&f, &is_busy);
    assert_int_equal(get(&f, "a00").state, ADAPTER_DEVICE);
    assert_int_equal(get(&f, "a02").state, ADAPTER_DEVICE);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a00", "a01", &first, &answer), 0);
    assert_int_equal(acquire(&f, "a02", "a03", &second, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    assert_int_equal(acquire(&f, "a02", "a03", &second, &answer), ERR_ADAPTER_LOADING);
    registry_release(f.registry, &first, f.now_ns);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a02", "a03", &second, &answer), 0);
    registry_release(f.registry, &second, f.now_ns);
    fake_stop(&f);
}

/* Own parts that lie badly are placed afresh: 320 in the middle of 1024 leaves no hole of 640. */
static void scattered_holes_are_overcome(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 1024, 4096);
    set_folder(&f, 0, 384, 1);
    set_folder(&f, 1, 320, 1);
    set_folder(&f, 2, 640, 1);
    hold(&f, "a00", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    hold(&f, "a01", NULL, &lease);
    registry_release(f.registry, &lease, f.now_ns);
    int rc = ERR_ADAPTER_LOADING;
    for (int i = 0; i < 5 && rc == ERR_ADAPTER_LOADING; i++) {
        rc = acquire(&f, "a01", "a02", &lease, &answer);
        fake_settle(&f);
    }
    assert_int_equal(rc, 0);
    registry_release(f.registry, &lease, f.now_ns);
    fake_stop(&f);
}

static void overtaking_is_bounded(void **state)
{
    struct fake f;
    struct lease big = {0};
    struct lease hot[2] = {{{0}}};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 1024, 4096);
    set_folder(&f, 0, 256, 1);
    set_folder(&f, 1, 1024, 1);
    hold(&f, "a00", NULL, &hot[0]);
    assert_int_equal(acquire(&f, "a01", NULL, &big, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    /* a stream of overlapping requests that would pin a00 for ever */
    int passed_n = 0;
    int turn = 1;
    while (passed_n < 1000 && acquire(&f, "a00", NULL, &hot[turn], &answer) == 0) {
        turn = 1 - turn;
        registry_release(f.registry, &hot[turn], f.now_ns);
        fake_settle(&f);
        passed_n++;
    }
    assert_int_equal(passed_n, LIMIT_ADAPTER_OVERTAKES);
    struct lease_want cold = {.n = 1, .names = {"a00"}, .fail_if_cold = true};
    struct lease no = {0};
    assert_int_equal(registry_acquire(f.registry, &cold, &no, 0, &answer), ERR_ADAPTER_LOADING);
    assert_int_equal(no.waiter, 0);
    registry_release(f.registry, &hot[1 - turn], f.now_ns);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a01", NULL, &big, &answer), 0);
    fake_settle(&f);
    assert_int_equal(acquire(&f, "a00", NULL, &hot[turn], &answer), ERR_ADAPTER_LOADING);
    registry_release(f.registry, &big, f.now_ns);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a00", NULL, &hot[turn], &answer), 0);
    registry_release(f.registry, &hot[turn], f.now_ns);
    fake_stop(&f);
}

static void revision_rank_and_cold_policies(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease_answer answer;
    char revision[SHA256_HEX_BYTES];
    (void)state;
    fake_start(&f, 4096, 4096);
    for (uint32_t i = 0; i < 5; i++) {
        set_folder(&f, i, 64, 0xabcd);
    }
    fake_revision(1, 0xabcd, revision);
    struct lease_want want = {.n = 1, .names = {"a01"}, .revisions = {"0000ab"}};
    want.fail_if_cold = true;
    assert_int_equal(registry_acquire(f.registry, &want, &lease, 0, &answer),
                     ERR_ADAPTER_NOT_FOUND);
    assert_int_equal(registry_add(f.registry, "a01", NULL), 0);
    assert_int_equal(registry_acquire(f.registry, &want, &lease, 0, &answer), ERR_ADAPTER_LOADING);
    assert_string_equal(answer.err.text,
                        "adapter \"a01\" is not in device memory and the request does not wait");
    assert_int_equal(lease.waiter, 0);
    fake_settle(&f);
    assert_int_equal(f.prepared_n, 0);
    want.fail_if_cold = false;
    assert_int_equal(registry_acquire(f.registry, &want, &lease, 0, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    assert_int_equal(registry_acquire(f.registry, &want, &lease, 0, &answer), 0);
    assert_string_equal(answer.revisions[0], revision);
    registry_release(f.registry, &lease, 0);
    want.revisions[0] = "0000ac";
    assert_int_equal(registry_acquire(f.registry, &want, &lease, 0, &answer),
                     ERR_ADAPTER_NOT_FOUND);
    assert_string_equal(answer.err.text,
                        "adapter \"a01\" is at revision 0000abcd0000, 0000ac was asked for");
    /* 5 x 24 is over the device's 100 */
    struct lease_want many = {.n = 5, .names = {"a00", "a01", "a02", "a03", "a04"}};
    assert_int_equal(registry_acquire(f.registry, &many, &lease, 0, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    assert_int_equal(registry_acquire(f.registry, &many, &lease, 0, &answer),
                     ERR_ADAPTER_INCOMPATIBLE);
    assert_string_equal(answer.err.text,
                        "the ranks of the request's 5 adapters add up to 120, limit is 100");
    struct lease_want none = {.n = 0};
    assert_int_equal(registry_acquire(f.registry, &none, &lease, 0, &answer), 0);
    assert_true(lease.is_held);
    registry_release(f.registry, &lease, 0);
    fake_stop(&f);
}

static void list_is_sorted_and_refused_jobs_are_retried(void **state)
{
    struct fake f;
    struct adapter_op load;
    struct adapter_op list;
    (void)state;
    fake_start(&f, 4096, 4096);
    assert_int_equal(registry_add(f.registry, "b", NULL), 0);
    assert_int_equal(registry_add(f.registry, "c", NULL), 0);
    assert_int_equal(registry_add(f.registry, "b", NULL), 0);
    assert_int_equal(registry_add(f.registry, "a01", NULL), 0);
    ask(&f, &list, ADAPTER_OP_LIST, "");
    assert_ptr_equal(registry_answered(f.registry), &list);
    assert_int_equal(list.out_n, 3);
    assert_string_equal(list.out[0].name, "a01");
    assert_string_equal(list.out[1].name, "b");
    assert_string_equal(list.out[2].name, "c");
    set_folder(&f, 1, 64, 1);
    f.is_refusing = true;
    ask(&f, &load, ADAPTER_OP_LOAD, "a01");
    bool is_busy;
    fake_progress(&f, &is_busy);
    assert_true(is_busy);
    f.is_refusing = false;
    fake_progress(&f, &is_busy);
    assert_int_equal(f.job_n, 1);
    fake_run_job(&f, 0);
    f.is_refusing = true;
    fake_progress(&f, &is_busy); /* placed; its host copy cannot be handed back yet */
    assert_true(is_busy);
    assert_ptr_equal(registry_answered(f.registry), &load);
    f.is_refusing = false;
    fake_settle(&f);
    /* the table of names is bounded */
    char name[LIMIT_ADAPTER_NAME_BYTES];
    struct err err;
    for (uint32_t i = 3; i < LIMIT_ADAPTERS; i++) {
        snprintf(name, sizeof name, "n%u", i);
        assert_int_equal(registry_add(f.registry, name, NULL), 0);
    }
    assert_int_equal(registry_add(f.registry, "z", &err), ERR_ADAPTER_MEMORY_EXHAUSTED);
    assert_string_equal(err.text,
                        "could not load adapter \"z\": 4096 adapters are known, limit is 4096");
    fake_stop(&f);
}

/* More loads than load slots, all for one line of waiters: the oldest is never locked out. */
static void many_loads_take_turns(void **state)
{
    struct fake f;
    struct lease leases[FAKE_NAMES / 2] = {{{0}}};
    struct lease_answer answer;
    char a[LIMIT_ADAPTER_NAME_BYTES];
    char b[LIMIT_ADAPTER_NAME_BYTES];
    (void)state;
    fake_start(&f, 1024, 300);
    for (uint32_t i = 0; i < FAKE_NAMES; i++) {
        set_folder(&f, i, 512, i);
    }
    uint32_t held_n = 0;
    for (int round = 0; round < 200 && held_n < FAKE_NAMES / 2; round++) {
        for (uint32_t i = held_n; i < FAKE_NAMES / 2; i++) {
            fake_name(2 * i, a);
            fake_name(2 * i + 1, b);
            int rc = acquire(&f, a, b, &leases[i], &answer);
            if (rc == 0) {
                assert_int_equal(i, held_n); /* first come, first served */
                held_n++;
                registry_release(f.registry, &leases[i], f.now_ns);
            } else {
                assert_int_equal(rc, ERR_ADAPTER_LOADING);
            }
        }
        fake_settle(&f);
    }
    assert_int_equal(held_n, FAKE_NAMES / 2);
    fake_stop(&f);
}

/* A waiter is told when something it had in place is taken away, and not failed by what it does not
 * wait for. */
static void waiters_hear_of_losses(void **state)
{
    struct fake f;
    struct lease lease = {0};
    struct lease elder = {0};
    struct lease_answer answer;
    struct adapter_op op;
    bool is_busy;
    (void)state;
    fake_start(&f, 1024, 64);
    for (uint32_t i = 0; i < 4; i++) {
        set_folder(&f, i, 512, 1);
    }
    assert_int_equal(acquire(&f, "a00", "a01", &elder, &answer), ERR_ADAPTER_LOADING);
    fake_progress(&f, &is_busy);
    assert_int_equal(f.job_n, 2); /* both stay out for now */
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_LOADING);
    fake_progress(&f, &is_busy);
    assert_int_equal(f.job_n, 4);
    fake_run_job(&f, 2);
    for (int i = 0; i < 8; i++) {
        fake_progress(&f, &is_busy);
    }
    assert_int_equal(get(&f, "a02").state, ADAPTER_DEVICE);
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_LOADING);
    /* its reload fails, it serves on: nobody who has it fails */
    f.folders[2].fail = ERR_BAD_FILE;
    ask(&f, &op, ADAPTER_OP_LOAD, "a02");
    fake_progress(&f, &is_busy);
    for (uint32_t i = 0; i < f.job_n; i++) {
        if (f.jobs[i]->job.run == store_prepare && strcmp(f.jobs[i]->name, "a02") == 0) {
            fake_run_job(&f, i);
        }
    }
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_int_equal(op.err.code, ERR_BAD_FILE);
    assert_true(fake_progress(&f, &is_busy));
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_LOADING);
    assert_false(fake_progress(&f, &is_busy));
    /* unloaded by hand */
    f.folders[2].fail = 0;
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a02");
    assert_ptr_equal(registry_answered(f.registry), &op);
    assert_true(fake_progress(&f, &is_busy));
    assert_int_equal(acquire(&f, "a02", "a03", &lease, &answer), ERR_ADAPTER_LOADING);
    assert_int_equal(get(&f, "a02").state, ADAPTER_LOADING);
    fake_progress(&f, &is_busy);
    for (uint32_t i = 0; i < f.job_n; i++) {
        if (f.jobs[i]->job.run == store_prepare && strcmp(f.jobs[i]->name, "a02") == 0) {
            fake_run_job(&f, i);
        }
    }
    for (int i = 0; i < 8; i++) {
        fake_progress(&f, &is_busy);
    }
    assert_int_equal(get(&f, "a02").state, ADAPTER_DEVICE);
    /* evicted for the elder: a00 takes the free half, a01 takes that of a02 */
    for (uint32_t i = f.job_n; i-- > 0;) {
        if (strcmp(f.jobs[i]->name, "a00") == 0 || strcmp(f.jobs[i]->name, "a01") == 0) {
            fake_run_job(&f, i);
        }
    }
    assert_true(fake_progress(&f, &is_busy));
    assert_int_equal(get(&f, "a02").state, ADAPTER_REGISTERED);
    fake_settle(&f);
    assert_int_equal(acquire(&f, "a00", "a01", &elder, &answer), 0);
    registry_release(f.registry, &elder, f.now_ns);
    registry_release(f.registry, &lease, f.now_ns);
    fake_stop(&f);
}

/* Sixteen loads for younger requests hold every load slot and wait for memory that the oldest
 * keeps; what the oldest still needs to read must find a slot. */
static void oldest_finds_a_load_slot(void **state)
{
    struct fake f;
    struct lease oldest = {0};
    struct lease young[LIMIT_ADAPTER_JOBS + 1] = {{{0}}};
    struct lease_answer answer;
    struct adapter_op op;
    char name[LIMIT_ADAPTER_NAME_BYTES];
    (void)state;
    fake_start(&f, 1024, 4096);
    set_folder(&f, 0, 640, 1);
    set_folder(&f, 1, 384, 1);
    assert_int_equal(acquire(&f, "a00", "a01", &oldest, &answer), ERR_ADAPTER_LOADING);
    assert_true(fake_settle(&f));
    for (uint32_t i = 0; i < ARRAY_N(young); i++) {
        fake_name(i + 2, name);
        set_folder(&f, i + 2, 512, 1);
        assert_int_equal(acquire(&f, name, NULL, &young[i], &answer), ERR_ADAPTER_LOADING);
    }
    fake_settle(&f);
    ask(&f, &op, ADAPTER_OP_UNLOAD, "a01");
    registry_answered(f.registry);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a00", "a01", &oldest, &answer), ERR_ADAPTER_LOADING);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a00", "a01", &oldest, &answer), 0);
    registry_release(f.registry, &oldest, f.now_ns);
    for (uint32_t i = 0; i < ARRAY_N(young); i++) {
        fake_settle(&f);
        fake_name(i + 2, name);
        while (acquire(&f, name, NULL, &young[i], &answer) == ERR_ADAPTER_LOADING) {
            assert_true(fake_settle(&f));
        }
        registry_release(f.registry, &young[i], f.now_ns);
    }
    fake_stop(&f);
}

/* When the one for whom others were held back gives up, they are told. */
static void held_back_requests_hear_of_the_end(void **state)
{
    struct fake f;
    struct lease big = {0};
    struct lease hot[LIMIT_ADAPTER_OVERTAKES + 2] = {{{0}}};
    struct lease_answer answer;
    (void)state;
    fake_start(&f, 1024, 4096);
    set_folder(&f, 0, 256, 1);
    set_folder(&f, 1, 1024, 1);
    hold(&f, "a00", NULL, &hot[0]);
    assert_int_equal(acquire(&f, "a01", NULL, &big, &answer), ERR_ADAPTER_LOADING);
    fake_settle(&f);
    for (uint32_t i = 1; i + 1 < ARRAY_N(hot); i++) {
        assert_int_equal(acquire(&f, "a00", NULL, &hot[i], &answer), 0);
    }
    struct lease *last = &hot[ARRAY_N(hot) - 1];
    assert_int_equal(acquire(&f, "a00", NULL, last, &answer), ERR_ADAPTER_LOADING);
    assert_false(fake_settle(&f));
    registry_release(f.registry, &big, f.now_ns);
    assert_true(fake_settle(&f));
    assert_int_equal(acquire(&f, "a00", NULL, last, &answer), 0);
    for (uint32_t i = 0; i < ARRAY_N(hot); i++) {
        registry_release(f.registry, &hot[i], f.now_ns);
    }
    fake_stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_on_first_use),
        cmocka_unit_test(swap_keeps_running_versions),
        cmocka_unit_test(failed_load_reaches_all_who_waited),
        cmocka_unit_test(load_during_load_reads_again),
        cmocka_unit_test(unknown_names_are_forgotten),
        cmocka_unit_test(unload_drains_and_next_use_loads),
        cmocka_unit_test(evicts_least_recently_used_by_bytes),
        cmocka_unit_test(refuses_what_can_never_fit),
        cmocka_unit_test(two_halves_do_not_deadlock),
        cmocka_unit_test(scattered_holes_are_overcome),
        cmocka_unit_test(overtaking_is_bounded),
        cmocka_unit_test(revision_rank_and_cold_policies),
        cmocka_unit_test(list_is_sorted_and_refused_jobs_are_retried),
        cmocka_unit_test(many_loads_take_turns),
        cmocka_unit_test(waiters_hear_of_losses),
        cmocka_unit_test(oldest_finds_a_load_slot),
        cmocka_unit_test(held_back_requests_hear_of_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
