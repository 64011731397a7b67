/* What sequences begin with, step by step: the real core with a fake rank, one or two clients and a
 * look at every batch that is sent. */
#include "tests/test.h"

#include "base/base.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/core.h"
#include "kernels/immediate.h"
#include "kernels/kern.h"
#include "tests/sim/client.h"
#include "tests/sim/fake_copy.h"
#include "tests/sim/fake_rank.h"
#include "tests/sim/fake_store.h"

#define RIG_CLIENTS 2
#define RIG_SENT    1000
#define RIG_KEPT    7 /* batches of which copies are kept */
#define RIG_POOL    (8 * 3 * sizeof(struct fake_block))

/* What is looked at of a step. */
struct rig_sent {
    struct batch_start start;
    uint64_t content;                       /* of the start's version */
    uint32_t start_n, seg_n, first_n;       /* first_n: rows at position 0 */
    bool has_order[LIMIT_REQUEST_ADAPTERS]; /* of segments */
};

struct rig {
    struct ports ports;
    struct core *core;
    struct core_turn turn;
    struct fake_rank rank;
    struct fake_store store;
    struct fake_copy copy;
    struct dice dice;
    void *pool;
    int64_t now_ns;
    struct client clients[RIG_CLIENTS];
    struct rig_sent sent[RIG_SENT];
    uint32_t sent_n;
    struct batch *kept[RIG_KEPT];
};

static void rig_kv_discard(struct kern_dev *dev, uint32_t page)
{
    struct rig *rig = CONTAINER_OF(fake_copy_of(dev), struct rig, copy);
    fake_rank_discard(&rig->rank, page);
}

static const struct kern rig_kern = {.name = "rig",
                                     .failure = kern_fails_never,
                                     .bring = fake_copy_bring,
                                     .is_brought = fake_copy_is_brought,
                                     .discard = fake_copy_discard,
                                     .kv_discard = rig_kv_discard};

static void rig_look(struct rig *rig, const struct batch *b)
{
    assert_true(rig->sent_n < RIG_SENT);
    if (rig->sent_n < RIG_KEPT) {
        rig->kept[rig->sent_n] = mem_alloc(b->bytes);
        memcpy(rig->kept[rig->sent_n], b, b->bytes);
    }
    struct rig_sent *sent = &rig->sent[rig->sent_n++];
    *sent = (struct rig_sent){.start_n = b->start_n, .seg_n = b->seg_n};
    for (uint32_t i = 0; i < b->seg_n; i++) {
        sent->has_order[batch_segs(b)[i].order] = true;
    }
    for (uint32_t i = 0; i < b->row_n; i++) {
        sent->first_n += batch_rows(b)[i].pos == 0;
    }
    if (b->start_n > 0) {
        sent->start = batch_starts(b)[0];
        const struct fake_block *block = rig->rank.versions[sent->start.version];
        sent->content = block->content;
    }
}

static void rig_send_cmd(void *arg, const struct rank_cmd *cmd)
{
    struct rig *rig = arg;
    struct link inner = fake_rank_link(&rig->rank);
    if (cmd->type == RANK_STEP) {
        rig_look(rig, cmd->batch);
    }
    inner.send(inner.arg, cmd);
}

static bool rig_receive(void *arg, struct rank_result *out)
{
    struct rig *rig = arg;
    struct link inner = fake_rank_link(&rig->rank);
    return inner.receive(inner.arg, out);
}

static void rig_notify(void *arg)
{
    (void)arg;
}

static void rig_start(struct rig *rig, uint32_t step_ahead, uint32_t page_n)
{
    *rig = (struct rig){.now_ns = CLOCK_NS_PER_S, .dice = {1}, .copy.dice = {2}};
    struct ports *ports = &rig->ports;
    struct core_config config = {
        .ports = ports,
        .link = {rig_send_cmd, rig_receive, rig},
        .registry = {.kern = &rig_kern,
                     .dev = (struct kern_dev *)(void *)&rig->copy,
                     .pool_bytes = RIG_POOL,
                     .copy_bytes_max = RIG_POOL},
        .sched = {.slot_n = 2,
                  .queue_n = 4,
                  .page_n = page_n,
                  .row_max = 2 + LIMIT_PROMPT_CUT,
                  .seq_page_max = 6},
        .step_ahead = step_ahead,
        .context_max = FAKE_CONTEXT,
        .fingerprint = "rig",
    };
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_init(&ports->inbox[i], sizeof(struct msg), 16);
    }
    ring_init(&ports->events, sizeof(struct event), 4096);
    ring_init(&ports->jobs, sizeof(struct job *), 16);
    wake_init(&ports->engine_wake);
    wake_init(&ports->egress_wake);
    ports->notify_loop = rig_notify;
    fake_rank_init(&rig->rank, &config.sched, step_ahead);
    rig->pool = mem_alloc(RIG_POOL + 64);
    config.registry.pool = (void *)ROUND_UP((uintptr_t)rig->pool, 64);
    assert_int_equal(core_new(&config, &rig->core, NULL), 0);
    rig->store.dice.state = 3;
    rig->store.fail_one_in = UINT32_MAX;
    for (uint32_t i = 0; i < CLIENT_NAMES; i++) {
        rig->store.content[i] = 100 + i;
    }
}

static void rig_stop(struct rig *rig)
{
    core_free(rig->core);
    assert_int_equal(fake_store_version_n(), 0);
    fake_rank_done(&rig->rank);
    mem_free(rig->pool);
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_done(&rig->ports.inbox[i]);
    }
    ring_done(&rig->ports.events);
    ring_done(&rig->ports.jobs);
    for (uint32_t i = 0; i < RIG_KEPT; i++) {
        mem_free(rig->kept[i]);
    }
    mem_free(rig);
}

/* A greedy client without ends but its length; adapters as said. */
static struct client *rig_ask(struct rig *rig, uint32_t at, uint32_t prompt_n, uint32_t token_n,
                              const struct request_adapter *adapters, uint32_t adapter_n)
{
    struct client *client = &rig->clients[at];
    struct request *request = &client->request;
    client_make(client, &rig->dice, at + 1, rig->now_ns);
    for (uint32_t i = 0; i < prompt_n; i++) {
        client->prompt[i] = client->history[i] = (i * 7 + at) % 61;
    }
    request->token_n = prompt_n;
    request->max_tokens = token_n;
    request->min_tokens = 0;
    request->eos_n = request->stop_n = 0;
    request->prompt_logprobs = -1;
    request->load_policy = LOAD_WAIT;
    request->deadline_ns = CLOCK_NEVER;
    request->adapter_n = adapter_n;
    memcpy(request->adapters, adapters, adapter_n * sizeof *adapters);
    struct msg msg = {MSG_REQUEST, request->key, request};
    assert_true(ring_push(&rig->ports.inbox[INBOX_CQ], &msg));
    return client;
}

static void rig_turn(struct rig *rig)
{
    struct job *job;
    struct event event;
    while (ring_pop(&rig->ports.jobs, &job)) {
        struct msg msg = {MSG_JOB_DONE, 0, job};
        fake_store_run(&rig->store, job);
        assert_true(ring_push(&rig->ports.inbox[INBOX_LOOP], &msg));
    }
    rig->rank.now_ns = rig->now_ns;
    for (uint32_t i = 0; i < rig->rank.unread_n; i++) {
        rig->rank.steps[i].has_due = true;
        rig->rank.steps[i].due_ns = rig->now_ns;
    }
    core_turn(rig->core, rig->now_ns, &rig->turn);
    while (ring_pop(&rig->ports.events, &event)) {
        if (event.type != EVENT_STEP_END) {
            client_check(event.request->owner, &event);
        }
    }
    rig->now_ns += CLOCK_NS_PER_MS;
}

/* Until all ended, and the store has its versions back. */
static void rig_run(struct rig *rig)
{
    bool is_over = false;
    for (uint32_t i = 0; !is_over; i++) {
        assert_true(i < 10 * RIG_SENT);
        rig_turn(rig);
        is_over = fake_store_version_n() == 0 && rig->rank.unread_n == 0;
        for (uint32_t k = 0; k < RIG_CLIENTS; k++) {
            is_over = is_over && (!rig->clients[k].is_sent || rig->clients[k].is_ended);
        }
    }
    assert_int_equal(registry_job_n(core_registry(rig->core)), 0);
}

#define ADAPTER(n, w)                                                                              \
    {                                                                                              \
        .name = (n), .weight = (w)                                                                 \
    }

struct start_case {
    struct request_adapter adapters[3];
    uint32_t adapter_n;
    bool has_order[3]; /* segments wanted */
    uint32_t state;    /* the adapter that it begins with; 3 = none */
};

/* "a0" to "a4" have rows, "a5" states, "a6" both. */
static const struct start_case start_cases[] = {
    {{ADAPTER("a5", 0.5f)}, 1, {false}, 0},
    {{ADAPTER("a5", 0)}, 1, {false}, 3},
    {{ADAPTER("a6", 2)}, 1, {true}, 0},
    {{ADAPTER("a6", 0)}, 1, {false}, 3},
    {{ADAPTER("a0", 1), ADAPTER("a5", -1.25f), ADAPTER("a2", 2)}, 3, {true, false, true}, 1},
    {{ADAPTER("a0", 0), ADAPTER("a1", 1), ADAPTER("a5", 3)}, 3, {false, true, false}, 2},
    {{ADAPTER("a0", 1), ADAPTER("a1", 1)}, 2, {true, true}, 3},
    {{ADAPTER("", 0)}, 0, {false}, 3},
};

static void check_case(const struct start_case *c, uint32_t step_ahead)
{
    struct rig *rig = mem_alloc(sizeof *rig);
    rig_start(rig, step_ahead, 6);
    /* three chunks of a prompt, then tokens one by one */
    struct client *client = rig_ask(rig, 0, 150, 5, c->adapters, c->adapter_n);
    rig_run(rig);
    assert_int_equal(client->request.err.code, 0);
    assert_int_equal(client->token_seen_n, 5);
    assert_true(rig->sent_n >= 3 + 4);
    for (uint32_t i = 0; i < rig->sent_n; i++) {
        const struct rig_sent *sent = &rig->sent[i];
        uint32_t seg_n = 0;
        bool is_wanted = i == 0 && c->state < 3;
        assert_int_equal(sent->first_n, i == 0);
        assert_int_equal(sent->start_n, is_wanted);
        if (is_wanted) {
            const struct request_adapter *adapter = &c->adapters[c->state];
            assert_true(sent->start.weight == adapter->weight);
            assert_int_equal(sent->content, 100 + adapter->name[1] - '0');
        }
        for (uint32_t k = 0; k < 3; k++) {
            assert_int_equal(sent->has_order[k], c->has_order[k]);
            seg_n += c->has_order[k];
        }
        assert_int_equal(sent->seg_n, seg_n);
    }
    rig_stop(rig);
}

static void starts_come_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(start_cases); i++) {
        check_case(&start_cases[i], 0);
        check_case(&start_cases[i], 3);
    }
}

/* Two sequences outgrow the pages; the younger one is recomputed from its start. young: 1 when that
 * one has the states, 0 when the other has. */
static void check_preempted(uint32_t step_ahead, uint32_t young)
{
    static const struct request_adapter adapters[2] = {ADAPTER("a5", 0.5f), ADAPTER("a0", 1)};
    struct rig *rig = mem_alloc(sizeof *rig);
    uint32_t start_n = 0;
    uint32_t first_n = 0;
    rig_start(rig, step_ahead, 4);
    struct client *a = rig_ask(rig, 0, 10, 180, &adapters[young], 1);
    struct client *b = rig_ask(rig, 1, 10, 180, &adapters[1 - young], 1);
    rig_run(rig);
    assert_true(a->token_seen_n == 180 && b->token_seen_n == 180);
    assert_int_equal(a->request.stats.preempt_n, 0);
    assert_true(b->request.stats.preempt_n > 0);
    for (uint32_t i = 0; i < rig->sent_n; i++) {
        start_n += rig->sent[i].start_n;
        first_n += rig->sent[i].first_n;
        assert_true(rig->sent[i].start_n <= rig->sent[i].first_n);
    }
    assert_int_equal(first_n, 2 + b->request.stats.preempt_n);
    assert_int_equal(start_n, young ? 1 + b->request.stats.preempt_n : 1);
    rig_stop(rig);
}

static void a_start_comes_again_after_preemption(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        check_preempted(i / 2 * 3, i % 2);
    }
}

static void two_beginnings_are_refused(void **state)
{
    static const struct request_adapter adapters[2] = {ADAPTER("a6", 1), ADAPTER("a5", 0)};
    struct rig *rig = mem_alloc(sizeof *rig);
    (void)state;
    rig_start(rig, 0, 6);
    struct client *client = rig_ask(rig, 0, 10, 5, adapters, 2);
    rig_run(rig);
    assert_int_equal(client->request.err.code, ERR_INVALID_PARAMETER);
    assert_non_null(
        strstr(client->request.err.text, "adapters \"a6\" and \"a5\" both hold initial states"));
    assert_int_equal(rig->sent_n, 0);
    rig_stop(rig);
}

/* Everything that two batches hold, byte for byte, but the step's number. */
static void assert_same_batch(const struct batch *a, const struct batch *b)
{
    struct batch a_head = *a;
    a_head.step = b->step;
    assert_memory_equal(&a_head, b, sizeof *b);
    assert_memory_equal(batch_rows(a), batch_rows(b), b->row_n * sizeof(struct batch_row));
    assert_memory_equal(batch_seqs(a), batch_seqs(b), b->seq_n * sizeof(struct batch_seq));
    assert_memory_equal(batch_pages(a), batch_pages(b), b->page_n * sizeof(uint32_t));
    assert_memory_equal(batch_segs(a), batch_segs(b), b->seg_n * sizeof(struct batch_seg));
    assert_memory_equal(batch_seg_rows(a), batch_seg_rows(b),
                        b->seg_row_n * sizeof(struct batch_seg_row));
    assert_memory_equal(batch_samples(a), batch_samples(b),
                        b->sample_n * sizeof(struct batch_sample));
    assert_memory_equal(batch_biases(a), batch_biases(b), b->bias_n * sizeof(struct batch_bias));
    assert_memory_equal(batch_hist(a), batch_hist(b), b->hist_n * sizeof(uint32_t));
    assert_memory_equal(batch_scores(a), batch_scores(b), b->score_n * sizeof(struct batch_score));
    assert_memory_equal(batch_starts(a), batch_starts(b), b->start_n * sizeof(struct batch_start));
}

/* What was sampled before is the only thing that may tell them apart. */
static void forget_sampled(struct batch *b)
{
    for (uint32_t i = 0; i < b->row_n; i++) {
        struct batch_row *row = &batch_rows(b)[i];
        row->token = row->flags & BATCH_ROW_PROMPT ? row->token : 0;
    }
}

/* After its first step a sequence that began with states is planned as one without adapters: the
 * second and third chunk of a prompt, then generated rows. */
static void after_its_start_a_sequence_is_a_base_one(void **state)
{
    static const struct request_adapter adapter = ADAPTER("a5", 0.5f);
    (void)state;
    for (uint32_t step_ahead = 0; step_ahead <= 3; step_ahead += 3) {
        struct rig *rigs[2];
        for (uint32_t i = 0; i < 2; i++) {
            rigs[i] = mem_alloc(sizeof *rigs[i]);
            rig_start(rigs[i], step_ahead, 6);
            rig_ask(rigs[i], 0, 150, 5, &adapter, i);
            rig_run(rigs[i]);
            assert_int_equal(rigs[i]->sent_n, RIG_KEPT);
        }
        assert_int_equal(rigs[0]->kept[0]->start_n, 0);
        assert_int_equal(rigs[1]->kept[0]->start_n, 1);
        for (uint32_t step = 1; step < RIG_KEPT; step++) {
            for (uint32_t i = 0; i < 2; i++) {
                forget_sampled(rigs[i]->kept[step]);
            }
            assert_same_batch(rigs[0]->kept[step], rigs[1]->kept[step]);
        }
        rig_stop(rigs[0]);
        rig_stop(rigs[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_come_once),
        cmocka_unit_test(after_its_start_a_sequence_is_a_base_one),
        cmocka_unit_test(a_start_comes_again_after_preemption),
        cmocka_unit_test(two_beginnings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
