/* The promise of mixing: a sequence's tokens and log-probabilities are the same bits whether it
 * runs alone or in a crowd of other adapters, lengths, arrivals and preemptions.
 *
 * For every way to compute that this machine has: seeded crowds run on an engine with few pages,
 * two threads and little adapter memory; then each request runs alone on an engine with plenty of
 * everything, one thread and other chunk sizes; then the two stories are compared bit by bit.
 * GRAFT_LONG=1 gives stand-ins and sanitizers as many crowds as the others. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/mem.h"
#ifdef KERN_HAS_CUDA
#include "kernels/cuda/cuda.h"
#endif
#include "kernels/random.h"
#include "tests/mixing/rig.h"

#define MEMBERS_MAX 7
#define PROMPT_MAX  190
#define TOKENS_MAX  30
#define TOPS        3
#define STORY_MAX   (PROMPT_MAX + TOKENS_MAX)

/* One told token: everything an event says, as bits. */
struct told {
    uint32_t token;
    float logprob;
    uint32_t top_n;
    struct token_logprob top[TOPS];
};

/* What a request was told. */
struct story {
    struct told told[STORY_MAX];
    uint32_t n;
    enum finish_reason reason;
    bool is_started;
    bool is_ended;
};

struct member {
    struct request request;
    uint32_t prompt[PROMPT_MAX];
    struct logit_bias biases[3];
    struct story crowd;
    struct story solo;
    uint32_t send_turn;
    bool is_sent;
    bool is_parked;
};

struct crowd {
    uint64_t state;
    struct member members[MEMBERS_MAX];
    uint32_t member_n;
    uint32_t ended_n;
    bool is_solo;
};

/* Over all crowds of a path: a promise that was never put to the test is worth nothing. */
struct tally {
    uint64_t preempt_n;
    uint64_t mixed_n;
    uint64_t token_n;
    uint64_t wait_n;  /* requests that waited for adapters */
    uint64_t ahead_n; /* steps read while another ran */
    uint64_t state_n; /* requests that began with a state */
    uint64_t scale_n; /* ... or had scale effects */
};

static uint32_t pick(struct crowd *crowd, uint32_t n)
{
    return (uint32_t)(kern_mix64(kern_mix64(++crowd->state * 0x9E3779B97F4A7C15u)) % n);
}

static void make_adapters(struct crowd *crowd, struct request *request)
{
    static const float weights[] = {1, 0.5f, -0.75f, 2, 0, 1};
    uint32_t first = pick(crowd, FILES_ADAPTERS);
    request->adapter_n = pick(crowd, 4);
    for (uint32_t i = 0; i < request->adapter_n; i++) {
        struct request_adapter *adapter = &request->adapters[i];
        snprintf(adapter->name, sizeof adapter->name, "a%u", (first + i) % FILES_ADAPTERS);
        adapter->weight = weights[pick(crowd, ARRAY_N(weights))];
    }
}

static void make_sampling(struct crowd *crowd, struct member *member)
{
    struct request *request = &member->request;
    bool is_greedy = pick(crowd, 3) == 0;
    bool has_penalty = pick(crowd, 3) == 0;
    request->sampling = (struct sampling){
        .temperature = is_greedy ? 0 : 0.5f + (float)pick(crowd, 3),
        .top_p = pick(crowd, 2) ? 1 : 0.9f,
        .min_p = pick(crowd, 3) ? 0 : 0.01f,
        .top_k = pick(crowd, 2) ? 0 : 20,
        .repetition_penalty = has_penalty ? 1.2f : 1,
        .presence_penalty = has_penalty ? 0.3f : 0,
        .frequency_penalty = has_penalty ? 0.2f : 0,
        .seed = pick(crowd, 1u << 30),
    };
    request->biases = member->biases;
    request->bias_n = pick(crowd, 3);
    for (uint32_t i = 0; i < request->bias_n; i++) {
        member->biases[i] = (struct logit_bias){i * 40 + pick(crowd, 40), 1.5f};
    }
    request->top_logprobs = (int32_t)pick(crowd, TOPS + 1);
    request->prompt_logprobs = pick(crowd, 4) ? -1 : (int32_t)pick(crowd, TOPS + 1);
}

/* Prompts often end shortly before a page does, so that sequences want their next page together. */
static uint32_t make_length(struct crowd *crowd)
{
    uint32_t choice = pick(crowd, 8);
    if (choice < 4) {
        return 64 - pick(crowd, 12);
    }
    return choice < 6   ? 1 + pick(crowd, 70)
           : choice < 7 ? 128 - pick(crowd, 10)
                        : 1 + pick(crowd, PROMPT_MAX);
}

static void make_member(struct crowd *crowd, uint32_t index)
{
    struct member *member = &crowd->members[index];
    struct request *request = &member->request;
    request->key = index + 1;
    request->owner = member;
    request->tokens = member->prompt;
    request->token_n = make_length(crowd);
    for (uint32_t i = 0; i < request->token_n; i++) {
        member->prompt[i] = pick(crowd, FILES_VOCAB);
    }
    request->max_tokens = 1 + pick(crowd, pick(crowd, 3) ? 14 : TOKENS_MAX);
    request->min_tokens = pick(crowd, 4) ? 0 : pick(crowd, request->max_tokens + 1);
    request->eos_n = pick(crowd, 2);
    request->eos_tokens[0] = 2;
    request->deadline_ns = CLOCK_NEVER;
    make_sampling(crowd, member);
    make_adapters(crowd, request);
    member->send_turn = pick(crowd, 12);
}

static void story_tell(struct story *story, const struct event *event)
{
    struct told *told = &story->told[story->n++];
    assert_true(story->is_started && story->n <= STORY_MAX && event->top_n <= TOPS);
    told->token = event->token.token;
    told->logprob = event->token.logprob;
    told->top_n = event->top_n;
    memcpy(told->top, event->top, event->top_n * sizeof told->top[0]);
}

static void crowd_listen(struct crowd *crowd, struct rig *rig)
{
    struct event event;
    while (rig_event(rig, &event)) {
        struct member *member = event.request->owner;
        struct story *story = crowd->is_solo ? &member->solo : &member->crowd;
        assert_false(story->is_ended);
        if (event.type == EVENT_FAILED) {
            fail_msg("request failed: %s", event.request->err.text);
        } else if (event.type == EVENT_STARTED) {
            story->is_started = true;
        } else if (event.type == EVENT_FINISHED) {
            story->is_ended = true;
            story->reason = event.reason;
            crowd->ended_n++;
        } else {
            story_tell(story, &event);
        }
    }
}

/* Arrivals; slow clients, whose pages others may take; and clients that go away. */
static void crowd_disturb(struct crowd *crowd, struct rig *rig, uint32_t turn)
{
    for (uint32_t i = 0; i < crowd->member_n; i++) {
        struct member *member = &crowd->members[i];
        if (!member->is_sent && turn >= member->send_turn) {
            member->request.arrival_ns = rig->now_ns;
            rig_send(rig, MSG_REQUEST, 0, &member->request);
            member->is_sent = true;
        } else if (member->is_sent && pick(crowd, member->is_parked ? 4 : 25) == 0) {
            member->is_parked = !member->is_parked;
            rig_send(rig, member->is_parked ? MSG_PARK : MSG_RESUME, member->request.key, NULL);
        } else if (member->is_sent && pick(crowd, 200) == 0) {
            rig_send(rig, MSG_CANCEL, member->request.key, NULL);
        }
    }
}

/* Whether the member has an adapter of the kind that a<first> and a<first + 5> are of. */
static bool member_has(const struct member *member, uint32_t first)
{
    for (uint32_t i = 0; i < member->request.adapter_n; i++) {
        const struct request_adapter *adapter = &member->request.adapters[i];
        if (adapter->weight != 0 && (uint32_t)(adapter->name[1] - '0') % 5 == first) {
            return true;
        }
    }
    return false;
}

static void crowd_run(struct crowd *crowd, struct rig *rig, struct tally *tally)
{
    uint32_t slot_n = 2 + pick(crowd, RIG_SLOTS - 1);
    struct sched_config sched = {
        .slot_n = slot_n,
        .queue_n = MEMBERS_MAX,
        .page_n = 4 + pick(crowd, 3),
        .row_max = slot_n + LIMIT_PROMPT_CUT + pick(crowd, RIG_ROWS - RIG_SLOTS - 64),
        .seq_page_max = RIG_CONTEXT / LIMIT_KV_PAGE,
    };
    uint32_t turn = 0;
    crowd->member_n = 3 + pick(crowd, MEMBERS_MAX - 2);
    for (uint32_t i = 0; i < crowd->member_n; i++) {
        make_member(crowd, i);
    }
    rig_core_start(rig, &sched, 640000);
    while (crowd->ended_n < crowd->member_n) {
        crowd_disturb(crowd, rig, turn);
        rig_turn(rig);
        crowd_listen(crowd, rig);
        assert_true(++turn < 20000);
    }
    rig_core_stop(rig);
    for (uint32_t i = 0; i < crowd->member_n; i++) {
        tally->preempt_n += crowd->members[i].request.stats.preempt_n;
        tally->wait_n += crowd->members[i].request.stats.adapter_load_ns > 0;
        tally->state_n += member_has(&crowd->members[i], 2);
        tally->scale_n += member_has(&crowd->members[i], 4);
    }
    tally->mixed_n += rig->mixed_n;
    tally->ahead_n += rig->ahead_n;
    rig->mixed_n = 0;
    rig->ahead_n = 0;
}

/* Each member alone, on an engine that has been running since the path was opened. */
static void crowd_run_alone(struct crowd *crowd, struct rig *rig)
{
    crowd->is_solo = true;
    crowd->ended_n = 0;
    for (uint32_t i = 0; i < crowd->member_n; i++) {
        uint32_t turn = 0;
        rig_send(rig, MSG_REQUEST, 0, &crowd->members[i].request);
        while (crowd->ended_n == i) {
            rig_turn(rig);
            crowd_listen(crowd, rig);
            assert_true(++turn < 20000);
        }
        assert_int_equal(crowd->members[i].request.stats.preempt_n, 0);
    }
}

static bool told_are_equal(const struct told *a, const struct told *b)
{
    bool is_equal = a->token == b->token && a->top_n == b->top_n &&
                    f32_bits(a->logprob) == f32_bits(b->logprob);
    for (uint32_t i = 0; is_equal && i < a->top_n; i++) {
        is_equal = a->top[i].token == b->top[i].token &&
                   f32_bits(a->top[i].logprob) == f32_bits(b->top[i].logprob);
    }
    return is_equal;
}

/* A cancelled story is a beginning of the other one. */
static bool stories_are_equal(const struct story *crowd, const struct story *solo)
{
    bool is_cut = crowd->reason == FINISH_CANCELLED;
    if (is_cut ? crowd->n > solo->n : crowd->n != solo->n || crowd->reason != solo->reason) {
        return false;
    }
    for (uint32_t i = 0; i < crowd->n; i++) {
        if (!told_are_equal(&crowd->told[i], &solo->told[i])) {
            return false;
        }
    }
    return true;
}

static void crowd_compare(const struct crowd *crowd, const struct rig_path *path, uint64_t seed,
                          struct tally *tally)
{
    for (uint32_t i = 0; i < crowd->member_n; i++) {
        const struct member *member = &crowd->members[i];
        tally->token_n += member->crowd.n;
        if (!stories_are_equal(&member->crowd, &member->solo)) {
            fail_msg("%s: crowd %llu, member %u: not what it is alone", path->name,
                     (unsigned long long)seed, i);
        }
    }
}

/* Crowds of one path with weights held in one type. Each rig is large: on the heap. */
static bool path_run(const struct files *files, const struct rig_path *path, enum dtype held,
                     uint32_t crowd_n, struct tally *tally)
{
    const struct sched_config plenty = {.slot_n = 1,
                                        .queue_n = 1,
                                        .page_n = RIG_PAGES,
                                        .row_max = 130,
                                        .seq_page_max = RIG_CONTEXT / LIMIT_KV_PAGE};
    struct rig *rig = mem_alloc(sizeof *rig);
    struct rig *alone = mem_alloc(sizeof *alone);
    bool is_there = rig_open(rig, files, path, held, 2);
    if (is_there) {
        is_there = rig_open(alone, files, path, held, 1);
        assert_true(is_there);
        rig_core_start(alone, &plenty, alone->pool_bytes);
        for (uint32_t i = 0; i < crowd_n; i++) {
            uint64_t seed = (2 * i + files->family) * 2 + (held == DTYPE_BF16);
            struct crowd *crowd = mem_zalloc(sizeof *crowd);
            crowd->state = seed << 32;
            crowd_run(crowd, rig, tally);
            crowd_run_alone(crowd, alone);
            crowd_compare(crowd, path, seed, tally);
            mem_free(crowd);
        }
        rig_core_stop(alone);
        rig_close(alone);
        rig_close(rig);
    }
    mem_free(alone);
    mem_free(rig);
    return is_there;
}

/* Stand-ins are emulated instructions: slow, and under a sanitizer slower than anybody waits for:
 * there parity checks them. With cuBLASLt's stand-in only prompts' products are computed otherwise,
 * so fewer crowds show it. */
static uint32_t path_crowds(const struct rig_path *path)
{
    bool is_sanitized = false;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    is_sanitized = true;
#endif
    if (getenv("GRAFT_LONG")) {
        return 200;
    }
    if (is_sanitized) {
        return path->is_stand_in ? 0 : 4;
    }
    if (getenv("GRAFT_EMU_CUBLASLT")) {
        return 8;
    }
    return path->is_stand_in || path->is_16_bit ? 20 : 200;
}

/* Half of a path's crowds hold bf16, half f32, or f16 where there is no f32; half are of one
 * family, half of the other. */
static void path_is_invariant(const struct rig_path *path)
{
    struct tally tally = {0};
    uint32_t crowd_n = path_crowds(path);
    if (crowd_n == 0) {
        print_message("%s: not under a sanitizer\n", path->name);
        skip();
    }
    int64_t start_ns = clock_now_ns();
    const enum dtype types[] = {DTYPE_BF16, path->is_16_bit ? DTYPE_F16 : DTYPE_F32};
    bool is_there = true;
    for (uint32_t i = 0; i < 2 * FILES_FAMILIES && is_there; i++) {
        struct files files;
        files_open(&files, (enum files_family)(i / 2));
        is_there = path_run(&files, path, types[i % 2], crowd_n / 4, &tally);
        files_close(&files);
    }
    if (!is_there) {
        print_message("%s: not on this machine\n", path->name);
        /* Only an instruction set or a GPU may be missing, never plain C or an emulation. */
        assert_true(path->is_16_bit || (path->isa > KERN_ISA_PORTABLE && !path->is_stand_in));
        skip();
    }
    print_message("%s: %u crowds, %llu tokens, %llu mixed steps, %llu preemptions, %llu waits for "
                  "adapters, %llu states, %llu scales, %lld ms\n",
                  path->name, crowd_n, (unsigned long long)tally.token_n,
                  (unsigned long long)tally.mixed_n, (unsigned long long)tally.preempt_n,
                  (unsigned long long)tally.wait_n, (unsigned long long)tally.state_n,
                  (unsigned long long)tally.scale_n,
                  (long long)((clock_now_ns() - start_ns) / CLOCK_NS_PER_MS));
    assert_true(path->kern->step_ahead == 0 || crowd_n < 20 || tally.ahead_n > crowd_n);
    /* when a copy to a device arrives is not the rig's to say: other members meet, and wait, then
     */
    uint32_t preempt_every = path->kern->is_device ? 10 : 2;
    /* a handful of crowds need not have met everything */
    assert_true(crowd_n < 8 || (tally.state_n > crowd_n / 2 && tally.scale_n > crowd_n / 2));
    assert_true(crowd_n < 8 || (tally.mixed_n > 5 * crowd_n && tally.wait_n > crowd_n));
    assert_true(crowd_n < 20 || tally.preempt_n > crowd_n / preempt_every);
}

#define PATH_TEST(id, ...)                                                                         \
    static void id##_is_invariant(void **state)                                                    \
    {                                                                                              \
        static const struct rig_path path = {__VA_ARGS__};                                         \
        (void)state;                                                                               \
        path_is_invariant(&path);                                                                  \
    }
PATH_TEST(ref, "ref", &kern_ref, KERN_ISA_AUTO, false)
PATH_TEST(portable, "portable", &kern_cpu, KERN_ISA_PORTABLE, false)
PATH_TEST(avx2, "avx2", &kern_cpu, KERN_ISA_AVX2, false)
PATH_TEST(avx512, "avx512", &kern_cpu, KERN_ISA_AVX512, false)
PATH_TEST(avx512bf16, "avx512bf16", &kern_cpu, KERN_ISA_AVX512BF16, false)
PATH_TEST(amx, "amx", &kern_cpu, KERN_ISA_AMX, false)
PATH_TEST(avx512bf16_stand_in, "avx512bf16 stand-in", &kern_cpu, KERN_ISA_AVX512BF16, true)
PATH_TEST(amx_stand_in, "amx stand-in", &kern_cpu, KERN_ISA_AMX, true)
#ifdef KERN_HAS_CUDA
PATH_TEST(cuda, "cuda", &kern_cuda, KERN_ISA_AUTO, false, true)
#endif

/* Usage: mixing_test [PATH]: cuda_is_invariant, avx* and so on. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#ifdef KERN_HAS_CUDA
        cmocka_unit_test(cuda_is_invariant),
#endif
        cmocka_unit_test(ref_is_invariant),
        cmocka_unit_test(portable_is_invariant),
        cmocka_unit_test(avx2_is_invariant),
        cmocka_unit_test(avx512_is_invariant),
        cmocka_unit_test(avx512bf16_is_invariant),
        cmocka_unit_test(amx_is_invariant),
        cmocka_unit_test(avx512bf16_stand_in_is_invariant),
        cmocka_unit_test(amx_stand_in_is_invariant),
    };
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
