/* Sums. What the backend keeps for itself (its scratch) is estimated from above: the contract has
 * no question for it, and it is small beside the rest. */
#include "engine/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/core.h"
#include "model/walk.h"
#include "sched/event.h"

/* Prompt rows of a step beside a row for every sequence. Products are near their best from some 100
 * rows on; more would only make the others wait longer for their next token. */
#define PLAN_PROMPT_ROWS 256

/* Sum of ranks that the linears of one group may meet in a row: one adapter of the largest rank at
 * q, k and v, or eight of rank 512 there. */
#define PLAN_RANKS (3 * LIMIT_LOWRANK_RANK)

#define PLAN_THREADS 16 /* assumed for the estimate when nobody says */

static uint64_t page_bytes(const struct plan_want *want, const struct kern_kv *kv)
{
    struct kern_kv one = *kv;
    one.page_n = 1;
    return want->kern->kv_bytes(want->held, &one);
}

/* Activations of the walk. */
static uint64_t walk_need(const struct plan_want *want, const struct engine_plan *plan)
{
    struct model *model = mem_zalloc(sizeof *model); /* too large for a stack */
    struct batch_limits limits;
    core_batch_limits(&plan->sched, &limits);
    model->desc = *want->desc;
    model->kern = want->kern;
    model->held = want->held;
    uint64_t bytes = walk_bytes(model, limits.row_max, limits.sample_max, limits.score_max);
    mem_free(model);
    return bytes;
}

/* Scratch of a backend: per row of a step, and per thread. */
static uint64_t backend_need(const struct plan_want *want, const struct kern_open *open)
{
    uint64_t each = sizeof(float);
    uint64_t threads = want->thread_n ? want->thread_n : PLAN_THREADS;
    uint64_t row = each * (open->k_max + open->n_max              /* packed inputs, outputs */
                           + open->rank_max + 1024                /* low-rank activations, padded */
                           + LIMIT_HEAD_DIM)                      /* angles */
                   + 4 * LIMIT_REQUEST_ADAPTERS * 80;             /* work lists of effects */
    uint64_t thread = each * (64 * (open->k_max + open->rank_max) /* a chunk of low-rank work */
                              + 64 * open->row_max                /* two column groups */
                              + 640 * LIMIT_HEAD_DIM              /* attention */
                              + 4 * open->vocab_n);               /* sampling */
    return open->row_max * row + threads * thread + LIMIT_VERSIONS * sizeof(void *);
}

static int plan_context(const struct plan_want *want, struct engine_plan *plan, struct err *err)
{
    uint64_t model_max = MIN(want->desc->context_max, LIMIT_CONTEXT);
    uint64_t kv_max = (uint64_t)plan->sched.page_n * LIMIT_KV_PAGE;
    if (want->context_max > model_max) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "--max-context is %llu, the model's limit is %llu",
                       (unsigned long long)want->context_max, (unsigned long long)model_max);
    }
    plan->context_max = (uint32_t)(want->context_max ? want->context_max : MIN(model_max, kv_max));
    plan->sched.seq_page_max = DIV_UP(plan->context_max, LIMIT_KV_PAGE);
    /* More pages than all sequences can fill would lie idle. */
    uint64_t page_max = (uint64_t)plan->sched.slot_n * plan->sched.seq_page_max;
    plan->sched.page_n = (uint32_t)MIN(plan->sched.page_n, page_max);
    return 0;
}

static int plan_kv(const struct plan_want *want, uint64_t rest, struct engine_plan *plan,
                   struct err *err)
{
    const struct model_desc *desc = want->desc;
    plan->kv = (struct kern_kv){
        .layer_n = desc->kv_layer_n,
        .kv_head_n = desc->kv_head_n,
        .head_dim = desc->head_dim,
        .head_n = desc->head_n,
    };
    uint64_t each = page_bytes(want, &plan->kv);
    /* Without a wish at least one page: if that is too much, the sum says so. */
    uint64_t bytes = want->kv_bytes ? want->kv_bytes : MAX(rest / 4, each);
    plan->sched.page_n = (uint32_t)MIN(bytes / each, LIMIT_KV_PAGES);
    if (plan->sched.page_n == 0) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "--kv-memory of %llu bytes holds no page: %d positions of this model take "
                       "%llu bytes",
                       (unsigned long long)bytes, LIMIT_KV_PAGE, (unsigned long long)each);
    }
    int rc = plan_context(want, plan, err);
    plan->kv.page_n = plan->sched.page_n;
    return rc;
}

static void plan_open(const struct plan_want *want, struct engine_plan *plan)
{
    plan->open = (struct kern_open){
        .thread_n = want->thread_n,
        .held = want->held,
        .row_max = plan->sched.row_max,
        .slot_max = plan->sched.slot_n,
        .version_max = LIMIT_VERSIONS,
        .rank_max = PLAN_RANKS,
        .seq_page_max = plan->sched.seq_page_max,
        .can_replay = true,
    };
    model_kern_limits(want->desc, &plan->open);
}

static uint64_t engine_need(const struct engine_plan *plan)
{
    struct core_config config = {
        .sched = plan->sched, .step_ahead = plan->step_ahead, .context_max = plan->context_max};
    return core_bytes(&config);
}

static uint64_t plan_mb(uint64_t bytes)
{
    return DIV_UP(bytes, 1u << 20);
}

/* Adds the lines up, and says so where they do not fit. */
static int plan_sum(struct engine_plan *plan, struct err *err)
{
    char text[ERR_TEXT_BYTES] = "";
    size_t n = 0;
    plan->total = 0;
    for (size_t i = 0; i < PLAN_LINES; i++) {
        plan->total += plan->lines[i].bytes;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s %llu MiB", i ? " + " : "",
                              plan->lines[i].name,
                              (unsigned long long)plan_mb(plan->lines[i].bytes));
        ASSERT_CMP(n, <, sizeof text);
    }
    if (plan->total <= plan->available) {
        return 0;
    }
    return err_set(err, ERR_NO_MEMORY, "memory: %s = %llu MiB, %llu MiB are available", text,
                   (unsigned long long)plan_mb(plan->total),
                   (unsigned long long)plan_mb(plan->available));
}

int engine_plan(const struct plan_want *want, struct engine_plan *out, struct err *err)
{
    uint64_t weights = model_weight_bytes(want->desc, want->kern, want->held);
    *out = (struct engine_plan){
        .available = want->available ? want->available : mem_available(),
        .sched = {.slot_n = want->sequence_n,
                  .queue_n = LIMIT_QUEUE,
                  .row_max = MIN(want->sequence_n + PLAN_PROMPT_ROWS, LIMIT_STEP_ROWS)},
        .step_ahead = want->kern->step_ahead,
    };
    uint64_t rest = out->available > weights ? out->available - weights : 0;
    ASSERT(want->sequence_n >= 1 && want->sequence_n <= LIMIT_SEQUENCES);
    int rc = plan_kv(want, rest, out, err);
    if (rc) {
        return rc;
    }
    plan_open(want, out);
    out->pool_bytes = (size_t)(want->adapter_bytes ? want->adapter_bytes : rest / 8);
    const struct plan_line lines[PLAN_LINES] = {
        {"weights", weights},
        {"KV pages", want->kern->kv_bytes(want->held, &out->kv)},
        {"adapters", out->pool_bytes},
        {"workspace", walk_need(want, out) + backend_need(want, &out->open)},
        {"sequences and batches", engine_need(out)},
        {"events", (uint64_t)engine_event_slots(out) * sizeof(struct event)},
    };
    memcpy(out->lines, lines, sizeof lines);
    return plan_sum(out, err);
}

uint32_t engine_event_slots(const struct engine_plan *plan)
{
    uint32_t want = core_events_min(&plan->sched, plan->step_ahead);
    uint32_t n = 1;
    while (n < want) {
        n *= 2;
    }
    return n;
}
