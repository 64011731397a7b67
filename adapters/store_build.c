/* From parsed factors to the effect block: every value is looked at once, the loss by rounding to
 * the held type is measured, and the backend's own packing fills the block. */
#include <math.h>
#include <string.h>

#include "adapters/store_int.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "model/model.h"

/* Largest |change| of a tensor's values over its largest |value| that is still a conversion. */
#define STORE_CHANGE_MAX 0x1p-8f

static float value_at(const struct kern_matrix *m, size_t i)
{
    uint16_t half;
    float f;
    if (m->dtype == DTYPE_F32) {
        memcpy(&f, (const char *)m->data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&half, (const char *)m->data + 2 * i, sizeof half);
    return m->dtype == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

/* Looks at every value; *out_change is the loss of rounding to `held`. */
static int matrix_check(const struct kern_matrix *m, const char *name, enum dtype held,
                        float *out_change, struct err *err)
{
    float value_max = 0;
    float change_max = 0;
    size_t n = (size_t)m->n * m->k;
    for (size_t i = 0; i < n; i++) {
        float value = value_at(m, i);
        float kept = held == DTYPE_BF16 ? bf16_round(value) : value;
        if (!isfinite(value)) {
            return err_set(err, ERR_BAD_FILE, "tensor \"%s\" has %s at [%zu, %zu]", name,
                           isnan(value) ? "a NaN" : "an infinity", i / m->k, i % m->k);
        }
        if (!isfinite(kept)) {
            return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                           "tensor \"%s\" has %g at [%zu, %zu], too large for %s", name,
                           (double)value, i / m->k, i % m->k, dtype_name(held));
        }
        float magnitude = fabsf(value);
        float change = fabsf(kept - value);
        value_max = magnitude > value_max ? magnitude : value_max;
        change_max = change > change_max ? change : change_max;
    }
    *out_change = change_max > 0 ? change_max / value_max : 0;
    if (*out_change > STORE_CHANGE_MAX) {
        return err_set(err, ERR_ADAPTER_INCOMPATIBLE,
                       "tensor \"%s\" changes by %.3g of its largest value when held as %s, limit "
                       "is %.3g",
                       name, (double)*out_change, dtype_name(held), (double)STORE_CHANGE_MAX);
    }
    return 0;
}

/* Sites that one linear op computes together: q, k, v; o; gate, up; down. */
static uint32_t site_group(uint32_t site)
{
    static const uint32_t group[SITE_PER_LAYER] = {
        [SITE_Q] = 0,    [SITE_K] = 0,  [SITE_V] = 0,   [SITE_O] = 1,
        [SITE_GATE] = 2, [SITE_UP] = 2, [SITE_DOWN] = 3};
    return site / SITE_PER_LAYER * 4 + group[site % SITE_PER_LAYER];
}

static void build_ranks(const struct parsed_adapter *parsed, struct version *out)
{
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        uint32_t sum = 0;
        out->rank_max = MAX(out->rank_max, parsed->lowranks[i].rank);
        for (uint32_t j = 0; j < parsed->lowrank_n; j++) {
            bool is_together =
                site_group(parsed->lowranks[i].site) == site_group(parsed->lowranks[j].site);
            sum += is_together ? parsed->lowranks[j].rank : 0;
        }
        out->group_rank = MAX(out->group_rank, sum);
    }
}

/* Where the factors lie. */
static size_t build_layout(const struct store *store, const struct parsed_adapter *parsed,
                           struct effect_lowrank *table)
{
    const struct kern *kern = store->config.kern;
    enum dtype held = store->config.held;
    size_t at = EFFECT_LOWRANK_AT + store->config.desc->site_n * sizeof(struct effect_lowrank);
    at = ROUND_UP(at, EFFECT_ALIGN);
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        const struct parsed_lowrank *p = &parsed->lowranks[i];
        struct effect_lowrank *e = &table[p->site];
        ASSERT(e->rank == 0);
        e->rank = p->rank;
        e->scale = p->scale;
        e->a_at = at;
        at += ROUND_UP(kern->weight_bytes(held, p->a.n, p->a.k), EFFECT_ALIGN);
        e->b_at = at;
        at += ROUND_UP(kern->weight_bytes(held, p->b.n, p->b.k), EFFECT_ALIGN);
    }
    return at;
}

/* Zeroed memory: the room where it is enough, else some of its own. */
static int build_block(size_t bytes, size_t room_bytes, struct version *out, struct err *err)
{
    if (!out->room || bytes > room_bytes) {
        return mem_pages_alloc(bytes, &out->block, err);
    }
    memset(out->room, 0, bytes);
    out->block = out->room;
    return 0;
}

int store_build(const struct store *store, const struct parsed_adapter *parsed, size_t room_bytes,
                struct version *out, struct err *err)
{
    const struct kern *kern = store->config.kern;
    enum dtype held = store->config.held;
    uint32_t site_n = store->config.desc->site_n;
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        const struct parsed_lowrank *p = &parsed->lowranks[i];
        float change[2] = {0};
        int rc = matrix_check(&p->a, p->a_name, held, &change[0], err);
        if (!rc) {
            rc = matrix_check(&p->b, p->b_name, held, &change[1], err);
        }
        if (rc) {
            return rc;
        }
        out->conversion_error = fmaxf(out->conversion_error, fmaxf(change[0], change[1]));
    }
    struct effect_lowrank *table = mem_zalloc_n(site_n, sizeof *table);
    size_t bytes = build_layout(store, parsed, table);
    int rc = build_block(bytes, room_bytes, out, err);
    if (!rc) {
        char *block = out->block;
        out->block_bytes = bytes;
        *(struct effect_block *)out->block = (struct effect_block){.magic = EFFECT_BLOCK_MAGIC,
                                                                   .version = EFFECT_BLOCK_VERSION,
                                                                   .bytes = bytes,
                                                                   .site_n = site_n,
                                                                   .lowrank_at = EFFECT_LOWRANK_AT};
        memcpy(block + EFFECT_LOWRANK_AT, table, site_n * sizeof *table);
        for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
            const struct parsed_lowrank *p = &parsed->lowranks[i];
            kern->weight_pack(held, &p->a, block + table[p->site].a_at);
            kern->weight_pack(held, &p->b, block + table[p->site].b_at);
        }
        out->modules_applied = parsed->lowrank_n;
        out->modules_total = parsed->modules_total;
        build_ranks(parsed, out);
    }
    mem_free(table);
    return rc;
}
