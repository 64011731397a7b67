/* Counts by kernel. The device's thread writes them; a test reads them when the device is idle. */
#include <string.h>

#include "kernels/emu/emu.h"
#include "kernels/emu/emu_knobs.h"

#define STATS_KERNELS 128

static struct {
    const char *name;
    emu_stats stats;
} kernels[STATS_KERNELS];
static uint32_t kernel_n;
static emu_stats *running = &kernels[0].stats;

void emu_count_launch(const emu_launch &launch)
{
    uint32_t i = 0;
    while (i < kernel_n && strcmp(kernels[i].name, launch.name) != 0) {
        i++;
    }
    if (i == STATS_KERNELS) {
        emu_die("too many kernels to count", 0);
    }
    if (i == kernel_n) {
        kernels[kernel_n++].name = launch.name;
    }
    running = &kernels[i].stats;
    running->launches++;
    running->blocks += (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
}

void emu_count_bytes(unsigned cls, size_t bytes)
{
    running->bytes[cls] += bytes;
}

void emu_count_mma(void)
{
    running->mma++;
}

void emu_stats_get(const char *kernel, emu_stats *out)
{
    *out = emu_stats();
    for (uint32_t i = 0; i < kernel_n; i++) {
        if (kernel && strcmp(kernels[i].name, kernel) != 0) {
            continue;
        }
        out->launches += kernels[i].stats.launches;
        out->blocks += kernels[i].stats.blocks;
        out->mma += kernels[i].stats.mma;
        for (int c = 0; c < 4; c++) {
            out->bytes[c] += kernels[i].stats.bytes[c];
        }
    }
}

void emu_stats_reset(void)
{
    for (uint32_t i = 0; i < kernel_n; i++) {
        kernels[i].stats = emu_stats();
    }
}

const char *emu_stats_name(uint32_t i)
{
    return i < kernel_n ? kernels[i].name : NULL;
}
