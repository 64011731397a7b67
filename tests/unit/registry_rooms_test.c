/* Rooms for prepared versions: who gets one, and how long a device that reads late keeps it. */
#include "tests/unit/registry_fake.h"

static void ask(struct fake *f, struct adapter_op *op, enum adapter_op_type type, const char *name)
{
    static uint64_t key;
    static struct adapter out;
    *op = (struct adapter_op){.type = type, .key = ++key, .out = &out, .out_max = 1};
    snprintf(op->name, sizeof op->name, "%s", name);
    registry_ask(f->registry, op, f->now_ns);
}

static enum adapter_state state_of(struct fake *f, const char *name)
{
    struct adapter_op op;
    ask(f, &op, ADAPTER_OP_GET, name);
    assert_ptr_equal(registry_answered(f->registry), &op);
    return op.out->state;
}

/* A device that reads one piece late: when it is asked, and may. */
static struct slow {
    const char *from;
    char *to;
    size_t n;
    uint64_t begun_n, ended_n;
    bool is_held;
} slow;

static size_t slow_bring(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes,
                         uint64_t *out_ticket)
{
    (void)dev;
    *out_ticket = slow.begun_n;
    if (slow.begun_n > slow.ended_n) {
        return 0;
    }
    slow = (struct slow){from, to_dev, bytes, slow.begun_n + 1, slow.ended_n, slow.is_held};
    *out_ticket = slow.begun_n;
    return bytes;
}

static bool slow_is_brought(struct kern_dev *dev, uint64_t ticket)
{
    (void)dev;
    if (!slow.is_held && slow.begun_n > slow.ended_n) {
        memcpy(slow.to, slow.from, slow.n);
        slow.ended_n++;
    }
    return slow.ended_n >= ticket;
}

/* What was dropped on its way to the device keeps its room until the device has read it. */
static void rooms_are_lent_until_they_were_read(void **state)
{
    static char rooms[2 * 512];
    struct fake f;
    struct adapter_op ops[3];
    struct adapter_op unload;
    bool is_busy;
    (void)state;
    slow = (struct slow){.is_held = true};
    fake_start_rooms(&f, 4096, 4096, rooms, 512);
    f.kern.bring = slow_bring;
    f.kern.is_brought = slow_is_brought;
    for (uint32_t i = 0; i < 3; i++) {
        char name[LIMIT_ADAPTER_NAME_BYTES];
        fake_name(i, name);
        assert_int_equal(registry_add(f.registry, name, NULL), 0);
        /* the second is larger than its room */
        f.folders[i] = (struct fake_folder){.bytes = i == 1 ? 1024 : 256, .content = 1};
        ask(&f, &ops[i], ADAPTER_OP_LOAD, name);
    }
    fake_progress(&f, &is_busy);
    assert_int_equal(f.job_n, 3);
    assert_ptr_equal(f.jobs[0]->room, rooms);
    assert_ptr_equal(f.jobs[1]->room, rooms + 512);
    assert_null(f.jobs[2]->room);
    fake_run_job(&f, 0);
    fake_progress(&f, &is_busy);
    assert_ptr_equal(slow.from, rooms);
    registry_cancel(f.registry, ops[0].key);
    assert_ptr_equal(registry_answered(f.registry), &ops[0]);
    ask(&f, &unload, ADAPTER_OP_UNLOAD, "a00");
    registry_answered(f.registry);
    for (uint32_t i = 0; i < 3; i++) {
        fake_progress(&f, &is_busy);
        assert_true(is_busy);
        assert_int_equal(f.job_n, 2); /* the others' */
    }
    slow.is_held = false;
    fake_settle(&f);
    while (registry_answered(f.registry)) {
    }
    assert_int_equal(state_of(&f, "a00"), ADAPTER_REGISTERED);
    assert_int_equal(state_of(&f, "a01"), ADAPTER_DEVICE);
    assert_int_equal(state_of(&f, "a02"), ADAPTER_DEVICE);
    ask(&f, &ops[0], ADAPTER_OP_LOAD, "a00");
    fake_progress(&f, &is_busy);
    assert_ptr_equal(f.jobs[0]->room, rooms);
    fake_stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rooms_are_lent_until_they_were_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
