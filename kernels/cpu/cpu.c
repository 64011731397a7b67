/* The cpu backend's device: what open takes and close gives back, and the op table. */
#include <string.h>

#include "base/cpus.h"
#include "base/mem.h"
#include "kernels/cpu/cpu_int.h"
#include "kernels/weights_random.h"

#define CPU_BLOCK_BYTES ((size_t)2 << 20) /* small reservations share blocks of this size */
#define CPU_SITES       4u

struct cpu_block {
    struct cpu_block *older;
    char *memory;
    size_t bytes;
    size_t used;
};

/* Hands out parts of a mapping; with base NULL it only counts. */
static void *cpu_carve(char *base, size_t *used, size_t bytes)
{
    char *p = base ? base + *used : NULL;
    *used += ROUND_UP(bytes, 64);
    return p;
}

static size_t cpu_x_bytes(const struct kern_dev *dev, uint32_t row_n, uint32_t k)
{
    return dev->path->held[dev->args.held]->x_bytes(row_n, k);
}

/* Lays out one member's scratch. */
static size_t cpu_scratch_layout(struct kern_dev *dev, struct cpu_scratch *s, char *base)
{
    const struct kern_open *a = &dev->args;
    size_t used = 0;
    size_t rank = ROUND_UP((size_t)a->rank_max, 32);
    size_t head = (size_t)CPU_ATTEND_HEADS * LIMIT_HEAD_DIM * sizeof(float);
    size_t page = (size_t)CPU_ATTEND_HEADS * LIMIT_KV_PAGE * sizeof(float);
    s->x = cpu_carve(base, &used, cpu_x_bytes(dev, CPU_CHUNK_ROWS, a->k_max));
    s->u = cpu_carve(base, &used, CPU_CHUNK_ROWS * rank * sizeof(float));
    s->tile = cpu_carve(base, &used, (size_t)a->row_max * 2 * LAYOUT_GROUP * sizeof(float));
    s->q = cpu_carve(base, &used, head);
    s->o = cpu_carve(base, &used, head);
    s->p = cpu_carve(base, &used, page);
    s->s = cpu_carve(base, &used, page);
    void *sampling = cpu_carve(base, &used, sample_scratch_bytes(a->vocab_n));
    if (base) {
        sample_scratch_init(&s->sampling, sampling, a->vocab_n);
    }
    return ROUND_UP(used, 4096); /* members share no page */
}

/* Lays out the workspace. Sizes, term by term, are those of the fields' comments in cpu_int.h. */
static size_t cpu_workspace_layout(struct kern_dev *dev, char *base)
{
    const struct kern_open *a = &dev->args;
    size_t rows = a->row_max;
    size_t seg_rows = rows * LIMIT_REQUEST_ADAPTERS;
    size_t effects = seg_rows * CPU_SITES; /* every segment has a row */
    size_t used = 0;
    dev->acc_stride_max = ROUND_UP((size_t)a->n_max, 16) + CPU_SITES * 16;
    /* each effect of a row may pad its rank by less than a k tile */
    dev->u_bytes = rows * sizeof(float) *
                   (a->rank_max + CPU_SITES * LIMIT_REQUEST_ADAPTERS * (size_t)LAYOUT_GROUP);
    dev->x = cpu_carve(base, &used, cpu_x_bytes(dev, a->row_max, a->k_max));
    dev->acc = cpu_carve(base, &used, rows * dev->acc_stride_max * sizeof(float));
    dev->u = cpu_carve(base, &used, dev->u_bytes);
    dev->cos_sin = cpu_carve(base, &used, rows * LIMIT_HEAD_DIM * sizeof(float));
    dev->row_page = cpu_carve(base, &used, rows * sizeof(uint32_t));
    dev->is_row_last = cpu_carve(base, &used, rows * sizeof(bool));
    dev->seg_rows = cpu_carve(base, &used, seg_rows * sizeof(uint32_t));
    dev->band_rows = cpu_carve(base, &used, seg_rows * sizeof(uint32_t));
    dev->rows = cpu_carve(base, &used, rows * sizeof(uint32_t));
    dev->spans = cpu_carve(base, &used, rows * sizeof(struct cpu_span));
    dev->effects = cpu_carve(base, &used, effects * sizeof(struct cpu_effect));
    dev->pieces = cpu_carve(base, &used, effects * sizeof(struct cpu_piece));
    dev->last_tokens = cpu_carve(base, &used, a->slot_max * sizeof(uint32_t));
    dev->versions = cpu_carve(base, &used, a->version_max * sizeof(void *));
    /* last: slots without penalties never touch their pages */
    dev->counts = cpu_carve(base, &used, (size_t)a->slot_max * a->vocab_n * sizeof *dev->counts);
    return used;
}

static void cpu_close(struct kern_dev *dev)
{
    if (!dev) {
        return;
    }
    team_close(dev->team);
    mem_pages_free(dev->workspace, dev->workspace_bytes);
    mem_pages_free(dev->scratch_memory, dev->scratch_bytes);
    mem_pages_free(dev->kv_memory, dev->kv_memory_bytes);
    mem_pages_free(dev->state_memory, dev->state_memory_bytes);
    while (dev->blocks) {
        struct cpu_block *block = dev->blocks;
        dev->blocks = block->older;
        mem_pages_free(block->memory, block->bytes);
        mem_free(block);
    }
    mem_free(dev->scratch);
    mem_free(dev);
}

/* The largest of the instruction sets there are: which one serves is measured at open. */
static size_t cpu_workspace_bytes(const struct kern_open *args, const struct kern_kv *kv,
                                  size_t *out_host)
{
    bool is_quota;
    size_t thread_n = args->thread_n > 0 ? args->thread_n : cpus_granted(&is_quota);
    size_t most = 0;
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    (void)kv;
    dev->args = *args;
    for (int isa = KERN_ISA_PORTABLE; isa < KERN_ISA_N; isa++) {
        struct cpu_scratch scratch;
        const char *missing;
        if (!args->is_stand_in && !cpu_isa_is_present((enum kern_isa)isa, &missing)) {
            continue;
        }
        dev->path = cpu_isa_path((enum kern_isa)isa, args->is_stand_in);
        size_t each = cpu_scratch_layout(dev, &scratch, NULL);
        most = MAX(most, cpu_workspace_layout(dev, NULL) + thread_n * each);
    }
    mem_free(dev);
    *out_host = 0;
    return most;
}

static int cpu_open_memory(struct kern_dev *dev, uint32_t thread_n, struct err *err)
{
    void *memory;
    dev->workspace_bytes = cpu_workspace_layout(dev, NULL);
    int rc = mem_pages_alloc(dev->workspace_bytes, &memory, err);
    if (rc != 0) {
        return rc;
    }
    dev->workspace = memory;
    cpu_workspace_layout(dev, dev->workspace);
    dev->scratch = mem_zalloc_n(thread_n, sizeof *dev->scratch);
    size_t each = cpu_scratch_layout(dev, dev->scratch, NULL);
    dev->scratch_bytes = each * thread_n;
    rc = mem_pages_alloc(dev->scratch_bytes, &memory, err);
    if (rc != 0) {
        return rc;
    }
    dev->scratch_memory = memory;
    for (uint32_t i = 0; i < thread_n; i++) {
        cpu_scratch_layout(dev, &dev->scratch[i], dev->scratch_memory + i * each);
    }
    return 0;
}

static int cpu_open(const struct kern_open *args, struct kern_dev **out, struct err *err)
{
    const struct cpu_path *path;
    bool is_quota;
    uint32_t granted = cpus_granted(&is_quota);
    uint32_t thread_n = args->thread_n > 0 ? args->thread_n : granted;
    if (thread_n > LIMIT_THREADS) {
        return err_set(err, ERR_INVALID_PARAMETER, "could not start %u threads: limit is %d",
                       thread_n, LIMIT_THREADS);
    }
    int rc = cpu_isa_choose(args, &path, err);
    if (rc != 0) {
        return rc;
    }
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    dev->args = *args;
    dev->path = path;
    rc = cpu_open_memory(dev, thread_n, err);
    if (rc != 0) {
        cpu_close(dev);
        return rc;
    }
    /* Pinned only as the machine's one team: two pinned teams would meet on the same CPUs. */
    dev->team = team_open(thread_n, !is_quota && args->thread_n == 0);
    *out = dev;
    return 0;
}

static const char *cpu_isa_name(const struct kern_dev *dev)
{
    return kern_isa_word(dev->path->isa);
}

static int cpu_reserve(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    struct cpu_block *block = dev->blocks;
    size_t want = ROUND_UP(MAX(bytes, 1), 64);
    if (!block || block->bytes - block->used < want) {
        void *memory;
        size_t size = MAX(want, CPU_BLOCK_BYTES);
        int rc = mem_pages_alloc(size, &memory, err);
        if (rc != 0) {
            return rc;
        }
        block = mem_zalloc(sizeof *block);
        *block = (struct cpu_block){dev->blocks, memory, size, 0};
        dev->blocks = block;
    }
    *out_dev = block->memory + block->used;
    block->used += want;
    return 0;
}

static void cpu_put(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes)
{
    (void)dev;
    memcpy(to_dev, from, bytes);
}

static void cpu_get(struct kern_dev *dev, void *to, const void *from_dev, size_t bytes)
{
    (void)dev;
    memcpy(to, from_dev, bytes);
}

static int cpu_kv_open(struct kern_dev *dev, const struct kern_kv *kv, struct err *err)
{
    void *memory;
    ASSERT(!dev->kv_memory);
    size_t bytes = cpu_kv_bytes(dev->args.held, kv);
    int rc = mem_pages_alloc(bytes, &memory, err);
    if (rc != 0) {
        return rc;
    }
    dev->kv = *kv;
    dev->kv_memory = memory;
    dev->kv_memory_bytes = bytes;
    return 0;
}

/* The ops' scratch is that of others: rows of acc, a member's of attention. */
static int cpu_state_open(struct kern_dev *dev, const struct kern_state *state, float **out_dev,
                          struct err *err)
{
    void *memory;
    ASSERT(!dev->state_memory);
    size_t bytes = kern_state_bytes(state);
    int rc = mem_pages_alloc(bytes, &memory, err);
    if (rc != 0) {
        return rc;
    }
    dev->state = *state;
    dev->state_memory = memory;
    dev->state_memory_bytes = bytes;
    *out_dev = dev->state_memory;
    return 0;
}

static size_t cpu_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return layout_bytes(held, n, k);
}

static void cpu_weight_pack(enum dtype held, const struct kern_matrix *src, void *out)
{
    for (uint32_t g = 0; g < layout_group_n(src->n); g++) {
        layout_pack_group(held, src, out, g);
    }
}

struct cpu_load_job {
    enum dtype held;
    const struct kern_matrix *src;
    void *to;
};

static void cpu_load_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct cpu_load_job *job = arg;
    (void)member;
    layout_pack_group(job->held, job->src, job->to, index);
}

static void cpu_weight_load(struct kern_dev *dev, const struct kern_matrix *src, void *to_dev)
{
    struct cpu_load_job job = {dev->args.held, src, to_dev};
    team_each(dev->team, layout_group_n(src->n), cpu_load_unit, &job);
}

struct cpu_random_job {
    enum dtype held;
    const struct weights_random *src;
    void *to;
    uint16_t *rows; /* per member [LAYOUT_GROUP, k]: the values are exact in bf16 */
};

static void cpu_random_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct cpu_random_job *job = arg;
    const struct weights_random *src = job->src;
    uint32_t first = index * LAYOUT_GROUP;
    uint32_t row_n = MIN(src->n - first, LAYOUT_GROUP);
    size_t value_n = (size_t)row_n * src->k;
    uint16_t *rows = job->rows + (size_t)member * LAYOUT_GROUP * src->k;
    for (size_t i = 0; i < value_n; i++) {
        rows[i] = bf16_from_f32(weights_random_value(src, (size_t)first * src->k + i));
    }
    const struct kern_matrix group = {.data = rows, .dtype = DTYPE_BF16, .n = row_n, .k = src->k};
    char *to = (char *)job->to + layout_at(job->held, src->n, src->k, first, 0);
    layout_pack_group(job->held, &group, to, 0);
}

static void cpu_weight_random(struct kern_dev *dev, const struct weights_random *src, void *to_dev)
{
    uint32_t team_n = team_size(dev->team);
    struct cpu_random_job job = {.held = dev->args.held, .src = src, .to = to_dev};
    job.rows = mem_alloc((size_t)team_n * LAYOUT_GROUP * src->k * sizeof *job.rows);
    team_each(dev->team, layout_group_n(src->n), cpu_random_unit, &job);
    mem_free(job.rows);
}

static size_t cpu_part_bytes(uint32_t row_n, uint32_t n)
{
    return row_n * cpu_part_stride(n) * sizeof(float);
}

static void cpu_set_version(struct kern_dev *dev, uint32_t version, const void *block_dev)
{
    ASSERT_CMP(version, <, dev->args.version_max);
    dev->versions[version] = block_dev;
}

const struct kern kern_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .isa_name = cpu_isa_name,
    .failure = kern_fails_never,
    .reserve = cpu_reserve,
    .put = cpu_put,
    .get = cpu_get,
    .bring = kern_bring_now,
    .is_brought = kern_is_brought_now,
    .discard = kern_discard_nothing,
    .reserve_host = kern_no_host,
    /* a NaN behind a sequence's end would reach the sums of amx as 0 x NaN */
    .kv_discard = kern_kv_discard_nothing,
    .kv_open = cpu_kv_open,
    .kv_bytes = cpu_kv_bytes,
    .state_open = cpu_state_open,
    .workspace_bytes = cpu_workspace_bytes,
    .weight_bytes = cpu_weight_bytes,
    .weight_pack = cpu_weight_pack,
    .weight_load = cpu_weight_load,
    .weight_random = cpu_weight_random,
    .prompt_form = cpu_isa_name,
    .part_bytes = cpu_part_bytes,
    .set_version = cpu_set_version,
    .next_capture = kern_no_capture,
    .begin_step = cpu_begin_step,
    .next_part = cpu_next_part,
    .end_step = cpu_end_step,
    .read_step = cpu_read_step,
    .saturated_n = kern_saturates_nothing,
    .embed = cpu_embed,
    .join = cpu_join,
    .linear = cpu_linear,
    .attend = cpu_attend,
    .gdn = cpu_gdn,
    .ssd = cpu_ssd,
    .head = cpu_head,
    .sample = cpu_sample,
    .score = cpu_score,
};
