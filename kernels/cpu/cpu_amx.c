/* The AMX path: bf16 products by tdpbf16ps on 16 x 16 tiles, everything else is AVX-512's.
 *
 * Order: every output element is C = C + (even + odd) for each k tile of 32 in turn, where even and
 * odd are chains over the tile's 16 pairs that start from 0. Blocks of two row tiles by two column
 * tiles; rows are padded to 16 with zeros (fewer than 16 in all: the tiles are that short).
 * Compiled a second time as CPU_STAND_IN, the tile instructions are replaced by stand_in.h. */
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/path.h"

#define AMX_ROWS 16u

#ifdef CPU_STAND_IN

#include "kernels/cpu/stand_in.h"

struct amx_tile {
    uint32_t word[16][16];
};

static _Thread_local struct amx_tile amx_tiles[8];
static _Thread_local uint32_t amx_rows; /* of tiles 0 to 5 */

static uint32_t amx_tile_rows(uint32_t tile)
{
    return tile < 6 ? amx_rows : 16;
}

static void amx_start(uint32_t rows)
{
    amx_rows = rows;
    memset(amx_tiles, 0, sizeof amx_tiles);
}

static void amx_stop(void)
{
    amx_rows = 0;
}

static void amx_zero(uint32_t tile)
{
    memset(&amx_tiles[tile], 0, sizeof amx_tiles[tile]);
}

static void amx_load(uint32_t tile, const void *from, size_t stride)
{
    for (uint32_t r = 0; r < amx_tile_rows(tile); r++) {
        memcpy(amx_tiles[tile].word[r], (const char *)from + r * stride, 64);
    }
}

static void amx_store(uint32_t tile, void *to, size_t stride)
{
    for (uint32_t r = 0; r < amx_tile_rows(tile); r++) {
        memcpy((char *)to + r * stride, amx_tiles[tile].word[r], 64);
    }
}

static void amx_dp(uint32_t c, uint32_t a, uint32_t b)
{
    for (uint32_t r = 0; r < amx_rows; r++) {
        float even[16] = {0};
        float odd[16] = {0};
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t x = amx_tiles[a].word[r][k];
            float w_even[16];
            float w_odd[16];
            stand_in_split(amx_tiles[b].word[k], w_even, w_odd);
            stand_in_fma(even, stand_in_flush(f32_of_bits(x << 16)), w_even);
            stand_in_fma(odd, stand_in_flush(f32_of_bits(x & 0xFFFF0000u)), w_odd);
        }
        for (uint32_t n = 0; n < 16; n++) {
            uint32_t *word = &amx_tiles[c].word[r][n];
            float sum = stand_in_flush(even[n] + odd[n]);
            *word = f32_bits(stand_in_flush(stand_in_flush(f32_of_bits(*word)) + sum));
        }
    }
}

#else

#include <immintrin.h>

struct amx_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};

/* The intrinsics of some compilers do not say what memory they read: this does, for all of it. */
#define AMX_FENCE() __asm__ __volatile__("" ::: "memory")

/* Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns. */
static void amx_start(uint32_t rows)
{
    _Alignas(64) struct amx_config config = {.palette = 1};
    for (uint32_t i = 0; i < 8; i++) {
        config.bytes_per_row[i] = 64;
        config.rows[i] = (uint8_t)(i < 6 ? rows : 16);
    }
    __asm__ __volatile__("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}

static void amx_stop(void)
{
    _tile_release();
}

#define amx_zero(tile)               _tile_zero(tile)
#define amx_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define amx_store(tile, to, stride)  _tile_stored(tile, to, stride)
#define amx_dp(c, a, b)              _tile_dpbf16ps(c, a, b)

#endif

#ifndef AMX_FENCE
#define AMX_FENCE() (void)0
#endif

/* A column tile of the last k tile, filled up to 16 rows. */
struct amx_tail {
    _Alignas(64) char bytes[2][LAYOUT_TILE_BYTES];
};

static void amx_tail_fill(struct amx_tail *tail, const struct cpu_gemm *g, uint32_t rows)
{
    const char *w = (const char *)g->w + (size_t)(g->k_layout / 32) * g->tile_n * LAYOUT_TILE_BYTES;
    memset(tail, 0, sizeof *tail);
    for (uint32_t c = 0; c < g->tile_n; c++) {
        memcpy(tail->bytes[c], w + (size_t)c * rows * LAYOUT_ROW_BYTES, rows * LAYOUT_ROW_BYTES);
    }
    AMX_FENCE();
}

static inline void amx_prefetch(const char *at)
{
    for (uint32_t i = 0; i < LAYOUT_TILE_ROWS; i++) {
        __builtin_prefetch(at + i * LAYOUT_ROW_BYTES);
    }
}

/* All of K for the row tiles at x (and, is_tall, the block behind it); sums stay in tiles 0 to 3.
 */
static void amx_sums(const struct cpu_gemm *g, const char *x, bool is_tall,
                     const struct amx_tail *tail)
{
    const char *x_below = x + pairs_bytes(AMX_ROWS, g->k);
    const char *w = g->w;
    uint32_t tile_n = DIV_UP(g->k, 32u);
    bool is_wide = g->tile_n == 2;
    amx_zero(0);
    amx_zero(1);
    amx_zero(2);
    amx_zero(3);
    for (uint32_t t = 0; t < tile_n; t++) {
        bool is_tail = t == g->k_layout / 32;
        const char *left = is_tail ? tail->bytes[0] : w;
        const char *right = is_tail ? tail->bytes[1] : w + LAYOUT_TILE_BYTES;
        const char *ahead =
            t + 1 == tile_n && g->next ? g->next : w + g->tile_n * LAYOUT_TILE_BYTES;
        amx_load(4, x + (size_t)t * LAYOUT_TILE_BYTES, LAYOUT_ROW_BYTES);
        amx_prefetch(ahead);
        amx_load(6, left, LAYOUT_ROW_BYTES);
        amx_dp(0, 4, 6);
        if (is_wide) {
            amx_prefetch(ahead + LAYOUT_TILE_BYTES);
            amx_load(7, right, LAYOUT_ROW_BYTES);
            amx_dp(1, 4, 7);
        }
        if (is_tall) {
            amx_load(5, x_below + (size_t)t * LAYOUT_TILE_BYTES, LAYOUT_ROW_BYTES);
            amx_dp(2, 5, 6);
            if (is_wide) {
                amx_dp(3, 5, 7);
            }
        }
        w += g->tile_n * LAYOUT_TILE_BYTES;
    }
}

/* The sums of `n` rows from `first` on to out, through memory when they are not whole tiles there.
 */
static void amx_finish(const struct cpu_gemm *g, uint32_t first, uint32_t n, uint32_t height,
                       bool is_below)
{
    _Alignas(64) float spare[AMX_ROWS][LAYOUT_GROUP];
    bool is_direct = !g->rows && n == height;
    float *to = is_direct ? g->out + first * g->stride : spare[0];
    size_t stride = (is_direct ? g->stride : LAYOUT_GROUP) * sizeof(float);
    if (is_below) {
        amx_store(2, to, stride);
    } else {
        amx_store(0, to, stride);
    }
    if (g->tile_n == 2 && is_below) {
        amx_store(3, to + 16, stride);
    } else if (g->tile_n == 2) {
        amx_store(1, to + 16, stride);
    }
    AMX_FENCE();
    for (uint32_t r = 0; r < n && !is_direct; r++) {
        uint32_t row = g->rows ? g->rows[first + r] : first + r;
        memcpy(g->out + row * g->stride, spare[r], g->tile_n * 16 * sizeof(float));
    }
}

/* Never with is_add: what goes on from a sum is fp32 work (cpu_path.exact). */
static void amx_run(const struct cpu_gemm *g)
{
    struct amx_tail tail;
    uint32_t tail_rows = DIV_UP(g->k_layout % 32, 2u);
    uint32_t height = MIN(g->row_n, AMX_ROWS);
    size_t block = pairs_bytes(AMX_ROWS, g->k);
    ASSERT(!g->is_add && g->k == g->k_layout);
    if (tail_rows > 0) {
        amx_tail_fill(&tail, g, tail_rows);
    }
    AMX_FENCE();
    amx_start(height);
    for (uint32_t first = 0; first < g->row_n; first += 2 * AMX_ROWS) {
        uint32_t left = g->row_n - first;
        bool is_tall = left > AMX_ROWS;
        amx_sums(g, (const char *)g->x + first / AMX_ROWS * block, is_tall, &tail);
        amx_finish(g, first, MIN(left, AMX_ROWS), height, false);
        if (is_tall) {
            amx_finish(g, first + AMX_ROWS, MIN(left - AMX_ROWS, AMX_ROWS), height, true);
        }
    }
    amx_stop();
}

static size_t amx_x_bytes(uint32_t row_n, uint32_t k)
{
    return pairs_bytes(ROUND_UP(row_n, AMX_ROWS), k);
}

static void amx_pack(const struct cpu_pack *pack, uint32_t block)
{
    uint32_t first = block * AMX_ROWS;
    pairs_pack(pack, first, MIN(AMX_ROWS, pack->row_n - first), AMX_ROWS,
               (char *)pack->out + pairs_bytes(first, pack->k));
}

static const struct cpu_mm amx_mm = {AMX_ROWS, amx_x_bytes, amx_pack, amx_run};

#define AMX_PATH(mm, row_table, recurrent_table)                                                   \
    {                                                                                              \
        .isa = KERN_ISA_AMX, .held = {[DTYPE_F32] = &(mm)[2], [DTYPE_BF16] = &amx_mm},             \
        .exact = {[DTYPE_F32] = &(mm)[2], [DTYPE_BF16] = &(mm)[1]}, .rows = &(row_table),          \
        .recurrent = &(recurrent_table),                                                           \
    }

#if !defined(CPU_STAND_IN)
const struct cpu_path cpu_path_amx = AMX_PATH(cpu_mm_avx512, cpu_rows_avx512, cpu_recurrent_avx512);
#elif defined(CPU_FUSED)
const struct cpu_path cpu_path_amx_stand_in_fused =
    AMX_PATH(cpu_mm_portable_fused, cpu_rows_portable_fused, cpu_recurrent_portable_fused);
#else
const struct cpu_path cpu_path_amx_stand_in =
    AMX_PATH(cpu_mm_portable, cpu_rows_portable, cpu_recurrent_portable);
#endif
