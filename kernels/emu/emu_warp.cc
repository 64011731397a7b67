/* What the lanes of a warp do together, and copies that are late on purpose. */
#include "kernels/cuda/dev.h"
#include "kernels/emu/emu_block.h"

static void shfl_all(void **args, unsigned mask)
{
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) {
            continue;
        }
        emu_shfl *arg = static_cast<emu_shfl *>(args[lane]);
        int from = arg->source < 0 || arg->source > 31 ? lane : arg->source;
        if (!(mask >> from & 1)) {
            emu_die("a shuffle reads a lane outside its mask", 0);
        }
        arg->out = static_cast<emu_shfl *>(args[from])->in;
    }
}

void emu_shfl_meet(unsigned mask, struct emu_shfl *arg, int line)
{
    emu_meet(mask, EMU_SHFL, line, arg, shfl_all);
}

static void ballot_all(void **args, unsigned mask)
{
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1 && *static_cast<unsigned *>(args[lane])) {
            result |= 1u << lane;
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1) {
            *static_cast<unsigned *>(args[lane]) = result;
        }
    }
}

unsigned __ballot_sync(unsigned mask, int predicate, int line)
{
    unsigned v = predicate != 0;
    emu_meet(mask, EMU_BALLOT, line, &v, ballot_all);
    return v;
}

void __syncwarp(unsigned mask, int line)
{
    emu_meet(mask, EMU_SYNCWARP, line, NULL, NULL);
}

/* mma.m16n8k16: A row-major, B column-major, as the PTX manual deals their elements to lanes. An
 * element of the result is a chain of sixteen sums in ascending k, from the accumulator on;
 * products are exact in fp32, each sum is rounded once. */
struct mma_arg {
    float *d;
    const uint32_t *a, *b;
};

/* The chains of four neighbouring columns advance together: the same sums, in fewer instructions.
 */
typedef float mma_columns __attribute__((vector_size(16)));

/* f16_to_f32 without branches. */
static float half_value(uint32_t bits)
{
    uint32_t magnitude = (bits & 0x7fffu) << 13;
    uint32_t normal = magnitude + (112u << 23);
    uint32_t tiny = f32_bits((float)(bits & 0x3ffu) * 0x1p-24f);
    uint32_t huge = magnitude | 0x7f800000u;
    uint32_t u = magnitude < 1u << 23 ? tiny : magnitude < 31u << 23 ? normal : huge;
    return f32_of_bits(u | (bits & 0x8000u) << 16);
}

template <bool is_bf16> static void mma_pair(float *out, uint32_t pair)
{
    out[0] = is_bf16 ? f32_of_bits(pair << 16) : half_value(pair & 0xffffu);
    out[1] = is_bf16 ? f32_of_bits(pair & 0xffff0000u) : half_value(pair >> 16);
}

template <bool is_bf16> static void mma_all(void **args, unsigned mask)
{
    alignas(64) float a[16][16];
    alignas(64) float b[8][16];
    alignas(64) float d[16][8];
    if (mask != 0xffffffffu) {
        emu_die("mma needs the whole warp", 0);
    }
    for (int lane = 0; lane < 32; lane++) {
        const mma_arg *arg = static_cast<const mma_arg *>(args[lane]);
        int g = lane / 4;
        int t = lane % 4 * 2;
        mma_pair<is_bf16>(&a[g][t], arg->a[0]);
        mma_pair<is_bf16>(&a[g + 8][t], arg->a[1]);
        mma_pair<is_bf16>(&a[g][t + 8], arg->a[2]);
        mma_pair<is_bf16>(&a[g + 8][t + 8], arg->a[3]);
        mma_pair<is_bf16>(&b[g][t], arg->b[0]);
        mma_pair<is_bf16>(&b[g][t + 8], arg->b[1]);
        for (int i = 0; i < 2; i++) {
            d[g][t + i] = arg->d[i];
            d[g + 8][t + i] = arg->d[2 + i];
        }
    }
    mma_columns columns[16][2];
    for (int k = 0; k < 16; k++) {
        columns[k][0] = mma_columns{b[0][k], b[1][k], b[2][k], b[3][k]};
        columns[k][1] = mma_columns{b[4][k], b[5][k], b[6][k], b[7][k]};
    }
    for (int i = 0; i < 16; i++) {
        mma_columns *row = reinterpret_cast<mma_columns *>(d[i]);
        mma_columns low = row[0];
        mma_columns high = row[1];
        for (int k = 0; k < 16; k++) {
            low += a[i][k] * columns[k][0];
            high += a[i][k] * columns[k][1];
        }
        row[0] = low;
        row[1] = high;
    }
    for (int lane = 0; lane < 32; lane++) {
        mma_arg *arg = static_cast<mma_arg *>(args[lane]);
        for (int i = 0; i < 2; i++) {
            arg->d[i] = d[lane / 4][lane % 4 * 2 + i];
            arg->d[2 + i] = d[lane / 4 + 8][lane % 4 * 2 + i];
        }
    }
    emu_count_mma();
}

void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool is_bf16, int line)
{
    mma_arg arg = {d, a, b};
    emu_meet(0xffffffffu, is_bf16 ? EMU_MMA_BF16 : EMU_MMA_F16, line, &arg,
             is_bf16 ? mma_all<true> : mma_all<false>);
}

/* ldmatrix.x4: lane 8 i + r gives the address of row r of matrix i; lane l gets elements 2 (l % 4)
 * and the next of row l / 4 of every matrix, or with .trans those of column l / 4. */
struct ldmatrix_arg {
    uint32_t *r;
    const uint4 *row;
    bool is_trans;
};

static void ldmatrix_all(void **args, unsigned mask)
{
    uint16_t rows[4][8][8];
    if (mask != 0xffffffffu) {
        emu_die("ldmatrix needs the whole warp", 0);
    }
    for (int lane = 0; lane < 32; lane++) {
        const ldmatrix_arg *arg = static_cast<const ldmatrix_arg *>(args[lane]);
        const uint32_t words[4] = {arg->row->x, arg->row->y, arg->row->z, arg->row->w};
        for (int i = 0; i < 8; i++) {
            rows[lane / 8][lane % 8][i] = (uint16_t)(words[i / 2] >> i % 2 * 16);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        ldmatrix_arg *arg = static_cast<ldmatrix_arg *>(args[lane]);
        int g = lane / 4;
        int t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            uint16_t low = arg->is_trans ? rows[i][t][g] : rows[i][g][t];
            uint16_t high = arg->is_trans ? rows[i][t + 1][g] : rows[i][g][t + 1];
            arg->r[i] = (uint32_t)low | (uint32_t)high << 16;
        }
    }
}

void emu_ldmatrix(uint32_t r[4], const uint4 *row, bool is_trans, int line)
{
    ldmatrix_arg arg = {r, row, is_trans};
    emu_meet(0xffffffffu, EMU_LDMATRIX, line, &arg, ldmatrix_all);
}

void emu_copy_issue(void *to_shared, const uint4 *value, int line)
{
    emu_fiber *f = emu_self();
    if (f->copy_n == EMU_COPIES_MAX) {
        emu_die("too many copies in flight", line);
    }
    f->copies[f->copy_n++] = {to_shared, {value->x, value->y, value->z, value->w}, f->group, line};
}

void emu_copy_owed(const void *to_shared)
{
    emu_shadow_clear(to_shared, 16);
}

void cp_async_commit(void)
{
    emu_self()->group++;
}

void emu_copy_wait(unsigned newest_n, void (*arrive)(void *to, const uint32_t value[4]))
{
    emu_fiber *f = emu_self();
    unsigned kept = 0;
    for (unsigned i = 0; i < f->copy_n; i++) {
        emu_copy *c = &f->copies[i];
        if (c->group + newest_n < f->group) {
            arrive(c->to, c->value);
        } else {
            f->copies[kept++] = *c;
        }
    }
    f->copy_n = kept;
}
