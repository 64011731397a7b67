/* Any bytes as config.json: refused with a text, or a description that the walk can live with. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Ordinals of what layers keep, and the sizes and multipliers of what they mix with. */
static void check_layers(const struct model_desc *d)
{
    uint32_t kv_n = 0;
    uint32_t state_n = 0;
    for (uint32_t l = 0; l < d->layer_n; l++) {
        const struct layer_desc *layer = &d->layers[l];
        bool has_kv = layer->mixer != MIXER_GDN;
        bool has_state = layer->mixer != MIXER_ATTENTION;
        ASSERT_CMP(layer->kv_layer, ==, has_kv ? kv_n : LAYER_NONE);
        ASSERT_CMP(layer->state_layer, ==, has_state ? state_n : LAYER_NONE);
        kv_n += has_kv;
        state_n += has_state;
    }
    ASSERT(d->kv_layer_n == kv_n && d->state_layer_n == state_n && kv_n > 0);
    struct kern_state state = model_state(d, 1);
    ASSERT((state_n == 0) == (state.layer_n == 0));
    ASSERT(state_n == 0 || (state.state_n > 0 && state.conv_n > 0));
    ASSERT(isfinite(d->attention_scale) && isfinite(d->attention_multiplier));
    for (uint32_t i = 0; i < KERN_SSD_PIECE_N; i++) {
        ASSERT(isfinite(d->ssd.multipliers[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_desc d;
    struct err err = {0};
    int rc = model_desc_parse("input", data, n, &d, &err);
    if (rc) {
        ASSERT(rc == err.code && err.text[0]);
        return 0;
    }
    ASSERT_CMP(d.layer_n, <=, LIMIT_LAYERS);
    ASSERT_CMP(d.head_dim, <=, LIMIT_HEAD_DIM);
    ASSERT_CMP(d.head_n % d.kv_head_n, ==, 0);
    ASSERT(d.rotary_n >= 2 && d.rotary_n % 2 == 0 && d.rotary_n <= d.head_dim);
    ASSERT(d.norm_eps >= 0 && d.hidden > 0 && d.ffn > 0 && d.vocab_n > 0 && d.context_max > 0);
    for (uint32_t i = 0; i < d.rotary_n / 2; i++) {
        ASSERT(isfinite(d.inv_freq[i]));
    }
    check_layers(&d);
    for (uint32_t i = 0; i < d.site_n; i++) {
        ASSERT_CMP(model_site_find(&d, d.sites[i].module), ==, i);
        ASSERT(d.sites[i].n > 0 && d.sites[i].k > 0);
    }
    model_desc_done(&d);
    return 0;
}
