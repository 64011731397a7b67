/* The registry under seeded churn: folders change, also their kind, fail and vanish, requests come,
 * wait, run and leave, ops are asked and cancelled, jobs end in any order or are refused. A simple
 * model says what must hold after every action; at the end everything must have been answered and
 * nothing leaks. */
#include "tests/unit/registry_fake.h"

#define CHURN_REQUESTS 48
#define CHURN_OPS      32
#define CHURN_ROUNDS   4000
#define CHURN_POOL     4096
#define CHURN_WANTS    3

enum request_state { REQUEST_NONE, REQUEST_WAITING, REQUEST_HELD };

struct request {
    enum request_state state;
    uint32_t n;
    uint32_t names[CHURN_WANTS];
    char text[CHURN_WANTS][LIMIT_ADAPTER_NAME_BYTES];
    struct lease lease;
    struct lease_answer answer;
    uint64_t order; /* of arrival, so that they are tried in the engine's order */
};

struct question {
    struct adapter_op op;
    bool is_out;
    bool is_cancelled;
    uint32_t name;
    uint32_t content; /* of the folder when it was asked */
};

struct churn {
    struct fake f;
    uint64_t random;
    struct request requests[CHURN_REQUESTS];
    struct question questions[CHURN_OPS];
    uint64_t key;
    uint64_t order;
    uint32_t content;
    uint32_t held_n, failed_n, loaded_n, unchanged_n;
    uint32_t begun_n, two_states_n; /* leases with a state; requests refused for two */
    struct adapter list[FAKE_NAMES];
};

static uint32_t pick(struct churn *c, uint32_t n)
{
    c->random = c->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(c->random >> 33) % n;
}

/* What a content is: rows, rows by scales too, states alone, or all of them. */
static void set_kind(uint32_t content, struct fake_folder *out)
{
    uint32_t kind = (content * 2654435761u >> 16) % 8;
    out->has_states = kind < 2;
    out->has_no_rows = kind == 0;
    out->has_scales = kind == 1 || kind == 2;
}

/* The lease says what its versions are, also when their names have moved on. */
static void check_kinds(const struct request *q)
{
    uint32_t state = LIMIT_REQUEST_ADAPTERS;
    for (uint32_t i = 0; i < q->n; i++) {
        struct fake_folder want;
        unsigned content;
        assert_int_equal(sscanf(q->answer.revisions[i], "%8x", &content), 1);
        set_kind(content, &want);
        assert_int_equal(q->lease.has_rows[i], !want.has_no_rows);
        assert_int_equal(q->lease.has_scales[i], want.has_scales);
        if (want.has_states) {
            assert_int_equal(state, LIMIT_REQUEST_ADAPTERS);
            state = i;
        }
    }
    assert_int_equal(q->lease.state, state);
}

static void check_block(struct churn *c, const struct request *q, uint32_t i)
{
    const unsigned char *block = c->f.blocks[q->lease.version[i]];
    unsigned content;
    unsigned name;
    assert_non_null(block);
    assert_int_equal(sscanf(q->answer.revisions[i], "%8x%56x", &content, &name), 2);
    assert_int_equal(name, q->names[i]);
    /* 64 bytes are there for every size; a stranger's copy would show at the start */
    unsigned char want[64];
    memset(want, (int)(content * 13 + name), sizeof want);
    assert_memory_equal(block, want, sizeof want);
}

static void check_all(struct churn *c)
{
    uint32_t pins[FAKE_NAMES] = {0};
    uint32_t pin_n = 0;
    uint64_t bytes = 0;
    struct adapter_op op = {.type = ADAPTER_OP_LIST, .out = c->list, .out_max = FAKE_NAMES};
    for (uint32_t i = 0; i < CHURN_REQUESTS; i++) {
        struct request *q = &c->requests[i];
        if (q->state == REQUEST_HELD) {
            check_kinds(q);
        }
        for (uint32_t k = 0; k < (q->state == REQUEST_HELD ? q->n : 0); k++) {
            check_block(c, q, k);
            pins[q->names[k]]++;
            pin_n++;
        }
    }
    assert_int_equal(registry_pin_n(c->f.registry), pin_n);
    registry_ask(c->f.registry, &op, c->f.now_ns);
    assert_ptr_equal(registry_answered(c->f.registry), &op);
    for (uint32_t i = 0; i < op.out_n; i++) {
        const struct adapter *a = &c->list[i];
        uint32_t name = (uint32_t)atoi(a->name + 1);
        assert_int_equal(a->active_n, pins[name]);
        pins[name] = 0;
        bytes += a->device_bytes;
        assert_true(a->retiring_n <= a->active_n); /* one that nobody holds is gone */
        assert_true(a->device_bytes > 0 || (a->retiring_n == 0 && a->revision[0] == '\0'));
        assert_true(i == 0 || strcmp(c->list[i - 1].name, a->name) < 0);
        assert_int_equal(a->state == ADAPTER_DEVICE, a->revision[0] != '\0');
    }
    for (uint32_t i = 0; i < FAKE_NAMES; i++) {
        assert_int_equal(pins[i], 0); /* a name with pins is never forgotten */
    }
    assert_int_equal(registry_pool_used(c->f.registry), bytes);
    assert_true(bytes <= CHURN_POOL);
}

/* Takes answered ops; each may come back once. */
static void take_answers(struct churn *c)
{
    struct adapter_op *op;
    while ((op = registry_answered(c->f.registry)) != NULL) {
        struct question *q = CONTAINER_OF(op, struct question, op);
        assert_true(q->is_out);
        q->is_out = false;
        if (q->is_cancelled) {
            assert_true(op->err.code == ERR_CANCELLED);
        } else if (op->type == ADAPTER_OP_LOAD && op->err.code == 0) {
            unsigned content;
            assert_int_equal(op->out_n, 1);
            assert_int_equal(sscanf(op->out[0].revision, "%8x", &content), 1);
            assert_true(content >= q->content); /* never older than the question */
            c->loaded_n++;
            c->unchanged_n += op->is_unchanged;
        } else if (op->type == ADAPTER_OP_LOAD) {
            assert_true(op->err.text[0] != '\0');
            c->failed_n++;
        }
    }
}

/* Two of the request's adapters have states now, and the refusal names the first two. */
static void check_two_states(struct churn *c, const struct request *q)
{
    struct adapter_op op = {.type = ADAPTER_OP_LIST, .out = c->list, .out_max = FAKE_NAMES};
    uint32_t found_n = 0;
    take_answers(c);
    registry_ask(c->f.registry, &op, c->f.now_ns);
    assert_ptr_equal(registry_answered(c->f.registry), &op);
    for (uint32_t i = 0; i < q->n; i++) {
        for (uint32_t k = 0; k < op.out_n; k++) {
            struct fake_folder is;
            unsigned content;
            if (strcmp(c->list[k].name, q->text[i]) != 0 ||
                sscanf(c->list[k].revision, "%8x", &content) != 1) {
                continue;
            }
            set_kind(content, &is);
            found_n += is.has_states;
            if (is.has_states && found_n <= 2) {
                assert_non_null(strstr(q->answer.err.text, q->text[i]));
            }
        }
    }
    assert_true(found_n >= 2);
}

static void try_request(struct churn *c, struct request *q)
{
    struct lease_want want = {.n = q->n};
    for (uint32_t i = 0; i < q->n; i++) {
        want.names[i] = q->text[i];
    }
    int rc = registry_acquire(c->f.registry, &want, &q->lease, c->f.now_ns, &q->answer);
    assert_int_equal(rc, q->answer.err.code);
    if (rc == 0) {
        q->state = REQUEST_HELD;
        c->held_n++;
        c->begun_n += q->lease.state < q->n;
        /* what was just flipped is told to the backend before the next step */
        uint32_t version;
        const void *block;
        while (registry_next_change(c->f.registry, &version, &block)) {
            c->f.blocks[version] = block;
        }
    } else if (rc == ERR_ADAPTER_LOADING) {
        q->state = REQUEST_WAITING;
    } else if (rc == ERR_INVALID_PARAMETER) {
        check_two_states(c, q);
        q->state = REQUEST_NONE;
        c->two_states_n++;
    } else {
        assert_true(rc == ERR_ADAPTER_NOT_FOUND || rc == ERR_BAD_FILE ||
                    rc == ERR_ADAPTER_MEMORY_EXHAUSTED);
        q->state = REQUEST_NONE;
        c->failed_n++;
    }
}

static void try_waiting(struct churn *c)
{
    uint64_t done = 0;
    for (;;) {
        struct request *next = NULL;
        for (uint32_t i = 0; i < CHURN_REQUESTS; i++) {
            struct request *q = &c->requests[i];
            if (q->state == REQUEST_WAITING && q->order > done &&
                (!next || q->order < next->order)) {
                next = q;
            }
        }
        if (!next) {
            return;
        }
        done = next->order;
        try_request(c, next);
    }
}

static bool progress(struct churn *c)
{
    bool is_busy;
    if (fake_progress(&c->f, &is_busy)) {
        try_waiting(c);
    }
    return is_busy;
}

static void new_request(struct churn *c, struct request *q)
{
    *q = (struct request){.n = 1 + pick(c, CHURN_WANTS), .order = ++c->order};
    uint32_t first = pick(c, FAKE_NAMES);
    for (uint32_t i = 0; i < q->n; i++) {
        q->names[i] = (first + i * 11) % FAKE_NAMES;
        fake_name(q->names[i], q->text[i]);
    }
    try_request(c, q);
}

static void leave(struct churn *c, struct request *q)
{
    registry_release(c->f.registry, &q->lease, c->f.now_ns);
    assert_int_equal(q->lease.waiter, 0);
    assert_false(q->lease.is_held);
    q->state = REQUEST_NONE;
}

static void new_question(struct churn *c, struct question *q)
{
    static struct adapter outs[CHURN_OPS];
    uint32_t kind = pick(c, 4);
    *q = (struct question){.name = pick(c, FAKE_NAMES), .is_out = true};
    q->content = c->f.folders[q->name].content;
    q->op = (struct adapter_op){.type = kind == 0 ? ADAPTER_OP_UNLOAD : ADAPTER_OP_LOAD,
                                .key = ++c->key,
                                .out = &outs[q - c->questions],
                                .out_max = 1};
    fake_name(q->name, q->op.name);
    registry_ask(c->f.registry, &q->op, c->f.now_ns);
}

static void change_folder(struct churn *c, uint32_t i)
{
    struct fake_folder *folder = &c->f.folders[i];
    uint32_t kind = pick(c, 12);
    folder->fail = kind == 0 ? ERR_BAD_FILE : 0;
    folder->content = ++c->content;
    set_kind(folder->content, folder);
    folder->bytes = kind == 1 ? 0 : kind == 2 ? 5000 : 64 + pick(c, 1500);
}

static void act(struct churn *c)
{
    struct request *q = &c->requests[pick(c, CHURN_REQUESTS)];
    struct question *op = &c->questions[pick(c, CHURN_OPS)];
    switch (pick(c, 10)) {
    case 0:
    case 1:
        if (q->state == REQUEST_NONE) {
            new_request(c, q);
        }
        break;
    case 2:
        if (q->state == REQUEST_HELD || (q->state == REQUEST_WAITING && pick(c, 4) == 0)) {
            leave(c, q);
        }
        break;
    case 3:
        if (!op->is_out) {
            new_question(c, op);
        } else if (pick(c, 4) == 0) {
            op->is_cancelled = true;
            registry_cancel(c->f.registry, op->op.key);
            registry_cancel(c->f.registry, op->op.key); /* the second one finds nothing */
        }
        break;
    case 4:
        if (pick(c, 3) == 0) {
            change_folder(c, pick(c, FAKE_NAMES));
        }
        break;
    case 5:
        c->f.is_refusing = pick(c, 8) == 0;
        break;
    case 6:
    case 7:
        if (c->f.job_n > 0) {
            fake_run_job(&c->f, pick(c, c->f.job_n));
        }
        break;
    default:
        progress(c);
        break;
    }
}

/* Every folder is well now; running requests leave; all who wait must get on, told by news only. */
static void finish(struct churn *c)
{
    c->f.is_refusing = false;
    for (uint32_t i = 0; i < FAKE_NAMES; i++) {
        c->f.folders[i].fail = 0;
        c->f.folders[i].bytes = 64 + i * 30;
        c->f.folders[i].content = ++c->content;
        set_kind(c->content, &c->f.folders[i]);
    }
    for (int round = 0; round < 20000; round++) {
        bool is_waiting = false;
        for (uint32_t i = 0; i < CHURN_REQUESTS; i++) {
            if (c->requests[i].state == REQUEST_HELD && pick(c, 4) == 0) {
                leave(c, &c->requests[i]);
            }
            is_waiting = is_waiting || c->requests[i].state != REQUEST_NONE;
        }
        for (uint32_t i = 0; i < CHURN_OPS; i++) {
            is_waiting = is_waiting || c->questions[i].is_out;
        }
        bool is_busy = progress(c);
        while (c->f.job_n > 0) {
            fake_run_job(&c->f, pick(c, c->f.job_n));
            is_busy = true;
        }
        take_answers(c);
        check_all(c);
        if (!is_waiting && !is_busy) {
            return;
        }
    }
    fail_msg("somebody still waits");
}

static void churn(uint64_t seed, struct churn *c)
{
    memset(c, 0, sizeof *c);
    c->random = seed;
    fake_start(&c->f, CHURN_POOL, 200 + 100 * (seed % 5));
    for (uint32_t i = 0; i < FAKE_NAMES; i++) {
        change_folder(c, i);
    }
    for (uint32_t round = 0; round < CHURN_ROUNDS; round++) {
        c->f.now_ns += 1000000;
        act(c);
        take_answers(c);
        check_all(c);
    }
    finish(c);
    for (uint32_t i = 0; i < FAKE_NAMES; i++) {
        struct adapter_op op = {.type = ADAPTER_OP_UNLOAD};
        fake_name(i, op.name);
        registry_ask(c->f.registry, &op, c->f.now_ns);
        assert_ptr_equal(registry_answered(c->f.registry), &op);
    }
    fake_settle(&c->f);
    assert_int_equal(registry_pool_used(c->f.registry), 0);
    assert_int_equal(registry_pin_n(c->f.registry), 0);
    for (uint32_t i = 0; i < LIMIT_VERSIONS; i++) {
        assert_null(c->f.blocks[i]);
    }
    fake_stop(&c->f);
}

static void nothing_leaks_and_everybody_is_answered(void **state)
{
    struct churn *c = test_malloc(sizeof *c);
    uint32_t held_n = 0;
    uint32_t failed_n = 0;
    uint32_t loaded_n = 0;
    uint32_t unchanged_n = 0;
    uint32_t begun_n = 0;
    uint32_t two_states_n = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 15; seed++) {
        churn(seed, c);
        held_n += c->held_n;
        failed_n += c->failed_n;
        loaded_n += c->loaded_n;
        unchanged_n += c->unchanged_n;
        begun_n += c->begun_n;
        two_states_n += c->two_states_n;
    }
    print_message("%u held, %u of them with a state, %u refused for two states, %u failed, "
                  "%u loaded, %u of them unchanged\n",
                  held_n, begun_n, two_states_n, failed_n, loaded_n, unchanged_n);
    /* the churn reached what it is for */
    assert_true(held_n > 500 && failed_n > 50 && loaded_n > 500 && unchanged_n > 5);
    assert_true(begun_n > 200 && two_states_n > 20);
    test_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_leaks_and_everybody_is_answered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
