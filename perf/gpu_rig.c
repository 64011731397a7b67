/* See gpu_rig.h. */
#include "perf/gpu_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/effect.h"

#define RIG_SEED 1

static void rig_check(int rc, const struct err *err)
{
    if (rc) {
        gpu_fail("%s", err->text);
    }
}

static int rig_json(const struct tables_shape *s, char *out, size_t n)
{
    return snprintf(out, n,
                    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
                    "\"num_hidden_layers\":%u,\"hidden_size\":%u,\"intermediate_size\":%u,"
                    "\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"head_dim\":%u,"
                    "\"vocab_size\":%u,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-5,"
                    "\"rope_theta\":500000,\"tie_word_embeddings\":false,\"hidden_act\":\"silu\","
                    "\"torch_dtype\":\"bfloat16\"}",
                    s->layer_n, s->hidden, s->ffn, s->head_n, s->kv_head_n, s->head_dim,
                    s->vocab_n);
}

/* Random weights are made from a folder with a config.json. */
static void rig_weights(struct gpu_rig *rig)
{
    char dir[] = "/tmp/graft-bench-XXXXXX";
    char path[64];
    char json[512];
    struct err err = {0};
    int n = rig_json(rig->shape, json, sizeof json);
    if (!mkdtemp(dir)) {
        gpu_fail("could not make %s", dir);
    }
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(json, 1, (size_t)n, f) != (size_t)n || fclose(f) != 0) {
        gpu_fail("could not write %s", path);
    }
    int rc = model_load_random(&rig->model, dir, RIG_SEED, &err);
    unlink(path);
    rmdir(dir);
    rig_check(rc, &err);
}

static void *rig_take(struct gpu_rig *rig, size_t bytes)
{
    struct err err = {0};
    void *out = NULL;
    rig_check(kern_cuda.reserve(rig->model.dev, bytes, &out, &err), &err);
    return out;
}

/* Where the factors of a block lie; its bytes. */
static size_t rig_block_layout(const struct model_desc *desc, struct effect_lowrank *sites)
{
    size_t at = EFFECT_LOWRANK_AT + desc->site_n * sizeof *sites;
    at = ROUND_UP(at, EFFECT_ALIGN);
    for (uint32_t i = 0; i < desc->site_n; i++) {
        size_t a = kern_cuda.weight_bytes(DTYPE_BF16, TABLES_RANK, desc->sites[i].k);
        size_t b = kern_cuda.weight_bytes(DTYPE_BF16, desc->sites[i].n, TABLES_RANK);
        sites[i] = (struct effect_lowrank){TABLES_RANK, 1, at, at + ROUND_UP(a, EFFECT_ALIGN)};
        at = sites[i].b_at + ROUND_UP(b, EFFECT_ALIGN);
    }
    return at;
}

/* Small values, other ones for every adapter. */
static void rig_block_fill(struct gpu_rig *rig, const struct effect_lowrank *sites,
                           uint32_t adapter)
{
    const struct model_desc *desc = &rig->model.desc;
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .bytes = rig->block_bytes,
                                .site_n = desc->site_n,
                                .lowrank_at = EFFECT_LOWRANK_AT};
    size_t table = EFFECT_LOWRANK_AT + desc->site_n * sizeof *sites;
    uint16_t *values = rig->block;
    memset(rig->block, 0, rig->block_bytes);
    for (size_t i = table / 2; i < rig->block_bytes / 2; i++) {
        values[i] = bf16_from_f32((float)((i * 7 + adapter) % 13) / 4096);
    }
    memcpy(rig->block, &head, sizeof head);
    memcpy((char *)rig->block + EFFECT_LOWRANK_AT, sites, desc->site_n * sizeof *sites);
}

static void rig_adapters(struct gpu_rig *rig)
{
    struct effect_lowrank *sites = mem_zalloc_n(rig->model.desc.site_n, sizeof *sites);
    rig->block_bytes = rig_block_layout(&rig->model.desc, sites);
    rig->block = kern_cuda.reserve_host(rig->model.dev, rig->block_bytes);
    if (!rig->block) {
        gpu_fail("could not pin %zu bytes", rig->block_bytes);
    }
    for (uint32_t i = 0; i < RIG_ADAPTERS; i++) {
        rig->adapters[i] = rig_take(rig, rig->block_bytes);
        rig_block_fill(rig, sites, i);
        kern_cuda.put(rig->model.dev, rig->adapters[i], rig->block, rig->block_bytes);
    }
    rig->spare = rig_take(rig, rig->block_bytes);
    mem_free(sites);
}

static void rig_batches(struct gpu_rig *rig)
{
    const struct rig_sizes *s = &rig->sizes;
    struct batch_limits limits = {
        .row_max = s->row_max,
        .seq_max = s->seq_max,
        .page_max = s->seq_max * DIV_UP(s->context_max, LIMIT_KV_PAGE),
        .seg_max = RIG_ADAPTERS,
        .seg_row_max = s->row_max,
        .sample_max = s->seq_max,
        .bias_max = 1,
        .hist_max = 1,
        .score_max = 1,
    };
    for (uint32_t i = 0; i < ARRAY_N(rig->batches); i++) {
        rig->batches[i] = mem_zalloc(batch_bytes(&limits));
        batch_init(rig->batches[i], &limits);
    }
    rig->tokens = mem_zalloc_n(s->seq_max + 1, sizeof *rig->tokens);
}

static struct kern_kv rig_kv(const struct tables_shape *shape, const struct rig_sizes *sizes)
{
    uint32_t page_n = sizes->seq_max * DIV_UP(sizes->context_max, LIMIT_KV_PAGE);
    return (struct kern_kv){shape->layer_n, page_n, shape->kv_head_n, shape->head_dim,
                            shape->head_n};
}

static void rig_describe(const struct tables_shape *shape, struct model_desc *out)
{
    char json[512];
    struct err err = {0};
    int n = rig_json(shape, json, sizeof json);
    rig_check(model_desc_parse(shape->name, json, (size_t)n, out, &err), &err);
}

static struct kern_open rig_open_args(const struct model_desc *desc, const struct rig_sizes *sizes)
{
    struct kern_open args = {.held = DTYPE_BF16,
                             .row_max = sizes->row_max,
                             .slot_max = sizes->seq_max,
                             .version_max = RIG_ADAPTERS,
                             .rank_max = TABLES_RANK * 3};
    model_kern_limits(desc, &args);
    return args;
}

size_t rig_bytes(const struct tables_shape *shape, const struct rig_sizes *sizes)
{
    struct model_desc desc;
    size_t host;
    rig_describe(shape, &desc);
    struct kern_open args = rig_open_args(&desc, sizes);
    struct kern_kv kv = rig_kv(shape, sizes);
    struct model model = {.desc = desc, .held = DTYPE_BF16, .kern = &kern_cuda};
    struct effect_lowrank *sites = mem_zalloc_n(desc.site_n, sizeof *sites);
    size_t bytes = model_weight_bytes(&desc, &kern_cuda, DTYPE_BF16) +
                   kern_cuda.kv_bytes(DTYPE_BF16, &kv) +
                   kern_cuda.workspace_bytes(&args, &kv, &host) +
                   (RIG_ADAPTERS + 1) * rig_block_layout(&desc, sites) +
                   walk_bytes(&model, sizes->row_max, sizes->seq_max, 1);
    mem_free(sites);
    model_desc_done(&desc);
    return bytes;
}

static size_t rig_free_bytes(void)
{
    struct dev_info info;
    struct err err = {0};
    rig_check(dev_describe(0, &info, &err), &err);
    return info.free_bytes;
}

void rig_open(struct gpu_rig *rig, const struct tables_shape *shape, const struct rig_sizes *sizes)
{
    struct err err = {0};
    struct kern_kv kv = rig_kv(shape, sizes);
    *rig = (struct gpu_rig){.shape = shape, .sizes = *sizes};
    rig->model.kern = &kern_cuda;
    rig->model.held = DTYPE_BF16;
    rig_describe(shape, &rig->model.desc);
    struct kern_open args = rig_open_args(&rig->model.desc, sizes);
    rig_check(kern_cuda.open(&args, &rig->model.dev, &err), &err);
    rig_check(kern_cuda.kv_open(rig->model.dev, &kv, &err), &err);
    rig_weights(rig);
    rig_adapters(rig);
    rig_batches(rig);
    rig_check(walk_init(&rig->walk, &rig->model, sizes->row_max, sizes->seq_max, 1, &err), &err);
    size_t before = rig_free_bytes();
    int64_t start = clock_now_ns();
    rig_check(walk_capture(&rig->walk, &err), &err);
    rig->capture_s = (double)(clock_now_ns() - start) * 1e-9;
    rig->capture_bytes = before - MIN(before, rig_free_bytes());
    rig_register(rig, true);
}

void rig_close(struct gpu_rig *rig)
{
    for (uint32_t i = 0; i < ARRAY_N(rig->batches); i++) {
        mem_free(rig->batches[i]);
    }
    mem_free(rig->tokens);
    kern_cuda.close(rig->model.dev);
    model_desc_done(&rig->model.desc);
}

void rig_register(struct gpu_rig *rig, bool is_there)
{
    for (uint32_t i = 0; i < RIG_ADAPTERS; i++) {
        kern_cuda.set_version(rig->model.dev, i, is_there ? rig->adapters[i] : NULL);
    }
}

static bool rig_has(const struct rig_step *step, uint32_t seq, uint32_t adapter)
{
    switch (step->mix) {
    case RIG_ONE:
        return adapter == 0;
    case RIG_DISTINCT:
        return seq % RIG_ADAPTERS == adapter;
    case RIG_BUT_FIRST:
        return seq > 0 && seq % RIG_ADAPTERS == adapter;
    default:
        return false;
    }
}

static void rig_segments(struct batch *batch, const struct rig_step *step)
{
    for (uint32_t v = 0; v < RIG_ADAPTERS; v++) {
        struct batch_seg seg = {v, 0, batch->seg_row_n, 0};
        for (uint32_t r = 0; r < batch->row_n; r++) {
            if (rig_has(step, batch_rows(batch)[r].slot, v)) {
                batch_seg_rows(batch)[batch->seg_row_n++] = (struct batch_seg_row){r, 1};
                seg.row_n++;
            }
        }
        if (seg.row_n > 0) {
            batch_segs(batch)[batch->seg_n++] = seg;
        }
    }
}

static void rig_fill(const struct gpu_rig *rig, const struct rig_step *step, struct batch *batch)
{
    uint32_t each = step->prompt_n > 0 ? step->prompt_n : 1;
    uint32_t first = step->prompt_n > 0 ? 0 : step->context - 1;
    uint32_t page_n = DIV_UP(first + each, LIMIT_KV_PAGE);
    uint32_t page_stride = DIV_UP(rig->sizes.context_max, LIMIT_KV_PAGE);
    batch_clear(batch);
    for (uint32_t s = step->seq_first; s < step->seq_first + step->seq_n; s++) {
        batch_seqs(batch)[batch->seq_n++] =
            (struct batch_seq){s, batch->row_n, each, batch->page_n, page_n};
        for (uint32_t p = 0; p < page_n; p++) {
            batch_pages(batch)[batch->page_n++] = s * page_stride + p;
        }
        for (uint32_t i = 0; i < each; i++) {
            batch_rows(batch)[batch->row_n++] =
                (struct batch_row){(s * 131 + i * 17) % rig->shape->vocab_n, s, first + i,
                                   step->prompt_n > 0 ? BATCH_ROW_PROMPT : 0};
        }
        batch_samples(batch)[batch->sample_n++] = (struct batch_sample){.row = batch->row_n - 1,
                                                                        .slot = s,
                                                                        .pos = first + each,
                                                                        .top_p = 1,
                                                                        .repetition_penalty = 1,
                                                                        .top_logprobs = 0};
    }
    rig_segments(batch, step);
}

/* The oldest step's results; when they were there. */
static int64_t rig_read(struct gpu_rig *rig)
{
    if (walk_read(&rig->walk, rig->tokens, true)) {
        gpu_fail("the device is lost: %s", dev_failure());
    }
    return clock_now_ns();
}

double rig_seconds(struct gpu_rig *rig, const struct rig_step *step, uint32_t n, double *gaps_s)
{
    for (uint32_t i = 0; i < ARRAY_N(rig->batches); i++) {
        rig_fill(rig, step, rig->batches[i]);
    }
    int64_t start = clock_now_ns();
    int64_t last = start;
    for (uint32_t i = 0; i <= n; i++) {
        if (i < n) {
            walk_submit(&rig->walk, rig->batches[i % ARRAY_N(rig->batches)]);
        }
        if (i > 0) {
            int64_t now = rig_read(rig);
            if (gaps_s) {
                gaps_s[i - 1] = (double)(now - last) * 1e-9;
            }
            last = now;
        }
    }
    return (double)(last - start) * 1e-9 / n;
}

void rig_prefill(struct gpu_rig *rig)
{
    struct rig_step step = {.prompt_n = rig->sizes.context_max};
    step.seq_n = MAX(rig->sizes.row_max / step.prompt_n, 1);
    for (; step.seq_first < rig->sizes.seq_max; step.seq_first += step.seq_n) {
        step.seq_n = MIN(step.seq_n, rig->sizes.seq_max - step.seq_first);
        rig_seconds(rig, &step, 1, NULL);
    }
}

double rig_bring(struct gpu_rig *rig)
{
    struct kern_dev *dev = rig->model.dev;
    uint64_t ticket = 0;
    size_t done = 0;
    int64_t start = clock_now_ns();
    while (done < rig->block_bytes) {
        done += kern_cuda.bring(dev, (char *)rig->spare + done, (const char *)rig->block + done,
                                rig->block_bytes - done, &ticket);
    }
    while (!kern_cuda.is_brought(dev, ticket)) {
    }
    return (double)(clock_now_ns() - start) * 1e-9;
}

uint32_t rig_launches(const struct gpu_rig *rig, uint32_t row_n, bool has_adapters)
{
    uint32_t bucket = 0;
    while ((8u << bucket) < row_n) {
        bucket++;
    }
    return dev_graph_launch_n(rig->model.dev->graphs[bucket][has_adapters]);
}
