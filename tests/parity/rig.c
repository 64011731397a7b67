/* The rig: guarded buffers through the contract's own reserve, put and get. */
#include "tests/parity/rig.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/effect.h"
#ifdef PARITY_EMU
#include "kernels/emu/emu_knobs.h"
#endif

#define RIG_GUARD  256         /* bytes on either side */
#define RIG_POISON 0x7FC1FFC2u /* a NaN as fp32 and in both its bf16 halves */

struct rig_buf {
    struct rig_buf *next;
    char *dev; /* of the guard in front */
    size_t bytes;
};

/* What threads are to a CPU, multiprocessors and the order of lanes are to the emulated device. */
static void rig_vary_device(uint32_t thread_n)
{
#ifdef PARITY_EMU
    emu_knobs.sm_n = thread_n == 1 ? 1 : thread_n == 2 ? 4 : 7;
    emu_knobs.lane_seed = thread_n == 1 ? 1 : thread_n == 2 ? 0 : 77;
#else
    (void)thread_n;
#endif
}

int rig_open(struct rig *rig, const struct parity_impl *impl, const struct kern_open *args,
             uint32_t thread_n, struct err *err)
{
    struct kern_open open = *args;
    open.isa = impl->isa;
    open.is_stand_in = impl->is_stand_in;
    open.thread_n = thread_n;
    open.held = impl->is_16_bit && open.held == DTYPE_F32 ? DTYPE_F16 : open.held;
    *rig = (struct rig){.kern = impl->kern, .held = open.held, .form = impl->form};
    rig_vary_device(thread_n);
    int rc = rig->kern->open(&open, &rig->dev, err);
    if (rc == 0) {
        arena_init(&rig->arena);
    }
    return rc;
}

void rig_close(struct rig *rig)
{
    rig->kern->close(rig->dev);
    arena_done(&rig->arena);
}

static void rig_poison(void *memory, size_t bytes)
{
    const uint32_t poison = RIG_POISON;
    size_t whole = bytes / sizeof poison * sizeof poison;
    for (size_t i = 0; i < whole; i += sizeof poison) {
        memcpy((char *)memory + i, &poison, sizeof poison);
    }
    memcpy((char *)memory + whole, &poison, bytes - whole);
}

void *rig_take(struct rig *rig, size_t bytes)
{
    struct rig_buf *buf = arena_alloc(&rig->arena, sizeof *buf);
    size_t total = bytes + 2 * RIG_GUARD;
    struct err err;
    void *dev;
    if (rig->kern->reserve(rig->dev, total, &dev, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        ASSERT(!"reserve");
    }
    ASSERT_CMP((uintptr_t)dev % EFFECT_ALIGN, ==, 0);
    void *fill = arena_alloc(&rig->arena, total);
    rig_poison(fill, total);
    rig->kern->put(rig->dev, dev, fill, total);
    *buf = (struct rig_buf){.next = rig->bufs, .dev = dev, .bytes = bytes};
    rig->bufs = buf;
    return buf->dev + RIG_GUARD;
}

void *rig_put(struct rig *rig, const void *data, size_t bytes)
{
    void *dev = rig_take(rig, bytes);
    rig->kern->put(rig->dev, dev, data, bytes);
    return dev;
}

void *rig_put_held(struct rig *rig, const float *values, size_t n)
{
    if (rig->held == DTYPE_F32) {
        return rig_put(rig, values, n * sizeof *values);
    }
    uint16_t *narrow = arena_alloc(&rig->arena, n * sizeof *narrow);
    for (size_t i = 0; i < n; i++) {
        narrow[i] = rig->held == DTYPE_BF16 ? bf16_from_f32(values[i]) : f16_from_f32(values[i]);
    }
    return rig_put(rig, narrow, n * sizeof *narrow);
}

void *rig_weight(struct rig *rig, const struct kern_matrix *matrix)
{
    void *dev = rig_take(rig, rig->kern->weight_bytes(rig->held, matrix->n, matrix->k));
    rig->kern->weight_load(rig->dev, matrix, dev);
    return dev;
}

static struct rig_out *rig_out_new(struct rig *rig, const char *name, const uint32_t shape[2],
                                   struct rig_bound bound)
{
    ASSERT_CMP(rig->out_n, <, RIG_OUTS);
    struct rig_out *out = &rig->outs[rig->out_n++];
    size_t bytes = (size_t)shape[0] * shape[1] * sizeof(float);
    *out = (struct rig_out){.name = name,
                            .row_n = shape[0],
                            .col_n = shape[1],
                            .values = arena_alloc(&rig->arena, bytes),
                            .bound = bound};
    return out;
}

void rig_out_f32(struct rig *rig, const char *name, const void *dev, const uint32_t shape[2],
                 struct rig_bound bound)
{
    struct rig_out *out = rig_out_new(rig, name, shape, bound);
    rig->kern->get(rig->dev, out->values, dev, (size_t)shape[0] * shape[1] * sizeof(float));
}

void rig_out_held(struct rig *rig, const char *name, const void *dev, const uint32_t shape[2],
                  struct rig_bound bound)
{
    if (rig->held == DTYPE_F32) {
        rig_out_f32(rig, name, dev, shape, bound);
        return;
    }
    struct rig_out *out = rig_out_new(rig, name, shape, bound);
    size_t n = (size_t)shape[0] * shape[1];
    uint16_t *narrow = arena_alloc(&rig->arena, n * sizeof *narrow);
    rig->kern->get(rig->dev, narrow, dev, n * sizeof *narrow);
    for (size_t i = 0; i < n; i++) {
        out->values[i] = rig->held == DTYPE_BF16 ? bf16_to_f32(narrow[i]) : f16_to_f32(narrow[i]);
    }
    out->rounded = rig->held;
}

void rig_out_tokens(struct rig *rig, const struct kern_token *dev, uint32_t n,
                    struct rig_bound bound)
{
    const struct rig_bound exact = {0};
    const uint32_t ids_shape[2] = {n, LIMIT_TOP_LOGPROBS + 2};
    const uint32_t logprobs_shape[2] = {n, LIMIT_TOP_LOGPROBS + 1};
    struct kern_token *tokens = arena_alloc(&rig->arena, n * sizeof *tokens);
    rig->kern->get(rig->dev, tokens, dev, n * sizeof *tokens);
    struct rig_out *ids = rig_out_new(rig, "tokens", ids_shape, exact);
    struct rig_out *logprobs = rig_out_new(rig, "logprobs", logprobs_shape, bound);
    for (uint32_t i = 0; i < n; i++) {
        float *id = ids->values + (size_t)i * ids->col_n;
        float *logprob = logprobs->values + (size_t)i * logprobs->col_n;
        id[0] = (float)tokens[i].token;
        id[1] = (float)tokens[i].top_n;
        logprob[0] = tokens[i].logprob;
        ASSERT_CMP(tokens[i].top_n, <=, LIMIT_TOP_LOGPROBS);
        for (uint32_t j = 0; j < tokens[i].top_n; j++) {
            id[2 + j] = (float)tokens[i].top_tokens[j];
            logprob[1 + j] = tokens[i].top_logprobs[j];
        }
    }
}

void rig_out_some(struct rig *rig, const struct rig_out *out)
{
    ASSERT_CMP(rig->out_n, <, RIG_OUTS);
    rig->outs[rig->out_n++] = *out;
}

void rig_flip_rows(struct rig *rig)
{
    for (uint32_t i = 0; i < rig->out_n; i++) {
        struct rig_out *out = &rig->outs[i];
        ASSERT(!out->at);
        for (uint32_t row = 0; row < out->row_n / 2; row++) {
            float *a = out->values + (size_t)row * out->col_n;
            float *b = out->values + (size_t)(out->row_n - 1 - row) * out->col_n;
            for (uint32_t col = 0; col < out->col_n; col++) {
                float value = a[col];
                a[col] = b[col];
                b[col] = value;
            }
        }
    }
}

/* Whether a guard that starts `at` bytes into its buffer still holds the pattern. */
static bool rig_is_poison(const struct rig *rig, const struct rig_buf *buf, size_t at)
{
    char guard[RIG_GUARD];
    char pattern[RIG_GUARD + sizeof(uint32_t)];
    rig->kern->get(rig->dev, guard, buf->dev + at, RIG_GUARD);
    rig_poison(pattern, sizeof pattern);
    return memcmp(guard, pattern + at % sizeof(uint32_t), RIG_GUARD) == 0;
}

bool rig_is_intact(const struct rig *rig)
{
    for (const struct rig_buf *buf = rig->bufs; buf; buf = buf->next) {
        if (!rig_is_poison(rig, buf, 0) || !rig_is_poison(rig, buf, RIG_GUARD + buf->bytes)) {
            printf("  a guard of a buffer of %zu bytes was overwritten\n", buf->bytes);
            return false;
        }
    }
    return true;
}

/* The distance from |v| to the next larger number of a type. */
static float rig_unit(float v, enum dtype type)
{
    int exponent;
    frexpf(v, &exponent);
    return ldexpf(1.0f, type == DTYPE_BF16 ? exponent - 8 : MAX(exponent - 11, -24));
}

static bool rig_is_near(float a, float b, float largest, const struct rig_bound *bound,
                        enum dtype rounded)
{
    if (f32_bits(a) == f32_bits(b)) {
        return true;
    }
    float limit = bound->relative * fmaxf(largest, bound->floor);
    if (rounded != DTYPE_F32) {
        limit += rig_unit(fmaxf(fabsf(a), fabsf(b)), rounded);
    }
    return fabsf(a - b) <= limit; /* false for a NaN */
}

struct rig_compare {
    bool is_exact;
    const struct rig_bound *bound; /* of b, as is */
    enum dtype rounded;
};

/* The values of a row, or NULL where it has none. */
static const float *rig_row(const struct rig_out *out, uint32_t row)
{
    uint32_t at = out->at ? out->at[row] : row;
    return at == UINT32_MAX ? NULL : out->values + (size_t)at * out->col_n;
}

/* Adds the number of elements that differ at all to *io_differ_n. */
static bool rig_row_matches(const struct rig_out *a, uint32_t row, const float *b,
                            const struct rig_compare *how, size_t *io_differ_n)
{
    const float *values = rig_row(a, row);
    float largest = 0;
    for (uint32_t i = 0; i < a->col_n; i++) {
        largest = isfinite(values[i]) ? fmaxf(largest, fabsf(values[i])) : largest;
    }
    for (uint32_t i = 0; i < a->col_n; i++) {
        bool is_same = f32_bits(values[i]) == f32_bits(b[i]);
        if (how->is_exact ? !is_same
                          : !rig_is_near(values[i], b[i], largest, how->bound, how->rounded)) {
            printf("  %s[%u][%u]: %.9g, wanted %.9g (row's largest %.3g, %s)\n", a->name, row, i,
                   (double)b[i], (double)values[i], (double)largest,
                   how->is_exact ? "bit for bit" : "within the bound");
            return false;
        }
        *io_differ_n += !is_same;
    }
    return true;
}

bool rig_outs_match(const struct rig *a, uint32_t first, const struct rig *b, bool is_exact)
{
    ASSERT_CMP(a->out_n, ==, b->out_n);
    for (uint32_t i = 0; i < a->out_n; i++) {
        const struct rig_out *x = &a->outs[i];
        const struct rig_out *y = &b->outs[i];
        size_t differ_n = 0;
        struct rig_compare how = {is_exact, &y->bound, y->rounded};
        size_t differ_max = 8 + (size_t)y->row_n * y->col_n / 16;
        ASSERT_CMP(first + y->row_n, <=, x->row_n);
        for (uint32_t row = 0; row < y->row_n; row++) {
            const float *values = rig_row(y, row);
            ASSERT(!values == !rig_row(x, first + row));
            if (values && !rig_row_matches(x, first + row, values, &how, &differ_n)) {
                return false;
            }
        }
        if (x->rounded != DTYPE_F32 && x->rounded == y->rounded && !x->bound.has_flips &&
            !y->bound.has_flips && differ_n > differ_max) {
            printf("  %s: %zu elements are rounded another way\n", x->name, differ_n);
            return false;
        }
    }
    return true;
}
