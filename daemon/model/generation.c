/* generation_config.json: the sampling defaults that a checkpoint's makers chose.
 *
 * Keys that are not sampling fields of ours are without effect here, but those that would change
 * the tokens are refused by name; ours must be in range. Token ids that this file does not give
 * come from config.json. */
#include "model/config.h"

#include <math.h>

#include "base/base.h"
#include "base/file.h"

struct generation_range {
    const char *key;
    double min, max;
    bool is_open; /* min itself is refused */
    float *out;
};

static int generation_read_reals(const struct config *config, struct model_generation *g,
                                 struct err *err)
{
    const struct generation_range ranges[] = {
        {"temperature", 0, 100, false, &g->temperature},
        {"top_p", 0, 1, true, &g->top_p},
        {"min_p", 0, 1, false, &g->min_p},
        {"repetition_penalty", 0, 100, true, &g->repetition_penalty},
    };
    for (size_t i = 0; i < ARRAY_N(ranges); i++) {
        const struct generation_range *r = &ranges[i];
        double value = (double)*r->out;
        int rc = json_get_real(config->label, config->root, r->key, &value, err);
        if (rc) {
            return rc;
        }
        if (!(value <= r->max && (r->is_open ? value > r->min : value >= r->min))) {
            return err_set(err, ERR_BAD_FILE, "%s: \"%s\" is %g, it must lie in %s%g to %g",
                           config->label, r->key, value, r->is_open ? "above " : "", r->min,
                           r->max);
        }
        *r->out = (float)value;
    }
    return 0;
}

static int generation_read_eos(const struct config *config, uint32_t vocab_n,
                               struct model_generation *g, struct err *err)
{
    const json_t *eos = json_object_get(config->root, "eos_token_id");
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (!eos || json_is_null(eos)) {
        return 0;
    }
    if (n > LIMIT_EOS_TOKENS) {
        return err_set(err, ERR_BAD_FILE, "%s: \"eos_token_id\" lists %zu tokens, limit is %d",
                       config->label, n, LIMIT_EOS_TOKENS);
    }
    g->eos_n = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            json_integer_value(v) >= (json_int_t)vocab_n) {
            char brief[80];
            json_brief(v, brief, sizeof brief);
            return err_set(err, ERR_BAD_FILE,
                           "%s: \"eos_token_id\" has %s, which is no token of a vocabulary of %u",
                           config->label, brief, vocab_n);
        }
        g->eos_tokens[g->eos_n++] = (uint32_t)json_integer_value(v);
    }
    return 0;
}

static int generation_read_tokens(const struct config *config, uint32_t vocab_n,
                                  struct model_generation *g, struct err *err)
{
    int64_t bos = -1;
    int rc = json_get_int(config->label, config->root, "bos_token_id", 0, (int64_t)vocab_n - 1,
                          &bos, err);
    if (rc == 0 && bos >= 0) {
        g->bos_token = (uint32_t)bos;
    }
    return rc ? rc : generation_read_eos(config, vocab_n, g, err);
}

/* Decoding that is not implemented, each with the value at which it changes nothing; anything empty
 * is off, too. */
static int generation_check_unknown(const struct config *config, struct err *err)
{
    static const struct {
        const char *key;
        double neutral;
    } table[] = {
        {"num_beams", 1},
        {"num_beam_groups", 1},
        {"typical_p", 1},
        {"epsilon_cutoff", 0},
        {"eta_cutoff", 0},
        {"diversity_penalty", 0},
        {"guidance_scale", 1},
        {"no_repeat_ngram_size", 0},
        {"encoder_repetition_penalty", 1},
        {"top_h", 0},
        {"bad_words_ids", 0},
        {"suppress_tokens", 0},
        {"sequence_bias", 0},
        {"begin_suppress_tokens", 0},
        {"forced_bos_token_id", 0},
        {"forced_eos_token_id", 0},
        {"force_words_ids", 0},
        {"constraints", 0},
    };
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        const json_t *v = json_object_get(config->root, table[i].key);
        bool is_off = !v || json_is_null(v) || json_is_false(v) ||
                      (json_is_number(v) && json_number_value(v) == table[i].neutral) ||
                      (json_is_array(v) && json_array_size(v) == 0) ||
                      (json_is_object(v) && json_object_size(v) == 0);
        if (!is_off) {
            char brief[80];
            json_brief(v, brief, sizeof brief);
            return err_set(err, ERR_NOT_IMPLEMENTED, "%s: \"%s\" is %s: this is not implemented",
                           config->label, table[i].key, brief);
        }
    }
    return 0;
}

static int generation_read_sampling(const struct config *config, struct model_generation *g,
                                    struct err *err)
{
    bool do_sample = true;
    int64_t top_k = 0;
    int rc = json_get_bool(config->label, config->root, "do_sample", &do_sample, err);
    if (rc == 0) {
        rc = json_get_int(config->label, config->root, "top_k", -1, INT32_MAX, &top_k, err);
    }
    if (rc == 0) {
        rc = generation_read_reals(config, g, err);
    }
    if (rc == 0) {
        rc = generation_check_unknown(config, err);
    }
    g->is_greedy = !do_sample;
    g->top_k = top_k < 0 ? 0 : (uint32_t)top_k; /* some programs write -1 for off */
    return rc;
}

/* Reads one of the two files: the tokens of both, the sampling fields of the second. */
static int generation_read_file(const char *path, bool has_sampling, uint32_t vocab_n,
                                struct model_generation *g, struct err *err)
{
    json_t *root = NULL;
    int rc = json_read_file(path, LIMIT_CONFIG_JSON_BYTES, &root, err);
    if (rc) {
        return rc;
    }
    struct config config = {.label = path, .root = root};
    struct config text = {.label = path, .root = config_text(root)};
    if (!json_is_object(root)) {
        rc = err_set(err, ERR_BAD_FILE, "%s: is not a JSON object", path);
    }
    if (rc == 0 && !has_sampling && text.root != root) { /* what the outer model says goes first */
        rc = generation_read_tokens(&text, vocab_n, g, err);
    }
    if (rc == 0) {
        rc = generation_read_tokens(&config, vocab_n, g, err);
    }
    if (rc == 0 && has_sampling) {
        rc = generation_read_sampling(&config, g, err);
    }
    json_decref(root);
    return rc;
}

int model_generation_read(const char *dir, uint32_t vocab_n, struct model_generation *out,
                          struct err *err)
{
    char path[MODEL_PATH_BYTES];
    struct model_generation g = {
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .bos_token = UINT32_MAX};
    int rc = config_path(path, dir, "config.json", err);
    if (rc == 0) {
        rc = generation_read_file(path, false, vocab_n, &g, err);
    }
    if (rc == 0) {
        rc = config_path(path, dir, "generation_config.json", err);
    }
    if (rc == 0 && file_exists(path)) {
        rc = generation_read_file(path, true, vocab_n, &g, err);
    }
    if (rc == 0) {
        *out = g;
    }
    return rc;
}
