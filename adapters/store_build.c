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

/* What is left of the value in the type it is held in. */
static float value_kept(float value, enum dtype held)
{
    switch (held) {
    case DTYPE_BF16:
        return bf16_round(value);
    case DTYPE_F16:
        return f16_to_f32(f16_from_f32(value));
    default:
        return value;
    }
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
        float kept = value_kept(value, held);
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

/* Sites that one linear op computes together: q, k, v; the delta rule's four; gate, up; others
 * alone. */
static enum site_place site_group(enum site_place place)
{
    switch (place) {
    case SITE_K:
    case SITE_V:
        return SITE_Q;
    case SITE_GDN_Z:
    case SITE_GDN_B:
    case SITE_GDN_A:
        return SITE_GDN_QKV;
    case SITE_UP:
        return SITE_GATE;
    default:
        return place;
    }
}

static bool is_same_group(const struct model_desc *desc, uint32_t a, uint32_t b)
{
    const struct site *x = &desc->sites[a];
    const struct site *y = &desc->sites[b];
    return x->layer == y->layer && site_group(x->place) == site_group(y->place);
}

static void build_ranks(const struct model_desc *desc, const struct parsed_adapter *parsed,
                        struct version *out)
{
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        uint32_t sum = 0;
        out->rank_max = MAX(out->rank_max, parsed->lowranks[i].rank);
        for (uint32_t j = 0; j < parsed->lowrank_n; j++) {
            bool is_together =
                is_same_group(desc, parsed->lowranks[i].site, parsed->lowranks[j].site);
            sum += is_together ? parsed->lowranks[j].rank : 0;
        }
        out->group_rank = MAX(out->group_rank, sum);
    }
}

/* Lays the scales out from `at` on: their table, then the vectors; returns the end. Writes both
 * where there is a block. */
static size_t build_scales(const struct model_desc *desc, const struct parsed_adapter *parsed,
                           size_t at, char *block)
{
    size_t table = at;
    at += ROUND_UP(desc->site_n * sizeof(struct effect_scale), EFFECT_ALIGN);
    for (uint32_t i = 0; i < parsed->scale_n; i++) {
        const struct parsed_scale *p = &parsed->scales[i];
        const struct site *site = &desc->sites[p->site];
        struct effect_scale scale = {0};
        const float *vectors[] = {p->in, p->out};
        uint64_t *places[] = {&scale.in_at, &scale.out_at};
        size_t bytes[] = {site->k * sizeof(float), site->n * sizeof(float)};
        for (size_t v = 0; v < ARRAY_N(vectors); v++) {
            if (!vectors[v]) {
                continue;
            }
            *places[v] = at;
            if (block) {
                memcpy(block + at, vectors[v], bytes[v]);
            }
            at += ROUND_UP(bytes[v], EFFECT_ALIGN);
        }
        if (block) {
            memcpy(block + table + p->site * sizeof scale, &scale, sizeof scale);
        }
    }
    return at;
}

/* Where factors, scales and states lie. */
static void build_layout(const struct store *store, const struct parsed_adapter *parsed,
                         struct effect_lowrank *table, struct effect_block *head)
{
    const struct kern *kern = store->config.kern;
    const struct model_desc *desc = store->config.desc;
    enum dtype held = store->config.held;
    size_t at = EFFECT_LOWRANK_AT + desc->site_n * sizeof(struct effect_lowrank);
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
    if (parsed->scale_n > 0) {
        head->scale_at = at;
        at = build_scales(desc, parsed, at, NULL);
    }
    if (parsed->states) {
        head->state_at = at;
        head->state_n = model_state(desc, 1).state_n;
        at += desc->state_layer_n * effect_state_stride(head->state_n);
    }
    head->bytes = at;
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

static int build_check(const struct store *store, const struct parsed_adapter *parsed,
                       struct version *out, struct err *err)
{
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        const struct parsed_lowrank *p = &parsed->lowranks[i];
        float change[2] = {0};
        int rc = matrix_check(&p->a, p->a_name, store->config.held, &change[0], err);
        rc = rc ? rc : matrix_check(&p->b, p->b_name, store->config.held, &change[1], err);
        if (rc) {
            return rc;
        }
        out->conversion_error = fmaxf(out->conversion_error, fmaxf(change[0], change[1]));
    }
    return 0;
}

/* The contents behind the header and the table. */
static void build_fill(const struct store *store, const struct parsed_adapter *parsed,
                       const struct effect_lowrank *table, char *block)
{
    const struct kern *kern = store->config.kern;
    const struct effect_block *head = (const struct effect_block *)(const void *)block;
    for (uint32_t i = 0; i < parsed->lowrank_n; i++) {
        const struct parsed_lowrank *p = &parsed->lowranks[i];
        kern->weight_pack(store->config.held, &p->a, block + table[p->site].a_at);
        kern->weight_pack(store->config.held, &p->b, block + table[p->site].b_at);
    }
    if (parsed->scale_n > 0) {
        build_scales(store->config.desc, parsed, head->scale_at, block);
    }
    for (uint32_t l = 0; parsed->states && l < store->config.desc->state_layer_n; l++) {
        char *to = block + head->state_at + l * effect_state_stride(head->state_n);
        memcpy(to, parsed->states[l], head->state_n * sizeof *parsed->states[l]);
    }
}

int store_build(const struct store *store, const struct parsed_adapter *parsed, size_t room_bytes,
                struct version *out, struct err *err)
{
    uint32_t site_n = store->config.desc->site_n;
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .site_n = site_n,
                                .lowrank_at = EFFECT_LOWRANK_AT};
    int rc = build_check(store, parsed, out, err);
    if (rc) {
        return rc;
    }
    struct effect_lowrank *table = mem_zalloc_n(site_n, sizeof *table);
    build_layout(store, parsed, table, &head);
    rc = build_block(head.bytes, room_bytes, out, err);
    if (!rc) {
        out->block_bytes = head.bytes;
        memcpy(out->block, &head, sizeof head);
        memcpy((char *)out->block + EFFECT_LOWRANK_AT, table, site_n * sizeof *table);
        build_fill(store, parsed, table, out->block);
        out->has_rows = parsed->lowrank_n > 0 || parsed->scale_n > 0;
        out->has_scales = parsed->scale_n > 0;
        out->has_states = parsed->states != NULL;
        out->modules_applied = parsed->modules_total;
        out->modules_total = parsed->modules_total;
        build_ranks(store->config.desc, parsed, out);
    }
    mem_free(table);
    return rc;
}
