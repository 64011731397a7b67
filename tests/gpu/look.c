/* Prints what device the CUDA backend would use, for tests/gpu.sh. Exit status 3 without one, and
 * the reason. */
#include <stdio.h>

#include "kernels/cuda/host_text.h"

int main(void)
{
    char text[DEV_TEXT_BYTES];
    uint32_t n = 0;
    struct dev_info info = {0};
    struct err err = {0};
    int rc = dev_count(&n, &err);
    rc = rc ? rc : dev_describe(0, &info, &err);
    if (rc) {
        printf("%s\n", err.text);
        return 3;
    }
    dev_info_text(&info, text);
    printf("%s\n", text);
    return 0;
}
