"""Hybrid bases with adapters of every kind: answers of the goldens, S0 states over their life."""
import json
import math
import os
import random
import struct
import subprocess
import threading
import unittest

from harness import PATIENCE, adapter_pb, model_pb, program
from test_daemon_case import SANITIZED, Answer, Client, Code, grpc, reason
from test_daemon_golden import GoldenCase, read_header, text_of, write_header

A = adapter_pb
EMULATED = os.environ.get("GRAFT_SANITIZED") == "emulated"
CASE = "qwen35-bf16" if EMULATED else "qwen35"
BACKEND = ("--backend", "cuda" if EMULATED else "cpu")
STATES = "states.safetensors"
WEIGHTS = "adapter_model.safetensors"
# Every golden run, with its adapters in both orders.
RUNS = [("base", ()), ("a", ("a",)), ("b", ("b",)), ("s", ("s",)), ("n", ("n",)),
        ("ia3", ("ia3",)), ("pair", (("a", 0.7), ("b", -0.4))), ("sa", ("s", "a")),
        ("sa", ("a", "s"))]
# Of the row's largest |logit|: where the second is further off, 16 bits pick the same winner.
CLEAR = 2e-2


def config_of(**changes):
    def change(folder):
        path = os.path.join(folder, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**config, **changes}, f)
    return change


def states_of(edit):
    """Rewrites the states through edit(header, data)."""
    def change(folder):
        path = os.path.join(folder, STATES)
        header, data = read_header(path)
        edit(header, data)
        write_header(path, header, data)
    return change


class HybridCase(GoldenCase):
    case = CASE
    backend = BACKEND

    def crowd(self, jobs):
        calls = [self.client.generate(**job) for job in jobs]
        return [Answer(list(call)) for call in calls]


class Goldens(HybridCase):
    tokens = 8 if EMULATED else 64

    def check(self, run, answer):
        if f"{run}.tokens" in self.golden:
            self.assertEqual(answer.ids, self.expected(run)[:self.tokens], run)
            return
        (rows, vocab_n), logits = self.golden[f"{run}.logits"]
        clear_n = 0
        for row in range(rows - 1):  # the last one's winner is a token
            values = logits[row * vocab_n:(row + 1) * vocab_n]
            best, second = sorted(values)[:-3:-1]
            if best - second > CLEAR * max(map(abs, values)):
                clear_n += 1
                got = answer.prompt_tops[len(self.prompt) - rows + row]
                self.assertEqual(got, values.index(best), f"{run}, row {row}")
        self.assertGreaterEqual(clear_n, 30)

    def answer(self, call):
        messages = list(call)
        answer = Answer(messages)
        answer.prompt_tops = [i for m in messages for i in m.prompt_logprobs.top_token_ids]
        return answer

    def test_answers_are_the_goldens_in_a_crowd_and_alone(self):
        jobs = [self.job(*adapters, tokens=self.tokens) for _, adapters in RUNS]
        for job in jobs:
            job["output"] = {**job["output"], "prompt_logprobs": 1}
        crowds = []
        for _ in range(2):  # cold, and once more the other way round
            jobs.reverse()
            calls = [self.client.generate(**job) for job in jobs]
            crowds.append([self.answer(call) for call in calls])
        crowds[0].reverse()
        for (run, adapters), job, first, second in zip(RUNS, jobs, *crowds):
            with self.subTest(run=run, adapters=adapters):
                alone = self.answer(self.client.generate(**job))
                self.check(run, alone)
                for answer in (first, second):
                    self.assertEqual(answer.key(), alone.key())
                    self.assertEqual(answer.prompt_tops, alone.prompt_tops)

    def test_what_they_are(self):
        model = self.client.models.GetModel(model_pb.GetModelRequest())
        self.assertEqual(list(model.adapter_kinds), ["ia3", "lora", "s0"])
        for name in self.names:
            self.load(name)
        listed = {a.name: a for a in
                  self.client.adapters.ListAdapters(A.ListAdaptersRequest()).adapters}
        self.assertEqual(sorted(listed), sorted(self.names))
        for name, a in listed.items():
            with self.subTest(name):
                folder = os.path.join(self.root, name)
                is_state = os.path.exists(os.path.join(folder, STATES))
                header, _ = read_header(os.path.join(folder, STATES if is_state else WEIGHTS))
                kind = "s0" if is_state else "ia3" if name == "ia3" else "lora"
                module_n = len(header) // (2 if kind == "lora" else 1)
                ranks = [t["shape"][0] for key, t in header.items() if ".lora_A." in key]
                self.assertEqual((a.state, a.kind, a.modules_applied, a.modules_total, a.rank_max),
                                 (A.ADAPTER_STATE_DEVICE, kind, module_n, module_n,
                                  max(ranks, default=0)))
                width = 2 if kind == "lora" and EMULATED else 4  # of what is held in bf16
                value_n = sum(math.prod(t["shape"]) for t in header.values())
                self.assertGreaterEqual(a.device_bytes, width * value_n)
                self.assertLess(a.device_bytes, 4 * value_n + (256 << 10))
                b = self.adapter(name)
                self.assertEqual((b.kind, b.device_bytes, b.revision, b.etag),
                                 (a.kind, a.device_bytes, a.revision, a.etag))


class FalconGoldens(Goldens):
    """The same on a base whose recurrence is Mamba-2's."""
    case = "falcon-h1-bf16" if EMULATED else "falcon-h1"


class States(HybridCase):
    tokens = 4 if EMULATED else 32

    def run_of(self, *adapters):
        return self.ask(**self.job(*adapters, tokens=self.tokens))

    def test_two_states_in_one_request(self):
        for names in (("s", "n"), ("n", "a", "s"), (("s", 0.0), "n")):
            first, second = [n if isinstance(n, str) else n[0] for n in names if n != "a"]
            for is_cold in (True, False):
                for name in ("s", "n", "a"):
                    (self.unload if is_cold else self.load)(name)
                error = self.refused(Code.INVALID_ARGUMENT, "INVALID_PARAMETER",
                                     lambda n=names: self.client.generate(**self.job(*n)))
                self.assertEqual(error.details(),
                                 f'adapters "{first}" and "{second}" both hold initial states, a '
                                 "request can have one")
        self.until(lambda: self.adapter("s").active_requests == 0)

    def test_weight_scales_the_state(self):
        base = self.run_of()
        one = self.run_of("s")
        self.assertEqual(self.run_of(("s", 0.0)).key(), base.key())
        self.assertEqual(self.run_of(("s", 0.0), "a").key(), self.run_of("a").key())
        two = self.run_of(("s", 2.0))
        keys = [x.logprobs for x in (base, one, two, self.run_of(("s", -1.0)))]
        self.assertEqual(len(set(map(tuple, keys))), 4)
        # a power of two: the same numbers whoever multiplies
        self.put("twice", "s", config_of(alpha=0.14))
        self.assertEqual(self.run_of("twice").key(), two.key())
        self.assertEqual(self.run_of(("twice", 0.5)).key(), one.key())

    def test_swap_changes_the_kind(self):
        tokens = 16 if EMULATED else 60 if SANITIZED else 300
        kinds = [("a", "lora"), ("s", "s0"), ("ia3", "ia3"), ("n", "s0"), ("b", "lora")]
        job = self.job("swap", tokens=tokens, prompt=self.prompt[:9])
        alone = {}
        for source, _ in kinds:
            alone[source] = self.ask(**{**job, "adapters": [{"name": source}]})
        calls = []
        for source, kind in kinds:
            self.put("swap", source)
            loaded = self.load("swap").adapter
            self.assertEqual((loaded.kind, loaded.revision),
                             (kind, self.load(source).adapter.revision))
            call = self.client.generate(**job)
            calls.append((source, loaded.revision, call, [next(call), next(call)]))
        for source, revision, call, messages in calls:
            messages += list(call)
            self.assertEqual(messages[0].started.adapters[0].revision, revision)
            self.assertEqual(Answer(messages).key(), alone[source].key(), source)
        self.until(lambda: self.adapter("swap").retiring_versions == 0)
        self.assertEqual(self.adapter("swap").loads, len(kinds))

    def test_graftctl(self):
        def run(*arguments):
            done = subprocess.run([program("GRAFT_CTL"), "--address", self.daemon.address,
                                   *arguments], capture_output=True, text=True, timeout=PATIENCE,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return done.stdout
        for name in ("s", "ia3", "a"):
            self.load(name)
        rows = {row.split()[0]: row.split() for row in run("adapters", "list").splitlines()}
        self.assertEqual([rows[n][1:4] for n in ("s", "ia3", "a")],
                         [["DEVICE", "s0", "0"], ["DEVICE", "ia3", "0"], ["DEVICE", "lora", "4"]])
        self.assertIn("kind        s0\n", run("adapters", "get", "s"))
        layer_n = self.adapter("s").modules_total
        self.assertIn(f"modules     {layer_n} of {layer_n}\n", run("adapters", "get", "s"))
        for adapters in (("s",), ("s@2", "a"), ("ia3@0.5",)):
            flags = [x for a in adapters for x in ("--adapter", a)]
            pairs = [(a.split("@")[0], float((a + "@1").split("@")[1])) for a in adapters]
            job = self.job(*pairs, tokens=8)
            got = run("generate", *flags, "--ignore-eos", "--temperature", "0", "--max-tokens",
                      "8", text_of(self.prompt))
            self.assertEqual(got, text_of(self.ask(**job).ids) + "\n")


class Refused(GoldenCase):
    """Folders that are no S0 of the base; none hurts what else is served."""

    def cases(self):
        def nan(header, data):
            begin = header["1"]["data_offsets"][0] + 4 * 5
            data[begin:begin + 4] = struct.pack("<f", float("nan"))

        def huge(header, data):
            begin = header["3"]["data_offsets"][0]
            data[begin:begin + 4] = struct.pack("<f", 3e38)

        def move(old, new):
            def edit(header, _):
                tensor = header.pop(old)
                if new:
                    header[new] = tensor
            return states_of(edit)

        def turned(header, _):
            header["0"]["shape"] = [4, 24, 16]

        def drop(header, data):
            """Without the bytes at the end, and without layer 1: whose they were takes its."""
            last = max(header, key=lambda name: header[name]["data_offsets"])
            begin = header[last]["data_offsets"][0]
            header[last] = header["1"]
            del header["1"], data[begin:]

        def pickled(folder):
            os.rename(os.path.join(folder, STATES), os.path.join(folder, "states.pt"))

        def doubled(folder):
            for file in ("adapter_config.json", WEIGHTS):
                os.link(os.path.join(self.source, "a", file), os.path.join(folder, file))

        def meta(folder):
            with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as f:
                json.dump({"arch": "mamba2", "recurrent_layers": [0, 1, 3],
                           "state_shape": [4, 16, 24]}, f)

        bad, not_ours = "BAD_FILE", "ADAPTER_INCOMPATIBLE"
        return [
            (states_of(nan), bad, 'states.safetensors: tensor "1" has a NaN at index 5'),
            (states_of(drop), not_ours,
             'states.safetensors: tensor "1" is missing, layer 1 of the model is recurrent'),
            (pickled, bad,
             "states.pt is a pickle, which is never read; the folder holds no states.safetensors"),
            (doubled, bad, "the folder holds adapter_config.json and states.safetensors, one "
                           "adapter is wanted"),
            (move("1", "2"), not_ours, 'states.safetensors: tensor "2" is not named by a recurrent '
                                       "layer of the model"),
            (states_of(turned), not_ours, 'states.safetensors: tensor "0" has shape [4, 24, 16], '
                                          "the model's state has [4, 16, 24]"),
            (meta, not_ours,
             'meta.json: "arch" is "mamba2", the model\'s is "gated_delta_net"'),
            (config_of(rank=3), not_ours, 'config.json: "rank" is 3, which is not supported'),
            (lambda folder: (states_of(huge)(folder), config_of(alpha=2)(folder)), bad,
             'states.safetensors: tensor "3" has 3e+38 at index 0, times 2 it is beyond fp32'),
        ]

    def test_each_is_refused_by_name(self):
        alone = self.ask(**self.job("s", tokens=8)).key()
        for i, (change, why, words) in enumerate(self.cases()):
            with self.subTest(words):
                name = f"bad{i}"
                self.put(name, "s", change)
                for call in (lambda n=name: self.load(n),
                             lambda n=name: self.client.generate(**self.job(n))):
                    error = self.refused(Code.FAILED_PRECONDITION, why, call)
                    self.assertEqual(error.details(), f'could not load adapter "{name}": {words}')
                a = self.adapter(name)
                self.assertEqual((a.state, a.last_error, a.kind),
                                 (A.ADAPTER_STATE_FAILED, error.details(), ""))
        self.assertEqual(self.ask(**self.job("s", tokens=8)).key(), alone)

    def test_failed_swap_keeps_the_state_that_serves(self):
        self.put("keep", "n")
        revision = self.load("keep").adapter.revision
        self.put("keep", "s", states_of(lambda header, _: header.pop("0")))
        self.refused(Code.FAILED_PRECONDITION, "BAD_FILE", lambda: self.load("keep"))
        a = self.adapter("keep")
        self.assertEqual((a.state, a.kind, a.revision), (A.ADAPTER_STATE_DEVICE, "s0", revision))
        self.assertEqual(self.ask(**self.job("keep", tokens=8)).ids,
                         self.ask(**self.job("n", tokens=8)).ids)


class Dense(GoldenCase):
    """S0 on a base without recurrent layers."""
    case = "qwen2-bf16" if EMULATED else "qwen2"
    adapters_of = CASE
    names = ("s",)
    backend = BACKEND

    def test_states_are_refused(self):
        if not EMULATED:
            self.assertEqual(self.ask(**self.job()).ids, self.expected("base"))
        before = self.ask(**self.job(tokens=8)).key()
        model = self.client.models.GetModel(model_pb.GetModelRequest())
        self.assertEqual(list(model.adapter_kinds), ["ia3", "lora"])
        for call in (lambda: self.load("s"), lambda: self.client.generate(**self.job("s"))):
            error = self.refused(Code.FAILED_PRECONDITION, "ADAPTER_INCOMPATIBLE", call)
            self.assertEqual(error.details(),
                             'could not load adapter "s": states.safetensors: holds recurrent '
                             "states, the model (qwen2) has no recurrent layers")
        self.assertEqual(self.ask(**self.job(tokens=8)).key(), before)


class LittleMemory(HybridCase):
    """Pages for the prompts of three sequences, and for two of them to grow by the one that each
    needs: of three that came at once the youngest gives way."""
    more = ("--kv-memory", "40KiB" if EMULATED else "128KiB", "--max-context", "192")
    prompt_n, tokens = (62, 24) if EMULATED else (72, 118)

    def test_preemption_begins_with_the_state_again(self):
        sets = [("s",), (), ("s", "a"), (("s", -1.5),), ("ia3", "n"), ("a", ("n", 0.5))]
        jobs = [self.job(*adapters, tokens=self.tokens, prompt=self.prompt[:self.prompt_n])
                for adapters in sets]
        alone = [self.ask(**job) for job in jobs]
        self.assertEqual({answer.preemptions for answer in alone}, {0})
        given_way = 0

        def round_of_threes():
            nonlocal given_way
            for first in range(0, len(jobs), 3 if EMULATED else 1):
                three = [(first + i) % len(jobs) for i in range(3)]
                for i, answer in zip(three, self.crowd([jobs[i] for i in three])):
                    given_way += answer.preemptions
                    self.assertEqual(answer.key(), alone[i].key(), sets[i])
            return given_way > 0
        self.until(round_of_threes)  # three that come too far apart need not give way
        if not EMULATED:
            golden = self.expected("s")
            self.assertEqual(alone[0].ids[:len(golden)], golden)


class Churn(HybridCase):
    """Folders of every kind come, change kind and go, under streams."""
    places = ("p0", "p1", "p2", "p3")
    change_n = 8 if EMULATED else 24 if SANITIZED else 200
    stream_n = 2 if EMULATED else 6
    more = ("--adapter-memory", "1MiB")

    def setUp(self):
        super().setUp()
        self.prompts = [self.prompt, self.prompt[3:12], self.prompt[20:21]]
        self.lengths = [16, 8, 12] if EMULATED else [16, 50, 24] if SANITIZED else [16, 150, 40]
        sets = [(), *((x,) for x in self.names)]
        sets += [(x, y) for x in self.names for y in self.names
                 if x != y and not {x, y} <= {"s", "n"}]
        self.known = {(p, chosen): self.ask(**self.job_of(p, *chosen)).ids
                      for p in range(len(self.prompts)) for chosen in sets}
        for name in ("a", "b", "ia3"):  # two places may hold the same content
            self.put("same", name)
            self.load("same")
            for p in range(len(self.prompts)):
                self.known[p, (name, name)] = self.ask(**self.job_of(p, name, "same")).ids
        self.unload("same")
        self.content = {self.load(name).adapter.revision: name for name in self.names}
        self.lock = threading.Lock()
        self.history = {place: [] for place in self.places}  # contents as they were published
        self.least = {place: 0 for place in self.places}     # the oldest that may still be served
        self.seen = []
        self.failed = []
        self.finished = threading.Event()

    def job_of(self, p, *adapters):
        return self.job(*adapters, tokens=self.lengths[p], prompt=self.prompts[p])

    def change(self, place, content, what):
        with self.lock:
            self.history[place].append(content)
            at = len(self.history[place]) - 1
            self.publish(place, content)
        if what == "load":
            revision = self.load(place).adapter.revision
            self.assertEqual(self.content[revision], content)
            with self.lock:
                self.least[place] = at
        elif what == "unload":
            self.unload(place)
        # A read that two changes hit may be refused: none is under way when the next one comes.
        self.until(lambda: self.adapter(place).state != A.ADAPTER_STATE_LOADING)

    def stream(self, client, rng):
        p = rng.randrange(len(self.prompts))
        chosen = rng.sample(self.places, rng.choice((0, 1, 1, 1, 2)))
        with self.lock:
            least = {place: self.least[place] for place in chosen}
        try:
            messages = list(client.generate(**self.job_of(p, *chosen)))
        except grpc.RpcError as error:
            self.assertEqual((error.code(), reason(error)),
                             (Code.INVALID_ARGUMENT, "INVALID_PARAMETER"), error.details())
            self.assertEqual(len(chosen), 2)
            self.assertEqual(error.details(), f'adapters "{chosen[0]}" and "{chosen[1]}" both '
                                              "hold initial states, a request can have one")
            return ("refused",)
        contents = tuple(self.content[a.revision] for a in messages[0].started.adapters)
        for place, content in zip(chosen, contents):
            with self.lock:
                may_be = self.history[place][least[place]:]
            self.assertIn(content, may_be, f"{place} is stale")
        answer = Answer(messages)
        self.assertEqual(answer.ids, self.known[p, contents], (p, contents))
        return contents

    def streams(self, seed):
        rng = random.Random(seed)
        with Client(self.daemon.address) as client:
            while not self.finished.is_set():
                try:
                    self.seen.append(self.stream(client, rng))
                except BaseException as error:  # pylint: disable=broad-except
                    self.failed.append(error)
                    return

    def test_every_answer_is_of_the_version_it_began_with(self):
        rng = random.Random(3)
        for place in self.places:
            self.change(place, "a", "load")
        threads = [threading.Thread(target=self.streams, args=(seed,), daemon=True)
                   for seed in range(self.stream_n)]
        for thread in threads:
            thread.start()
        try:
            for i in range(self.change_n):
                self.change(rng.choice(self.places), rng.choice(self.names),
                            rng.choice(("load", "load", "unload", "leave")))
                # some answers between two changes
                self.until(lambda n=i: self.failed or len(self.seen) >= 2 * n)
            for name in self.names:
                self.change(rng.choice(self.places), name, "load")
                self.until(lambda n=name: self.failed or (n,) in self.seen)
        finally:
            self.finished.set()
            for thread in threads:
                thread.join(PATIENCE)
        if self.failed:
            raise self.failed[0]
        for place in self.places:
            self.until(lambda p=place: self.adapter(p).active_requests == 0)
            self.unload(place)
            self.assertEqual((self.adapter(place).retiring_versions,
                              self.adapter(place).device_bytes), (0, 0))
        self.assertEqual(self.ask(**self.job_of(0, "s")).ids, self.known[0, ("s",)])


if __name__ == "__main__":
    unittest.main(verbosity=2)
