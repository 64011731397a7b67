/* The engine with its real threads, on ref and a small checkpoint: requests with adapters from one
 * thread, jobs on another, events on a third; the same with a backend that runs ahead; then a
 * lost device. And the plan's sums. */
#include "tests/test.h"

#include <stdio.h>
#include <time.h>

#include "adapters/store.h"
#include "base/base.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "engine/keymap.h"
#include "kernels/fault/fault.h"
#include "kernels/random.h"
#include "sched/event.h"
#include "sched/request.h"

#define MODEL    TEST_ROOT "/tests/golden/qwen3"
#define HYBRID   TEST_ROOT "/tests/golden/qwen35"
#define REQUESTS 24
#define GIB      (1ull << 30)

#define LATE_STEPS   4
#define LATE_RESULTS 1024
#define LATE_LOOKS   2000 /* in three times as many the rank comes to nap */

static void check(int rc, const struct err *err)
{
    if (rc) {
        fail_msg("%s: %s", err_name(rc), err->text);
    }
}

/* ref as a backend that answers late: a step is run when it ends but shown as running until another
 * one was taken; since none may come, for so many looks at most. */
struct late_step {
    struct kern_token tokens[LATE_RESULTS];
    uint32_t result_n;
    uint32_t look_n; /* left */
};

static struct late {
    struct kern kern;
    struct late_step steps[LATE_STEPS]; /* oldest first */
    uint32_t step_n;
    uint32_t begun_n;
    uint32_t read_n;
    uint32_t ahead_n;   /* steps taken before the one before was read */
    uint32_t fail_step; /* this one and all later ones fail; 0 = none */
} late;

static void late_end_step(struct kern_dev *dev, const struct kern_token *results, uint32_t result_n)
{
    assert_true(late.step_n < LATE_STEPS && result_n <= LATE_RESULTS);
    late.ahead_n += late.step_n > 0;
    struct late_step *step = &late.steps[late.step_n++];
    kern_ref.end_step(dev, results, result_n);
    assert_int_equal(kern_ref.read_step(dev, step->tokens, true), 0);
    step->result_n = result_n;
    /* a second step always comes; of the later ones some are there at once */
    step->look_n = late.begun_n == 0 ? UINT32_MAX : late.begun_n % 4 * LATE_LOOKS;
    late.begun_n++;
}

static int late_read_step(struct kern_dev *dev, struct kern_token *out, bool is_waiting)
{
    (void)dev;
    assert_true(late.step_n > 0 && !is_waiting);
    if (late.step_n == 1 && late.steps[0].look_n > 0) {
        late.steps[0].look_n--;
        return 1;
    }
    late.read_n++;
    if (late.fail_step > 0 && late.read_n >= late.fail_step) {
        assert_int_equal(late.read_n, late.fail_step); /* nobody asks after a loss */
        return ERR_DEVICE_FAILURE;
    }
    memcpy(out, late.steps[0].tokens, late.steps[0].result_n * sizeof *out);
    memmove(&late.steps[0], &late.steps[1], (LATE_STEPS - 1) * sizeof late.steps[0]);
    late.step_n--;
    return 0;
}

/* More with every step that was read. */
static const char *late_failure(const struct kern_dev *dev)
{
    (void)dev;
    return "a planned failure";
}

static uint64_t late_saturated_n(const struct kern_dev *dev)
{
    (void)dev;
    return (uint64_t)late.read_n << 32;
}

static const struct kern *late_start(uint32_t fail_step)
{
    late = (struct late){.kern = kern_ref, .fail_step = fail_step};
    late.kern.step_ahead = LATE_STEPS - 1;
    late.kern.saturated_n = late_saturated_n;
    late.kern.failure = late_failure;
    late.kern.end_step = late_end_step;
    late.kern.read_step = late_read_step;
    return &late.kern;
}

/* The daemon without a server: this thread sends requests, `loop` runs jobs, `egress` listens. */
struct house {
    const char *dir;   /* of the model; its adapters lie below */
    const char *names; /* of two of them, a letter each */
    struct ports ports;
    struct model model;
    struct engine_plan plan;
    struct store *store;
    struct engine *engine;
    struct wake loop_wake;
    struct thread loop;
    struct thread egress;
    struct ring_flag is_over; /* the loop is to end */
    struct ring_flag is_lost;
    struct request requests[REQUESTS];
    uint32_t prompts[REQUESTS][90];
    uint64_t told[REQUESTS]; /* of egress: what each request's tokens come to */
    uint32_t token_n;        /* of egress */
    uint32_t finished_n;     /* of egress */
    uint32_t failed_n;       /* of egress: ERR_DEVICE_FAILURE */
    uint32_t op_n;           /* of egress */
};

static void house_notify(void *arg)
{
    struct house *house = arg;
    wake_signal(&house->loop_wake);
}

static void house_lost(void *arg, const struct err *err)
{
    struct house *house = arg;
    assert_int_equal(err->code, ERR_DEVICE_FAILURE);
    assert_string_equal(strstr(err->text, ": "), ": a planned failure");
    ring_flag_raise(&house->is_lost);
}

static void house_loop(void *arg)
{
    struct house *house = arg;
    for (;;) {
        uint32_t ticket = wake_ticket(&house->loop_wake);
        struct job *job;
        if (ring_flag_is_raised(&house->is_over)) {
            return;
        }
        if (ring_pop(&house->ports.jobs, &job)) {
            struct msg msg = {MSG_JOB_DONE, 0, job};
            job->run(job);
            assert_true(ring_push(&house->ports.inbox[INBOX_LOOP], &msg));
            wake_signal(&house->ports.engine_wake);
        } else {
            wake_wait(&house->loop_wake, ticket, -1);
        }
    }
}

static void house_event(struct house *house, const struct event *event)
{
    if (event->type == EVENT_TOKEN) {
        uint64_t *told = &house->told[event->request->key - 1];
        *told = kern_mix64(*told + event->token.token + 1);
        house->token_n++;
    }
    house->finished_n += event->type == EVENT_FINISHED;
    house->op_n += event->type == EVENT_ADAPTER_OP;
    if (event->type == EVENT_FAILED) {
        assert_int_equal(event->request->err.code, ERR_DEVICE_FAILURE);
        house->failed_n++;
    }
}

/* Until everything was drained. */
static void house_egress(void *arg)
{
    struct house *house = arg;
    struct event event = {.type = EVENT_STEP_END};
    while (event.type != EVENT_DRAINED) {
        uint32_t ticket = wake_ticket(&house->ports.egress_wake);
        if (ring_pop(&house->ports.events, &event)) {
            house_event(house, &event);
        } else {
            wake_wait(&house->ports.egress_wake, ticket, -1);
        }
    }
}

static void house_open_model(struct house *house, const struct kern *kern)
{
    struct err err = {0};
    struct model *model = &house->model;
    char adapters[256];
    snprintf(adapters, sizeof adapters, "%s/adapters", house->dir);
    check(model_desc_read(house->dir, &model->desc, &err), &err);
    model->kern = kern;
    model->held = DTYPE_F32;
    struct plan_want want = {.desc = &model->desc,
                             .kern = kern,
                             .held = DTYPE_F32,
                             .sequence_n = 4,
                             .kv_bytes = 1u << 19,
                             .adapter_bytes = 1u << 20,
                             .available = GIB};
    check(engine_plan(&want, &house->plan, &err), &err);
    check(kern->open(&house->plan.open, &model->dev, &err), &err);
    check(model_load(model, house->dir, &err), &err);
    struct store_config store = {
        .root = adapters, .desc = &model->desc, .kern = kern, .held = DTYPE_F32};
    check(store_open(&store, &house->store, &err), &err);
}

static void house_start(struct house *house, const struct kern *kern, const char *dir)
{
    struct err err = {0};
    struct ports *ports = &house->ports;
    *house = (struct house){.dir = dir, .names = strcmp(dir, HYBRID) == 0 ? "as" : "ab"};
    house_open_model(house, kern);
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_init(&ports->inbox[i], sizeof(struct msg), 64);
    }
    ring_init(&ports->events, sizeof(struct event), engine_event_slots(&house->plan));
    ring_init(&ports->jobs, sizeof(struct job *), LIMIT_ADAPTER_JOBS);
    wake_init(&ports->engine_wake);
    wake_init(&ports->egress_wake);
    wake_init(&house->loop_wake);
    ports->notify_loop = house_notify;
    ports->notify_arg = house;
    char(*names)[LIMIT_ADAPTER_NAME_BYTES];
    uint32_t name_n;
    uint32_t skipped_n;
    check(store_scan(house->store, &names, &name_n, &skipped_n, &err), &err);
    struct engine_config config = {
        .ports = ports,
        .model = &house->model,
        .store = house->store,
        .plan = &house->plan,
        .names = (const char(*)[LIMIT_ADAPTER_NAME_BYTES])names,
        .name_n = name_n,
        .on_device_lost = house_lost,
        .on_device_lost_arg = house,
    };
    check(engine_new(&config, &house->engine, &err), &err);
    mem_free(names);
    thread_start(&house->loop, THREAD_LOOP, "loop", house_loop, house);
    thread_start(&house->egress, THREAD_EGRESS, "egress", house_egress, house);
    engine_start(house->engine);
}

static void house_send(struct house *house, enum inbox inbox, enum msg_type type, void *ptr)
{
    const struct timespec pause = {.tv_nsec = CLOCK_NS_PER_MS};
    struct msg msg = {type, 0, ptr};
    while (!ring_push(&house->ports.inbox[inbox], &msg)) {
        nanosleep(&pause, NULL);
    }
    wake_signal(&house->ports.engine_wake);
}

static void house_request(struct house *house, uint32_t i)
{
    struct request *request = &house->requests[i];
    *request = (struct request){
        .key = i + 1,
        .tokens = house->prompts[i],
        .token_n = 1 + i * 37 % 90,
        .max_tokens = 1 + i % 9,
        .sampling = {.temperature = 1,
                     .top_p = 1,
                     .repetition_penalty = i % 4 == 1 ? 1.5f : 1,
                     .seed = i},
        .top_logprobs = -1,
        .prompt_logprobs = -1,
        .adapter_n = i % 3,
        .arrival_ns = clock_now_ns(),
        .deadline_ns = CLOCK_NEVER,
    };
    for (uint32_t k = 0; k < request->token_n; k++) {
        house->prompts[i][k] = (i * 31 + k * 7) % house->model.desc.vocab_n;
    }
    for (uint32_t k = 0; k < request->adapter_n; k++) {
        snprintf(request->adapters[k].name, sizeof request->adapters[k].name, "%c",
                 house->names[(i + k) % 2]);
        request->adapters[k].weight = 1;
    }
    house_send(house, INBOX_CQ, MSG_REQUEST, request);
}

/* In main's order. */
static void house_stop(struct house *house)
{
    house_send(house, INBOX_CQ, MSG_DRAIN, NULL); /* behind the requests */
    thread_join(&house->egress);
    ring_flag_raise(&house->is_over);
    wake_signal(&house->loop_wake);
    thread_join(&house->loop);
    engine_stop(house->engine);
    engine_free(house->engine);
    store_close(house->store);
    house->model.kern->close(house->model.dev);
    model_done(&house->model);
    for (uint32_t i = 0; i < INBOX_N; i++) {
        ring_done(&house->ports.inbox[i]);
    }
    ring_done(&house->ports.events);
    ring_done(&house->ports.jobs);
}

static void serve(struct house *house, const struct kern *kern, const char *dir)
{
    struct adapter out;
    struct adapter_op op = {
        .type = ADAPTER_OP_LOAD, .name = "b", .key = 1000, .out = &out, .out_max = 1};
    uint32_t want_n = 0;
    house_start(house, kern, dir);
    house_send(house, INBOX_CQ, MSG_ADAPTER_OP, &op);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        house_request(house, i);
        want_n += house->requests[i].max_tokens;
    }
    house_stop(house);
    assert_int_equal(house->finished_n, REQUESTS);
    assert_int_equal(house->failed_n, 0);
    assert_int_equal(house->token_n, want_n);
    assert_int_equal(house->op_n, 1);
    assert_false(ring_flag_is_raised(&house->is_lost));
}

static void threads_serve(void **state)
{
    (void)state;
    struct house *house = mem_alloc(sizeof *house);
    struct house *ahead = mem_alloc(sizeof *ahead);
    serve(house, &kern_ref, MODEL);
    serve(ahead, late_start(0), MODEL);
    assert_true(late.ahead_n > 10);
    assert_int_equal(ring_number_get(&house->ports.saturated), 0);
    assert_int_equal(ring_number_get(&ahead->ports.saturated), (uint64_t)late.read_n << 32);
    assert_memory_equal(ahead->told, house->told, sizeof house->told);
    mem_free(ahead);
    mem_free(house);
}

/* With recurrent layers; adapter "s" is what sequences begin with. */
static void threads_serve_states(void **state)
{
    (void)state;
    struct house *house = mem_alloc(sizeof *house);
    struct house *ahead = mem_alloc(sizeof *ahead);
    serve(house, &kern_ref, HYBRID);
    serve(ahead, late_start(0), HYBRID);
    assert_memory_equal(ahead->told, house->told, sizeof house->told);
    mem_free(ahead);
    mem_free(house);
}

static void lose(const struct kern *kern)
{
    struct house *house = mem_alloc(sizeof *house);
    house_start(house, kern, MODEL);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        house_request(house, i);
    }
    house_stop(house);
    assert_true(ring_flag_is_raised(&house->is_lost));
    assert_true(house->failed_n > 0);
    assert_int_equal(house->finished_n + house->failed_n, REQUESTS);
    mem_free(house);
}

static void lost_device_ends_all(void **state)
{
    (void)state;
    fault_set(&kern_ref, &(struct fault_plan){.fail_step = 3});
    lose(&kern_fault);
    lose(late_start(3));
    assert_true(late.ahead_n > 0);
}

static uint64_t line_bytes(const struct engine_plan *plan, const char *name)
{
    uint32_t i = 0;
    while (strcmp(plan->lines[i].name, name) != 0) {
        i++;
        assert_true(i < PLAN_LINES);
    }
    return plan->lines[i].bytes;
}

static void plan_adds_up(void **state)
{
    (void)state;
    struct model_desc desc;
    struct engine_plan plan;
    struct err err = {0};
    check(model_desc_read(MODEL, &desc, &err), &err);
    struct plan_want want = {
        .desc = &desc, .kern = &kern_ref, .held = DTYPE_F32, .sequence_n = 2, .available = GIB};
    check(engine_plan(&want, &plan, &err), &err);
    uint64_t sum = 0;
    for (size_t i = 0; i < PLAN_LINES; i++) {
        sum += plan.lines[i].bytes;
        bool is_state = strcmp(plan.lines[i].name, "recurrent states") == 0; /* it has none */
        assert_true((plan.lines[i].bytes > 0) == !is_state);
    }
    assert_int_equal(sum, plan.total);
    assert_int_equal(plan.context_max, 512);    /* the model's */
    assert_int_equal(plan.sched.page_n, 2 * 8); /* all that two sequences can fill */
    assert_int_equal(plan.pool_bytes, (GIB - line_bytes(&plan, "weights")) / 8);
    assert_true(engine_event_slots(&plan) >= 2 * plan.sched.row_max);

    uint64_t page = line_bytes(&plan, "KV pages") / plan.kv.page_n;
    want.kv_bytes = 3 * page + page / 2;
    check(engine_plan(&want, &plan, &err), &err);
    assert_int_equal(plan.kv.page_n, 3);
    assert_int_equal(plan.context_max, 3 * LIMIT_KV_PAGE); /* what the pool can hold */
    want.context_max = 400;
    check(engine_plan(&want, &plan, &err), &err);
    assert_int_equal(plan.context_max, 400);
    model_desc_done(&desc);
}

/* A slot for each sequence in each recurrent layer, pages for the other layers alone. */
static void plan_counts_states(void **state)
{
    (void)state;
    struct model_desc desc;
    struct engine_plan plan;
    struct err err = {0};
    check(model_desc_read(HYBRID, &desc, &err), &err);
    struct plan_want want = {
        .desc = &desc, .kern = &kern_ref, .held = DTYPE_F32, .sequence_n = 200, .available = GIB};
    check(engine_plan(&want, &plan, &err), &err);
    assert_true(desc.state_layer_n > 0 && desc.kv_layer_n < desc.layer_n);
    assert_int_equal(plan.kv.layer_n, desc.kv_layer_n);
    assert_int_equal(plan.state.layer_n, desc.state_layer_n);
    assert_int_equal(plan.state.slot_n, 200);
    struct kern_state one = model_state(&desc, 1);
    uint64_t bytes = line_bytes(&plan, "recurrent states");
    assert_in_range(bytes, 200 * kern_state_bytes(&one),
                    200 * kern_state_bytes(&one) + KERN_RESERVE_ALIGN);
    assert_true(bytes > 200 * sizeof(float) * one.state_n * one.layer_n);
    assert_int_equal(plan.pool_bytes, (GIB - line_bytes(&plan, "weights") - bytes) / 8);
    want.available = bytes;
    assert_int_equal(engine_plan(&want, &plan, &err), ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, " + recurrent states "));
    model_desc_done(&desc);
}

static void plan_refuses(void **state)
{
    (void)state;
    struct model_desc desc;
    struct engine_plan plan;
    struct err err = {0};
    check(model_desc_read(MODEL, &desc, &err), &err);
    struct plan_want want = {
        .desc = &desc, .kern = &kern_ref, .held = DTYPE_F32, .sequence_n = 2, .available = GIB};
    want.context_max = 513;
    assert_int_equal(engine_plan(&want, &plan, &err), ERR_INVALID_PARAMETER);
    assert_string_equal(err.text, "--max-context is 513, the model's limit is 512");
    want.context_max = 0;
    want.kv_bytes = 100;
    assert_int_equal(engine_plan(&want, &plan, &err), ERR_INVALID_PARAMETER);
    assert_non_null(strstr(err.text, "--kv-memory of 100 bytes holds no page"));
    want.kv_bytes = 0;
    want.available = 1000;
    assert_int_equal(engine_plan(&want, &plan, &err), ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "memory: weights 1 MiB + KV pages "));
    assert_non_null(strstr(err.text, "1 MiB are available"));
    assert_non_null(plan.lines[PLAN_LINES - 1].name);
    model_desc_done(&desc);
}

static size_t device_workspace(const struct kern_open *args, const struct kern_kv *kv,
                               size_t *out_host)
{
    assert_int_equal(args->device, 3);
    *out_host = 1000;
    return (1u << 20) + (size_t)kv->page_n * 256; /* grows with the pages, as attention's does */
}

/* ref as a backend with memory of its own. */
static struct kern device_kern(void)
{
    struct kern kern = kern_ref;
    kern.is_device = true;
    kern.part_sample_max = 256;
    kern.workspace_bytes = device_workspace;
    return kern;
}

/* A device's memory is shared out whole: each piece that will be reserved is a term of one sum. */
static void plan_shares_a_device(void **state)
{
    (void)state;
    struct model_desc desc;
    struct engine_plan plan;
    struct err err = {0};
    const struct kern kern = device_kern();
    check(model_desc_read(MODEL, &desc, &err), &err);
    struct plan_want want = {.desc = &desc,
                             .kern = &kern,
                             .held = DTYPE_F32,
                             .device = 3,
                             .sequence_n = 1024,
                             .available = 200000000};
    check(engine_plan(&want, &plan, &err), &err);
    uint64_t total = 0;
    uint64_t host = 0;
    for (size_t i = 0; i < PLAN_LINES; i++) {
        *(plan.lines[i].is_host ? &host : &total) += plan.lines[i].bytes;
    }
    assert_int_equal(plan.total, total);
    assert_int_equal(plan.host_total, host);
    assert_true(plan.room_bytes > 0 && plan.room_bytes <= plan.pool_bytes);
    assert_true(host > PLAN_ROOMS * (uint64_t)plan.room_bytes + 1000);
    assert_int_equal(plan.open.reserve_bytes, total);
    assert_int_equal(total % KERN_RESERVE_ALIGN, 0);
    assert_true(host > 1000 && total <= want.available);
    assert_true(total > want.available / 100 * 97); /* and hardly anything lies idle */
    uint64_t kv = line_bytes(&plan, "KV pages");
    uint64_t pool = line_bytes(&plan, "adapters");
    assert_true(kv > 39 * pool / 10 && kv < 41 * pool / 10);
    /* 256 rows of logits, however many sequences */
    assert_int_equal(line_bytes(&plan, "logits"), 256 * desc.vocab_n * sizeof(float));

    want.kv_bytes = 150000000; /* the other gets what is left */
    check(engine_plan(&want, &plan, &err), &err);
    assert_true(plan.total <= want.available && plan.pool_bytes > 0);
    want.kv_bytes = 0;
    want.available = 1000000;
    assert_int_equal(engine_plan(&want, &plan, &err), ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "GPU memory: weights 1 MiB + KV pages "));
    assert_null(strstr(err.text, "events"));
    model_desc_done(&desc);
}

/* Against the plainest map there is. */
static void keymap_keeps_what_it_has(void **state)
{
    (void)state;
    struct keymap map;
    bool is_in[200] = {false};
    uint32_t n = 0;
    uint64_t dice = 7;
    keymap_init(&map, 100);
    for (uint32_t i = 0; i < 20000; i++) {
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        uint32_t key = (uint32_t)(dice >> 33) % 200;
        uint32_t id = UINT32_MAX;
        assert_true(keymap_get(&map, key * 1000003ull, &id) == is_in[key]);
        assert_int_equal(id, is_in[key] ? key : UINT32_MAX);
        if (is_in[key]) {
            keymap_remove(&map, key * 1000003ull);
        } else if (n < 100) {
            keymap_put(&map, key * 1000003ull, key);
        } else {
            continue;
        }
        n += is_in[key] ? -1u : 1u;
        is_in[key] = !is_in[key];
    }
    assert_int_equal(map.n, n);
    keymap_done(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keymap_keeps_what_it_has), cmocka_unit_test(plan_adds_up),
        cmocka_unit_test(plan_counts_states),       cmocka_unit_test(plan_refuses),
        cmocka_unit_test(plan_shares_a_device),     cmocka_unit_test(threads_serve),
        cmocka_unit_test(threads_serve_states),     cmocka_unit_test(lost_device_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
