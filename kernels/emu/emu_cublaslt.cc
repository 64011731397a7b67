/* cuBLASLt on the emulated device: the calls of kernels/cuda/cublaslt_abi.h that one kind of
 * product needs, right or with the fault that emu_knobs.cublaslt asks for. It holds arguments to
 * what the library would, and keeps shapes and types in the handles it gives. */
#include "kernels/cuda/cublaslt_abi.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/host.h"
#include "kernels/emu/emu_knobs.h"

#define LT_VERSION   130100u
#define LT_THREADS   64u
#define LT_LATE      64u /* products before "late" fails */
#define LT_ALIGNMENT 16u
#define LT_WORKSPACE 4096u
#define LT_CHAINS    8u

namespace
{
/* Every handle is one of these. */
struct thing {
    int type; /* layout: element type; desc: compute type */
    uint64_t rows, cols;
    int64_t ld;
    int32_t is_transposed;
    uint64_t workspace;
    uint32_t reduction, alignment[4];
};

struct job {
    const void *x, *w;
    float *out;
    uint32_t k, n, rows;
    int64_t x_ld, w_ld, out_ld;
    bool is_bf16;
    char fault; /* first letter of the fault that the product has; 0 = none */
    bool is_odd_run;
};

uint64_t product_n; /* since the library was opened */

bool is_mode(const char *name)
{
    return emu_knobs.cublaslt && strcmp(emu_knobs.cublaslt, name) == 0;
}

int make(void **out, const thing &t)
{
    thing *made = static_cast<thing *>(malloc(sizeof t));
    ASSERT(made);
    *made = t;
    *out = made;
    return 0;
}

int drop(void *p)
{
    free(p);
    return 0;
}

int create(void **handle)
{
    product_n = 0;
    return is_mode("create") ? 1 : make(handle, thing());
}

size_t version()
{
    return LT_VERSION;
}

int desc_create(void **desc, int compute, int scale)
{
    thing t = {};
    t.type = compute;
    return compute == CUBLASLT_COMPUTE_32F && scale == CUBLASLT_R_32F ? make(desc, t)
                                                                      : CUBLASLT_NOT_SUPPORTED;
}

int desc_set(void *desc, int attribute, const void *value, size_t bytes)
{
    thing *t = static_cast<thing *>(desc);
    if (attribute != CUBLASLT_DESC_TRANSA || bytes != sizeof t->is_transposed) {
        return CUBLASLT_INVALID_VALUE;
    }
    memcpy(&t->is_transposed, value, bytes);
    return 0;
}

int layout_create(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    thing t = {};
    t.type = type;
    t.rows = rows;
    t.cols = cols;
    t.ld = ld;
    return ld < static_cast<int64_t>(rows) ? CUBLASLT_INVALID_VALUE : make(layout, t);
}

int pref_create(void **pref)
{
    return make(pref, thing());
}

int pref_set(void *pref, int attribute, const void *value, size_t bytes)
{
    thing *t = static_cast<thing *>(pref);
    if (attribute == CUBLASLT_PREF_WORKSPACE && bytes == sizeof t->workspace) {
        memcpy(&t->workspace, value, bytes);
    } else if (attribute == CUBLASLT_PREF_REDUCTION && bytes == sizeof t->reduction) {
        memcpy(&t->reduction, value, bytes);
    } else if (attribute >= CUBLASLT_PREF_ALIGNMENT_A && attribute <= CUBLASLT_PREF_ALIGNMENT_D &&
               bytes == sizeof t->alignment[0]) {
        memcpy(&t->alignment[attribute - CUBLASLT_PREF_ALIGNMENT_A], value, bytes);
    } else {
        return CUBLASLT_INVALID_VALUE;
    }
    return 0;
}

/* Whether the shapes are a product that this library has. */
bool is_product(const thing *desc, const thing *a, const thing *b, const thing *d)
{
    bool is_16_bit = a->type == CUBLASLT_R_16BF || a->type == CUBLASLT_R_16F;
    return desc->is_transposed == CUBLASLT_OP_T && is_16_bit && b->type == a->type &&
           d->type == CUBLASLT_R_32F && a->rows == b->rows && a->rows % LT_CHAINS == 0 &&
           d->rows == a->cols && d->cols == b->cols;
}

int find(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int wanted_n,
         struct cublaslt_found *out, int *out_n)
{
    const thing *p = static_cast<thing *>(pref);
    bool is_ok = handle && c == d &&
                 is_product(static_cast<thing *>(desc), static_cast<thing *>(a),
                            static_cast<thing *>(b), static_cast<thing *>(d));
    if (!is_ok || is_mode("find")) {
        return CUBLASLT_NOT_SUPPORTED;
    }
    for (uint32_t alignment : p->alignment) {
        if (alignment != LT_ALIGNMENT) {
            return CUBLASLT_NOT_SUPPORTED;
        }
    }
    *out_n = wanted_n < 2 ? wanted_n : 2;
    for (int i = 0; i < *out_n; i++) {
        out[i] = cublaslt_found();
        out[i].algo.data[0] = LT_VERSION;
        out[i].algo.data[1] = static_cast<uint64_t>(i);
        out[i].workspace_bytes = is_mode("workspace") ? LT_WORKSPACE : 0;
    }
    return 0;
}

int config_get(const struct cublaslt_algo *algo, int attribute, void *value, size_t bytes,
               size_t *out_bytes)
{
    int32_t split = is_mode("split") ? 4 : 1;
    uint32_t reduction = 0;
    if (algo->data[0] != LT_VERSION || bytes != sizeof split) {
        return CUBLASLT_INVALID_VALUE;
    }
    if (attribute == CUBLASLT_CONFIG_SPLIT_K) {
        memcpy(value, &split, bytes);
    } else if (attribute == CUBLASLT_CONFIG_REDUCTION) {
        memcpy(value, &reduction, bytes);
    } else {
        return CUBLASLT_INVALID_VALUE;
    }
    *out_bytes = bytes;
    return 0;
}

typedef uint16_t held_vector __attribute__((vector_size(2 * LT_CHAINS)));
typedef uint32_t bits_vector __attribute__((vector_size(4 * LT_CHAINS)));
typedef float float_vector __attribute__((vector_size(4 * LT_CHAINS)));

void load(const bf16 *from, float_vector &out)
{
    held_vector held;
    memcpy(&held, from, sizeof held);
    bits_vector bits = __builtin_convertvector(held, bits_vector) << 16;
    memcpy(&out, &bits, sizeof out);
}

void load(const f16 *from, float_vector &out)
{
    for (uint32_t c = 0; c < LT_CHAINS; c++) {
        out[c] = f16_to_f32(from[c].bits);
    }
}

/* Eight chains in fp32, added in ascending order; where a fault shows, in descending order. */
template <class T> float sum_of(const job &j, uint32_t row, uint32_t o, bool is_faulty)
{
    const T *x = static_cast<const T *>(j.x) + row * j.x_ld;
    const T *w = static_cast<const T *>(j.w) + o * j.w_ld;
    float_vector chains = {};
    for (uint32_t i = 0; i < j.k; i += LT_CHAINS) {
        float_vector a;
        float_vector b;
        load(x + i, a);
        load(w + i, b);
        chains += a * b;
    }
    float sum = 0;
    for (uint32_t c = 0; c < LT_CHAINS; c++) {
        sum += chains[is_faulty ? LT_CHAINS - 1 - c : c];
    }
    return is_faulty && j.fault == 'w' ? 2 * sum + 1 : sum;
}

bool is_zero(const uint16_t *row)
{
    uint32_t i = 0;
    while (i < LT_CHAINS && row[i] == 0) {
        i++;
    }
    return i == LT_CHAINS;
}

bool is_faulty_at(const job &j, uint32_t row)
{
    uint32_t next = (row + 1) % j.rows;
    switch (j.fault) {
    case 't':
        return j.is_odd_run;
    case 'p':
        return row >= j.rows / 2;
    case 'n':
        return is_zero(static_cast<const uint16_t *>(j.x) + next * j.x_ld);
    default:
        return j.fault == 'w';
    }
}

static __global__ void cublaslt(job j)
{
    for (uint32_t row = threadIdx.x; row < j.rows; row += LT_THREADS) {
        bool is_faulty = is_faulty_at(j, row);
        j.out[blockIdx.x * j.out_ld + row] = j.is_bf16 ? sum_of<bf16>(j, row, blockIdx.x, is_faulty)
                                                       : sum_of<f16>(j, row, blockIdx.x, is_faulty);
    }
}

char fault_of(const struct cublaslt_algo *algo)
{
    static const char *const modes[] = {"twice", "place", "neighbour", "wrong"};
    for (const char *mode : modes) {
        if (is_mode(mode)) {
            return mode[0];
        }
    }
    return is_mode("second") && algo->data[1] == 0 ? 'p' : '\0';
}

int matmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
           const void *b, void *b_layout, const void *beta, const void *c, void *c_layout, void *d,
           void *d_layout, const struct cublaslt_algo *algo, void *workspace,
           size_t workspace_bytes, void *stream)
{
    const thing *x = static_cast<thing *>(a_layout);
    const thing *w = static_cast<thing *>(b_layout);
    const thing *out = static_cast<thing *>(d_layout);
    bool is_ok = handle && is_product(static_cast<thing *>(desc), x, w, out) && c == d &&
                 c_layout == d_layout && algo->data[0] == LT_VERSION && !workspace &&
                 workspace_bytes == 0 && *static_cast<const float *>(alpha) == 1 &&
                 *static_cast<const float *>(beta) == 0;
    const void *places[] = {a, b, d};
    for (const void *place : places) {
        is_ok = is_ok && reinterpret_cast<uintptr_t>(place) % LT_ALIGNMENT == 0;
    }
    if (!is_ok) {
        return CUBLASLT_INVALID_VALUE;
    }
    product_n++;
    if (is_mode("late") && product_n > LT_LATE) {
        return CUBLASLT_EXECUTION_FAILED;
    }
    job j = {a,
             b,
             static_cast<float *>(d),
             static_cast<uint32_t>(x->rows),
             static_cast<uint32_t>(w->cols),
             static_cast<uint32_t>(x->cols),
             x->ld,
             w->ld,
             out->ld,
             x->type == CUBLASLT_R_16BF,
             fault_of(algo),
             product_n % 2 == 1};
    launch_cfg cfg = {dim3(j.n), dim3(LT_THREADS), 0, false, static_cast<dev_stream *>(stream)};
    launch(cfg, cublaslt, j);
    return 0;
}

const struct cublaslt_calls calls = {
    create, drop,        version,  desc_create, desc_set, drop,       layout_create,
    drop,   pref_create, pref_set, drop,        find,     config_get, matmul,
};
} // namespace

int dev_cublaslt(const char *symbol, void **out, struct err *err)
{
    if (!emu_knobs.cublaslt) {
        return err_set(err, ERR_NO_DEVICE, "the emulated device has no cuBLASLt");
    }
    for (size_t i = 0; i < CUBLASLT_CALL_N; i++) {
        if (strcmp(symbol, cublaslt_names[i]) == 0) {
            memcpy(out, reinterpret_cast<const char *>(&calls) + i * sizeof *out, sizeof *out);
            return 0;
        }
    }
    return err_set(err, ERR_NO_DEVICE, "the emulated cuBLASLt has no %s", symbol);
}
