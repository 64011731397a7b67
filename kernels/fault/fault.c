/* fault: every function of the contract passed on, with the plan's delays and failures. A step that
 * fails has still run inside: the failure is what the caller is told, as with a lost device. */
#include "kernels/fault/fault.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/random.h"

struct kern_dev {
    const struct kern *inner;
    struct kern_dev *inner_dev;
    struct fault_plan plan;
    uint32_t step;         /* begun so far */
    uint32_t read_n;       /* read so far */
    int64_t silent_ns;     /* since when the oldest step is looked for in vain; 0 = it is not */
    uint32_t reserve_call; /* made so far */
    size_t reserve_bytes;  /* granted so far */
    enum dtype held;
};

static const struct kern *fault_inner;
static struct fault_plan fault_next_plan;

void fault_set(const struct kern *inner, const struct fault_plan *plan)
{
    fault_inner = inner;
    fault_next_plan = *plan;
    kern_fault.step_ahead = inner->step_ahead;
    kern_fault.part_sample_max = inner->part_sample_max;
    kern_fault.is_device = inner->is_device;
}

static int fault_open(const struct kern_open *args, struct kern_dev **out, struct err *err)
{
    ASSERT(fault_inner);
    struct kern_dev *inner_dev;
    int rc = fault_inner->open(args, &inner_dev, err);
    if (rc != 0) {
        return rc;
    }
    struct kern_dev *dev = mem_zalloc(sizeof *dev);
    dev->inner = fault_inner;
    dev->inner_dev = inner_dev;
    dev->plan = fault_next_plan;
    dev->held = args->held;
    *out = dev;
    return 0;
}

static void fault_close(struct kern_dev *dev)
{
    dev->inner->close(dev->inner_dev);
    mem_free(dev);
}

static const char *fault_isa_name(const struct kern_dev *dev)
{
    return dev->inner->isa_name(dev->inner_dev);
}

static const char *fault_failure(const struct kern_dev *dev)
{
    const char *own = dev->inner->failure(dev->inner_dev);
    return own[0] ? own : "a planned failure";
}

/* Counts a reservation; an error when the plan refuses it. */
static int fault_admit(struct kern_dev *dev, size_t bytes, struct err *err)
{
    const struct fault_plan *plan = &dev->plan;
    if (++dev->reserve_call == plan->reserve_fail_call) {
        return err_set(err, ERR_NO_MEMORY,
                       "could not reserve %zu bytes: planned failure of call %u", bytes,
                       dev->reserve_call);
    }
    if (plan->reserve_bytes_max > 0 &&
        (bytes > plan->reserve_bytes_max || dev->reserve_bytes > plan->reserve_bytes_max - bytes)) {
        return err_set(err, ERR_NO_MEMORY,
                       "could not reserve %zu bytes: %zu are taken, the plan's limit is %zu", bytes,
                       dev->reserve_bytes, plan->reserve_bytes_max);
    }
    return 0;
}

static int fault_reserve(struct kern_dev *dev, size_t bytes, void **out_dev, struct err *err)
{
    int rc = fault_admit(dev, bytes, err);
    if (rc == 0) {
        rc = dev->inner->reserve(dev->inner_dev, bytes, out_dev, err);
    }
    dev->reserve_bytes += rc == 0 ? bytes : 0;
    return rc;
}

static void fault_put(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes)
{
    dev->inner->put(dev->inner_dev, to_dev, from, bytes);
}

static void fault_get(struct kern_dev *dev, void *to, const void *from_dev, size_t bytes)
{
    dev->inner->get(dev->inner_dev, to, from_dev, bytes);
}

static size_t fault_bring(struct kern_dev *dev, void *to_dev, const void *from, size_t bytes,
                          uint64_t *out_ticket)
{
    return dev->inner->bring(dev->inner_dev, to_dev, from, bytes, out_ticket);
}

static bool fault_is_brought(struct kern_dev *dev, uint64_t ticket)
{
    return dev->inner->is_brought(dev->inner_dev, ticket);
}

static void fault_discard(struct kern_dev *dev, void *at_dev, size_t bytes)
{
    dev->inner->discard(dev->inner_dev, at_dev, bytes);
}

static void *fault_reserve_host(struct kern_dev *dev, size_t bytes)
{
    return dev->inner->reserve_host(dev->inner_dev, bytes);
}

static void fault_kv_discard(struct kern_dev *dev, uint32_t page)
{
    dev->inner->kv_discard(dev->inner_dev, page);
}

static int fault_kv_open(struct kern_dev *dev, const struct kern_kv *kv, struct err *err)
{
    size_t bytes = dev->inner->kv_bytes(dev->held, kv);
    int rc = fault_admit(dev, bytes, err);
    if (rc == 0) {
        rc = dev->inner->kv_open(dev->inner_dev, kv, err);
    }
    dev->reserve_bytes += rc == 0 ? bytes : 0;
    return rc;
}

static size_t fault_kv_bytes(enum dtype held, const struct kern_kv *kv)
{
    return fault_inner->kv_bytes(held, kv);
}

static int fault_state_open(struct kern_dev *dev, const struct kern_state *state, float **out_dev,
                            struct err *err)
{
    size_t bytes = kern_state_bytes(state);
    int rc = fault_admit(dev, bytes, err);
    if (rc == 0) {
        rc = dev->inner->state_open(dev->inner_dev, state, out_dev, err);
    }
    dev->reserve_bytes += rc == 0 ? bytes : 0;
    return rc;
}

static size_t fault_workspace_bytes(const struct kern_open *args, const struct kern_kv *kv,
                                    size_t *out_host)
{
    return fault_inner->workspace_bytes(args, kv, out_host);
}

static size_t fault_weight_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return fault_inner->weight_bytes(held, n, k);
}

static void fault_weight_pack(enum dtype held, const struct kern_matrix *src, void *out)
{
    fault_inner->weight_pack(held, src, out);
}

static const char *fault_prompt_form(const struct kern_dev *dev)
{
    return dev->inner->prompt_form(dev->inner_dev);
}

static void fault_weight_load(struct kern_dev *dev, const struct kern_matrix *src, void *to_dev)
{
    dev->inner->weight_load(dev->inner_dev, src, to_dev);
}

static void fault_weight_random(struct kern_dev *dev, const struct weights_random *src,
                                void *to_dev)
{
    dev->inner->weight_random(dev->inner_dev, src, to_dev);
}

static size_t fault_part_bytes(uint32_t row_n, uint32_t n)
{
    return fault_inner->part_bytes(row_n, n);
}

static void fault_set_version(struct kern_dev *dev, uint32_t version, const void *block_dev)
{
    dev->inner->set_version(dev->inner_dev, version, block_dev);
}

static int fault_next_capture(struct kern_dev *dev, const struct kern_step *model,
                              struct kern_part *out, struct err *err)
{
    return dev->inner->next_capture(dev->inner_dev, model, out, err);
}

static void fault_begin_step(struct kern_dev *dev, const struct kern_step *step)
{
    dev->step++;
    if (dev->plan.delay_ns > 0) {
        double draw = kern_random(dev->plan.seed, 2 * dev->step);
        uint64_t ns = (uint64_t)(draw * (double)dev->plan.delay_ns);
        clock_pause_ns((int64_t)ns);
    }
    dev->inner->begin_step(dev->inner_dev, step);
}

static bool fault_next_part(struct kern_dev *dev, struct kern_part *out)
{
    return dev->inner->next_part(dev->inner_dev, out);
}

static uint64_t fault_saturated_n(const struct kern_dev *dev)
{
    return dev->inner->saturated_n(dev->inner_dev);
}

static void fault_end_step(struct kern_dev *dev, const struct kern_token *results,
                           uint32_t result_n)
{
    dev->inner->end_step(dev->inner_dev, results, result_n);
}

/* A step that never ends, as its reader sees it: not yet, until the silence is too long. */
static int fault_hang(struct kern_dev *dev, bool is_waiting)
{
    int64_t now = clock_now_ns();
    dev->silent_ns = dev->silent_ns ? dev->silent_ns : now;
    if (is_waiting && now - dev->silent_ns < dev->plan.silence_ns) {
        clock_pause_ns(dev->plan.silence_ns);
        return ERR_DEVICE_FAILURE;
    }
    return now - dev->silent_ns < dev->plan.silence_ns ? 1 : ERR_DEVICE_FAILURE;
}

static int fault_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting)
{
    const struct fault_plan *plan = &dev->plan;
    uint32_t step = dev->read_n + 1;
    if (plan->hang_step > 0 && step >= plan->hang_step) {
        return fault_hang(dev, is_waiting);
    }
    int rc = dev->inner->read_step(dev->inner_dev, out, is_waiting);
    if (rc == 1) {
        return rc;
    }
    dev->read_n = step;
    bool is_planned = plan->fail_step > 0 && step >= plan->fail_step &&
                      (plan->fail_step_n == 0 || step - plan->fail_step < plan->fail_step_n);
    bool is_drawn = kern_random(plan->seed, 2 * step + 1) < plan->fail_chance;
    return is_planned || is_drawn ? ERR_DEVICE_FAILURE : rc;
}

#define FAULT_PASS(op)                                                                             \
    static void fault_##op(struct kern_dev *dev, const struct kern_##op *args)                     \
    {                                                                                              \
        dev->inner->op(dev->inner_dev, args);                                                      \
    }
FAULT_PASS(embed)
FAULT_PASS(join)
FAULT_PASS(linear)
FAULT_PASS(attend)
FAULT_PASS(gdn)
FAULT_PASS(ssd)
FAULT_PASS(head)
FAULT_PASS(sample)
FAULT_PASS(score)
#undef FAULT_PASS

struct kern kern_fault = {
    .name = "fault",
    .open = fault_open,
    .close = fault_close,
    .isa_name = fault_isa_name,
    .failure = fault_failure,
    .reserve = fault_reserve,
    .put = fault_put,
    .get = fault_get,
    .bring = fault_bring,
    .is_brought = fault_is_brought,
    .discard = fault_discard,
    .reserve_host = fault_reserve_host,
    .kv_discard = fault_kv_discard,
    .kv_open = fault_kv_open,
    .kv_bytes = fault_kv_bytes,
    .state_open = fault_state_open,
    .workspace_bytes = fault_workspace_bytes,
    .weight_bytes = fault_weight_bytes,
    .weight_pack = fault_weight_pack,
    .weight_load = fault_weight_load,
    .weight_random = fault_weight_random,
    .prompt_form = fault_prompt_form,
    .part_bytes = fault_part_bytes,
    .set_version = fault_set_version,
    .next_capture = fault_next_capture,
    .begin_step = fault_begin_step,
    .next_part = fault_next_part,
    .end_step = fault_end_step,
    .read_step = fault_read_step,
    .saturated_n = fault_saturated_n,
    .embed = fault_embed,
    .join = fault_join,
    .linear = fault_linear,
    .attend = fault_attend,
    .gdn = fault_gdn,
    .ssd = fault_ssd,
    .head = fault_head,
    .sample = fault_sample,
    .score = fault_score,
};
