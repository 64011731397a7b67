/* Any bytes as config.json: refused with a text, or a description that the walk can live with. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

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
    ASSERT_CMP(d.rotary_n, ==, d.head_dim);
    ASSERT(d.norm_eps >= 0 && d.hidden > 0 && d.ffn > 0 && d.vocab_n > 0 && d.context_max > 0);
    for (uint32_t i = 0; i < d.rotary_n / 2; i++) {
        ASSERT(isfinite(d.inv_freq[i]));
    }
    for (uint32_t i = 0; i < d.site_n; i++) {
        ASSERT_CMP(model_site_find(&d, d.sites[i].module), ==, i);
        ASSERT(d.sites[i].n > 0 && d.sites[i].k > 0);
    }
    model_desc_done(&d);
    return 0;
}
