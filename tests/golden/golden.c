/* Builds batches row by row and reads logits back through the head op once more: sampling may
 * overwrite those of the step itself. */
#include "tests/test.h"

#include "tests/golden/golden.h"
#include "tests/prompt_form.h"

#include <stdio.h>
#include <stdlib.h>

#include "adapters/store.h"
#include "base/base.h"
#include "base/mem.h"
#ifdef KERN_HAS_CUDA
#include "kernels/cuda/cuda.h"
#endif
#include "model/walk_int.h"
#include "tests/step.h"

#define GOLDEN_SEQ_PAGES 4
#define GOLDEN_PAGES     (GOLDEN_SLOTS * GOLDEN_SEQ_PAGES)
#define GOLDEN_RANK_MAX  128

static const struct batch_limits limits = {
    .row_max = GOLDEN_ROWS_MAX,
    .seq_max = GOLDEN_SLOTS,
    .page_max = GOLDEN_PAGES,
    .seg_max = GOLDEN_SLOTS * GOLDEN_SEGS_MAX,
    .seg_row_max = GOLDEN_SEGS_MAX * GOLDEN_ROWS_MAX,
    .sample_max = GOLDEN_ROWS_MAX,
    .score_max = GOLDEN_ROWS_MAX,
    .start_max = GOLDEN_SLOTS,
};

static const char *const adapter_names[GOLDEN_ADAPTERS] = {"a", "b", "s", "n", "ia3"};

bool golden_is_brief(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return getenv("GRAFT_LONG") == NULL;
#else
    return false;
#endif
}

bool golden_is_first(void)
{
#ifdef __SANITIZE_THREAD__
    return getenv("GRAFT_LONG") == NULL;
#else
    return getenv("GRAFT_FIRST") != NULL;
#endif
}

static bool golden_can_open(const struct golden_backend *backend)
{
    struct kern_dev *dev = NULL;
    struct kern_open args = {.isa = backend->isa,
                             .is_stand_in = backend->is_stand_in,
                             .thread_n = 1,
                             .held = DTYPE_F32,
                             .row_max = 1,
                             .slot_max = 1,
                             .version_max = 1,
                             .k_max = 64,
                             .n_max = 64,
                             .vocab_n = 64,
                             .rank_max = 64};
    if (backend->kern->open(&args, &dev, NULL) != 0) {
        /* Only an instruction set may be missing, never plain C or an emulation. */
        ASSERT(backend->isa > KERN_ISA_PORTABLE && !backend->is_stand_in);
        return false;
    }
    backend->kern->close(dev);
    return true;
}

static bool golden_is_wanted(const char *name, const char *only)
{
    return !only || strncmp(name, only, strlen(only)) == 0;
}

static uint32_t golden_cpu_backends(struct golden_backend *list, uint32_t max, const char *only)
{
    uint32_t n = 0;
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_ISA_N; isa++) {
        for (int stand_in = 0; stand_in < 2; stand_in++) {
            struct golden_backend backend = {
                .kern = &kern_cpu, .isa = isa, .is_stand_in = stand_in == 1};
            snprintf(backend.name, sizeof backend.name, "cpu %s%s", kern_isa_word(isa),
                     stand_in ? " stand-in" : "");
            bool has_stand_in =
                (isa == KERN_ISA_AVX512BF16 || isa == KERN_ISA_AMX) && !golden_is_brief();
            if (n < max && (!stand_in || has_stand_in) && golden_is_wanted(backend.name, only) &&
                golden_can_open(&backend)) {
                n -= n > 0 && golden_is_brief(); /* this one for the last */
                list[n++] = backend;
            }
        }
    }
    return n;
}

uint32_t golden_backends(struct golden_backend *list, uint32_t max, const char *only)
{
    uint32_t n = 1;
    list[0] = (struct golden_backend){.name = "ref", .kern = &kern_ref};
    n += golden_cpu_backends(list + n, max - n, only);
#ifdef KERN_HAS_CUDA
    struct err err;
    if (n < max && golden_is_wanted("cuda", only) && cuda_available(&err) == 0) {
        list[n++] = (struct golden_backend){.name = "cuda", .kern = &kern_cuda, .is_16_bit = true};
    }
#endif
    return n;
}

static void golden_check(int rc, const struct err *err)
{
    if (rc) {
        fail_msg("%s: %s", err_name(rc), err->text);
    }
}

bool golden_can_hold(const struct golden_backend *backend, const char *name)
{
    bool is_16_bit = strstr(name, "bf16") || strstr(name, "f16");
    return !backend->is_16_bit || is_16_bit;
}

static enum dtype golden_held(const struct golden_backend *backend, const struct model_desc *desc)
{
    return backend->is_16_bit ? desc->checkpoint_dtype : model_default_held(desc);
}

static void golden_open_device(struct golden *g, const struct golden_backend *backend)
{
    struct err err = {0};
    struct model *m = &g->model;
    struct kern_open args = {.isa = backend->isa,
                             .is_stand_in = backend->is_stand_in,
                             .thread_n = 2,
                             .held = m->held,
                             .row_max = GOLDEN_ROWS_MAX,
                             .slot_max = GOLDEN_SLOTS,
                             .version_max = GOLDEN_ADAPTERS,
                             .rank_max = GOLDEN_RANK_MAX};
    struct kern_kv kv = {.layer_n = m->desc.kv_layer_n,
                         .page_n = GOLDEN_PAGES,
                         .kv_head_n = m->desc.kv_head_n,
                         .head_dim = m->desc.head_dim,
                         .head_n = m->desc.head_n};
    model_kern_limits(&m->desc, &args);
    golden_check(m->kern->open(&args, &m->dev, &err), &err);
    golden_check(m->kern->kv_open(m->dev, &kv, &err), &err);
    g->state = model_state(&m->desc, GOLDEN_SLOTS);
    if (g->state.layer_n > 0) {
        golden_check(m->kern->state_open(m->dev, &g->state, &g->states, &err), &err);
    }
}

/* Through the adapter store, as the daemon does. */
static void golden_load_adapter(struct golden *g, const struct store *store, uint32_t i)
{
    const struct model *m = &g->model;
    struct err err = {0};
    struct prepare_job job = {.store = store};
    snprintf(job.name, sizeof job.name, "%s", adapter_names[i]);
    store_prepare(&job.job);
    golden_check(job.err.code, &job.err);
    const struct version *v = job.version;
    golden_check(m->kern->reserve(m->dev, v->block_bytes, &g->blocks[i], &err), &err);
    m->kern->put(m->dev, g->blocks[i], v->block, v->block_bytes);
    m->kern->set_version(m->dev, i, g->blocks[i]);
    g->block_bytes[i] = v->block_bytes;
    version_free(job.version);
}

static void golden_load_adapters(struct golden *g, const char *dir)
{
    char root[600];
    struct store *store = NULL;
    struct err err = {0};
    struct store_config config = {
        .root = root, .desc = &g->model.desc, .kern = g->model.kern, .held = g->model.held};
    snprintf(root, sizeof root, "%s/adapters", dir);
    for (uint32_t i = 0; i < GOLDEN_ADAPTERS; i++) {
        if (golden_has_run(g, adapter_names[i])) {
            golden_check(store ? 0 : store_open(&config, &store, &err), &err);
            golden_load_adapter(g, store, i);
        }
    }
    store_close(store);
}

static void golden_open_walk(struct golden *g)
{
    struct err err = {0};
    assert_true(prompt_form_is_asked(g->model.kern, g->model.dev));
    golden_check(
        walk_init(&g->walk, &g->model, GOLDEN_ROWS_MAX, GOLDEN_ROWS_MAX, GOLDEN_ROWS_MAX, &err),
        &err);
    g->batch = mem_zalloc(batch_bytes(&limits));
    batch_init(g->batch, &limits);
}

void golden_open(struct golden *g, const struct golden_backend *backend, const char *name)
{
    char dir[512];
    char path[600];
    struct err err = {0};
    *g = (struct golden){0};
    snprintf(dir, sizeof dir, "%s/tests/golden/%s", TEST_ROOT, name);
    golden_check(model_desc_read(dir, &g->model.desc, &err), &err);
    g->model.kern = backend->kern;
    g->model.held = golden_held(backend, &g->model.desc);
    golden_open_device(g, backend);
    golden_check(model_load(&g->model, dir, &err), &err);
    golden_open_walk(g);
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    golden_check(tensor_set_open(&g->expected, path, &err), &err);
    golden_load_adapters(g, dir);
}

void golden_open_random(struct golden *g, const struct golden_backend *backend, const char *name,
                        enum dtype held, uint64_t seed)
{
    char dir[512];
    struct err err = {0};
    *g = (struct golden){0};
    snprintf(dir, sizeof dir, "%s/tests/golden/%s", TEST_ROOT, name);
    golden_check(model_desc_read_config(dir, &g->model.desc, &err), &err);
    g->model.kern = backend->kern;
    g->model.held = held;
    golden_open_device(g, backend);
    golden_check(model_load_random(&g->model, dir, seed, &err), &err);
    golden_open_walk(g);
}

void golden_close(struct golden *g)
{
    tensor_set_close(&g->expected);
    g->model.kern->close(g->model.dev);
    model_done(&g->model);
    mem_free(g->batch);
}

bool golden_has_run(const struct golden *g, const char *run)
{
    char name[64];
    snprintf(name, sizeof name, "%s.logits", run);
    return tensor_set_find(&g->expected, name) != NULL;
}

float *golden_slot_state(const struct golden *g, uint32_t state_layer, uint32_t slot)
{
    return g->states +
           ((size_t)state_layer * g->state.slot_n + slot) * kern_state_slot_n(&g->state);
}

void golden_read_state(const struct golden *g, uint32_t state_layer, float *out)
{
    g->model.kern->get(g->model.dev, out, golden_slot_state(g, state_layer, 0),
                       g->state.state_n * sizeof *out);
}

void golden_restart(struct golden *g)
{
    for (uint32_t slot = 0; slot < GOLDEN_SLOTS; slot++) {
        golden_restart_slot(g, slot);
    }
}

void golden_restart_slot(struct golden *g, uint32_t slot)
{
    g->token_n[slot] = 0;
}

/* The segment of a version at one place of the requests' lists; none without rows. */
static void golden_fill_seg(struct batch *b, const struct golden_part *parts, uint32_t part_n,
                            uint32_t order, uint32_t version)
{
    struct batch_seg seg = {.version = version, .order = order, .row_first = b->seg_row_n};
    for (uint32_t i = 0; i < part_n; i++) {
        const struct golden_run *run = parts[i].run;
        if (order >= run->seg_n || run->segs[order].version != version) {
            continue;
        }
        const struct batch_seq *seq = &batch_seqs(b)[i];
        seg.flags |= run->segs[order].flags;
        for (uint32_t row = 0; row < seq->row_n; row++) {
            batch_seg_rows(b)[b->seg_row_n++] = (struct batch_seg_row){
                .row = seq->row_first + row, .weight = run->segs[order].weight};
        }
    }
    seg.row_n = b->seg_row_n - seg.row_first;
    if (seg.row_n > 0) {
        batch_segs(b)[b->seg_n++] = seg;
    }
}

static void golden_fill_rows(struct golden *g, const struct golden_part *part, bool is_prompt)
{
    struct batch *b = g->batch;
    uint32_t flags = (is_prompt ? BATCH_ROW_PROMPT : 0) | (part->tokens ? 0 : BATCH_ROW_FROM_SLOT);
    for (uint32_t i = 0; i < part->n; i++) {
        uint32_t pos = g->token_n[part->slot] + i;
        batch_samples(b)[b->sample_n++] = (struct batch_sample){.row = b->row_n,
                                                                .slot = part->slot,
                                                                .pos = pos + 1,
                                                                .top_p = 1,
                                                                .repetition_penalty = 1,
                                                                .top_logprobs = -1};
        batch_rows(b)[b->row_n++] =
            (struct batch_row){.token = part->tokens ? (uint32_t)part->tokens[i] : 0,
                               .slot = part->slot,
                               .pos = pos,
                               .flags = flags};
    }
}

static void golden_fill_part(struct golden *g, const struct golden_part *part, bool is_prompt)
{
    struct batch *b = g->batch;
    uint32_t slot = part->slot;
    struct batch_seq seq = {
        .slot = slot, .row_first = b->row_n, .row_n = part->n, .page_first = b->page_n};
    ASSERT_CMP(slot, <, GOLDEN_SLOTS);
    golden_fill_rows(g, part, is_prompt);
    if (g->token_n[slot] == 0 && part->run->start.weight != 0) {
        batch_starts(b)[b->start_n++] =
            (struct batch_start){slot, part->run->start.version, part->run->start.weight};
    }
    g->token_n[slot] += part->n;
    seq.page_n = DIV_UP(g->token_n[slot], LIMIT_KV_PAGE);
    ASSERT_CMP(seq.page_n, <=, GOLDEN_SEQ_PAGES);
    for (uint32_t i = 0; i < seq.page_n; i++) {
        batch_pages(b)[b->page_n++] = (5 + 3 * (slot * GOLDEN_SEQ_PAGES + i)) % GOLDEN_PAGES;
    }
    batch_seqs(b)[b->seq_n++] = seq;
}

void golden_fill(struct golden *g, const struct golden_part *parts, uint32_t part_n, bool is_prompt)
{
    batch_clear(g->batch);
    for (uint32_t i = 0; i < part_n; i++) {
        golden_fill_part(g, &parts[i], is_prompt);
    }
    for (uint32_t order = 0; order < GOLDEN_SEGS_MAX; order++) {
        for (uint32_t version = 0; version < GOLDEN_ADAPTERS; version++) {
            golden_fill_seg(g->batch, parts, part_n, order, version);
        }
    }
}

static void golden_read_logits(struct golden *g, float *logits)
{
    const struct model *m = &g->model;
    struct kern_step step = walk_view(&g->walk, g->batch);
    step_begin(m->kern, m->dev, &step);
    m->kern->head(m->dev, &(struct kern_head){.x = g->walk.x,
                                              .w = m->head,
                                              .vocab_n = m->desc.vocab_n,
                                              .hidden = m->desc.hidden,
                                              .multiplier = m->desc.head_multiplier,
                                              .logits = g->walk.logits});
    assert_int_equal(step_end(m->kern, m->dev), 0);
    m->kern->get(m->dev, logits, g->walk.logits,
                 (size_t)g->batch->sample_n * m->desc.vocab_n * sizeof *logits);
}

uint32_t golden_step(struct golden *g, const struct golden_run *run, const int32_t *tokens,
                     uint32_t n, bool is_prompt, float *logits)
{
    static struct batch_token out[GOLDEN_ROWS_MAX];
    golden_fill(g, &(struct golden_part){run, 0, tokens, n}, 1, is_prompt);
    assert_int_equal(walk_step(&g->walk, g->batch, out), 0);
    if (logits) {
        golden_read_logits(g, logits);
    }
    return out[n - 1].token;
}

void golden_step_parts(struct golden *g, const struct golden_part *parts, uint32_t part_n,
                       bool is_prompt, float *logits)
{
    static struct batch_token out[GOLDEN_ROWS_MAX];
    golden_fill(g, parts, part_n, is_prompt);
    assert_int_equal(walk_step(&g->walk, g->batch, out), 0);
    if (logits) {
        golden_read_logits(g, logits);
    }
}

void golden_score(struct golden *g, const struct golden_run *run, const int32_t *tokens, uint32_t n,
                  struct batch_token *out)
{
    struct batch *b = g->batch;
    golden_restart(g);
    golden_fill(g, &(struct golden_part){run, 0, tokens, n}, 1, true);
    batch_samples(b)[0] = batch_samples(b)[n - 1];
    b->sample_n = 1;
    b->score_n = n - 1;
    for (uint32_t i = 0; i + 1 < n; i++) {
        batch_scores(b)[i] =
            (struct batch_score){.row = i, .target = (uint32_t)tokens[i + 1], .top_n = 2};
    }
    assert_int_equal(walk_step(&g->walk, b, out), 0);
}
