/* Opening in the order of what depends on what, closing in reverse. */
#include "world.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "adapters/store.h"
#include "backend.h"
#include "base/cpus.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/ring.h"
#include "engine/engine.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "text/tokenizer.h"

struct world {
    struct backend backend;
    struct backend_memory memory;
    struct model model; /* desc, dev and kern are set step by step; what is NULL was not opened */
    struct tokenizer *tokenizer;
    struct store *store;
    struct engine *engine;
    struct engine_plan plan;
    struct server_model server_model;
    char *name;
    const char *kinds[STORE_KINDS_MAX];
    uint32_t adapter_n;
    bool has_desc;
    bool is_running;
    struct ring_flag is_lost;
};

/* config.json, and the backend that is to serve it. */
static int world_choose(struct world *world, const struct options *options, struct err *err)
{
    struct model *model = &world->model;
    uint64_t seed;
    int rc = options_random_seed(options->weights, &seed)
                 ? model_desc_read_config(options->model, &model->desc, err)
                 : model_desc_read(options->model, &model->desc, err);
    if (rc) {
        return rc;
    }
    world->has_desc = true;
    rc = backend_choose(options, &world->backend, err);
    if (rc) {
        return rc;
    }
    model->kern = world->backend.kern;
    rc = backend_held(model->kern, options->dtype, model->desc.checkpoint_dtype, &model->held, err);
    return rc ? rc : backend_fits(model->kern, &model->desc, err);
}

/* generation_config.json and the tokenizer, which must fit config.json. */
static int world_read(struct world *world, const struct options *options, struct err *err)
{
    const struct model_desc *desc = &world->model.desc;
    if (desc->is_tie_broken) {
        log_msg(LOG_WARN, "config.json ties the head to the embedding, but the checkpoint holds "
                          "another head: that one is used");
    }
    if (world->backend.note[0]) {
        log_msg(LOG_INFO, "the CPU backend serves: %s", world->backend.note);
    }
    int rc = model_generation_read(options->model, desc->vocab_n, &world->model.generation, err);
    if (rc == 0) {
        rc = tokenizer_open(options->model, &world->tokenizer, err);
    }
    if (rc == 0 && tokenizer_vocab_n(world->tokenizer) > desc->vocab_n) {
        rc = err_set(err, ERR_BAD_FILE,
                     "%s/tokenizer.json: has token id %u, vocab_size of config.json is %u",
                     options->model, tokenizer_vocab_n(world->tokenizer) - 1, desc->vocab_n);
    }
    return rc;
}

typedef void world_print(void *arg, const char *text);

/* The table, a line at a time. */
static void world_print_table(const struct world *world, world_print *print, void *arg)
{
    const struct engine_plan *plan = &world->plan;
    char text[160];
    for (size_t i = 0; i < PLAN_LINES; i++) {
        if (plan->lines[i].bytes == 0) {
            continue;
        }
        snprintf(text, sizeof text, "memory  %-28s %12.1f MB%s", plan->lines[i].name,
                 (double)plan->lines[i].bytes * 1e-6,
                 plan->lines[i].is_host ? " of the host's" : "");
        print(arg, text);
    }
    snprintf(text, sizeof text, "memory  %-28s %12.1f MB of %.1f MB available%s", "total",
             (double)plan->total * 1e-6, (double)plan->available * 1e-6,
             world->memory.budget ? " on the GPU" : "");
    print(arg, text);
    if (world->memory.budget) {
        snprintf(text, sizeof text, "memory  %-28s %12.1f MB, measured, beside the total",
                 "driver, context and kernels", (double)world->memory.taken * 1e-6);
        print(arg, text);
    }
}

static void world_log_line(void *arg, const char *text)
{
    const enum log_level *level = arg;
    log_msg(*level, "%s", text);
}

/* Sizes everything. *out_has_table: also after a failure there is a table to be printed. */
static int world_plan(struct world *world, const struct options *options, bool *out_has_table,
                      struct err *err)
{
    bool is_quota;
    *out_has_table = false;
    int rc = backend_memory(&world->backend, options, &world->memory, err);
    if (rc) {
        return rc;
    }
    struct plan_want want = {
        .desc = &world->model.desc,
        .kern = world->model.kern,
        .held = world->model.held,
        .isa = kern_isa_parse(options->isa),
        .thread_n = options->thread_n ? (uint32_t)options->thread_n : cpus_granted(&is_quota),
        .device = world->backend.device,
        .sequence_n = (uint32_t)options->sequence_max,
        .context_max = options->context_max,
        .kv_bytes = options->kv_bytes,
        .adapter_bytes = options->adapter_bytes,
        .available = world->memory.budget,
    };
    rc = engine_plan(&want, &world->plan, err);
    *out_has_table = rc == 0 || rc == ERR_NO_MEMORY;
    world->server_model.thread_n = world->model.kern == &kern_ref ? 1 : want.thread_n;
    return rc;
}

/* The same, told in the log. */
static int world_plan_log(struct world *world, const struct options *options, struct err *err)
{
    bool has_table;
    int rc = world_plan(world, options, &has_table, err);
    enum log_level level = rc ? LOG_ERROR : LOG_INFO;
    if (has_table) {
        world_print_table(world, world_log_line, &level);
    }
    const struct engine_plan *plan = &world->plan;
    if (rc == 0 && plan->sched.page_n == (uint64_t)plan->sched.slot_n * plan->sched.seq_page_max) {
        log_msg(LOG_INFO,
                "memory  KV pages hold all %u sequences at %u tokens: more would lie idle",
                plan->sched.slot_n, plan->context_max);
    }
    return rc;
}

/* What the device holds beside the plan, now that graphs are captured: against what it was before
 * the plan's memory was taken. */
static void world_log_driver(const struct world *world, const struct options *options)
{
    struct backend_memory now;
    if (!world->memory.budget ||
        backend_memory(&world->backend, options, &now, NULL) == ERR_NO_DEVICE) {
        return;
    }
    log_msg(LOG_INFO, "memory  %-28s %12.1f MB, measured; %.1f MB before the start",
            "driver, context and graphs", ((double)now.taken - (double)world->plan.total) * 1e-6,
            (double)world->memory.taken * 1e-6);
}

static int world_load(struct world *world, const struct options *options, struct err *err)
{
    struct kern_open open = world->plan.open;
    uint64_t seed;
    open.thread_n = (uint32_t)options->thread_n; /* 0: the machine's one team */
    int rc = world->model.kern->open(&open, &world->model.dev, err);
    if (rc) {
        return rc;
    }
    rc = options_random_seed(options->weights, &seed)
             ? model_load_random(&world->model, options->model, seed, err)
             : model_load(&world->model, options->model, err);
    if (rc == 0 && world->model.kern->is_device) {
        log_msg(LOG_INFO, "prompts are multiplied by %s",
                world->model.kern->prompt_form(world->model.dev));
    }
    return rc;
}

/* Engine thread. The signal makes the loop thread drain, as if an operator had asked for it. */
static void world_on_lost(void *arg, const struct err *err)
{
    struct world *world = arg;
    ring_flag_raise(&world->is_lost);
    log_msg(LOG_ERROR, "device lost: %s; stopping", err->text);
    kill(getpid(), SIGTERM);
}

static int world_start_engine(struct world *world, const struct options *options,
                              struct ports *ports, struct err *err)
{
    struct store_config store_config = {
        .root = options->adapters,
        .desc = &world->model.desc,
        .kern = world->model.kern,
        .held = world->model.held,
    };
    struct engine_config config = {
        .ports = ports,
        .model = &world->model,
        .plan = &world->plan,
        .on_device_lost = world_on_lost,
        .on_device_lost_arg = world,
    };
    char(*names)[LIMIT_ADAPTER_NAME_BYTES] = NULL;
    uint32_t skipped_n = 0;
    int rc = store_open(&store_config, &world->store, err);
    if (rc == 0) {
        rc = store_scan(world->store, &names, &world->adapter_n, &skipped_n, err);
    }
    if (rc == 0) {
        config.store = world->store;
        config.names = (const char(*)[LIMIT_ADAPTER_NAME_BYTES])names;
        config.name_n = world->adapter_n;
        rc = engine_new(&config, &world->engine, err);
    }
    mem_free(names);
    if (rc == 0) {
        if (skipped_n > 0) {
            log_msg(LOG_WARN, "%u folders of %s have names no adapter can have: skipped", skipped_n,
                    options->adapters);
        }
        engine_start(world->engine);
        world->is_running = true;
    }
    return rc;
}

/* The directory's last component, without trailing slashes. */
static char *world_model_name(const char *dir)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        n--;
    }
    size_t begin = n;
    while (begin > 0 && dir[begin - 1] != '/') {
        begin--;
    }
    char *name = mem_zalloc(n - begin + 1);
    memcpy(name, dir + begin, n - begin);
    return name;
}

static void world_describe(struct world *world, const struct options *options)
{
    const struct model *model = &world->model;
    const struct model_generation *generation = &model->generation;
    struct server_model *out = &world->server_model;
    world->name =
        options->model_name ? mem_strdup(options->model_name) : world_model_name(options->model);
    out->name = world->name;
    out->fingerprint = model->fingerprint;
    out->architecture = model->desc.architecture;
    out->family = model->desc.family;
    out->dtype = dtype_name(model->held);
    out->backend = model->kern->name;
    out->isa = model->kern->isa_name(model->dev);
    out->vocab_n = model->desc.vocab_n;
    out->context_max = world->plan.context_max;
    out->kv_tokens = (uint64_t)world->plan.kv.page_n * LIMIT_KV_PAGE;
    out->weight_bytes = model->weight_bytes;
    out->adapter_bytes = world->plan.pool_bytes;
    out->adapter_kinds = world->kinds;
    out->adapter_kind_n = store_kind_names(world->store, world->kinds);
    out->sequence_max = world->plan.sched.slot_n;
    memcpy(out->eos_tokens, generation->eos_tokens, sizeof out->eos_tokens);
    out->eos_n = generation->eos_n;
    out->tokenizer = world->tokenizer;
    out->sampling = (struct sampling){
        .temperature = generation->is_greedy ? 0 : generation->temperature,
        .top_p = generation->top_p,
        .min_p = generation->min_p,
        .top_k = generation->top_k,
        .repetition_penalty = generation->repetition_penalty,
    };
}

int world_open(const struct options *options, struct ports *ports, struct world **out,
               struct err *err)
{
    struct world *world = mem_zalloc(sizeof *world);
    int rc = world_choose(world, options, err);
    rc = rc ? rc : world_read(world, options, err);
    rc = rc ? rc : world_plan_log(world, options, err);
    rc = rc ? rc : world_load(world, options, err);
    rc = rc ? rc : world_start_engine(world, options, ports, err);
    if (rc) {
        world_close(world);
        return rc;
    }
    world_log_driver(world, options);
    world_describe(world, options);
    *out = world;
    return 0;
}

void world_close(struct world *world)
{
    if (world->is_running) {
        engine_stop(world->engine);
    }
    engine_free(world->engine);
    if (world->store) {
        store_close(world->store);
    }
    if (world->model.kern && world->model.dev) {
        world->model.kern->close(world->model.dev);
    }
    tokenizer_close(world->tokenizer);
    if (world->has_desc) {
        model_done(&world->model);
    }
    mem_free(world->name);
    mem_free(world);
}

const struct server_model *world_model(const struct world *world)
{
    return &world->server_model;
}

uint32_t world_adapter_n(const struct world *world)
{
    return world->adapter_n;
}

bool world_is_lost(const struct world *world)
{
    return ring_flag_is_raised(&world->is_lost);
}

static void world_print_line(void *arg, const char *text)
{
    FILE *out = arg;
    fprintf(out, "%s\n", text);
}

/* What would serve the model, and in what memory. */
static int world_check_model(const struct options *options, FILE *out)
{
    struct world *world = mem_zalloc(sizeof *world);
    struct err err = {0};
    bool has_table = false;
    int rc = world_choose(world, options, &err);
    if (world->model.kern) {
        fprintf(out, "backend        %s%s%s\n", world->model.kern->name,
                world->backend.note[0] ? ": " : "", world->backend.note);
    }
    rc = rc ? rc : world_plan(world, options, &has_table, &err);
    if (has_table) {
        world_print_table(world, world_print_line, out);
    }
    if (rc) {
        fprintf(out, "model          %s\n", err.text);
    }
    world_close(world);
    return rc;
}

static void world_check_isas(FILE *out)
{
    for (int isa = KERN_ISA_PORTABLE; isa < KERN_ISA_N; isa++) {
        struct kern_open open = {.isa = (enum kern_isa)isa,
                                 .thread_n = 1,
                                 .held = DTYPE_BF16,
                                 .row_max = 1,
                                 .slot_max = 1,
                                 .version_max = 1,
                                 .k_max = 64,
                                 .n_max = 64,
                                 .vocab_n = 64,
                                 .rank_max = 16};
        struct kern_dev *dev;
        struct err err = {0};
        bool is_there = kern_cpu.open(&open, &dev, &err) == 0;
        fprintf(out, "cpu.isa        %-11s %s\n", kern_isa_word((enum kern_isa)isa),
                is_there ? "ok" : err.text);
        if (is_there) {
            kern_cpu.close(dev);
        }
    }
}

int world_check(const struct options *options, FILE *out)
{
    bool is_quota;
    uint32_t thread_n = cpus_granted(&is_quota);
    fprintf(out, "cpu.threads    %u granted%s\n", thread_n, is_quota ? ", by a cgroup quota" : "");
    world_check_isas(out);
    fprintf(out, "memory         %.1f GB available\n", (double)mem_available() * 1e-9);
    backend_check(out);
    return options->model ? world_check_model(options, out) : 0;
}
