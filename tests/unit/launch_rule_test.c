/* Which launches may overlap: devices and code of every age. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(both_must_be_new)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
