/* struct kern on one CUDA device: opening, memory, weights, steps. What a step computes is queued
 * by the .cu files; a failure surfaces where end_step waits for the stream. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/gemm.h"
#include "kernels/effect.h"
#include "kernels/weights_random.h"

struct cuda_memory {
    struct cuda_memory *next;
    void *data;
};

#define CUDA_SEQ_PAGES 1024 /* of a sequence, where nobody says how many it may have */

/* Device memory that lives as long as the device. */
static int cuda_take(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    void *data;
    int rc = dev_alloc(bytes, &data, err);
    if (rc) {
        return rc;
    }
    struct cuda_memory *memory = mem_zalloc(sizeof *memory);
    *memory = (struct cuda_memory){dev->memories, data};
    dev->memories = memory;
    *out_dev = data;
    return 0;
}

/* From the one reservation where there is one: then every piece is known to fit. */
static int cuda_reserve(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    size_t want = ROUND_UP(MAX(bytes, 1), KERN_RESERVE_ALIGN);
    if (!dev->arena) {
        return cuda_take(dev, bytes, out_dev, err);
    }
    if (want > dev->args.reserve_bytes - dev->arena_used) {
        return err_set(err, ERR_NO_MEMORY,
                       "could not reserve %zu bytes of GPU memory: %zu of %zu are taken", bytes,
                       dev->arena_used, dev->args.reserve_bytes);
    }
    *out_dev = dev->arena + dev->arena_used;
    dev->arena_used += want;
    return 0;
}

static void cuda_close(struct kern_dev *dev)
{
    if (dev->is_lost) {
        return; /* to free is to wait for it; the process is about to end */
    }
    if (dev->ctx.stream) {
        dev_stream_sync(dev->ctx.stream);
    }
    for (uint32_t i = 0; i < CUDA_BUCKETS; i++) {
        for (uint32_t e = 0; e < CUDA_EFFECTS_N; e++) {
            dev_graph_free(dev->graphs[i][e]);
        }
    }
    for (uint32_t i = 0; i < CUDA_BLOCKS; i++) {
        dev_free_pinned(dev->pinned[i].data);
        dev_event_free(dev->pinned[i].copied);
    }
    while (dev->memories) {
        struct cuda_memory *memory = dev->memories;
        dev->memories = memory->next;
        dev_free(memory->data);
        mem_free(memory);
    }
    dev_free_pinned(dev->results);
    dev_free_pinned(dev->numbers);
    cuda_copies_close(dev);
    gemm_close(dev->ctx.gemm);
    dev_stream_free(dev->ctx.stream);
    cuda_plan_close(dev);
    mem_free(dev->pages);
    mem_free(dev->versions);
    mem_free(dev);
}

/* A piece of device memory, cleared: counters start at 0, and nothing of another process is ever
 * read. */
struct cuda_piece {
    void *place; /* of the pointer to it */
    size_t bytes;
};

int cuda_sync(struct kern_dev *dev, struct err *err)
{
    int rc = dev_stream_sync(dev->ctx.stream);
    return rc ? err_set(err, rc, "the device failed: %s", dev_failure()) : 0;
}

static int cuda_workspaces(struct kern_dev *dev, const struct cuda_piece *pieces, struct err *err)
{
    int rc = 0;
    for (; rc == 0 && pieces->place; pieces++) {
        void *data = NULL;
        rc = cuda_reserve(dev, pieces->bytes, &data, err);
        if (rc == 0) {
            dev_fill(dev->ctx.stream, data, 0, pieces->bytes);
            memcpy(pieces->place, &data, sizeof data);
        }
    }
    return rc ? rc : cuda_sync(dev, err);
}

static size_t cuda_pieces_bytes(const struct cuda_piece *pieces)
{
    size_t bytes = 0;
    for (; pieces->place; pieces++) {
        bytes += ROUND_UP(MAX(pieces->bytes, 1), KERN_RESERVE_ALIGN);
    }
    return bytes;
}

static void cuda_set_limits(struct kern_dev *dev)
{
    const struct kern_open *args = &dev->args;
    dev->ctx.limits = (struct cuda_limits){
        .row_max = MAX(args->row_max, CUDA_PART_ROWS),
        .slot_max = args->slot_max,
        .k_max = args->k_max,
        .n_max = args->n_max,
        .nk_max = args->nk_max ? args->nk_max : (uint64_t)args->n_max * args->k_max,
        .vocab_n = args->vocab_n,
        .rank_max = args->rank_max,
        .page_stride = args->seq_page_max,
        .rotary_n = LIMIT_HEAD_DIM,
    };
}

#define CUDA_PIECES 9

/* What does not depend on the KV pool. */
static void cuda_open_pieces(struct kern_dev *dev, struct cuda_piece out[CUDA_PIECES])
{
    struct cuda_ctx *ctx = &dev->ctx;
    const struct cuda_limits *limits = &ctx->limits;
    dev->part_bytes = cuda_part_bytes_max(dev);
    const struct cuda_piece pieces[] = {
        {&ctx->inv_freq, LIMIT_HEAD_DIM / 2 * sizeof(float)},
        {&ctx->rope, (size_t)limits->row_max * limits->rotary_n * sizeof(float)},
        {&ctx->slot_token, dev->args.slot_max * sizeof(uint32_t)},
        {&ctx->saturated, sizeof(unsigned)},
        {&ctx->linear, cuda_linear_bytes(limits, ctx->sm_n)},
        {&ctx->sampling, cuda_sample_bytes(limits)},
        {&ctx->step, dev->part_bytes},
        {&dev->gemm_staging, gemm_staging_bytes(limits->k_max)},
        {NULL, 0},
    };
    static_assert(ARRAY_N(pieces) == CUDA_PIECES, "all and the end");
    memcpy(out, pieces, sizeof pieces);
}

/* What it decides, but the pages themselves. */
static void cuda_kv_pieces(struct kern_dev *dev, const struct kern_kv *kv,
                           struct cuda_piece out[CUDA_PIECES])
{
    struct cuda_ctx *ctx = &dev->ctx;
    struct cuda_limits *limits = &ctx->limits;
    limits->page_n = kv->page_n;
    limits->head_n = kv->head_n;
    limits->kv_head_n = kv->kv_head_n;
    limits->head_dim = kv->head_dim;
    limits->page_stride =
        limits->page_stride ? limits->page_stride : MIN(kv->page_n, CUDA_SEQ_PAGES);
    size_t table = (size_t)limits->slot_max * limits->page_stride * sizeof(uint32_t);
    const struct cuda_piece pieces[] = {
        {&ctx->kv.page_table, table},
        {&ctx->attention, cuda_attend_bytes(limits)},
        {NULL, 0},
    };
    memcpy(out, pieces, sizeof pieces);
}

static size_t cuda_result_max(const struct kern_open *args)
{
    return args->row_max + MIN(args->row_max, args->slot_max);
}

static size_t cuda_results_bytes(const struct kern_open *args)
{
    return CUDA_STEPS * cuda_result_max(args) * sizeof(struct kern_token);
}

static size_t cuda_workspace_bytes(const struct kern_open *args, const struct kern_kv *kv,
                                   size_t *out_host)
{
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    struct cuda_piece pieces[CUDA_PIECES];
    dev->args = *args;
    dev_describe(args->device, &dev->info, NULL);
    dev->ctx.sm_n = dev->info.sm_n;
    cuda_set_limits(dev);
    cuda_open_pieces(dev, pieces);
    size_t bytes = cuda_pieces_bytes(pieces);
    cuda_kv_pieces(dev, kv, pieces);
    bytes += cuda_pieces_bytes(pieces);
    size_t table = (size_t)dev->ctx.limits.slot_max * dev->ctx.limits.page_stride;
    *out_host = CUDA_BLOCKS * dev->part_bytes + cuda_results_bytes(args) + /* pinned */
                CUDA_STAGES * CUDA_STAGE_BYTES +                           /* the same */
                table * sizeof(uint32_t) + args->version_max * sizeof(void *);
    mem_free(dev);
    return bytes;
}

/* Mapped memory for results. */
static int cuda_open_results(struct kern_dev *dev, struct err *err)
{
    void *results;
    void *words;
    dev->result_max = (uint32_t)cuda_result_max(&dev->args);
    int rc = dev_alloc_pinned(cuda_results_bytes(&dev->args), true, &results, err);
    if (rc) {
        return rc;
    }
    dev->results = results;
    rc = dev_alloc_pinned((CUDA_STEPS + 1) * sizeof(uint64_t), true, &words, err);
    if (rc) {
        return rc;
    }
    memset(words, 0, (CUDA_STEPS + 1) * sizeof(uint64_t));
    dev->numbers = words;
    dev->saturated = dev->numbers + CUDA_STEPS;
    return 0;
}

/* Where a part's records are laid out before they are copied to ctx.step. */
static int cuda_open_pinned(struct kern_dev *dev, struct err *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < CUDA_BLOCKS && rc == 0; i++) {
        void *data;
        rc = dev_alloc_pinned(dev->part_bytes, false, &data, err);
        dev->pinned[i].data = rc ? NULL : data;
        dev->pinned[i].copied = dev_event_new();
    }
    return rc;
}

static int cuda_open_memory(struct kern_dev *dev, struct err *err)
{
    struct cuda_piece pieces[CUDA_PIECES];
    int rc = 0;
    if (dev->args.reserve_bytes > 0) {
        void *arena;
        rc = cuda_take(dev, dev->args.reserve_bytes, &arena, err);
        dev->arena = rc ? NULL : arena;
    }
    cuda_open_pieces(dev, pieces);
    rc = rc ? rc : cuda_workspaces(dev, pieces, err);
    gemm_stage_in(dev->ctx.gemm, dev->gemm_staging);
    rc = rc ? rc : cuda_open_results(dev, err);
    return rc ? rc : cuda_open_pinned(dev, err);
}

static int cuda_open(const struct kern_open *args, struct kern_dev **out, struct err *err)
{
    uint32_t device_n;
    if (args->held != DTYPE_BF16 && args->held != DTYPE_F16) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "the CUDA backend holds weights in 16 bits: start graftd with --dtype bf16");
    }
    int rc = dev_count(&device_n, err);
    rc = rc ? rc : dev_use(args->device, err);
    if (rc) {
        return rc;
    }
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    dev->args = *args;
    rc = dev_describe(args->device, &dev->info, err);
    dev->ctx.stream = dev_stream_new();
    dev->ctx.held = args->held;
    dev->ctx.gemm = gemm_open(args->held, dev->ctx.stream);
    dev->ctx.sm_n = dev->info.sm_n;
    dev->ctx.shared_per_block = dev->info.shared_per_block;
    dev->versions = mem_zalloc_n(args->version_max, sizeof *dev->versions);
    cuda_set_limits(dev);
    cuda_plan_open(dev);
    snprintf(dev->isa, sizeof dev->isa, dev->info.is_emulated ? "emulated sm_%u%u" : "sm_%u%u",
             dev->info.major, dev->info.minor);
    rc = rc ? rc : cuda_open_memory(dev, err);
    rc = rc ? rc : cuda_copies_open(dev, err);
    if (rc) {
        cuda_close(dev);
        return rc;
    }
    *out = dev;
    return 0;
}

static const char *cuda_failure(const struct kern_dev *dev)
{
    (void)dev; /* the process has one */
    return dev_failure();
}

static const char *cuda_isa_name(const struct kern_dev *dev)
{
    return dev->isa;
}

static void cuda_put(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes)
{
    dev_use(dev->args.device, NULL);
    dev_copy_in(dev->ctx.stream, to_dev, from, bytes);
    dev_stream_sync(dev->ctx.stream); /* a failure stays and is told by read_step */
}

static void cuda_discard(struct kern_dev *dev, void *at_dev, size_t bytes)
{
    (void)dev;
    dev_discard(at_dev, bytes);
}

static void cuda_get(struct kern_dev *dev, void *to, const void *from_dev, size_t bytes)
{
    dev_use(dev->args.device, NULL);
    dev_copy_out(dev->ctx.stream, to, from_dev, bytes);
    dev_stream_sync(dev->ctx.stream);
}

static size_t cuda_kv_bytes(enum dtype held, const struct kern_kv *kv)
{
    return (size_t)kv->layer_n * kv->page_n * 2 * kv->kv_head_n * LIMIT_KV_PAGE * kv->head_dim *
           dtype_bytes(held);
}

static int cuda_kv_open(struct kern_dev *dev, const struct kern_kv *kv, struct err *err)
{
    struct cuda_ctx *ctx = &dev->ctx;
    const struct cuda_limits *limits = &ctx->limits;
    struct cuda_piece pieces[CUDA_PIECES];
    const struct cuda_piece pages[] = {{&ctx->kv.data, cuda_kv_bytes(dev->args.held, kv)},
                                       {NULL, 0}};
    ASSERT(!ctx->kv.data);
    ASSERT_CMP(kv->head_dim, <=, LIMIT_HEAD_DIM);
    dev->kv_layer_n = kv->layer_n;
    cuda_kv_pieces(dev, kv, pieces);
    ctx->kv.page_stride = limits->page_stride;
    ctx->kv.page_n = kv->page_n;
    ctx->kv.kv_head_n = kv->kv_head_n;
    ctx->kv.head_dim = kv->head_dim;
    ctx->kv.dtype = dev->args.held;
    size_t table = (size_t)limits->slot_max * limits->page_stride * sizeof(uint32_t);
    dev->pages = mem_alloc(table);
    memset(dev->pages, 0xff, table); /* no page has this number */
    int rc = cuda_workspaces(dev, pieces, err);
    return rc ? rc : cuda_workspaces(dev, pages, err);
}

/* A call for each layer where dev_discard does something, else none. */
static void cuda_kv_discard(struct kern_dev *dev, uint32_t page)
{
    const struct cuda_kv *kv = &dev->ctx.kv;
    const struct kern_kv one = {
        .layer_n = 1, .page_n = 1, .kv_head_n = kv->kv_head_n, .head_dim = kv->head_dim};
    size_t bytes = cuda_kv_bytes(dev->args.held, &one);
    uint32_t layer_n = dev->info.is_emulated ? dev->kv_layer_n : 0;
    ASSERT_CMP(page, <, kv->page_n);
    for (uint32_t layer = 0; layer < layer_n; layer++) {
        size_t at = (size_t)layer * kv->page_n + page;
        dev_discard((char *)kv->data + at * bytes, bytes);
    }
}

/* Beside the states nothing is taken: what the mixers keep between their launches stands where the
 * linear's sums do. */
static int cuda_state_open(struct kern_dev *dev, const struct kern_state *state, float **out_dev,
                           struct err *err)
{
    struct cuda_ctx *ctx = &dev->ctx;
    const struct cuda_piece pieces[] = {{&ctx->state.data, kern_state_bytes(state)}, {NULL, 0}};
    ASSERT(!ctx->state.data && !dev->is_stepping && dev->capture_n == 0);
    ASSERT_CMP(state->conv_n, <=, dev->args.n_max);
    int rc = cuda_workspaces(dev, pieces, err);
    if (rc) {
        return rc;
    }
    ctx->state.slot_n = state->slot_n;
    ctx->state.state_n = state->state_n;
    ctx->state.conv_n = state->conv_n;
    ctx->state.start_stride = effect_state_stride(state->state_n);
    dev->plan.slot_start = mem_zalloc_n(state->slot_n, sizeof *dev->plan.slot_start);
    *out_dev = ctx->state.data;
    return 0;
}

static size_t cuda_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return (size_t)n * cuda_stride(k) * dtype_bytes(held);
}

static float cuda_source(const struct kern_matrix *src, size_t i)
{
    switch (src->dtype) {
    case DTYPE_BF16:
        return bf16_to_f32(((const uint16_t *)src->data)[i]);
    case DTYPE_F16:
        return f16_to_f32(((const uint16_t *)src->data)[i]);
    default:
        return ((const float *)src->data)[i];
    }
}

static void cuda_weight_pack(enum dtype held, const struct kern_matrix *src, void *out)
{
    uint32_t stride = cuda_stride(src->k);
    for (uint32_t row = 0; row < src->n; row++) {
        uint16_t *to = (uint16_t *)out + (size_t)row * stride;
        size_t from = (size_t)row * src->k;
        if (src->dtype == held) {
            memcpy(to, (const uint16_t *)src->data + from, src->k * sizeof *to);
        } else {
            for (uint32_t i = 0; i < src->k; i++) {
                float value = cuda_source(src, from + i);
                to[i] = held == DTYPE_BF16 ? bf16_from_f32(value) : f16_from_f32(value);
            }
        }
        memset(to + src->k, 0, (stride - src->k) * sizeof *to);
    }
}

/* The first weights of a shape choose what multiplies it in prompts. */
static void cuda_learn(struct kern_dev *dev, uint32_t n, uint32_t k, const void *w_dev)
{
    const struct cuda_limits *limits = &dev->ctx.limits;
    if (n <= limits->n_max && k <= limits->k_max) {
        gemm_learn(dev->ctx.gemm, n, k, w_dev, cuda_linear_work(&dev->ctx));
    }
}

static void cuda_weight_load(struct kern_dev *dev, const struct kern_matrix *src, void *to_dev)
{
    size_t bytes = cuda_weight_bytes(dev->args.held, src->n, src->k);
    void *packed = mem_alloc(bytes);
    cuda_weight_pack(dev->args.held, src, packed);
    cuda_put(dev, to_dev, packed, bytes);
    mem_free(packed);
    cuda_learn(dev, src->n, src->k, to_dev);
}

static void cuda_weight_random(struct kern_dev *dev, const struct weights_random *src, void *to_dev)
{
    dev_use(dev->args.device, NULL);
    cuda_random(dev->ctx.stream, dev->args.held, dev->ctx.sm_n, src, to_dev);
    dev_stream_sync(dev->ctx.stream);
    cuda_learn(dev, src->n, src->k, to_dev);
}

static const char *cuda_prompt_form(const struct kern_dev *dev)
{
    return gemm_text(dev->ctx.gemm);
}

static size_t cuda_part_bytes(uint32_t row_n, uint32_t n)
{
    return (size_t)row_n * n * sizeof(float);
}

static void cuda_set_version(struct kern_dev *dev, uint32_t version, const void *block_dev)
{
    ASSERT_CMP(version, <, dev->args.version_max);
    ASSERT(!dev->is_stepping);
    dev->versions[version] = block_dev;
}

static uint64_t cuda_saturated_n(const struct kern_dev *dev)
{
    return dev->saturated_n;
}

#define CUDA_OP(op)                                                                                \
    static void cuda_op_##op(struct kern_dev *dev, const struct kern_##op *args)                   \
    {                                                                                              \
        cuda_##op(&dev->ctx, args);                                                                \
    }
CUDA_OP(embed)
CUDA_OP(join)
CUDA_OP(linear)
CUDA_OP(head)
CUDA_OP(sample)
CUDA_OP(score)

/* Tiles were cut when the part was laid out, for the heads that kv_open told. */
static void cuda_op_attend(struct kern_dev *dev, const struct kern_attend *args)
{
    ASSERT_CMP(args->head_n, ==, dev->ctx.limits.head_n);
    ASSERT_CMP(args->kv_head_n, ==, dev->ctx.limits.kv_head_n);
    cuda_attend(&dev->ctx, args);
}

static void cuda_op_gdn(struct kern_dev *dev, const struct kern_gdn *args)
{
    ASSERT_CMP(kern_gdn_state_n(args), ==, dev->ctx.state.state_n);
    ASSERT_CMP(kern_gdn_conv_n(args), ==, dev->ctx.state.conv_n);
    ASSERT(args->key_dim <= LIMIT_STATE_DIM && args->value_dim <= LIMIT_STATE_DIM);
    cuda_gdn(&dev->ctx, args);
}

static void cuda_op_ssd(struct kern_dev *dev, const struct kern_ssd *args)
{
    ASSERT_CMP(kern_ssd_state_n(args), ==, dev->ctx.state.state_n);
    ASSERT_CMP(kern_ssd_conv_n(args), ==, dev->ctx.state.conv_n);
    ASSERT(args->head_dim <= LIMIT_STATE_DIM && args->state_dim <= LIMIT_STATE_DIM);
    cuda_ssd(&dev->ctx, args);
}

int cuda_available(struct err *err)
{
    uint32_t n;
    return dev_count(&n, err);
}

void cuda_preload(uint32_t device)
{
    if (dev_use(device, NULL) == 0) {
        gemm_close(gemm_open(DTYPE_BF16, NULL));
    }
}

const struct kern kern_cuda = {
    .name = "cuda",
    .is_device = true,
    .open = cuda_open,
    .close = cuda_close,
    .isa_name = cuda_isa_name,
    .failure = cuda_failure,
    .reserve = cuda_reserve,
    .put = cuda_put,
    .get = cuda_get,
    .bring = cuda_bring,
    .is_brought = cuda_is_brought,
    .discard = cuda_discard,
    .reserve_host = cuda_reserve_host,
    .kv_discard = cuda_kv_discard,
    .kv_open = cuda_kv_open,
    .kv_bytes = cuda_kv_bytes,
    .state_open = cuda_state_open,
    .workspace_bytes = cuda_workspace_bytes,
    .weight_bytes = cuda_weight_bytes,
    .weight_pack = cuda_weight_pack,
    .weight_load = cuda_weight_load,
    .weight_random = cuda_weight_random,
    .prompt_form = cuda_prompt_form,
    .part_bytes = cuda_part_bytes,
    .set_version = cuda_set_version,
    .next_capture = cuda_next_capture,
    .begin_step = cuda_begin_step,
    .step_ahead = CUDA_STEP_AHEAD,
    .part_sample_max = CUDA_PART_ROWS,
    .next_part = cuda_next_part,
    .end_step = cuda_end_step,
    .read_step = cuda_read_step,
    .saturated_n = cuda_saturated_n,
    .embed = cuda_op_embed,
    .join = cuda_op_join,
    .linear = cuda_op_linear,
    .attend = cuda_op_attend,
    .gdn = cuda_op_gdn,
    .ssd = cuda_op_ssd,
    .head = cuda_op_head,
    .sample = cuda_op_sample,
    .score = cuda_op_score,
};
