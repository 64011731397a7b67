/* ref: the specification of the op contract as plain loops in fp32 on one thread. Weights are
 * packed as what they are: row-major values of the held type. Here: device, memory, steps. */
#include "kernels/kern.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/fmath.h"
#include "kernels/ref/ref_int.h"
#include "kernels/weights_random.h"

#define REF_ALIGN EFFECT_ALIGN

struct ref_block {
    struct ref_block *next;
};

static int ref_open(const struct kern_open *args, struct kern_dev **out, struct err *err)
{
    if (args->held != DTYPE_BF16 && args->held != DTYPE_F32) {
        return err_set(err, ERR_INVALID_PARAMETER, "ref cannot hold weights as %s",
                       args->held < DTYPE_N ? dtype_name(args->held) : "an unknown type");
    }
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    dev->args = *args;
    dev->versions = mem_zalloc_n(args->version_max, sizeof *dev->versions);
    dev->slot_token = mem_zalloc_n(args->slot_max, sizeof *dev->slot_token);
    dev->counts = mem_zalloc_n((size_t)args->slot_max * args->vocab_n, sizeof *dev->counts);
    dev->row_seq = mem_zalloc_n(args->row_max, sizeof(struct kern_seq *));
    dev->row_cos = mem_zalloc_n(args->row_max, sizeof(float) * LIMIT_HEAD_DIM / 2);
    dev->row_sin = mem_zalloc_n(args->row_max, sizeof(float) * LIMIT_HEAD_DIM / 2);
    dev->x = mem_zalloc_n(args->k_max, sizeof(float));
    dev->y = mem_zalloc_n(args->n_max, sizeof(float));
    dev->u = mem_zalloc_n(args->rank_max, sizeof(float));
    void *scratch = mem_alloc(sample_scratch_bytes(args->vocab_n));
    sample_scratch_init(&dev->sample, scratch, args->vocab_n);
    *out = dev;
    return 0;
}

static void ref_close(struct kern_dev *dev)
{
    while (dev->blocks) {
        struct ref_block *block = dev->blocks;
        dev->blocks = block->next;
        mem_free(block);
    }
    mem_free(dev->sample.keys); /* the start of its memory */
    mem_free(dev->u);
    mem_free(dev->y);
    mem_free(dev->x);
    mem_free(dev->row_sin);
    mem_free(dev->row_cos);
    mem_free(dev->row_seq);
    mem_free(dev->counts);
    mem_free(dev->slot_token);
    mem_free(dev->versions);
    mem_free(dev);
}

static const char *ref_isa_name(const struct kern_dev *dev)
{
    (void)dev;
    return "ref";
}

static int ref_reserve(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    size_t left = mem_available();
    if (bytes >= left) {
        return err_set(err, ERR_NO_MEMORY, "could not reserve %zu bytes: %zu are available", bytes,
                       left);
    }
    struct ref_block *block = mem_zalloc(sizeof *block + REF_ALIGN + bytes);
    block->next = dev->blocks;
    dev->blocks = block;
    *out_dev = (void *)ROUND_UP((uintptr_t)(block + 1), (uintptr_t)REF_ALIGN);
    return 0;
}

static void ref_copy(struct kern_dev *dev, void *to, const void *from, size_t bytes)
{
    (void)dev;
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
}

static size_t ref_kv_bytes(enum dtype held, const struct kern_kv *kv)
{
    return (size_t)kv->layer_n * kv->page_n * 2 * kv->kv_head_n * LIMIT_KV_PAGE * kv->head_dim *
           dtype_bytes(held);
}

/* The terms of ref_open. */
static size_t ref_workspace_bytes(const struct kern_open *args, const struct kern_kv *kv,
                                  size_t *out_host)
{
    (void)kv;
    *out_host = 0;
    return args->version_max * sizeof(void *) + args->slot_max * sizeof(uint32_t) +
           (size_t)args->slot_max * args->vocab_n * sizeof(uint16_t) +
           args->row_max * (sizeof(void *) + sizeof(float) * LIMIT_HEAD_DIM) +
           ((size_t)args->k_max + args->n_max + args->rank_max) * sizeof(float) +
           sample_scratch_bytes(args->vocab_n);
}

static int ref_kv_open(struct kern_dev *dev, const struct kern_kv *kv, struct err *err)
{
    ASSERT(!dev->kv_data);
    ASSERT_CMP(kv->head_dim, <=, LIMIT_HEAD_DIM);
    int rc = ref_reserve(dev, ref_kv_bytes(dev->args.held, kv), &dev->kv_data, err);
    if (rc == 0) {
        dev->kv = *kv;
    }
    return rc;
}

static int ref_state_open(struct kern_dev *dev, const struct kern_state *state, float **out_dev,
                          struct err *err)
{
    void *data = NULL;
    ASSERT(!dev->state_data);
    int rc = ref_reserve(dev, kern_state_bytes(state), &data, err);
    if (rc == 0) {
        dev->state = *state;
        dev->state_data = data;
        *out_dev = data;
    }
    return rc;
}

/* Makes them NaNs: whoever still reads them tells. */
static void ref_kv_discard(struct kern_dev *dev, uint32_t page)
{
    const struct kern_kv *kv = &dev->kv;
    size_t bytes = ref_kv_bytes(dev->args.held, kv) / kv->layer_n / kv->page_n;
    ASSERT_CMP(page, <, kv->page_n);
    for (uint32_t layer = 0; layer < kv->layer_n; layer++) {
        size_t at = (size_t)layer * kv->page_n + page;
        memset((char *)dev->kv_data + at * bytes, 0xff, bytes);
    }
}

void *ref_kv_at(const struct kern_dev *dev, const struct kern_seq *seq, uint32_t layer,
                uint32_t which, uint32_t kv_head, uint32_t pos)
{
    const struct kern_kv *kv = &dev->kv;
    uint32_t entry = pos / LIMIT_KV_PAGE;
    ASSERT_CMP(layer, <, kv->layer_n);
    ASSERT_CMP(entry, <, seq->page_n);
    uint32_t page = dev->step.pages[seq->page_first + entry];
    ASSERT_CMP(page, <, kv->page_n);
    size_t at = (size_t)layer * kv->page_n + page;
    at = at * 2 + which;
    at = at * kv->kv_head_n + kv_head;
    at = at * LIMIT_KV_PAGE + pos % LIMIT_KV_PAGE;
    return (char *)dev->kv_data + at * kv->head_dim * dtype_bytes(dev->args.held);
}

static size_t ref_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return (size_t)n * k * dtype_bytes(held);
}

static float ref_source(const struct kern_matrix *src, size_t i)
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

static void ref_weight_pack(enum dtype held, const struct kern_matrix *src, void *out)
{
    size_t element_n = (size_t)src->n * src->k;
    for (size_t i = 0; i < element_n; i++) {
        if (held == DTYPE_BF16) {
            ((uint16_t *)out)[i] = bf16_from_f32(ref_source(src, i));
        } else {
            ((float *)out)[i] = ref_source(src, i);
        }
    }
}

static void ref_weight_load(struct kern_dev *dev, const struct kern_matrix *src, void *to_dev)
{
    ref_weight_pack(dev->args.held, src, to_dev);
}

static void ref_weight_random(struct kern_dev *dev, const struct weights_random *src, void *to_dev)
{
    size_t element_n = (size_t)src->n * src->k;
    for (size_t i = 0; i < element_n; i++) {
        float value = weights_random_value(src, i);
        if (dev->args.held == DTYPE_BF16) {
            ((uint16_t *)to_dev)[i] = bf16_from_f32(value);
        } else {
            ((float *)to_dev)[i] = value;
        }
    }
}

static size_t ref_part_bytes(uint32_t row_n, uint32_t n)
{
    return (size_t)row_n * n * sizeof(float);
}

static void ref_set_version(struct kern_dev *dev, uint32_t version, const void *block_dev)
{
    ASSERT_CMP(version, <, dev->args.version_max);
    ASSERT(!dev->step.rows);
    const struct effect_block *block = block_dev;
    ASSERT(!block ||
           (block->magic == EFFECT_BLOCK_MAGIC && block->version == EFFECT_BLOCK_VERSION));
    dev->versions[version] = block_dev;
}

static void ref_begin_step(struct kern_dev *dev, const struct kern_step *step)
{
    ASSERT(!dev->step.rows);
    ASSERT_CMP(step->row_n, <=, dev->args.row_max);
    ASSERT_CMP(step->rotary_n, <=, LIMIT_HEAD_DIM);
    dev->step = *step;
    for (uint32_t row = 0; row < step->row_n; row++) {
        dev->row_seq[row] = NULL;
    }
    for (uint32_t i = 0; i < step->seq_n; i++) {
        const struct kern_seq *seq = &step->seqs[i];
        ASSERT_CMP(seq->row_first + seq->row_n, <=, step->row_n);
        for (uint32_t r = 0; r < seq->row_n; r++) {
            dev->row_seq[seq->row_first + r] = seq;
        }
    }
    for (uint32_t row = 0; row < step->row_n; row++) {
        ASSERT_CMP(step->rows[row].slot, <, dev->args.slot_max);
        float *row_cos = dev->row_cos + (size_t)row * (LIMIT_HEAD_DIM / 2);
        float *row_sin = dev->row_sin + (size_t)row * (LIMIT_HEAD_DIM / 2);
        for (uint32_t i = 0; i < step->rotary_n / 2; i++) {
            float angle = (float)step->rows[row].pos * step->inv_freq[i];
            fmath_sincos(angle, &row_sin[i], &row_cos[i]);
            row_cos[i] *= step->rope_scale;
            row_sin[i] *= step->rope_scale;
        }
    }
}

static bool ref_next_part(struct kern_dev *dev, struct kern_part *out)
{
    return kern_only_part(&dev->step, &dev->is_part_given, out);
}

static void ref_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n)
{
    dev->step = (struct kern_step){0};
    dev->is_part_given = false;
    kern_unread_put(&dev->unread, results, result_n);
}

static int ref_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting)
{
    (void)is_waiting;
    kern_unread_take(&dev->unread, out);
    return 0;
}

const struct kern kern_ref = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .isa_name = ref_isa_name,
    .failure = kern_fails_never,
    .reserve = ref_reserve,
    .put = ref_copy,
    .get = ref_copy,
    .bring = kern_bring_now,
    .is_brought = kern_is_brought_now,
    .discard = kern_discard_nothing,
    .reserve_host = kern_no_host,
    .kv_discard = ref_kv_discard,
    .kv_open = ref_kv_open,
    .kv_bytes = ref_kv_bytes,
    .state_open = ref_state_open,
    .workspace_bytes = ref_workspace_bytes,
    .weight_bytes = ref_weight_bytes,
    .weight_pack = ref_weight_pack,
    .weight_load = ref_weight_load,
    .weight_random = ref_weight_random,
    .prompt_form = ref_isa_name,
    .part_bytes = ref_part_bytes,
    .set_version = ref_set_version,
    .next_capture = kern_no_capture,
    .begin_step = ref_begin_step,
    .next_part = ref_next_part,
    .end_step = ref_end_step,
    .read_step = ref_read_step,
    .saturated_n = kern_saturates_nothing,
    .embed = ref_embed,
    .join = ref_join,
    .linear = ref_linear,
    .attend = ref_attend,
    .gdn = ref_gdn,
    .ssd = ref_ssd,
    .head = ref_head,
    .sample = ref_sample,
    .score = ref_score,
};
