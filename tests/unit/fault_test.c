/* The fault backend: what a plan asks for happens, and nothing else. */
#include "tests/test.h"

#include "base/err.h"
#include "kernels/fault/fault.h"
#include "tests/step.h"

static struct kern_dev *fault_device(const struct fault_plan *plan)
{
    const struct kern_open args = {
        .held = DTYPE_F32, .row_max = 1, .slot_max = 1, .k_max = 1, .n_max = 1, .vocab_n = 1};
    struct kern_dev *dev;
    struct err err;
    fault_set(&kern_ref, plan);
    assert_int_equal(kern_fault.open(&args, &dev, &err), 0);
    return dev;
}

static int fault_step(struct kern_dev *dev)
{
    const struct kern_row rows[1] = {{0}};
    const struct kern_step step = {.rows = rows, .row_n = 1};
    const float w = 2;
    float h = 0;
    step_begin(&kern_fault, dev, &step);
    kern_fault.embed(
        dev, &(struct kern_embed){.w = &w, .vocab_n = 1, .hidden = 1, .multiplier = 1, .h = &h});
    assert_true(h == 2);
    return step_end(&kern_fault, dev);
}

static void test_no_faults(void **state)
{
    (void)state;
    struct kern_dev *dev = fault_device(&(struct fault_plan){.delay_ns = 1000});
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(fault_step(dev), 0);
    }
    assert_string_equal(kern_fault.isa_name(dev), "ref");
    assert_int_equal(kern_fault.weight_bytes(DTYPE_BF16, 3, 5), 30);
    kern_fault.close(dev);
}

static void test_steps(void **state)
{
    (void)state;
    struct kern_dev *dev = fault_device(&(struct fault_plan){.fail_step = 3, .fail_step_n = 2});
    for (uint32_t i = 1; i <= 6; i++) {
        assert_int_equal(fault_step(dev), i == 3 || i == 4 ? ERR_DEVICE_FAILURE : 0);
    }
    kern_fault.close(dev);
    dev = fault_device(&(struct fault_plan){.fail_step = 2});
    for (uint32_t i = 1; i <= 6; i++) {
        assert_int_equal(fault_step(dev), i >= 2 ? ERR_DEVICE_FAILURE : 0);
    }
    kern_fault.close(dev);
}

/* A step that never ends is "not yet" for those who look, and a lost device after the silence. */
static void test_hang(void **state)
{
    (void)state;
    struct kern_dev *dev =
        fault_device(&(struct fault_plan){.hang_step = 2, .silence_ns = 20000000});
    assert_int_equal(fault_step(dev), 0);
    const struct kern_row rows[1] = {{0}};
    const struct kern_step step = {.rows = rows, .row_n = 1};
    step_begin(&kern_fault, dev, &step);
    kern_fault.end_step(dev, NULL, 0);
    assert_int_equal(kern_fault.read_step(dev, NULL, false), 1);
    assert_int_equal(kern_fault.read_step(dev, NULL, true), ERR_DEVICE_FAILURE);
    assert_int_equal(kern_fault.read_step(dev, NULL, false), ERR_DEVICE_FAILURE);
    kern_fault.close(dev);
}

static void test_chance(void **state)
{
    (void)state;
    uint32_t failed[2] = {0, 0};
    for (uint32_t round = 0; round < 2; round++) {
        struct kern_dev *dev = fault_device(&(struct fault_plan){.seed = 5, .fail_chance = 0.25f});
        for (uint32_t i = 0; i < 32; i++) {
            failed[round] |= fault_step(dev) != 0 ? 1u << i : 0;
        }
        kern_fault.close(dev);
    }
    assert_int_equal(failed[0], failed[1]);
    assert_in_range(__builtin_popcount(failed[0]), 2, 16);
}

static void test_reserve(void **state)
{
    (void)state;
    void *out = NULL;
    struct err err;
    struct kern_dev *dev = fault_device(&(struct fault_plan){.reserve_fail_call = 2});
    assert_int_equal(kern_fault.reserve(dev, 10, &out, &err), 0);
    void *first = out;
    assert_int_equal(kern_fault.reserve(dev, 10, &out, &err), ERR_NO_MEMORY);
    assert_string_equal(err.text, "could not reserve 10 bytes: planned failure of call 2");
    assert_ptr_equal(out, first);
    assert_int_equal(kern_fault.reserve(dev, 10, &out, &err), 0);
    kern_fault.close(dev);

    dev = fault_device(&(struct fault_plan){.reserve_bytes_max = 600});
    const struct kern_kv kv = {.layer_n = 1, .page_n = 1, .kv_head_n = 1, .head_dim = 1};
    assert_int_equal(kern_fault.reserve(dev, 100, &out, &err), 0);
    assert_int_equal(kern_fault.kv_open(dev, &kv, &err), ERR_NO_MEMORY); /* 2 * 64 * 4 = 512 */
    assert_string_equal(err.text,
                        "could not reserve 512 bytes: 100 are taken, the plan's limit is 600");
    assert_int_equal(kern_fault.reserve(dev, 500, &out, &err), 0);
    assert_int_equal(kern_fault.reserve(dev, 1, &out, &err), ERR_NO_MEMORY);
    kern_fault.close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_faults), cmocka_unit_test(test_steps),
        cmocka_unit_test(test_hang),      cmocka_unit_test(test_chance),
        cmocka_unit_test(test_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
