/* Folders that peft saved (tests/golden), through the store, compared with a second reader of the
 * same files: the two must build the same factors for the same sites. */
#include "tests/test.h"

#include <stdio.h>

#include "adapters/store.h"
#include "base/base.h"
#include "base/file.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "tests/unit/lora_plain.h"

static const char *const lora_models[] = {"llama",      "llama-bf16", "llama-f16", "qwen2",
                                          "qwen2-bf16", "qwen3",      "qwen3-bf16"};

/* The factor of both blocks, byte for byte as packed. */
static void compare_factor(const struct model *model, const struct site *site, const void *ours,
                           const void *theirs, bool is_b, uint32_t rank)
{
    uint32_t n = is_b ? site->n : rank;
    uint32_t k = is_b ? rank : site->k;
    assert_memory_equal(ours, theirs, model->kern->weight_bytes(model->held, n, k));
}

static void compare(const struct model *model, const struct version *v, const char *theirs)
{
    const char *ours = v->block;
    uint32_t used_n = 0;
    for (uint32_t s = 0; s < model->desc.site_n; s++) {
        const struct effect_lowrank *a = effect_lowrank_at(ours, s);
        const struct effect_lowrank *b = effect_lowrank_at(theirs, s);
        const struct site *site = &model->desc.sites[s];
        assert_int_equal(a->rank, b->rank);
        if (a->rank == 0) {
            continue;
        }
        used_n++;
        assert_true(a->scale == b->scale);
        compare_factor(model, site, ours + a->a_at, theirs + b->a_at, false, a->rank);
        compare_factor(model, site, ours + a->b_at, theirs + b->b_at, true, a->rank);
    }
    assert_int_equal(used_n, v->modules_applied);
    assert_true(used_n > 0);
}

static void compare_adapter(const char *dir, const char *name, struct model *model)
{
    char root[512];
    struct err err = {0};
    struct store *store = NULL;
    snprintf(root, sizeof root, "%s/adapters", dir);
    struct store_config config = {
        .root = root, .desc = &model->desc, .kern = model->kern, .held = model->held};
    assert_int_equal(store_open(&config, &store, &err), 0);
    struct prepare_job job = {.store = store};
    snprintf(job.name, sizeof job.name, "%s", name);
    store_prepare(&job.job);
    if (job.err.code) {
        fail_msg("%s", job.err.text);
    }
    size_t bytes;
    void *theirs = lora_plain_read(dir, name, model, &bytes);
    compare(model, job.version, theirs);
    mem_free(theirs);
    version_free(job.version);
    store_close(store);
}

static void saved_by_peft(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(lora_models); i++) {
        char dir[400];
        struct model model = {.kern = &kern_ref};
        struct err err = {0};
        snprintf(dir, sizeof dir, TEST_ROOT "/tests/golden/%s", lora_models[i]);
        if (model_desc_read(dir, &model.desc, &err) != 0) {
            fail_msg("%s", err.text);
        }
        for (enum dtype held = 0; held < DTYPE_N; held++) {
            model.held = held;
            if (held != DTYPE_F16) {
                compare_adapter(dir, "a", &model);
                compare_adapter(dir, "b", &model);
            }
        }
        model_desc_done(&model.desc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(saved_by_peft)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
