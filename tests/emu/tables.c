/* first slice */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "base/clock.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/tables.h"

static const struct tables_shape shapes[] = {
    {"0.5B", 24, 896, 4864, 14, 2, 64, 151936},   {"3B", 28, 3072, 8192, 24, 8, 128, 128256},
    {"4B", 36, 2560, 9728, 32, 8, 128, 151936},   {"8B", 32, 4096, 14336, 32, 8, 128, 128256},
    {"14B", 40, 5120, 17408, 40, 8, 128, 151936},
};
static const uint32_t sms[] = {58, 108, 132, 148};

int main(int argc, char **argv)
{
    (void)argv;
    static const uint32_t rows[] = {1, 16, 32, 33, 64, 65, 128, 256};
    emu_knobs.memory_bytes = (size_t)20 << 30;
    for (uint32_t r = 0; r < ARRAY_N(rows); r++)
        for (uint32_t s = 0; s < ARRAY_N(shapes); s++) {
            printf("%u %s", rows[r], shapes[s].name);
            for (uint32_t m = 0; m < ARRAY_N(sms); m++)
                printf(" %.3f", tables_quantised(&shapes[s], rows[r], sms[m]));
            printf("\n");
        }
    static struct tables_rig rig;
    tables_open(&rig, &shapes[3], true, 1);
    for (uint32_t r = 0; r < ARRAY_N(rows) - 1; r++)
        for (int m = 0; m < 2; m++)
            printf("launches %u %d: %u\n", rows[r], m,
                   tables_launches(&rig, &(struct tables_step){rows[r], 64, m}));
    tables_close(&rig);
    fflush(stdout);
    struct tables_shape one = shapes[3];
    one.layer_n = 1;
    one.vocab_n = argc > 1 ? 128256 : 512;
    if (argc > 2) {
        one.hidden = 256;
        one.head_n = 8;
        one.kv_head_n = 2;
        one.head_dim = 64;
        one.ffn = 768;
        one.vocab_n = 500;
    }
    int64_t t0 = clock_now_ns();
    tables_open(&rig, &one, false, 1024);
    printf("open %.1f s\n", (clock_now_ns() - t0) * 1e-9);
    for (uint32_t r = 0; r < ARRAY_N(rows) - 1; r++)
        for (int m = 0; m < 2; m++) {
            t0 = clock_now_ns();
            struct tables_step step = {rows[r], rows[r] > 32 ? 100 : 512, m};
            struct tables_bytes want;
            if (argc == 2 && rows[r] > 1)
                break;
            if (argc < 2 && rows[r] > 32)
                break;
            tables_run(&rig, &step);
            tables_formula(&one, &step, &want);
            printf("rows %u mixed %d %.1f s\n", rows[r], m, (clock_now_ns() - t0) * 1e-9);
            for (int o = 0; o < OP_N; o++)
                for (int c = 0; c < 3; c++)
                    if (want.bytes[o][c] || rig.counted.bytes[o][c])
                        printf("  %s %d %lu want %lu %s\n", tables_op_names[o], c,
                               rig.counted.bytes[o][c], want.bytes[o][c],
                               rig.counted.bytes[o][c] == want.bytes[o][c] ? "" : "DIFFERS");
            fflush(stdout);
        }
    return 0;
}
