/* Submitting a step part by part, and reading it back.
 *
 * A part's records are copied in stream order right before its ops; a pinned block is written again
 * when its copy has been made. Generated parts are captured before the first step, once per row
 * bucket and kind of effects, and replayed. Results go to mapped memory, the step's number last;
 * the host polls that word, and asks the stream every millisecond whether the device still lives.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "base/clock.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/publish.h"

#define RUN_QUERY_NS CLOCK_NS_PER_MS
#define RUN_PAUSE_NS                                                                               \
    20000 /* between looks of a waiting reader, once a step is not there at once                   \
           */

static uint32_t run_bucket_rows(uint32_t bucket)
{
    return 8u << bucket;
}

static uint32_t run_bucket(uint32_t row_n)
{
    uint32_t bucket = 0;
    while (run_bucket_rows(bucket) < row_n) {
        bucket++;
    }
    return bucket;
}

/* The model's frequencies go to the device once. */
static void run_rotary(struct kern_dev *dev, const struct kern_step *step)
{
    struct cuda_ctx *ctx = &dev->ctx;
    uint32_t half = step->rotary_n / 2;
    bool is_same = ctx->rotary_n == step->rotary_n && ctx->rope_scale == step->rope_scale &&
                   (half == 0 || memcmp(dev->inv_freq, step->inv_freq, half * sizeof(float)) == 0);
    if (is_same) {
        return;
    }
    ctx->rotary_n = step->rotary_n;
    ctx->rope_scale = step->rope_scale;
    if (half > 0) {
        memcpy(dev->inv_freq, step->inv_freq, half * sizeof(float));
        dev_copy_in(ctx->stream, (void *)(uintptr_t)ctx->inv_freq, step->inv_freq,
                    half * sizeof(float));
    }
}

void cuda_begin_step(struct kern_dev *dev, const struct kern_step *step)
{
    ASSERT(!dev->is_stepping);
    ASSERT_CMP(step->row_n, <=, dev->args.row_max);
    ASSERT_CMP(step->rotary_n, <=, LIMIT_HEAD_DIM);
    ASSERT_CMP(dev->submitted_n - dev->read_n, <, CUDA_STEPS);
    dev_use(dev->args.device, NULL);
    dev->is_stepping = true;
    dev->step = *step;
    cuda_plan_step(dev);
    run_rotary(dev, step);
}

/* Says once, to every thread, that the device has been silent for too long since `since_ns`. */
static bool run_is_silent(struct kern_dev *dev, int64_t since_ns, int64_t now_ns)
{
    char why[ERR_TEXT_BYTES];
    if (now_ns - since_ns <= dev->info.silence_ns) {
        return false;
    }
    snprintf(why, sizeof why, "no progress for %.3g s",
             (double)dev->info.silence_ns / CLOCK_NS_PER_S);
    dev_fail(why);
    return true;
}

/* The next pinned block, once its last copy has been made: long ago, but for a burst of parts. A
 * device that has failed does not read it any more. */
static struct cuda_pinned *run_pinned(struct kern_dev *dev)
{
    struct cuda_pinned *pinned = &dev->pinned[dev->pinned_next++ % CUDA_BLOCKS];
    int64_t since_ns = clock_now_ns();
    while (pinned->is_used && dev_event_query(pinned->copied) == 1 &&
           !run_is_silent(dev, since_ns, clock_now_ns())) {
        clock_pause_ns(RUN_PAUSE_NS);
    }
    pinned->is_used = true;
    return pinned;
}

/* Sends the part's records and points the context at it. */
static void run_part(struct kern_dev *dev, uint32_t index)
{
    const struct cuda_part *part = &dev->plan.parts[index];
    struct cuda_pinned *pinned = run_pinned(dev);
    struct cuda_ctx *ctx = &dev->ctx;
    size_t bytes = cuda_part_fill(dev, index, pinned->data, (const char *)ctx->step);
    dev_copy_in(ctx->stream, (void *)(uintptr_t)ctx->step, pinned->data, bytes);
    dev_event_record(pinned->copied, ctx->stream);
    ctx->is_prompt = part->is_prompt;
    ctx->effects = part->effects;
    ctx->row_cap = part->row_n;
    ctx->sample_cap = part->sample_n;
    ctx->score_n = part->score_n;
    ctx->tile_n = part->tile_n;
    ctx->run_cap = part->run_n;
}

static void run_begin_ops(struct kern_dev *dev)
{
    cuda_begin(&dev->ctx);
    if (dev->ctx.kv.data && !dev->ctx.is_prompt) {
        cuda_attend_begin(&dev->ctx);
    }
}

/* Buckets in order, each with every kind of effects. */
int cuda_next_capture(struct kern_dev *dev, const struct kern_step *model, struct kern_part *out,
                      struct err *err)
{
    struct cuda_ctx *ctx = &dev->ctx;
    ASSERT(ctx->kv.data && !dev->is_stepping && dev->submitted_n == 0);
    *out = (struct kern_part){0};
    dev_use(dev->args.device, NULL);
    if (dev->is_capturing) {
        uint32_t last = dev->capture_n - 1;
        dev->is_capturing = false;
        int rc = dev_graph_end(ctx->stream,
                               &dev->graphs[last / CUDA_EFFECTS_N][last % CUDA_EFFECTS_N], err);
        if (rc) {
            return rc;
        }
    }
    uint32_t row_max = MIN(dev->args.row_max, CUDA_PART_ROWS);
    uint32_t kind = dev->capture_n;
    if (kind / CUDA_EFFECTS_N > run_bucket(row_max)) {
        return cuda_sync(dev, err);
    }
    run_rotary(dev, model);
    ctx->is_prompt = false;
    ctx->effects = (enum cuda_effects)(kind % CUDA_EFFECTS_N);
    ctx->row_cap = MIN(run_bucket_rows(kind / CUDA_EFFECTS_N), row_max);
    ctx->sample_cap = ctx->row_cap;
    ctx->run_cap = ctx->row_cap;
    ctx->score_n = 0;
    dev->capture_n++;
    dev->is_capturing = true;
    dev_graph_begin(ctx->stream);
    run_begin_ops(dev);
    *out = (struct kern_part){ctx->row_cap, ctx->sample_cap, 0};
    return 0;
}

bool cuda_next_part(struct kern_dev *dev, struct kern_part *out)
{
    while (dev->plan.next < dev->plan.part_n) {
        const struct cuda_part *part = &dev->plan.parts[dev->plan.next];
        run_part(dev, dev->plan.next++);
        /* a generated row may be scored only in tests; such a part is not of the usual ops */
        bool is_usual = !part->is_prompt && part->score_n == 0 && part->sample_n > 0;
        uint32_t bucket = is_usual ? run_bucket(part->row_n) : 0;
        if (is_usual && dev->graphs[bucket][part->effects]) {
            dev_graph_launch(dev->ctx.stream, dev->graphs[bucket][part->effects]);
            continue;
        }
        run_begin_ops(dev);
        *out = (struct kern_part){part->row_n, part->sample_n, part->score_n};
        return true;
    }
    return false;
}

void cuda_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n)
{
    uint32_t at = (uint32_t)(dev->submitted_n % CUDA_STEPS);
    ASSERT(dev->is_stepping && !dev->is_capturing);
    ASSERT_CMP(dev->plan.next, ==, dev->plan.part_n);
    ASSERT_CMP(result_n, <=, dev->result_max);
    dev->is_stepping = false;
    dev->step = (struct kern_step){0};
    dev->result_n[at] = result_n;
    dev->submitted_n++;
    cuda_publish(&dev->ctx, &(struct cuda_results){
                                .results = results,
                                .n = result_n,
                                .out = dev->results + (size_t)at * dev->result_max,
                                .number = &dev->numbers[at],
                                .saturated = dev->saturated,
                                .step = dev->submitted_n,
                            });
}

/* 0 when the oldest step is there; else what the device says of itself. A failure comes first: the
 * step may have gone on without the launch that failed. */
static int run_look(struct kern_dev *dev, uint32_t at)
{
    if (dev->is_lost || dev_failure()[0]) {
        return ERR_DEVICE_FAILURE;
    }
    if (__atomic_load_n(&dev->numbers[at], __ATOMIC_ACQUIRE) == dev->read_n + 1) {
        return 0;
    }
    int64_t now = clock_now_ns();
    dev->silent_ns = dev->silent_ns ? dev->silent_ns : now;
    if (run_is_silent(dev, dev->silent_ns, now)) {
        return ERR_DEVICE_FAILURE;
    }
    if (now - dev->queried_ns > RUN_QUERY_NS) {
        dev->queried_ns = now;
        return dev_stream_query(dev->ctx.stream) == ERR_DEVICE_FAILURE ? ERR_DEVICE_FAILURE : 1;
    }
    return 1;
}

/* The device's count is of 32 bits and starts again at 0; a step adds less than that. */
static void run_count_saturated(struct kern_dev *dev)
{
    uint64_t now = __atomic_load_n(dev->saturated, __ATOMIC_RELAXED);
    dev->saturated_n += (uint32_t)(now - dev->saturated_n);
}

int cuda_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting)
{
    uint32_t at = (uint32_t)(dev->read_n % CUDA_STEPS);
    ASSERT_CMP(dev->read_n, <, dev->submitted_n);
    int rc = run_look(dev, at);
    while (rc == 1 && is_waiting) {
        clock_pause_ns(RUN_PAUSE_NS);
        rc = run_look(dev, at);
    }
    dev->is_lost |= rc == ERR_DEVICE_FAILURE;
    if (rc == 0) {
        dev->silent_ns = 0;
        if (dev->result_n[at] > 0) {
            memcpy(out, dev->results + (size_t)at * dev->result_max,
                   dev->result_n[at] * sizeof *out);
        }
        dev->read_n++;
        run_count_saturated(dev);
    }
    return rc;
}
