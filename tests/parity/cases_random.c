/* Parity of generated weights: every backend makes the same values, packed as a checkpoint's would
 * be, padding and all. */
#include "tests/test.h"

#include <stdio.h>

#include "base/base.h"
#include "base/mem.h"
#include "kernels/weights_random.h"
#include "tests/parity/parity.h"
#include "tests/step.h"

struct random_args {
    struct weights_random weights;
};

/* The values packed by weight_pack must be the bytes that weight_random leaves. */
static void random_prepare(struct rig *rig, const struct parity_case *c)
{
    const struct random_args *args = c->args;
    const struct weights_random *w = &args->weights;
    size_t bytes = rig->kern->weight_bytes(rig->held, w->n, w->k);
    size_t value_n = (size_t)w->n * w->k;
    float *values = mem_alloc(value_n * sizeof *values);
    char *packed = mem_alloc(bytes);
    char *made = mem_alloc(bytes);
    void *dev = rig_take(rig, bytes);
    for (size_t i = 0; i < value_n; i++) {
        values[i] = weights_random_value(w, i);
    }
    struct kern_matrix matrix = {.data = values, .dtype = DTYPE_F32, .n = w->n, .k = w->k};
    rig->kern->weight_pack(rig->held, &matrix, packed);
    rig->kern->weight_random(rig->dev, w, dev);
    rig->kern->get(rig->dev, made, dev, bytes);
    assert_memory_equal(made, packed, bytes);
    mem_free(made);
    mem_free(packed);
    mem_free(values);
    rig->state = dev;
}

/* The rows that embed reads: the same floats on every backend, whatever they are held in. */
static void random_run(struct rig *rig, const struct parity_case *c, const struct world_view *view)
{
    const struct weights_random *w = &((const struct random_args *)c->args)->weights;
    const uint32_t shape[2] = {view->row_n, w->k};
    struct kern_row *rows = arena_alloc(&rig->arena, view->row_n * sizeof *rows);
    struct kern_step step = view->step;
    for (uint32_t i = 0; i < view->row_n; i++) {
        rows[i] = view->step.rows[i];
        rows[i].token = rows[i].token % w->n;
    }
    step.rows = rows;
    struct kern_embed op = {
        .w = rig->state,
        .vocab_n = w->n,
        .hidden = w->k,
        .multiplier = 1,
        .h = rig_take(rig, (size_t)view->row_n * w->k * sizeof(float)),
    };
    step_begin(rig->kern, rig->dev, &step);
    rig->kern->embed(rig->dev, &op);
    ASSERT_CMP(step_end(rig->kern, rig->dev), ==, 0);
    rig_out_f32(rig, "h", op.h, shape, (struct rig_bound){0});
}

void parity_random(void)
{
    static const uint32_t shapes[][2] = {{1, 8},    {63, 64},   {64, 72},
                                         {65, 896}, {500, 128}, {33, 63}};
    for (uint32_t i = 0; i < 2 * ARRAY_N(shapes); i++) {
        struct parity_case c;
        struct random_args args;
        uint32_t n = shapes[i / 2][0];
        uint32_t k = shapes[i / 2][1];
        char name[32];
        snprintf(name, sizeof name, "tensor %u", i);
        args.weights =
            (struct weights_random){weights_random_key(i, name), n, k, weights_random_unit(k)};
        parity_case_init(&c, i % 2 ? DTYPE_F32 : DTYPE_BF16, i);
        for (uint32_t row = 0; row < 20; row++) {
            world_add(&c.world, row, 1, false);
        }
        world_deal_pages(&c.world, i, &c.arena);
        c.open.row_max = 20;
        c.open.k_max = k;
        c.open.n_max = k;
        c.open.vocab_n = n;
        c.args = &args;
        c.has_free_rows = true;
        c.prepare = random_prepare;
        c.run = random_run;
        snprintf(c.text, sizeof c.text, "random n=%u k=%u %s", n, k, i % 2 ? "f32" : "bf16");
        parity_check(&c);
        parity_case_done(&c);
    }
}
