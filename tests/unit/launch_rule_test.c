/* Which launches may overlap, for devices and code of every age, and what they may take unasked. */
#include "tests/test.h"

#include "kernels/cuda/launch_rule.h"

static void both_must_be_new(void **state)
{
    (void)state;
    static const struct {
        int major, ptx;
        bool may_overlap;
    } rows[] = {
        {8, 80, false},  /* A100, its own code */
        {8, 90, false},  /* cannot be loaded there; refused all the same */
        {9, 90, true},   /* H100, its own code or PTX of 9.0 */
        {9, 80, false},  /* H100, compiled from PTX of 8.0: no wait in it */
        {10, 100, true}, /* B200, its own code */
        {12, 90, true},  /* RTX 50, compiled from PTX of 9.0 */
        {12, 80, false}, /* ... and from PTX of 8.0 */
        {9, 0, false},   /* nothing is known of the code */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(launch_may_overlap(rows[i].major, rows[i].ptx), rows[i].may_overlap);
    }
}

/* Static and dynamic bytes share the 48 KiB: the linear's 8256 static ones leave 40896. */
static void static_bytes_count(void **state)
{
    (void)state;
    assert_int_equal(launch_shared_free(0), 49152);
    assert_int_equal(launch_shared_free(8256), 40896);
    assert_int_equal(launch_shared_free(49152), 0);
    assert_int_equal(launch_shared_free(50000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_must_be_new),
        cmocka_unit_test(static_bytes_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
