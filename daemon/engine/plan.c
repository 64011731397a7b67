/* Sums. On a backend with memory of its own every piece that will be reserved there is a term, so
 * that one reservation of the total serves all. */
#include "engine/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/core.h"
#include "kernels/effect.h"
#include "model/walk.h"
#include "sched/event.h"

/* Prompt rows of a step beside a row for every sequence. Products are near their best from some 100
 * rows on; more would only make the others wait longer for their next token. */
#define PLAN_PROMPT_ROWS        256
#define PLAN_DEVICE_PROMPT_ROWS 1024 /* a device wants more, and is done with them sooner */

/* Sum of ranks that the linears of one group may meet in a row: one adapter of the largest rank at
 * q, k and v, or eight of rank 512 there. */
#define PLAN_RANKS (3 * LIMIT_LOWRANK_RANK)

/* Pinned host memory for adapters on their way to a device: rank 16 on all linears of an 8B model
 * takes 84 MB. What is larger goes another way. */
#define PLAN_ROOM_BYTES   ((size_t)256 << 20)
#define PLAN_HOST_PERCENT 5 /* of what the host has, all rooms */

/* Shares of what weights and workspace leave of a device. The rest is rounding. */
#define PLAN_DEVICE_KV_PERCENT      80
#define PLAN_DEVICE_ADAPTER_PERCENT 20

static uint64_t plan_left(uint64_t all, uint64_t taken)
{
    return all > taken ? all - taken : 0;
}

static uint64_t page_bytes(const struct plan_want *want, const struct kern_kv *kv)
{
    struct kern_kv one = *kv;
    one.page_n = 1;
    return want->kern->kv_bytes(want->held, &one);
}

/* What the walk and the backend work in. */
struct plan_workspace {
    uint64_t bytes; /* without the logits */
    uint64_t logits;
    uint64_t host; /* of the host's memory, where the rest is a device's */
};

static struct plan_workspace plan_workspace(const struct plan_want *want,
                                            const struct engine_plan *plan)
{
    struct model *model = mem_zalloc(sizeof *model); /* too large for a stack */
    struct plan_workspace need;
    struct batch_limits limits;
    size_t host = 0;
    core_batch_limits(&plan->sched, &limits);
    model->desc = *want->desc;
    model->kern = want->kern;
    model->held = want->held;
    uint64_t walk = walk_bytes(model, limits.row_max, limits.sample_max, limits.score_max);
    need.logits = walk_logit_bytes(model, limits.sample_max, limits.score_max);
    need.bytes = ROUND_UP(walk, KERN_RESERVE_ALIGN) - need.logits +
                 want->kern->workspace_bytes(&plan->open, &plan->kv, &host);
    need.host = host;
    mem_free(model);
    return need;
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

static void plan_open(const struct plan_want *want, struct engine_plan *plan)
{
    plan->open = (struct kern_open){
        .isa = want->isa,
        .thread_n = want->thread_n,
        .device = want->device,
        .held = want->held,
        .row_max = plan->sched.row_max,
        .slot_max = plan->sched.slot_n,
        .version_max = LIMIT_VERSIONS,
        .rank_max = PLAN_RANKS,
        .seq_page_max = plan->sched.seq_page_max,
    };
    model_kern_limits(want->desc, &plan->open);
}

/* Pages, the context they allow, and what the device is then opened for. `bytes` where nobody says
 * how many. */
static int plan_kv(const struct plan_want *want, uint64_t bytes, struct engine_plan *plan,
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
    bytes = want->kv_bytes ? want->kv_bytes : MAX(bytes, each);
    plan->sched.page_n = (uint32_t)MIN(bytes / each, LIMIT_KV_PAGES);
    if (plan->sched.page_n == 0) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "--kv-memory of %llu bytes holds no page: %d positions of this model take "
                       "%llu bytes",
                       (unsigned long long)bytes, LIMIT_KV_PAGE, (unsigned long long)each);
    }
    int rc = plan_context(want, plan, err);
    plan->kv.page_n = plan->sched.page_n;
    plan_open(want, plan);
    return rc;
}

/* KV pages and adapters out of what the weights leave. The workspace grows with the pages: on a
 * device it is first taken for more pages than there will be. */
static int plan_share(const struct plan_want *want, uint64_t rest, struct engine_plan *plan,
                      struct err *err)
{
    uint64_t kv = rest / 4;
    uint64_t pool = rest / 8;
    if (want->kern->is_device) {
        int rc = plan_kv(want, rest / 100 * PLAN_DEVICE_KV_PERCENT, plan, err);
        if (rc) {
            return rc;
        }
        struct plan_workspace need = plan_workspace(want, plan);
        rest = plan_left(rest, need.bytes + need.logits);
        /* a wish for one leaves the other what it leaves */
        kv = MIN(rest / 100 * PLAN_DEVICE_KV_PERCENT, plan_left(rest, want->adapter_bytes));
        pool = MIN(rest / 100 * PLAN_DEVICE_ADAPTER_PERCENT, plan_left(rest, want->kv_bytes));
    }
    plan->pool_bytes = (size_t)(want->adapter_bytes ? want->adapter_bytes : pool);
    return plan_kv(want, kv, plan, err);
}

static size_t plan_room_bytes(const struct engine_plan *plan)
{
    size_t share = (size_t)(plan->host_available / 100 * PLAN_HOST_PERCENT / PLAN_ROOMS);
    size_t bytes = MIN(MIN(share, plan->pool_bytes), PLAN_ROOM_BYTES);
    return bytes / EFFECT_ALIGN * EFFECT_ALIGN;
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

/* "weights 3 MiB + ...", and the sum: of the host's lines, or of the others. */
static uint64_t plan_sum(const struct engine_plan *plan, bool is_host, char *text, size_t text_n)
{
    uint64_t total = 0;
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < PLAN_LINES; i++) {
        const struct plan_line *line = &plan->lines[i];
        if (line->is_host == is_host && line->bytes > 0) {
            total += line->bytes;
            n += (size_t)snprintf(text + n, text_n - n, "%s%s %llu MiB", n ? " + " : "", line->name,
                                  (unsigned long long)plan_mb(line->bytes));
            ASSERT_CMP(n, <, text_n);
        }
    }
    return total;
}

/* Adds the lines up, and says so where they do not fit. */
static int plan_check(struct engine_plan *plan, bool is_device, struct err *err)
{
    char text[ERR_TEXT_BYTES];
    char host_text[ERR_TEXT_BYTES];
    plan->total = plan_sum(plan, false, text, sizeof text);
    plan->host_total = plan_sum(plan, true, host_text, sizeof host_text);
    if (plan->total > plan->available) {
        return err_set(err, ERR_NO_MEMORY, "%s: %s = %llu MiB, %llu MiB are available",
                       is_device ? "GPU memory" : "memory", text,
                       (unsigned long long)plan_mb(plan->total),
                       (unsigned long long)plan_mb(plan->available));
    }
    if (plan->host_total > plan->host_available) {
        return err_set(err, ERR_NO_MEMORY, "memory: %s = %llu MiB, %llu MiB are available",
                       host_text, (unsigned long long)plan_mb(plan->host_total),
                       (unsigned long long)plan_mb(plan->host_available));
    }
    return 0;
}

int engine_plan(const struct plan_want *want, struct engine_plan *out, struct err *err)
{
    bool is_device = want->kern->is_device;
    uint64_t weights =
        ROUND_UP(model_weight_bytes(want->desc, want->kern, want->held), KERN_RESERVE_ALIGN);
    uint32_t prompt_rows = is_device ? PLAN_DEVICE_PROMPT_ROWS : PLAN_PROMPT_ROWS;
    *out = (struct engine_plan){
        .available = want->available ? want->available : mem_available(),
        .host_available = is_device ? mem_available() : 0,
        .sched = {.slot_n = want->sequence_n,
                  .queue_n = LIMIT_QUEUE,
                  .row_max = MIN(want->sequence_n + prompt_rows, LIMIT_STEP_ROWS)},
        .step_ahead = want->kern->step_ahead,
    };
    out->state = model_state(want->desc, want->sequence_n);
    uint64_t states = ROUND_UP(kern_state_bytes(&out->state), KERN_RESERVE_ALIGN);
    uint64_t rest = plan_left(out->available, weights + states);
    ASSERT(want->sequence_n >= 1 && want->sequence_n <= LIMIT_SEQUENCES);
    int rc = plan_share(want, rest, out, err);
    if (rc) {
        return rc;
    }
    struct plan_workspace need = plan_workspace(want, out);
    uint64_t kv = want->kern->kv_bytes(want->held, &out->kv);
    out->room_bytes = is_device ? plan_room_bytes(out) : 0;
    need.host += PLAN_ROOMS * (uint64_t)out->room_bytes;
    const struct plan_line lines[PLAN_LINES] = {
        {"weights", weights, false},
        {"recurrent states", states, false},
        {"KV pages", ROUND_UP(kv, KERN_RESERVE_ALIGN), false},
        {"adapters", ROUND_UP(MAX(out->pool_bytes, EFFECT_ALIGN), KERN_RESERVE_ALIGN), false},
        {"workspace", need.bytes, false},
        {"logits", need.logits, false},
        {"sequences and batches", engine_need(out) + need.host, is_device},
        {"events", (uint64_t)engine_event_slots(out) * sizeof(struct event), is_device},
    };
    memcpy(out->lines, lines, sizeof lines);
    rc = plan_check(out, is_device, err);
    out->open.reserve_bytes = is_device ? (size_t)out->total : 0;
    return rc;
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
