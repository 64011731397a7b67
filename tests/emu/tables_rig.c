/* See tables.h: a model of a shape on the emulated device, without a checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/effect.h"
#include "kernels/emu/emu_knobs.h"
#include "kernels/weights_random.h"
#include "tests/emu/tables.h"

const char *const tables_op_names[OP_N] = {"embed",    "q, k, v", "attend", "o",
                                           "gate, up", "down",    "head",   "other"};

static struct tables_rig *current; /* whose ops are called: kern.h has no place for it */

static void NORETURN rig_die(const struct err *err)
{
    fprintf(stderr, "tables: %s\n", err->text);
    exit(1);
}

/* Addresses that no one may touch. */
static int dry_reserve(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    (void)dev;
    (void)err;
    *out_dev = mmap(NULL, bytes, PROT_NONE, flags, -1, 0);
    ASSERT(*out_dev != MAP_FAILED);
    return 0;
}

static void dry_put(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes)
{
    (void)dev;
    (void)to_dev;
    (void)from;
    (void)bytes;
}

static void dry_random(struct kern_dev *dev, const struct weights_random *src, void *to_dev)
{
    (void)dev;
    (void)src;
    (void)to_dev;
}

/* What was read since the last op is this one's. */
static void count_op(struct kern_dev *dev, enum tables_op op)
{
    struct emu_stats stats;
    ASSERT(dev_stream_sync(dev->ctx.stream) == 0);
    emu_stats_get(NULL, &stats);
    emu_stats_reset();
    for (uint32_t c = 0; c < BYTES_N; c++) {
        current->counted.bytes[op][c] += stats.bytes[c];
    }
}

static void count_linear(struct kern_dev *dev, const struct kern_linear *op)
{
    enum tables_op which = op->post == KERN_POST_HEADS     ? OP_QKV
                           : op->post == KERN_POST_ACT_MUL ? OP_UP
                           : op->k == current->shape->ffn  ? OP_DOWN
                                                           : OP_O;
    kern_cuda.linear(dev, op);
    count_op(dev, which);
}

#define COUNT_OP(name, which)                                                                      \
    static void count_##name(struct kern_dev *dev, const struct kern_##name *op)                   \
    {                                                                                              \
        kern_cuda.name(dev, op);                                                                   \
        count_op(dev, which);                                                                      \
    }
COUNT_OP(embed, OP_EMBED)
COUNT_OP(join, OP_OTHER)
COUNT_OP(attend, OP_ATTEND)
COUNT_OP(head, OP_HEAD)
COUNT_OP(sample, OP_OTHER)

static void rig_describe(struct tables_rig *rig)
{
    const struct tables_shape *s = rig->shape;
    struct err err = {0};
    char json[512];
    int n =
        snprintf(json, sizeof json,
                 "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
                 "\"num_hidden_layers\":%u,\"hidden_size\":%u,\"intermediate_size\":%u,"
                 "\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"head_dim\":%u,"
                 "\"vocab_size\":%u,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-5,"
                 "\"rope_theta\":500000,\"tie_word_embeddings\":false,\"hidden_act\":\"silu\","
                 "\"torch_dtype\":\"bfloat16\"}",
                 s->layer_n, s->hidden, s->ffn, s->head_n, s->kv_head_n, s->head_dim, s->vocab_n);
    if (model_desc_parse(s->name, json, (size_t)n, &rig->model.desc, &err)) {
        rig_die(&err);
    }
}

static void *rig_take(struct tables_rig *rig, size_t bytes)
{
    struct err err = {0};
    void *out;
    if (rig->kern.reserve(rig->model.dev, bytes, &out, &err)) {
        rig_die(&err);
    }
    return out;
}

static const void *rig_matrix(struct tables_rig *rig, uint32_t n, uint32_t k)
{
    void *w = rig_take(rig, rig->kern.weight_bytes(DTYPE_BF16, n, k));
    struct weights_random src = {(uint64_t)n << 32 | k, n, k, weights_random_unit(k)};
    rig->kern.weight_random(rig->model.dev, &src, w);
    return w;
}

static const float *rig_ones(struct tables_rig *rig, uint32_t n)
{
    float *values = mem_alloc(n * sizeof *values);
    float *out = rig_take(rig, n * sizeof *values);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = 1;
    }
    rig->kern.put(rig->model.dev, out, values, n * sizeof *values);
    mem_free(values);
    return out;
}

static void rig_weights(struct tables_rig *rig)
{
    struct model *m = &rig->model;
    m->embed = rig_matrix(rig, m->desc.vocab_n, m->desc.hidden);
    m->head = m->embed; /* spares memory: the head reads as much as one of its own */
    m->final_norm = rig_ones(rig, m->desc.hidden);
    for (uint32_t l = 0; l < m->desc.layer_n; l++) {
        struct layer_weights *w = &m->layers[l];
        w->input_norm = m->final_norm;
        w->post_norm = m->final_norm;
        for (uint32_t i = 0; i < SITE_PLACES; i++) {
            uint32_t site = m->desc.layers[l].site[i];
            if (site == SITE_NONE) {
                continue;
            }
            w->w[i] = rig_matrix(rig, m->desc.sites[site].n, m->desc.sites[site].k);
        }
    }
}

/* An adapter on every site: A and B of small values that differ from row to row. */
static void rig_adapter(struct tables_rig *rig, uint32_t version)
{
    const struct model_desc *desc = &rig->model.desc;
    struct kern_dev *dev = rig->model.dev;
    size_t table = EFFECT_LOWRANK_AT + desc->site_n * sizeof(struct effect_lowrank);
    size_t at = ROUND_UP(table, EFFECT_ALIGN);
    struct effect_lowrank *sites = mem_alloc(desc->site_n * sizeof *sites);
    for (uint32_t i = 0; i < desc->site_n; i++) {
        sites[i] = (struct effect_lowrank){TABLES_RANK, 1, at, 0};
        at += ROUND_UP(rig->kern.weight_bytes(DTYPE_BF16, TABLES_RANK, desc->sites[i].k), 64);
        sites[i].b_at = at;
        at += ROUND_UP(rig->kern.weight_bytes(DTYPE_BF16, desc->sites[i].n, TABLES_RANK), 64);
    }
    char *block = rig_take(rig, at);
    if (!rig->is_dry) {
        uint16_t *host = mem_zalloc(at);
        struct effect_block head = {
            EFFECT_BLOCK_MAGIC, EFFECT_BLOCK_VERSION, at, desc->site_n, EFFECT_LOWRANK_AT, 0, 0};
        for (size_t i = table / 2; i < at / 2; i++) {
            host[i] = bf16_from_f32((float)((i * 7 + version) % 13) / 4096);
        }
        memcpy(host, &head, sizeof head);
        memcpy((char *)host + EFFECT_LOWRANK_AT, sites, desc->site_n * sizeof *sites);
        rig->kern.put(dev, block, host, at);
        mem_free(host);
    }
    rig->kern.set_version(dev, version, block);
    mem_free(sites);
}

static void rig_batch(struct tables_rig *rig)
{
    struct batch_limits limits = {
        .row_max = TABLES_ROWS,
        .seq_max = TABLES_ROWS,
        .page_max = TABLES_ROWS * TABLES_CONTEXT / LIMIT_KV_PAGE,
        .seg_max = TABLES_ADAPTERS,
        .seg_row_max = TABLES_ROWS,
        .sample_max = TABLES_ROWS,
        .bias_max = 1,
        .hist_max = 1,
        .score_max = 1,
    };
    rig->batch = mem_zalloc(batch_bytes(&limits));
    batch_init(rig->batch, &limits);
    rig->tokens = mem_zalloc_n(TABLES_ROWS + 1, sizeof *rig->tokens);
}

void tables_open(struct tables_rig *rig, const struct tables_shape *shape, bool is_dry,
                 uint32_t page_n)
{
    struct err err = {0};
    memset(rig, 0, sizeof *rig);
    rig->shape = shape;
    rig->is_dry = is_dry;
    rig->kern = kern_cuda;
    rig->model.kern = &rig->kern;
    rig->model.held = DTYPE_BF16;
    current = rig;
    rig_describe(rig);
    struct kern_open args = {
        .held = DTYPE_BF16,
        .row_max = TABLES_ROWS,
        .slot_max = TABLES_ROWS,
        .version_max = TABLES_ADAPTERS,
        .rank_max = TABLES_ADAPTERS * TABLES_RANK * 3,
    };
    struct kern_kv kv = {shape->layer_n, page_n, shape->kv_head_n, shape->head_dim, shape->head_n};
    model_kern_limits(&rig->model.desc, &args);
    if (kern_cuda.open(&args, &rig->model.dev, &err) ||
        kern_cuda.kv_open(rig->model.dev, &kv, &err)) {
        rig_die(&err);
    }
    if (is_dry) {
        rig->kern.reserve = dry_reserve;
        rig->kern.put = dry_put;
        rig->kern.weight_random = dry_random;
    } else {
        rig->kern.embed = count_embed;
        rig->kern.join = count_join;
        rig->kern.linear = count_linear;
        rig->kern.attend = count_attend;
        rig->kern.head = count_head;
        rig->kern.sample = count_sample;
    }
    rig_weights(rig);
    for (uint32_t v = 0; v < TABLES_ADAPTERS; v++) {
        rig_adapter(rig, v);
    }
    rig_batch(rig);
    if (walk_init(&rig->walk, &rig->model, TABLES_ROWS, TABLES_ROWS, 1, &err) ||
        (is_dry && walk_capture(&rig->walk, &err))) {
        rig_die(&err);
    }
}

void tables_close(struct tables_rig *rig)
{
    mem_free(rig->batch);
    mem_free(rig->tokens);
    kern_cuda.close(rig->model.dev);
    model_desc_done(&rig->model.desc);
}

static void rig_fill_segments(struct batch *batch)
{
    bool is_all = batch->row_n < TABLES_ADAPTERS;
    for (uint32_t v = 0; v < TABLES_ADAPTERS; v++) {
        struct batch_seg seg = {v, is_all ? v : 0, batch->seg_row_n, 0};
        for (uint32_t r = 0; r < batch->row_n; r++) {
            if (is_all || r % TABLES_ADAPTERS == v) {
                batch_seg_rows(batch)[batch->seg_row_n++] = (struct batch_seg_row){r, 1};
                seg.row_n++;
            }
        }
        batch_segs(batch)[batch->seg_n++] = seg;
    }
}

/* Sequences have pages of their own where there are enough; a dry rig has one page for all. */
static void rig_fill(struct tables_rig *rig, const struct tables_step *step)
{
    struct batch *batch = rig->batch;
    uint32_t page_n = DIV_UP(step->context, LIMIT_KV_PAGE);
    batch_clear(batch);
    for (uint32_t r = 0; r < step->row_n; r++) {
        batch_seqs(batch)[batch->seq_n++] = (struct batch_seq){r, r, 1, batch->page_n, page_n};
        for (uint32_t p = 0; p < page_n; p++) {
            batch_pages(batch)[batch->page_n] = rig->is_dry ? 0 : batch->page_n;
            batch->page_n++;
        }
        batch_rows(batch)[batch->row_n++] =
            (struct batch_row){r * 131 % rig->shape->vocab_n, r, step->context - 1, 0};
        batch_samples(batch)[batch->sample_n++] = (struct batch_sample){.row = r,
                                                                        .slot = r,
                                                                        .pos = step->context,
                                                                        .top_p = 1,
                                                                        .repetition_penalty = 1,
                                                                        .top_logprobs = -1};
    }
    if (step->is_mixed) {
        rig_fill_segments(batch);
    }
}

uint32_t tables_launches(const struct tables_rig *rig, uint32_t row_n, bool is_mixed)
{
    uint32_t bucket = 0;
    while ((8u << bucket) < row_n) {
        bucket++;
    }
    const struct dev_graph *graph = rig->model.dev->graphs[bucket][is_mixed];
    ASSERT(graph);
    return dev_graph_launch_n(graph);
}

void tables_run(struct tables_rig *rig, const struct tables_step *step)
{
    memset(&rig->counted, 0, sizeof rig->counted);
    rig_fill(rig, step);
    ASSERT(dev_stream_sync(rig->model.dev->ctx.stream) == 0);
    emu_stats_reset();
    ASSERT(walk_step(&rig->walk, rig->batch, rig->tokens) == 0);
    count_op(rig->model.dev, OP_OTHER);
}
