/* The linear op with more rows than one band, and effects on scattered rows of several bands: every
 * row must come out as it does alone, bit for bit, on every path and with any number of threads. */
#include "tests/test.h"

#include "base/mem.h"
#include "kernels/effect.h"
#include "tests/unit/cpu_paths.h"
#include "tests/step.h"

#define ROWS     150u
#define K        1100u /* a band is 96 rows of this, 144 as pairs of bf16 */
#define N        41u
#define VERSIONS 3u

static const uint32_t ranks[VERSIONS] = {3, 16, 40};

struct world {
    const struct cpu_paths_entry *entry;
    struct kern_dev *dev;
    enum dtype held;
    void *x;
    void *w;
    float *bias;
    float *out;
    struct kern_row rows[ROWS];
    struct kern_seg segs[VERSIONS];
    struct kern_seg_row seg_rows[VERSIONS * ROWS];
    uint32_t seg_row_n;
};

static void *take(struct world *world, size_t bytes)
{
    void *p;
    assert_int_equal(kern_cpu.reserve(world->dev, bytes, &p, NULL), 0);
    return p;
}

static void pack(struct world *world, uint32_t n, uint32_t k, uint64_t seed, void *to)
{
    float *values = mem_alloc((size_t)n * k * sizeof *values);
    for (size_t i = 0; i < (size_t)n * k; i++) {
        values[i] = cpu_paths_float(&seed);
    }
    struct kern_matrix matrix = {values, DTYPE_F32, n, k};
    kern_cpu.weight_load(world->dev, &matrix, to);
    mem_free(values);
}

static void add_version(struct world *world, uint32_t version)
{
    uint32_t rank = ranks[version];
    size_t a_at = 128;
    size_t b_at = a_at + kern_cpu.weight_bytes(world->held, rank, K);
    size_t bytes = b_at + kern_cpu.weight_bytes(world->held, N, rank);
    struct effect_block *block = take(world, bytes);
    *block = (struct effect_block){EFFECT_BLOCK_MAGIC, EFFECT_BLOCK_VERSION, bytes, 1, 64};
    *(struct effect_lowrank *)((char *)block + 64) =
        (struct effect_lowrank){rank, 0.5f, a_at, b_at};
    pack(world, rank, K, version + 10, (char *)block + a_at);
    pack(world, N, rank, version + 20, (char *)block + b_at);
    kern_cpu.set_version(world->dev, version, block);
}

/* The segments over rows [first, first + n); in each segment rows are in a scattered order. */
static void cut_segments(struct world *world, uint32_t first, uint32_t n, struct kern_step *step)
{
    world->seg_row_n = 0;
    for (uint32_t v = 0; v < VERSIONS; v++) {
        struct kern_seg *seg = &world->segs[step->seg_n];
        *seg = (struct kern_seg){.version = v, .order = v, .row_first = world->seg_row_n};
        for (uint32_t i = 0; i < ROWS; i++) {
            uint32_t row = i * 47 % ROWS;
            if (row % (v + 2) == 0 && row >= first && row < first + n) {
                world->seg_rows[world->seg_row_n++] =
                    (struct kern_seg_row){row - first, 0.1f * (float)(row % 7 + 1)};
                seg->row_n++;
            }
        }
        step->seg_n += seg->row_n > 0;
    }
}

static void run(struct world *world, uint32_t first, uint32_t n)
{
    struct kern_step step = {.rows = world->rows,
                             .row_n = n,
                             .segs = world->segs,
                             .seg_rows = world->seg_rows,
                             .rope_scale = 1};
    struct kern_linear op = {
        .x = (char *)world->x + (size_t)first * K * dtype_bytes(world->held),
        .k = K,
        .site_n = 1,
        .sites = {{.site = 0, .n = N, .w = world->w, .bias = world->bias}},
        .post = KERN_POST_STORE,
        .out = world->out,
    };
    cut_segments(world, first, n, &step);
    step_begin(&kern_cpu, world->dev, &step);
    kern_cpu.linear(world->dev, &op);
    assert_int_equal(step_end(&kern_cpu, world->dev), 0);
}

static void check(const struct cpu_paths_entry *entry, enum dtype held, uint32_t thread_n,
                  float *all)
{
    struct world world = {.entry = entry, .held = held};
    struct kern_open args = {.isa = entry->path->isa,
                             .is_stand_in = strcmp(entry->name, "stand-in") == 0,
                             .thread_n = thread_n,
                             .held = held,
                             .row_max = ROWS,
                             .slot_max = 1,
                             .version_max = VERSIONS,
                             .k_max = K,
                             .n_max = N,
                             .vocab_n = 16,
                             .rank_max = 59};
    uint64_t seed = 5;
    assert_int_equal(kern_cpu.open(&args, &world.dev, NULL), 0);
    world.x = take(&world, (size_t)ROWS * K * dtype_bytes(held));
    world.w = take(&world, kern_cpu.weight_bytes(held, N, K));
    world.bias = take(&world, N * sizeof(float));
    world.out = take(&world, (size_t)ROWS * N * sizeof(float));
    pack(&world, N, K, 1, world.w);
    for (uint32_t i = 0; i < N; i++) {
        world.bias[i] = cpu_paths_float(&seed);
    }
    for (size_t i = 0; i < (size_t)ROWS * K; i++) {
        float value = bf16_round(cpu_paths_float(&seed));
        if (held == DTYPE_BF16) {
            ((uint16_t *)world.x)[i] = bf16_from_f32(value);
        } else {
            ((float *)world.x)[i] = value;
        }
    }
    for (uint32_t v = 0; v < VERSIONS; v++) {
        add_version(&world, v);
    }
    run(&world, 0, ROWS);
    memcpy(all, world.out, (size_t)ROWS * N * sizeof(float));
    for (uint32_t first = 0; first < ROWS; first += first % 3 + 9) {
        uint32_t n = MIN(first % 3 + 1, ROWS - first);
        run(&world, first, n);
        assert_memory_equal(world.out, all + (size_t)first * N, n * N * sizeof(float));
    }
    kern_cpu.close(world.dev);
}

static void test_bands(void **state)
{
    struct cpu_paths_entry paths[8];
    uint32_t path_n = cpu_paths(paths);
    static float want[ROWS * N];
    static float got[ROWS * N];
    (void)state;
    for (uint32_t held = 0; held < 2; held++) {
        enum dtype type = held ? DTYPE_BF16 : DTYPE_F32;
        for (uint32_t p = 0; p < path_n; p++) {
            bool is_chain = paths[p].is_chain || type == DTYPE_F32;
            check(&paths[p], type, 1, p == 0 ? want : got);
            check(&paths[p], type, 3, got);
            if (is_chain) {
                assert_memory_equal(got, want, sizeof want);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bands)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
