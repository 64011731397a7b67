/* The store on good folders, links, and folders that change under its eyes. */
#include "tests/unit/adapter_make.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "adapters/registry.h"
#include "base/sha256.h"
#include "base/thread.h"
#include "kernels/immediate.h"

static struct make_dir dir;
static struct model_desc desc;

static void expect_factor(const void *block, uint64_t at, uint32_t t)
{
    uint32_t rows;
    uint32_t cols;
    make_shape(t, &rows, &cols);
    const float *values = (const float *)(const void *)((const char *)block + at);
    assert_int_equal(at % EFFECT_ALIGN, 0);
    for (uint32_t e = 0; e < rows * cols; e++) {
        assert_true(values[e] == make_value(t, e));
    }
}

static void expect_block(const struct version *v, float scale)
{
    const struct effect_block *b = v->block;
    assert_int_equal((uintptr_t)v->block % EFFECT_ALIGN, 0);
    assert_int_equal(b->magic, EFFECT_BLOCK_MAGIC);
    assert_int_equal(b->version, EFFECT_BLOCK_VERSION);
    assert_int_equal(b->bytes, v->block_bytes);
    assert_int_equal(b->site_n, desc.site_n);
    for (uint32_t s = 0; s < desc.site_n; s++) {
        const struct effect_lowrank *e = effect_lowrank_at(v->block, s);
        enum site_place in_layer = desc.sites[s].place;
        if (in_layer != SITE_Q && in_layer != SITE_V) {
            assert_int_equal(e->rank, 0);
            continue;
        }
        uint32_t t = desc.sites[s].layer * 4 + (in_layer == SITE_V ? 2 : 0);
        assert_int_equal(e->rank, 2);
        assert_true(e->scale == scale);
        expect_factor(v->block, e->a_at, t);
        expect_factor(v->block, e->b_at, t + 1);
    }
    assert_string_equal(v->kind, "lora");
    assert_int_equal(v->rank_max, 2);
    assert_int_equal(v->group_rank, 4);
    assert_int_equal(v->modules_applied, 4);
    assert_int_equal(v->modules_total, 4);
}

static void expect_good(const struct make *make, enum dtype held, float scale)
{
    struct prepare_job job;
    struct store *store = make_store(&dir, &desc, held);
    make_adapter(&dir, "good", make);
    make_prepare(store, "good", &job);
    assert_string_equal(job.err.text, "");
    assert_int_equal(job.err.code, 0);
    expect_block(job.version, scale);
    assert_true(job.version->conversion_error == 0);
    job.job.run = store_discard;
    job.job.run(&job.job);
    assert_null(job.version);
    store_close(store);
}

static void good_adapters_load(void **state)
{
    (void)state;
    struct make make = MAKE_GOOD;
    expect_good(&make, DTYPE_F32, 2.0f);
    expect_good(&make, DTYPE_BF16, 2.0f);
    make.config = MAKE_CONFIG_HEAD "\"use_rslora\":true,\"r\":2,\"lora_alpha\":4,"
                                   "\"target_modules\":[\"q_proj\",\"v_proj\"]}";
    expect_good(&make, DTYPE_F32, (float)(4 / sqrt(2.0)));
    make.config = "{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"v_proj\","
                  "\"self_attn.q_proj\"],\"init_lora_weights\":\"gaussian\"}";
    expect_good(&make, DTYPE_F32, 4.0f); /* alpha is 8 where nothing is said */
    make.config = "{\"peft_type\":\"LORA\",\"r\":2.0,\"lora_alpha\":-0.5,\"target_modules\":"
                  "[\"layers.0.self_attn.v_proj\",\"model.layers.0.self_attn.q_proj\","
                  "\"1.self_attn.q_proj\",\"layers.1.self_attn.v_proj\"]}";
    expect_good(&make, DTYPE_F32, -0.25f);
    make = MAKE_GOOD;
    make.is_unaligned = true;
    expect_good(&make, DTYPE_BF16, 2.0f);
    make = MAKE_GOOD;
    make.change = 3;
    make.dtype = "BF16";
    expect_good(&make, DTYPE_F32, 2.0f);
    /* the metadata that PEFT and others write */
    make = MAKE_GOOD;
    make.config = "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"lora_dropout\":0.05,"
                  "\"base_model_name_or_path\":\"a/b\",\"revision\":\"main\",\"eva_config\":null,"
                  "\"unheard_of\":false,\"another\":[],\"runtime_config\":{\"x\":false},"
                  "\"target_modules\":[\"q_proj\",\"v_proj\"]}";
    expect_good(&make, DTYPE_F32, 2.0f);
}

/* The same block in a lent room, whatever lay there; its own memory where the room is too small. */
static void blocks_lie_in_lent_rooms(void **state)
{
    static _Alignas(EFFECT_ALIGN) char room[1 << 16];
    struct prepare_job own;
    struct prepare_job job = {.room = room};
    (void)state;
    struct store *store = make_store(&dir, &desc, DTYPE_BF16);
    make_adapter(&dir, "good", &MAKE_GOOD);
    make_prepare(store, "good", &own);
    size_t bytes = own.version->block_bytes;
    assert_true(bytes < sizeof room);
    memset(room, 0xff, sizeof room);
    job.store = store;
    memcpy(job.name, "good", sizeof "good");
    for (uint32_t i = 0; i < 2; i++) {
        job.room_bytes = bytes - i;
        store_prepare(&job.job);
        assert_int_equal(job.err.code, 0);
        assert_true((job.version->block == (void *)room) == (i == 0));
        assert_memory_equal(job.version->block, own.version->block, bytes);
        store_discard(&job.job);
    }
    assert_int_equal(room[bytes], (char)0xff);
    version_free(own.version);
    store_close(store);
}

static void rounding_is_measured(void **state)
{
    struct prepare_job job;
    struct make make = MAKE_GOOD;
    (void)state;
    struct store *store = make_store(&dir, &desc, DTYPE_BF16);
    make.change = 1;
    make.value = 1.0f + 0x1p-9f; /* a quarter of a bf16 step above 1, the largest value by far */
    make_adapter(&dir, "round", &make);
    make_prepare(store, "round", &job);
    assert_int_equal(job.err.code, 0);
    assert_true(job.version->conversion_error == 0x1p-9f / (1.0f + 0x1p-9f));
    version_free(job.version);
    store_close(store);
    store = make_store(&dir, &desc, DTYPE_F32);
    make_prepare(store, "round", &job);
    assert_true(job.version->conversion_error == 0);
    version_free(job.version);
    store_close(store);
}

static void values_must_fit_f16(void **state)
{
    static const char *const texts[] = {"has 100000 at [2, 1], too large for ", "changes by 1 of "};
    struct make make = MAKE_GOOD;
    (void)state;
    make.change = 1;
    struct store *store = make_store(&dir, &desc, DTYPE_F16);
    for (uint32_t i = 0; i < 2; i++) {
        struct prepare_job job;
        make.value = i ? 0 : 1e5f;
        make.scale = 1e-9f; /* nothing is left of it */
        make_adapter(&dir, "wide", &make);
        make_prepare(store, "wide", &job);
        assert_int_equal(job.err.code, ERR_ADAPTER_INCOMPATIBLE);
        assert_non_null(strstr(job.err.text, texts[i]));
    }
    store_close(store);
}

static void content_is_the_identity(void **state)
{
    struct prepare_job job;
    struct prepare_job again;
    (void)state;
    struct store *store = make_store(&dir, &desc, DTYPE_F32);
    make_adapter(&dir, "one", &MAKE_GOOD);
    make_adapter(&dir, "two", &MAKE_GOOD);
    make_prepare(store, "one", &job);
    make_prepare(store, "two", &again);
    assert_string_equal(job.version->revision, again.version->revision);
    version_free(again.version);
    /* the digest, spelled out: name, NUL, length, bytes; files by name */
    struct buf weights = {0};
    struct sha256 sha;
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_BYTES];
    make_weights(&MAKE_GOOD, &weights);
    uint64_t n = strlen(MAKE_CONFIG);
    sha256_init(&sha);
    sha256_update(&sha, "adapter_config.json", 20);
    sha256_update(&sha, &n, 8);
    sha256_update(&sha, MAKE_CONFIG, n);
    n = weights.n;
    sha256_update(&sha, "adapter_model.safetensors", 26);
    sha256_update(&sha, &n, 8);
    sha256_update(&sha, weights.data, n);
    sha256_final(&sha, digest);
    sha256_hex(digest, hex);
    assert_string_equal(job.version->revision, hex);
    buf_done(&weights);
    /* known content is not built again; any other byte is another version */
    again = (struct prepare_job){.store = store, .name = "two"};
    memcpy(again.known_revision, hex, sizeof hex);
    store_prepare(&again.job);
    assert_int_equal(again.err.code, 0);
    assert_true(again.is_unchanged);
    assert_null(again.version);
    make_file(&dir, "two/adapter_config.json", MAKE_CONFIG "\n", strlen(MAKE_CONFIG) + 1);
    store_prepare(&again.job);
    assert_false(again.is_unchanged);
    assert_string_not_equal(again.version->revision, hex);
    version_free(again.version);
    version_free(job.version);
    store_close(store);
}

static void make_link(const char *to, const char *rest)
{
    char path[256];
    make_path(&dir, rest, path);
    assert_int_equal(symlink(to, path), 0);
}

static void expect_error(const struct store *store, const char *name, int code, const char *text)
{
    struct prepare_job job;
    char want[ERR_TEXT_BYTES];
    snprintf(want, sizeof want, "could not load adapter \"%s\": %s", name, text);
    make_prepare(store, name, &job);
    assert_string_equal(job.err.text, want);
    assert_int_equal(job.err.code, code);
    assert_null(job.version);
}

/* A ConfigMap mount: files are links to ..data/, which is a link to the generation's folder. */
static void links_inside_the_root_are_followed(void **state)
{
    struct prepare_job job;
    (void)state;
    struct store *store = make_store(&dir, &desc, DTYPE_F32);
    char path[256];
    make_path(&dir, "mounted", path);
    assert_int_equal(mkdir(path, 0755), 0);
    make_adapter(&dir, "mounted/..2026_11_24", &MAKE_GOOD);
    make_link("..2026_11_24", "mounted/..data");
    make_link("..data/adapter_config.json", "mounted/adapter_config.json");
    make_link("..data/adapter_model.safetensors", "mounted/adapter_model.safetensors");
    make_link("mounted", "alias");
    make_prepare(store, "mounted", &job);
    assert_string_equal(job.err.text, "");
    version_free(job.version);
    make_prepare(store, "alias", &job);
    assert_string_equal(job.err.text, "");
    version_free(job.version);
    store_close(store);
}

static void links_out_of_the_root_are_refused(void **state)
{
    struct make_dir outside;
    char path[256];
    (void)state;
    struct store *store = make_store(&dir, &desc, DTYPE_F32);
    make_dir_open(&outside);
    make_adapter(&outside, "x", &MAKE_GOOD);
    make_path(&outside, "x", path);
    make_link(path, "absolute");
    expect_error(store, "absolute", ERR_BAD_FILE,
                 "the folder: a link leads out of the adapter root");
    snprintf(path, sizeof path, "..%s/x", strrchr(outside.root, '/'));
    make_link(path, "relative");
    expect_error(store, "relative", ERR_BAD_FILE,
                 "the folder: a link leads out of the adapter root");
    make_adapter(&dir, "file", &MAKE_GOOD);
    make_path(&dir, "file/adapter_model.safetensors", path);
    assert_int_equal(remove(path), 0);
    make_path(&outside, "x/adapter_model.safetensors", path);
    make_link(path, "file/adapter_model.safetensors");
    expect_error(store, "file", ERR_BAD_FILE,
                 "adapter_model.safetensors: a link leads out of the adapter root");
    make_adapter(&dir, "config", &MAKE_GOOD);
    make_path(&dir, "config/adapter_config.json", path);
    assert_int_equal(remove(path), 0);
    make_path(&outside, "x/adapter_config.json", path);
    make_link(path, "config/adapter_config.json");
    expect_error(store, "config", ERR_BAD_FILE,
                 "adapter_config.json: a link leads out of the adapter root");
    make_link("circle", "circle");
    expect_error(store, "circle", ERR_BAD_FILE,
                 "the folder: the links are too many or lead in a circle");
    make_link("nowhere", "dangling");
    expect_error(store, "dangling", ERR_ADAPTER_NOT_FOUND,
                 "the adapter root has no folder of that name");
    struct prepare_job job;
    make_prepare(store, "../x", &job);
    assert_int_equal(job.err.code, ERR_INVALID_PARAMETER);
    make_prepare(store, "..", &job);
    assert_int_equal(job.err.code, ERR_INVALID_PARAMETER);
    make_dir_close(&outside);
    store_close(store);
}

/* What happens to the folder between the read and the check. */
struct meddler {
    int left; /* times it still changes something */
    bool is_swap;
    int call_n;
};

/* Gives the folder's files mtimes that they never had: writes within one tick of the kernel's clock
 * may leave the same ones. */
static void touch(const char *name)
{
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
    static int second;
    char file[128];
    char path[256];
    second++;
    const struct timespec times[2] = {{.tv_sec = second}, {.tv_sec = second}};
    for (size_t i = 0; i < ARRAY_N(files); i++) {
        snprintf(file, sizeof file, "%s/%s", name, files[i]);
        make_path(&dir, file, path);
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    }
}

static void meddle(void *arg, const char *name)
{
    struct meddler *m = arg;
    struct make make = MAKE_GOOD;
    m->call_n++;
    if (m->left == 0) {
        return;
    }
    m->left--;
    if (m->is_swap) {
        /* the same bytes under a new inode, as an atomic replacement does */
        char from[256];
        char to[256];
        make_adapter(&dir, "staging", &make);
        make_path(&dir, "staging/adapter_config.json", from);
        make_path(&dir, name, to);
        strcat(to, "/adapter_config.json");
        assert_int_equal(rename(from, to), 0);
    } else {
        make.change = 0;
        make.scale = (float)(2 + m->call_n);
        make_adapter(&dir, name, &make);
        touch(name);
    }
}

static void changing_folders_are_read_once_more(void **state)
{
    struct prepare_job job;
    struct meddler meddler = {0};
    struct store_config config = {.root = dir.root,
                                  .desc = &desc,
                                  .kern = &make_kern,
                                  .held = DTYPE_F32,
                                  .after_read = meddle,
                                  .arg = &meddler};
    struct store *store = NULL;
    (void)state;
    assert_int_equal(store_open(&config, &store, NULL), 0);
    for (int is_swap = 0; is_swap < 2; is_swap++) {
        make_adapter(&dir, "busy", &MAKE_GOOD);
        meddler = (struct meddler){.left = 0, .is_swap = is_swap};
        make_prepare(store, "busy", &job);
        assert_int_equal(job.err.code, 0);
        assert_int_equal(meddler.call_n, 1);
        version_free(job.version);
        meddler = (struct meddler){.left = 1, .is_swap = is_swap};
        make_prepare(store, "busy", &job);
        assert_string_equal(job.err.text, "");
        assert_int_equal(meddler.call_n, 2);
        if (!is_swap) {
            /* what was loaded is the new content, whole */
            const struct effect_lowrank *e = effect_lowrank_at(job.version->block, SITE_Q);
            const float *a = (const float *)(const void *)((char *)job.version->block + e->a_at);
            assert_true(a[1] == make_value(0, 1) * 3);
        }
        version_free(job.version);
        meddler = (struct meddler){.left = 2, .is_swap = is_swap};
        make_prepare(store, "busy", &job);
        assert_int_equal(job.err.code, ERR_CONFLICT);
        assert_string_equal(job.err.text, "could not load adapter \"busy\": the folder changes "
                                          "while it is read (adapter_config.json)");
        assert_null(job.version);
    }
    store_close(store);
}

/* The folder becomes one of another kind once it is known what it was. */
static void turn(void *arg, const char *name)
{
    uint32_t *left = arg;
    char path[256];
    char file[128];
    if (*left == 0) {
        return;
    }
    (*left)--;
    snprintf(file, sizeof file, "%s/states.safetensors", name);
    make_path(&dir, file, path);
    if (unlink(path) == 0) {
        make_adapter(&dir, name, &MAKE_GOOD);
        return;
    }
    make_file(&dir, file, "x", 1);
    snprintf(file, sizeof file, "%s/adapter_config.json", name);
    make_path(&dir, file, path);
    assert_int_equal(unlink(path), 0);
}

static void folders_that_change_their_kind_are_read_once_more(void **state)
{
    struct prepare_job job;
    uint32_t left = 1;
    struct store_config config = {.root = dir.root,
                                  .desc = &desc,
                                  .kern = &make_kern,
                                  .held = DTYPE_F32,
                                  .before_read = turn,
                                  .arg = &left};
    struct store *store = NULL;
    char path[256];
    (void)state;
    assert_int_equal(store_open(&config, &store, NULL), 0);
    make_path(&dir, "turn", path);
    assert_int_equal(mkdir(path, 0755), 0);
    make_file(&dir, "turn/states.safetensors", "x", 1);
    make_prepare(store, "turn", &job);
    assert_string_equal(job.err.text, "");
    assert_int_equal(job.err.code, 0);
    assert_string_equal(job.version->kind, "lora");
    assert_int_equal(left, 0);
    version_free(job.version);
    left = 2; /* and again: what was missing at the end is named */
    make_prepare(store, "turn", &job);
    assert_int_equal(job.err.code, ERR_BAD_FILE);
    assert_string_equal(job.err.text,
                        "could not load adapter \"turn\": states.safetensors is missing");
    assert_null(job.version);
    store_close(store);
}

static void scan_finds_adapters(void **state)
{
    struct make_dir root;
    char path[256];
    char(*names)[LIMIT_ADAPTER_NAME_BYTES];
    uint32_t n;
    uint32_t skipped_n;
    (void)state;
    make_dir_open(&root);
    make_adapter(&root, "zeta", &MAKE_GOOD);
    make_adapter(&root, "alpha", &MAKE_GOOD);
    make_adapter(&root, "Upper", &MAKE_GOOD);
    make_adapter(&root, ".hidden", &MAKE_GOOD);
    make_path(&root, "empty", path);
    assert_int_equal(mkdir(path, 0755), 0);
    make_file(&root, "plain", "x", 1);
    make_path(&root, "link", path);
    assert_int_equal(symlink("alpha", path), 0);
    struct store *store = make_store(&root, &desc, DTYPE_F32);
    assert_int_equal(store_scan(store, &names, &n, &skipped_n, NULL), 0);
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "alpha");
    assert_string_equal(names[1], "link");
    assert_string_equal(names[2], "zeta");
    assert_int_equal(skipped_n, 1);
    mem_free(names);
    store_close(store);
    /* no root: nothing is there, and that is no failure */
    struct store_config none = {.desc = &desc, .kern = &make_kern};
    struct err err;
    assert_int_equal(store_open(&none, &store, NULL), 0);
    assert_int_equal(store_scan(store, &names, &n, &skipped_n, NULL), 0);
    assert_int_equal(n, 0);
    expect_error(store, "x", ERR_ADAPTER_NOT_FOUND, "no adapter root is configured (--adapters)");
    store_close(store);
    none.root = "/nonexistent";
    assert_int_equal(store_open(&none, &store, &err), ERR_BAD_FILE);
    assert_string_equal(err.text,
                        "could not open the adapter root \"/nonexistent\": No such file or "
                        "directory");
    make_dir_close(&root);
}

/* Store and registry together: the engine's side on a thread that may not touch the heap. */
struct world {
    struct kern kern;
    struct store *store;
    struct registry *registry;
    struct prepare_job *jobs[8];
    uint32_t job_n;
    _Alignas(EFFECT_ALIGN) char pool[8192];
    const void *block;
    struct lease lease;
    struct lease_answer answer;
    int rc;
};

static bool world_submit(void *arg, struct prepare_job *job)
{
    struct world *w = arg;
    w->jobs[w->job_n++] = job;
    return true;
}

/* One visit of the engine thread: takes jobs back, makes progress, tries for the adapter. */
static void world_engine(void *arg)
{
    struct world *w = arg;
    struct lease_want want = {.n = 1, .names = {"served"}};
    bool is_busy = true;
    uint32_t version;
    const void *block;
    mem_seal();
    while (w->job_n > 0) {
        registry_job_done(w->registry, w->jobs[--w->job_n], 0);
    }
    w->rc = registry_acquire(w->registry, &want, &w->lease, 0, &w->answer);
    while (is_busy) {
        registry_progress(w->registry, 0, &is_busy);
    }
    while (registry_next_change(w->registry, &version, &block)) {
        w->block = block;
    }
    if (w->rc == ERR_ADAPTER_LOADING) {
        w->rc = registry_acquire(w->registry, &want, &w->lease, 0, &w->answer);
    }
}

static void world_visit(struct world *w)
{
    struct thread thread;
    thread_start(&thread, THREAD_ENGINE, "engine", world_engine, w);
    thread_join(&thread);
    for (uint32_t i = 0; i < w->job_n; i++) {
        w->jobs[i]->job.run(&w->jobs[i]->job);
    }
}

static void engine_never_touches_the_heap(void **state)
{
    static struct world w;
    (void)state;
    w.kern = make_kern;
    w.kern.bring = kern_bring_now;
    w.kern.is_brought = kern_is_brought_now;
    w.kern.discard = kern_discard_nothing;
    w.store = make_store(&dir, &desc, DTYPE_F32);
    struct registry_config config = {.kern = &w.kern,
                                     .pool = w.pool,
                                     .pool_bytes = sizeof w.pool,
                                     .store = w.store,
                                     .submit = world_submit,
                                     .arg = &w,
                                     .copy_bytes_max = 1000};
    assert_int_equal(registry_new(&config, &w.registry, NULL), 0);
    world_visit(&w); /* unknown: the job finds no folder */
    assert_int_equal(w.rc, ERR_ADAPTER_LOADING);
    make_adapter(&dir, "served", &MAKE_GOOD);
    world_visit(&w);
    assert_int_equal(w.rc, ERR_ADAPTER_NOT_FOUND);
    world_visit(&w);
    assert_int_equal(w.rc, ERR_ADAPTER_LOADING);
    assert_int_equal(w.job_n, 1);
    assert_non_null(w.jobs[0]->version);
    world_visit(&w); /* placed, and pinned; its host copy is discarded by the job */
    assert_int_equal(w.rc, 0);
    assert_int_equal(w.job_n, 1);
    assert_null(w.jobs[0]->version);
    struct prepare_job job;
    make_prepare(w.store, "served", &job);
    assert_string_equal(w.answer.revisions[0], job.version->revision);
    assert_memory_equal(w.block, job.version->block, job.version->block_bytes);
    version_free(job.version);
    registry_job_done(w.registry, w.jobs[0], 0);
    registry_release(w.registry, &w.lease, 0);
    assert_int_equal(registry_job_n(w.registry), 0);
    registry_free(w.registry);
    store_close(w.store);
}

static int setup(void **state)
{
    (void)state;
    make_dir_open(&dir);
    make_model(&desc);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    model_desc_done(&desc);
    make_dir_close(&dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_adapters_load),
        cmocka_unit_test(blocks_lie_in_lent_rooms),
        cmocka_unit_test(rounding_is_measured),
        cmocka_unit_test(values_must_fit_f16),
        cmocka_unit_test(content_is_the_identity),
        cmocka_unit_test(links_inside_the_root_are_followed),
        cmocka_unit_test(links_out_of_the_root_are_refused),
        cmocka_unit_test(changing_folders_are_read_once_more),
        cmocka_unit_test(folders_that_change_their_kind_are_read_once_more),
        cmocka_unit_test(scan_finds_adapters),
        cmocka_unit_test(engine_never_touches_the_heap),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
