"""Adapters over their life: loading, swapping, draining, failing, too little memory for them."""
import json
import os
import shutil
import struct
import tempfile
import unittest

from harness import Daemon, adapter_pb, pb
from test_daemon_case import (LINES, MODEL, MODEST, SANITIZED, Answer, Code, DaemonCase,
                              copy_adapter, prompt, refs, tasks)

A = adapter_pb
LONG = {"ignore_eos": True, "max_tokens": 60 if SANITIZED else 400}
TOKENS = {"token_ids": True, "top_logprobs": 1}
TENSOR = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


class OwnRoot(DaemonCase):
    """A daemon over an adapter root of its own, with the named demo adapters in it."""
    names = ("date", "slug", "title")

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="graft-e2e-adapters-")
        for name in cls.names:
            copy_adapter(cls.root, name)
        cls.flags = ("--adapters", cls.root, *MODEST)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.root)


class Life(OwnRoot):
    def test_load_on_first_use(self):
        copy_adapter(self.root, "roman")
        self.assertEqual(self.ask(prompt(0), adapters=refs("roman")).text,
                         tasks.answer(LINES[0], "roman"))
        a = self.adapter("roman")
        self.assertEqual((a.state, a.loads, a.kind, a.rank_max, a.modules_applied,
                          a.modules_total), (A.ADAPTER_STATE_DEVICE, 1, "lora", 8, 33, 33))
        self.assertGreater(a.device_bytes, 0)
        listed = self.client.adapters.ListAdapters(A.ListAdaptersRequest())
        names = [x.name for x in listed.adapters]
        self.assertEqual(names, sorted(names))
        self.assertIn("roman", names)

    def test_same_content_is_a_success_without_work(self):
        first = self.load("slug")
        again = self.load("slug")
        self.assertTrue(again.unchanged)
        self.assertEqual((again.adapter.loads, again.adapter.revision),
                         (first.adapter.loads, first.adapter.revision))

    def test_fail_if_cold(self):
        ask = {"adapters": refs("title"), "load_policy": pb.LOAD_POLICY_FAIL_IF_COLD}
        self.refused(Code.UNAVAILABLE, "ADAPTER_LOADING",
                     lambda: self.client.generate("x", **ask))
        self.load("title")
        self.assertEqual(self.ask(prompt(0), **ask).text, tasks.answer(LINES[0], "title"))

    def test_swap_while_a_stream_runs(self):
        copy_adapter(self.root, "swap", "date")
        old = self.load("swap").adapter.revision
        alone = self.ask(prompt(0), adapters=refs("swap"), stopping=LONG, output=TOKENS)
        call = self.client.generate(prompt(0), adapters=refs("swap"), stopping=LONG, output=TOKENS)
        running = [next(call), next(call)]
        copy_adapter(self.root, "swap", "slug")
        loaded = self.load("swap")
        self.assertFalse(loaded.unchanged)
        self.assertNotEqual(loaded.adapter.revision, old)
        self.assertEqual(self.ask(prompt(0), adapters=refs("swap")).text,
                         tasks.answer(LINES[0], "slug"))
        running += list(call)
        self.assertEqual(Answer(running).key(), alone.key())
        self.assertEqual(running[0].started.adapters[0].revision, old)
        self.until(lambda: self.adapter("swap").retiring_versions == 0)

    def test_unload_in_use_drains(self):
        alone = self.ask(prompt(1), adapters=refs("date"), stopping=LONG, output=TOKENS)
        call = self.client.generate(prompt(1), adapters=refs("date"), stopping=LONG, output=TOKENS)
        running = [next(call), next(call)]
        self.unload("date")
        running += list(call)
        self.assertEqual(Answer(running).key(), alone.key())
        self.until(lambda: self.adapter("date").state == A.ADAPTER_STATE_REGISTERED)
        self.assertEqual(self.adapter("date").device_bytes, 0)
        self.assertEqual(self.ask(prompt(1), adapters=refs("date")).text,
                         tasks.answer(LINES[1], "date"))

    def test_failed_reload_keeps_the_version_that_serves(self):
        folder = copy_adapter(self.root, "keep", "date")
        revision = self.load("keep").adapter.revision
        with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
            f.write("{")
        error = self.refused(Code.FAILED_PRECONDITION, "BAD_FILE", lambda: self.load("keep"))
        a = self.adapter("keep")
        self.assertEqual((a.state, a.revision), (A.ADAPTER_STATE_DEVICE, revision))
        self.assertEqual(a.last_error, error.details())
        self.assertIn('could not load adapter "keep": adapter_config.json: line 1', a.last_error)
        self.assertEqual(self.ask(prompt(0), adapters=refs("keep")).text,
                         tasks.answer(LINES[0], "date"))
        copy_adapter(self.root, "keep", "slug")
        self.assertEqual(self.load("keep").adapter.last_error, "")

    def test_unknown_names(self):
        for call in (self.adapter, self.unload):
            error = self.refused(Code.NOT_FOUND, "ADAPTER_NOT_FOUND", lambda c=call: c("nope"))
            self.assertEqual(error.details(), 'adapter "nope" is not known')
        self.refused(Code.NOT_FOUND, "ADAPTER_NOT_FOUND", lambda: self.load("nope"))
        self.refused(Code.INVALID_ARGUMENT, "INVALID_PARAMETER", lambda: self.load("../date"))


class Malformed(OwnRoot):
    """Every one is refused by key, tensor or file; none hurts what else is served."""

    def config(self, **changes):
        def change(folder):
            path = os.path.join(folder, "adapter_config.json")
            with open(path, encoding="utf-8") as f:
                config = json.load(f)
            for key, value in changes.items():
                config[key] = value
                if value is ...:
                    del config[key]
            with open(path, "w", encoding="utf-8") as f:
                json.dump(config, f)
        return change

    def tensors(self, edit):
        """Rewrites the header through edit(header, data); what it returns becomes the data."""
        def change(folder):
            path = os.path.join(folder, "adapter_model.safetensors")
            with open(path, "rb") as f:
                raw = f.read()
            n = struct.unpack("<Q", raw[:8])[0]
            header, data = json.loads(raw[8:8 + n]), bytearray(raw[8 + n:])
            data = edit(header, data) or data
            text = json.dumps(header).encode()
            with open(path, "wb") as f:
                f.write(struct.pack("<Q", len(text)) + text + data)
        return change

    @staticmethod
    def cut(folder):
        path = os.path.join(folder, "adapter_model.safetensors")
        os.truncate(path, os.path.getsize(path) - 100)

    @staticmethod
    def remove(file):
        return lambda folder: os.remove(os.path.join(folder, file))

    @staticmethod
    def pickle(folder):
        os.rename(os.path.join(folder, "adapter_model.safetensors"),
                  os.path.join(folder, "adapter_model.bin"))

    @staticmethod
    def link_out(folder):
        path = os.path.join(folder, "adapter_model.safetensors")
        os.remove(path)
        os.symlink("/etc/hostname", path)

    @staticmethod
    def rename(old, new):
        def edit(header, _):
            header[new] = header.pop(old)
        return edit

    @staticmethod
    def nan(header, data):
        begin = header[TENSOR]["data_offsets"][0]
        data[begin:begin + 2] = struct.pack("<H", 0x7fc0)  # in bf16 and in f16

    def cases(self):
        other = TENSOR.replace("q_proj", "x_proj")
        bad, not_ours = "BAD_FILE", "ADAPTER_INCOMPATIBLE"
        config = "adapter_config.json"
        return [
            (self.config(peft_type=...), bad, f'{config}: "peft_type" is missing'),
            (self.config(peft_type="VERA"), not_ours,
             f'{config}: "peft_type" is "VERA", only "LORA" and "IA3" are supported'),
            (self.config(use_dora=True), not_ours,
             f'{config}: "use_dora" is true, which is not supported'),
            (self.config(bias="all"), not_ours,
             f'{config}: "bias" is "all", only "none" is supported'),
            (self.config(r=16), not_ours, " has 8 rows, rank is 16"),
            (self.config(r=0), bad, f'{config}: "r" is 0, it must lie in 1 to 4096'),
            (self.config(target_modules=[]), bad,
             f'{config}: "target_modules" is an empty list'),
            (self.config(modules_to_save=["lm_head"]), not_ours,
             f'{config}: "modules_to_save" is ["lm_head"], which is not supported'),
            (self.config(target_modules=["q_proj"]), bad,
             'is of a module that "target_modules" does not name'),
            (self.remove(config), bad, f"the folder holds no {config} and no states.safetensors"),
            (self.remove("adapter_model.safetensors"), bad,
             "adapter_model.safetensors is missing"),
            (self.cut, bad, "lies at bytes"),
            (self.pickle, bad, "adapter_model.bin is a pickle, which is never read"),
            (self.link_out, bad,
             "adapter_model.safetensors: a link leads out of the adapter root"),
            (self.tensors(self.rename(TENSOR, other)), not_ours,
             f'tensor "{other}" belongs to no linear of the model\'s layers'),
            (self.tensors(self.rename(TENSOR, "w")), not_ours,
             'tensor "w" is not a factor of the form'),
            (self.tensors(self.nan), bad, f'tensor "{TENSOR}" has a NaN at [0, 0]'),
        ]

    def test_each_is_refused_by_name(self):
        alone = self.ask(prompt(0), adapters=refs("slug")).key()
        for i, (change, why, words) in enumerate(self.cases()):
            with self.subTest(words):
                name = f"bad{i}"
                change(copy_adapter(self.root, name, "date"))
                for call in (lambda n=name: self.load(n),
                             lambda n=name: self.client.generate("x", adapters=refs(n))):
                    error = self.refused(Code.FAILED_PRECONDITION, why, call)
                    self.assertIn(f'could not load adapter "{name}": ', error.details())
                    self.assertIn(words, error.details())
                a = self.adapter(name)
                self.assertEqual((a.state, a.last_error),
                                 (A.ADAPTER_STATE_FAILED, error.details()))
        self.assertEqual(self.ask(prompt(0), adapters=refs("slug")).key(), alone)

    def test_folder_that_leads_out(self):
        outside = tempfile.mkdtemp(prefix="graft-e2e-outside-")
        copy_adapter(outside, "date")
        os.symlink(os.path.join(outside, "date"), os.path.join(self.root, "out"))
        error = self.refused(Code.FAILED_PRECONDITION, "BAD_FILE", lambda: self.load("out"))
        self.assertIn("a link leads out of the adapter root", error.details())
        os.symlink("date", os.path.join(self.root, "inside"))
        self.assertEqual(self.load("inside").adapter.revision, self.load("date").adapter.revision)
        shutil.rmtree(outside)


class LittleMemory(DaemonCase):
    """Room for two of the LoRAs, and for a quarter of the crowd's keys and values."""
    flags = (*DaemonCase.flags[:2], "--adapter-memory", "800KiB", "--kv-memory", "192KiB",
             "--max-context", "256")
    count = 7 if SANITIZED else 32

    def test_eviction_and_preemption_change_no_answer(self):
        sets = [(), ("date",), ("slug",), ("roman",), ("slug", "json"), ("title",), ("redact",),
                *[(name + tasks.STATE,) for name in tasks.ADAPTERS]]
        jobs = [{"text": prompt(i), "adapters": refs(*sets[i % len(sets)]),
                 "stopping": {"ignore_eos": True, "max_tokens": 30 if SANITIZED else 100},
                 "sampling": {"temperature": 1.0, "seed": i} if i % 3 else {"temperature": 0},
                 "output": {"token_ids": True, "top_logprobs": 1}}
                for i in range(max(self.count, len(sets)))]
        crowd = [Answer(list(c)) for c in [self.client.generate(**job) for job in jobs]]
        plenty = Daemon(MODEL, *DaemonCase.flags).ready()
        self.addCleanup(plenty.kill)
        mine, self.client = self.client, type(self.client)(plenty.address)
        alone = [self.ask(**job) for job in jobs]
        self.client.channel.close()
        self.client = mine
        plenty.stop()
        for a, b in zip(alone, crowd):
            self.assertEqual(a.key(), b.key())
        adapters = self.client.adapters.ListAdapters(A.ListAdaptersRequest()).adapters
        self.assertLessEqual(sum(a.device_bytes for a in adapters), 800 << 10)
        self.assertEqual({a.loads > 0 for a in adapters}, {True})

    def test_preemption_changes_no_answer(self):
        jobs = [{"text": prompt(i), "sampling": {"temperature": 1.0, "seed": i},
                 "stopping": {"ignore_eos": True, "max_tokens": 100},
                 "output": {"token_ids": True, "top_logprobs": 1}} for i in range(self.count)]
        crowd = [Answer(list(c)) for c in [self.client.generate(**job) for job in jobs]]
        pairs = list(zip(jobs, crowd))
        preempted = [pair for pair in pairs if pair[1].preemptions]
        self.assertGreater(len(preempted), 0)
        others = [pair for pair in pairs if not pair[1].preemptions]
        for job, answer in preempted + others[:1] if SANITIZED else pairs:
            alone = self.ask(**job)
            self.assertEqual(alone.preemptions, 0)
            self.assertEqual(alone.key(), answer.key())

    def test_what_can_never_fit(self):
        error = self.refused(Code.RESOURCE_EXHAUSTED, "ADAPTER_MEMORY_EXHAUSTED",
                             lambda: self.client.generate("x", adapters=refs("date", "slug",
                                                                             "json")))
        self.assertIn("819200", error.details())


if __name__ == "__main__":
    unittest.main(verbosity=2)
