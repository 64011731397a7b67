/* Writes perf/cuda-tables.md: what a decode step of the CUDA backend launches and reads, and how
 * evenly its linears fill a device, all of it counted on the emulated one.
 *
 *     cuda_tables                 prints the file
 *     cuda_tables --check FILE    makes it again and fails where it differs
 *
 * Launches are those of the captured graph of the whole shape, which is never run. Bytes are
 * counted while one layer, the embedding and the head run at full width: at 1 and 32 rows, the head
 * at 1, and under GRAFT_LONG=1 all of them at 1, 8, 32 and 128 rows. The bytes of a step that is
 * not run are those of the formulas, which a small shape proves for every number of rows first. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/file.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/tables.h"

#define EMU_BYTES   ((size_t)6 << 30)
#define MIXED_LAYER 2 /* launches that effects may add to a layer */
#define QUANTISED   0.90
#define MB          1e6

static const struct tables_shape shapes[] = {
    {"0.5B", 24, 896, 4864, 14, 2, 64, 151936},   {"3B", 28, 3072, 8192, 24, 8, 128, 128256},
    {"4B", 36, 2560, 9728, 32, 8, 128, 151936},   {"8B", 32, 4096, 14336, 32, 8, 128, 128256},
    {"14B", 40, 5120, 17408, 40, 8, 128, 151936},
};
#define SHAPE_8B (&shapes[3])

static const struct tables_shape small = {"small", 2, 256, 768, 8, 2, 64, 500};
static const uint32_t rows[] = {1, 8, 32, 128};
static const bool is_run[] = {true, false, true, false}; /* without GRAFT_LONG */

static struct tables_rig rig;
static struct buf out;
static uint32_t fault_n;

static void fault(const char *what, uint32_t row_n, uint64_t got, uint64_t want)
{
    fprintf(stderr, "cuda_tables: %s at %u rows: %" PRIu64 ", not %" PRIu64 "\n", what, row_n, got,
            want);
    fault_n++;
}

static void compare(const struct tables_step *step, const struct tables_bytes *want)
{
    for (uint32_t op = 0; op < OP_N; op++) {
        for (uint32_t c = 0; c < BYTES_N; c++) {
            uint64_t n = rig.counted.bytes[op][c];
            uint64_t w = want->bytes[op][c];
            if (n != w) {
                fault(tables_op_names[op], step->row_n, n, w);
            }
        }
    }
}

/* Runs the step, base or mixed, and holds what it read to the formulas. */
static void prove(const struct tables_step *step)
{
    struct tables_bytes want;
    tables_formula(rig.shape, step, &want);
    tables_run(&rig, step);
    compare(step, &want);
}

static void prove_small(void)
{
    static const uint32_t small_rows[] = {1, 7, 8, 9, 17, 31, 32, 33, 64, 65, 127, 128};
    tables_open(&rig, &small, false, 1024);
    for (uint32_t i = 0; i < ARRAY_N(small_rows); i++) {
        prove(&(struct tables_step){small_rows[i], 100, false});
        prove(&(struct tables_step){small_rows[i], 100, true});
    }
    tables_close(&rig);
}

/* Launches of the step's graph, base and mixed. */
static void capture(const struct tables_shape *shape, uint32_t n[ARRAY_N(rows)][2])
{
    tables_open(&rig, shape, true, 1);
    for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
        n[i][0] = tables_launches(&rig, rows[i], false);
        n[i][1] = tables_launches(&rig, rows[i], true);
    }
    tables_close(&rig);
}

static void write_launches(void)
{
    uint32_t n[ARRAY_N(rows)][2];
    uint32_t one[ARRAY_N(rows)][2];
    struct tables_shape layer = *SHAPE_8B;
    uint32_t more = SHAPE_8B->layer_n - 1;
    layer.layer_n = 1;
    capture(SHAPE_8B, n);
    capture(&layer, one);
    buf_add_str(&out, "\n## Launches of a decode step\n\n"
                      "Kernels of the captured graph (`dev_graph_launch_n`); one more, outside of "
                      "it, publishes the results.\n\n"
                      "| rows | base | mixed | mixed adds | a layer, base | a layer, mixed |\n"
                      "|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
        uint32_t base = (n[i][0] - one[i][0]) / more;
        uint32_t mixed = (n[i][1] - one[i][1]) / more;
        if (base == 0 || n[i][0] != one[i][0] + base * more || mixed > base + MIXED_LAYER) {
            fault("launches", rows[i], n[i][1], n[i][0]);
        }
        buf_printf(&out, "| %u | %u | %u | %u | %u | %u |\n", rows[i], n[i][0], n[i][1],
                   n[i][1] - n[i][0], base, mixed);
    }
}

/* Every op of one layer, the embedding and the head at full width: the layer with a short head,
 * then the head behind a narrow layer, because the head is as much work as two layers. */
static void prove_layer(bool is_long)
{
    struct tables_shape layer = *SHAPE_8B;
    struct tables_shape head = *SHAPE_8B;
    layer.layer_n = head.layer_n = 1;
    layer.vocab_n = small.vocab_n;
    head.ffn = small.ffn;
    tables_open(&rig, &layer, false, TABLES_ROWS * TABLES_CONTEXT / LIMIT_KV_PAGE);
    for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
        if (is_long || is_run[i]) {
            prove(&(struct tables_step){rows[i], TABLES_CONTEXT, false});
            prove(&(struct tables_step){rows[i], TABLES_CONTEXT, true});
        }
    }
    tables_close(&rig);
    tables_open(&rig, &head, false, TABLES_ROWS);
    for (uint32_t i = 0; i < (is_long ? ARRAY_N(rows) : 1); i++) {
        prove(&(struct tables_step){rows[i], LIMIT_KV_PAGE, false});
    }
    tables_close(&rig);
}

static void write_layer(const struct tables_shape *layer)
{
    static const char *const classes[] = {"weights", "adapters", "KV"};
    struct tables_bytes bytes[ARRAY_N(rows)];
    buf_add_str(&out,
                "\n## Bytes of one layer, the embedding and the head\n\n"
                "Counted at the load words, equal to the formulas byte for byte. Base steps "
                "read the same but for the lines of adapters, which are empty there. "
                "Weights: outputs x inputs x 2 once, up to 128 rows; above, once for every "
                "128. Adapters: A and B once for every 32 rows that name it, whatever of it "
                "the L2 serves. KV: 2 x positions x KV heads x head_dim x 2 of each row. "
                "Run by the test at 1 and 32 rows, the head at 1; all of it under GRAFT_LONG=1.\n\n"
                "| op | class | 1 row | 8 rows | 32 rows | 128 rows |\n"
                "|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
        struct tables_step step = {rows[i], TABLES_CONTEXT, true};
        tables_formula(layer, &step, &bytes[i]);
    }
    for (uint32_t op = 0; op < OP_N; op++) {
        for (uint32_t c = 0; c < BYTES_N; c++) {
            if (bytes[0].bytes[op][c] == 0) {
                continue;
            }
            buf_printf(&out, "| %s | %s |", tables_op_names[op], classes[c]);
            for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
                buf_printf(&out, " %" PRIu64 " |", bytes[i].bytes[op][c]);
            }
            buf_add_str(&out, "\n");
        }
    }
}

static uint64_t sum_class(const struct tables_bytes *bytes, uint32_t c)
{
    uint64_t sum = 0;
    for (uint32_t op = 0; op < OP_N; op++) {
        sum += bytes->bytes[op][c];
    }
    return sum;
}

static void write_step(void)
{
    buf_printf(
        &out,
        "\n## Bytes of a whole step\n\n"
        "%u such layers, the embedding and the head, in MB (10^6 bytes). Floor: every weight "
        "once and every adapter once.\n\n"
        "| rows | weights | KV | base step | adapters | adapters / base | weights / floor | "
        "adapters / floor |\n|---|---|---|---|---|---|---|---|\n",
        SHAPE_8B->layer_n);
    for (uint32_t i = 0; i < ARRAY_N(rows); i++) {
        struct tables_bytes bytes;
        struct tables_bytes floor;
        struct tables_step step = {rows[i], TABLES_CONTEXT, true};
        tables_formula(SHAPE_8B, &step, &bytes);
        tables_formula(SHAPE_8B, &(struct tables_step){1, TABLES_CONTEXT, true}, &floor);
        double weights = (double)sum_class(&bytes, BYTES_WEIGHT);
        double adapters = (double)sum_class(&bytes, BYTES_ADAPTER);
        double kv = (double)sum_class(&bytes, BYTES_KV);
        buf_printf(&out, "| %u | %.1f | %.1f | %.1f | %.1f | %.2f %% | %.2f | %.2f |\n", rows[i],
                   weights / MB, kv / MB, (weights + kv) / MB, adapters / MB,
                   100 * adapters / (weights + kv),
                   weights / (double)sum_class(&floor, BYTES_WEIGHT),
                   adapters / (double)sum_class(&floor, BYTES_ADAPTER));
    }
}

/* One line of the table per shape; those below the bar stand in bold. */
static void write_quantised(void)
{
    static const uint32_t forms[] = {32, 64, 128, 256};
    static const uint32_t sms[] = {58, 108, 132, 148};
    uint32_t held_n = 0;
    uint32_t all_n = 0;
    buf_add_str(
        &out,
        "\n## Tile quantisation of the linears\n\n"
        "Units / (rounds x blocks), from what the launcher itself decides "
        "(`kernels/cuda/linear_cut.h`), over the linears of a step weighted by their work; "
        "rounds are those of the slice of K that has fewest blocks. Up to 32 rows the "
        "narrow form, the same for any number of them; above, the wide one, where a unit "
        "has 64 rows of weights and K is cut by whole slices, if it is. Bold: below 0.90, "
        "from 3B up.\n\n"
        "| rows | shape | 58 SMs | 108 SMs | 132 SMs | 148 SMs |\n|---|---|---|---|---|---|\n");
    for (uint32_t f = 0; f < ARRAY_N(forms); f++) {
        for (uint32_t s = 0; s < ARRAY_N(shapes); s++) {
            buf_printf(&out, "| %u | %s |", forms[f], shapes[s].name);
            for (uint32_t m = 0; m < ARRAY_N(sms); m++) {
                double share = tables_quantised(&shapes[s], forms[f], sms[m]);
                bool is_low = s > 0 && share < QUANTISED;
                buf_printf(&out, is_low ? " **%.3f** |" : " %.3f |", share);
                all_n += s > 0;
                held_n += s > 0 && !is_low;
            }
            buf_add_str(&out, "\n");
        }
    }
    buf_printf(&out, "\nAt or above 0.90, from 3B up: %u of %u.\n", held_n, all_n);
}

static void make(void)
{
    const char *is_long = getenv("GRAFT_LONG");
    struct tables_shape layer = *SHAPE_8B;
    layer.layer_n = 1;
    buf_printf(&out,
               "# The CUDA backend: launches, bytes, tile quantisation\n\n"
               "Made by `build/emu/tests/cuda_tables > perf/cuda-tables.md` on the emulated device "
               "(bf16); the test `cuda_tables` makes it again and fails where it differs. The 8B "
               "shape: %u layers, hidden %u, ffn %u, %u query and %u KV heads of %u, head %u. "
               "Mixed: %u distinct adapters of rank %u on every linear, row i has adapter i "
               "modulo %u, a single row has them all. Every row stands at position %u.\n",
               SHAPE_8B->layer_n, SHAPE_8B->hidden, SHAPE_8B->ffn, SHAPE_8B->head_n,
               SHAPE_8B->kv_head_n, SHAPE_8B->head_dim, SHAPE_8B->vocab_n, TABLES_ADAPTERS,
               TABLES_RANK, TABLES_ADAPTERS, TABLES_CONTEXT - 1);
    prove_small();
    prove_layer(is_long && strcmp(is_long, "1") == 0);
    write_launches();
    write_layer(&layer);
    write_step();
    write_quantised();
}

/* Tells the first line that differs. */
static void check(const char *path)
{
    struct file_map map;
    struct err err = {0};
    if (file_map_open(&map, path, &err)) {
        fprintf(stderr, "cuda_tables: %s\n", err.text);
        exit(1);
    }
    size_t n = MIN(map.n, out.n);
    size_t same = 0;
    while (same < n && ((const char *)map.data)[same] == out.data[same]) {
        same++;
    }
    if (map.n != out.n || same < n) {
        while (same > 0 && out.data[same - 1] != '\n') {
            same--;
        }
        fprintf(stderr, "cuda_tables: %s has another line than \"%.*s\"\n", path,
                (int)strcspn(out.data + same, "\n"), out.data + same);
        fault_n++;
    }
    file_map_close(&map);
}

int main(int argc, char **argv)
{
    emu_knobs.memory_bytes = EMU_BYTES;
    make();
    if (argc == 3 && strcmp(argv[1], "--check") == 0) {
        check(argv[2]);
    } else {
        fputs(out.data, stdout);
    }
    buf_done(&out);
    return fault_n ? 1 : 0;
}
