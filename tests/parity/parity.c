/* The parity table's driver: implementations under test, and the checks each case passes. An
 * implementation that does not open here is named as not available; it has passed nothing.
 * Usage: parity [implementation [test]]: only implementations whose name contains the first word
 * (ref always runs), only tests that match the second (test_heads, test_h*). With GRAFT_FIRST set
 * only the first case of each test, with GRAFT_EVERY=N every Nth of those that would run. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#ifdef PARITY_CUDA
#include "kernels/cuda/cuda.h"
#endif
#include "kernels/random.h"
#include "tests/parity/parity.h"
#include "tests/prompt_form.h"

static const struct parity_impl parity_ref = {.name = "ref", .kern = &kern_ref};

/* A stand-in stands right behind the hardware it stands for: their bits must be equal. */
static const struct parity_impl parity_impls[] = {
    {"ref", &kern_ref, KERN_ISA_AUTO, false},
#ifdef PARITY_CPU
    {"cpu portable", &kern_cpu, KERN_ISA_PORTABLE, false},
    {"cpu avx2", &kern_cpu, KERN_ISA_AVX2, false},
    {"cpu avx512", &kern_cpu, KERN_ISA_AVX512, false},
    {"cpu avx512bf16", &kern_cpu, KERN_ISA_AVX512BF16, false},
    {"cpu avx512bf16 stand-in", &kern_cpu, KERN_ISA_AVX512BF16, true},
    {"cpu amx", &kern_cpu, KERN_ISA_AMX, false},
    {"cpu amx stand-in", &kern_cpu, KERN_ISA_AMX, true},
#endif
#ifdef PARITY_CUDA
    {"cuda generated", &kern_cuda, KERN_ISA_AUTO, false, PARITY_GENERATED, true},
    {"cuda prompt", &kern_cuda, KERN_ISA_AUTO, false, PARITY_PROMPT, true},
#endif
};

/* Sanitizers look for other faults than a bound that is missed, and cost five times the time: a
 * part of the pairwise cases is enough. Odd, so that both held types come by. The slow ways to
 * compute (plain C and the two stand-ins) take turns, case by case. */
#if defined(__SANITIZE_THREAD__) && defined(PARITY_EMU)
#define PARITY_EVERY      65 /* the race check of the emulated device: a shape or two per kernel */
#define PARITY_EVERY_LONG 7
#define PARITY_HAS_LONG   false
#define PARITY_TURNS      3
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PARITY_EVERY      21
#define PARITY_EVERY_LONG 7
#define PARITY_HAS_LONG   false
#define PARITY_TURNS      3
#else
#define PARITY_EVERY      1
#define PARITY_EVERY_LONG 1
#define PARITY_HAS_LONG   true
#define PARITY_TURNS      1
#endif

/* The emulated device takes half a second for a case of attention: every third by default. */
#ifdef PARITY_EMU
#define PARITY_EVERY_HEAVY 3
#else
#define PARITY_EVERY_HEAVY 1
#endif

static bool parity_is_open[ARRAY_N(parity_impls)]; /* opens on this machine */
static uint32_t parity_heavy; /* of the running group: 1, or PARITY_EVERY_HEAVY */
static uint32_t parity_offered_n;
static uint32_t parity_case_n;
static uint32_t parity_turn; /* of all groups' cases */
static uint32_t parity_failure_n;

static bool parity_is_asked_long(void)
{
    const char *word = getenv("GRAFT_LONG");
    return word && strcmp(word, "1") == 0;
}

bool parity_is_long(void)
{
    return PARITY_HAS_LONG && parity_is_asked_long();
}

void parity_case_init(struct parity_case *c, enum dtype held, uint64_t seed)
{
    memset(c, 0, sizeof *c);
    c->seed = seed;
    c->world.rope_scale = 1.0f;
    c->open = (struct kern_open){.held = held,
                                 .row_max = 512,
                                 .slot_max = WORLD_SEQS,
                                 .version_max = 1,
                                 .k_max = 8,
                                 .n_max = 8,
                                 .vocab_n = 8,
                                 .rank_max = 1};
    arena_init(&c->arena);
}

void parity_case_done(struct parity_case *c)
{
    arena_done(&c->arena);
}

uint32_t parity_draw(const struct parity_case *c, uint32_t i, uint32_t n)
{
    return (uint32_t)(kern_mix64(c->seed * 0x9E3779B97F4A7C15u + i + 1) % n);
}

const float *parity_floats(const struct parity_case *c, uint32_t stream, size_t n, float scale)
{
    ASSERT_CMP(stream, <, PARITY_STREAMS);
    struct parity_case *owner = (struct parity_case *)(uintptr_t)c; /* a cache of its own numbers */
    if (!c->streams[stream]) {
        float *values = arena_alloc(&owner->arena, n * sizeof *values);
        for (size_t i = 0; i < n; i++) {
            float draw = kern_random(c->seed * PARITY_STREAMS + stream, (uint32_t)i);
            values[i] = bf16_round((2.0f * draw - 1.0f) * scale);
        }
        owner->streams[stream] = values;
    }
    return c->streams[stream];
}

struct kern_matrix parity_matrix(const struct parity_case *c, uint32_t stream, uint32_t n,
                                 uint32_t k)
{
    const float *values = parity_floats(c, stream, (size_t)n * k, sqrtf(3.0f / (float)k));
    return (struct kern_matrix){.data = values, .dtype = DTYPE_F32, .n = n, .k = k};
}

static void parity_fail(const struct parity_case *c, const struct parity_impl *impl,
                        const char *what)
{
    printf("  FAILED %s: %s, %s\n", impl->name, c->text, what);
    parity_failure_n++;
}

/* Opens and prepares; rig_close ends it. */
static void parity_rig(struct rig *rig, const struct parity_case *c, const struct parity_impl *impl,
                       uint32_t thread_n)
{
    struct err err;
    if (rig_open(rig, impl, &c->open, thread_n, &err) != 0) {
        printf("%s: %s\n", impl->name, err.text);
        ASSERT(!"opened before, not now");
    }
    if (c->prepare) {
        c->prepare(rig, c);
    }
}

static void parity_run(struct rig *rig, const struct parity_case *c, uint32_t first, uint32_t row_n)
{
    struct world_view view;
    world_view(&c->world, first, row_n, &rig->arena, &view);
    world_view_set_form(&view, rig->form);
    rig->out_n = 0;
    c->run(rig, c, &view);
}

enum parity_cut { PARITY_CUT_LAWFUL, PARITY_CUT_ANYWHERE };

/* The end of the piece that starts at world row `first`. Rows that a form makes prompts are cut as
 * prompts are. */
static uint32_t parity_piece_end(const struct parity_case *c, enum parity_form form, uint32_t first,
                                 uint32_t piece, enum parity_cut cut_at)
{
    const struct world_seq *seq = world_seq_of(&c->world, first);
    if (cut_at == PARITY_CUT_ANYWHERE) {
        return MIN(first + 1 + parity_draw(c, first, 70), c->world.row_n);
    }
    if (c->has_free_rows) {
        /* mostly single rows, sometimes a handful across sequences */
        uint32_t n = piece % 4 == 3 ? 1 + parity_draw(c, first, 9) : 1;
        return MIN(first + n, c->world.row_n);
    }
    if (!seq->is_prompt && form != PARITY_PROMPT) {
        return first + 1;
    }
    uint32_t pos = seq->start + first - seq->row_first;
    uint32_t cut = ROUND_UP(pos + 1, LIMIT_PROMPT_CUT) - pos;
    return MIN(first + cut, seq->row_first + seq->row_n);
}

/* The rows again, piece by piece, one after another on one device. */
static void parity_pieces(struct parity_case *c, const struct parity_impl *impl,
                          const struct rig *whole, enum parity_cut cut_at)
{
    struct rig rig;
    parity_rig(&rig, c, impl, 2);
    uint32_t piece = 0;
    for (uint32_t first = 0; first < c->world.row_n; piece++) {
        uint32_t end = parity_piece_end(c, impl->form, first, piece, cut_at);
        parity_run(&rig, c, first, end - first);
        if (!rig_outs_match(whole, first, &rig, true)) {
            parity_fail(c, impl, "a part of the rows alone");
            break;
        }
        first = end;
        if (c->has_free_rows && piece >= 8 && !parity_is_long()) {
            first += parity_draw(c, piece, 12);
        }
    }
    if (!rig_is_intact(&rig)) {
        parity_fail(c, impl, "guards, rows alone");
    }
    rig_close(&rig);
}

/* `whole` is left open with the outputs of the whole world. */
static void parity_check_impl(struct parity_case *c, const struct parity_impl *impl,
                              const struct rig *ref, struct rig *whole)
{
    parity_rig(whole, c, impl, 2);
    parity_run(whole, c, 0, c->world.row_n);
    if (!rig_is_intact(whole)) {
        parity_fail(c, impl, "guards");
    }
    if (!prompt_form_is_asked(whole->kern, whole->dev)) {
        parity_fail(c, impl, "the form of prompts");
    }
    if (!rig_outs_match(ref, 0, whole, false)) {
        parity_fail(c, impl, "against ref");
    }
    bool has_team = impl->kern != &kern_ref;
    for (uint32_t thread_n = 1; has_team && thread_n <= 3; thread_n += 2) {
        struct rig rig;
        parity_rig(&rig, c, impl, thread_n);
        parity_run(&rig, c, 0, c->world.row_n);
        if (!rig_outs_match(whole, 0, &rig, true)) {
            parity_fail(c, impl, thread_n == 1 ? "1 thread" : "3 threads");
        }
        rig_close(&rig);
    }
    parity_pieces(c, impl, whole, PARITY_CUT_LAWFUL);
    if (impl->form == PARITY_PROMPT && !c->has_free_rows && !c->is_cut_lawful) {
        parity_pieces(c, impl, whole, PARITY_CUT_ANYWHERE);
    }
}

/* Says once in a group which implementation is passed over: none but cuda, which has not all. */
static bool parity_has_op(const struct parity_case *c, const struct parity_impl *impl)
{
    bool is_there = !c->is_present || c->is_present(impl->kern);
    ASSERT(is_there || impl->is_16_bit);
    if (!is_there && parity_case_n == 1) {
        printf("%s: has no such op yet, is passed over\n", impl->name);
    }
    return is_there;
}

/* The impl is left out of this case; slow_n counts the slow ones so far. */
static bool parity_is_out_of_turn(const struct parity_impl *impl, uint32_t *slow_n)
{
    uint32_t turns = parity_is_asked_long() ? 1 : PARITY_TURNS;
    bool is_slow = impl->is_stand_in || impl->isa == KERN_ISA_PORTABLE;
    return is_slow && (*slow_n)++ % turns != parity_turn % turns;
}

void parity_check(struct parity_case *c)
{
    uint32_t every = parity_is_asked_long() ? PARITY_EVERY_LONG : PARITY_EVERY * parity_heavy;
    const char *share = getenv("GRAFT_EVERY");
    every *= share ? (uint32_t)strtoul(share, NULL, 10) : 1;
    if (parity_offered_n++ % every != 0 || (parity_case_n > 0 && getenv("GRAFT_FIRST"))) {
        return;
    }
    parity_case_n++;
    parity_turn++;
    struct rig ref;
    parity_rig(&ref, c, &parity_ref, 1);
    parity_run(&ref, c, 0, c->world.row_n);
    struct rig rigs[2]; /* of the implementation at hand and of the one before it */
    uint32_t done_n = 0;
    uint32_t slow_n = 0;
    for (uint32_t i = 0; i < ARRAY_N(parity_impls); i++) {
        if (!parity_is_open[i] || !parity_has_op(c, &parity_impls[i]) ||
            parity_is_out_of_turn(&parity_impls[i], &slow_n)) {
            continue;
        }
        struct rig *rig = &rigs[done_n % 2];
        struct rig *before = &rigs[(done_n + 1) % 2];
        parity_check_impl(c, &parity_impls[i], &ref, rig);
        bool is_twin = parity_impls[i].is_stand_in && parity_is_open[i - 1];
        if (is_twin && !rig_outs_match(before, 0, rig, true)) {
            parity_fail(c, &parity_impls[i], "against the hardware");
        }
        if (done_n > 0) {
            rig_close(before);
        }
        done_n++;
    }
    rig_close(&rigs[(done_n + 1) % 2]);
    rig_close(&ref);
}

static void parity_probe(const char *only)
{
    for (uint32_t i = 0; i < ARRAY_N(parity_impls); i++) {
        const struct parity_impl *impl = &parity_impls[i];
        struct parity_case c;
        struct rig rig;
        struct err err = {0};
        parity_case_init(&c, DTYPE_BF16, 0);
        parity_is_open[i] = !only || i == 0 || strstr(impl->name, only);
        if (parity_is_open[i]) {
            parity_is_open[i] = rig_open(&rig, impl, &c.open, 1, &err) == 0;
            printf("%-24s %s\n", impl->name,
                   parity_is_open[i] ? rig.kern->isa_name(rig.dev) : "not available: ");
            if (parity_is_open[i]) {
                rig_close(&rig);
            } else {
                printf("    %s\n", err.text);
                /* Only an instruction set or a GPU may be missing, never plain C or an emulation.
                 */
                assert_true(impl->is_16_bit ||
                            (impl->isa > KERN_ISA_PORTABLE && !impl->is_stand_in));
            }
        }
        parity_case_done(&c);
    }
}

#define PARITY_GROUP(group)                                                                        \
    static void test_##group(void **state)                                                         \
    {                                                                                              \
        (void)state;                                                                               \
        parity_heavy = strstr(" heads attend ", " " #group " ") ? PARITY_EVERY_HEAVY : 1;          \
        parity_offered_n = 0;                                                                      \
        parity_case_n = 0;                                                                         \
        parity_failure_n = 0;                                                                      \
        parity_##group();                                                                          \
        printf(#group ": %u cases\n", parity_case_n);                                              \
        assert_int_equal(parity_failure_n, 0);                                                     \
    }
PARITY_GROUP(linear)
PARITY_GROUP(join)
PARITY_GROUP(heads)
PARITY_GROUP(ranks)
PARITY_GROUP(attend)
PARITY_GROUP(gdn)
PARITY_GROUP(ssd)
PARITY_GROUP(embed)
PARITY_GROUP(head)
PARITY_GROUP(sample)
PARITY_GROUP(score)
PARITY_GROUP(random)

int main(int argc, char **argv)
{
    parity_probe(argc > 1 ? argv[1] : NULL);
    cmocka_set_test_filter(argc > 2 ? argv[2] : NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_join),   cmocka_unit_test(test_heads),
        cmocka_unit_test(test_ranks),  cmocka_unit_test(test_attend), cmocka_unit_test(test_gdn),
        cmocka_unit_test(test_ssd),    cmocka_unit_test(test_embed),  cmocka_unit_test(test_head),
        cmocka_unit_test(test_sample), cmocka_unit_test(test_score),  cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
