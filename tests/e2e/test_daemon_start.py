"""The daemon's start and end: what it refuses to start on, ready, drain, restart, idleness."""
import json
import os
import shutil
import subprocess
import threading
import time
import unittest

from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import PATIENCE, Client, Daemon, grpc, model_pb, pb, reason
from test_daemon_case import (ADAPTERS, LINES, MODEL, MODEST, NARROW, SANITIZED, VERBOSE, Answer,
                              Code, copy_model, prompt, refs, tasks)

FLAGS = ("--adapters", ADAPTERS, *MODEST)
LAYERS = ["linear_attention", *["full_attention"] * 3, "linear_attention"]


class Refused(unittest.TestCase):
    def ends(self, code, words, *flags, model=MODEL, folder=None):
        daemon = Daemon(model, *MODEST, *flags, folder=folder)
        self.addCleanup(daemon.kill)
        self.assertEqual(daemon.wait(), code, daemon.log())
        self.assertIn(words, daemon.log())
        self.assertNotIn("Sanitizer", daemon.log())
        return daemon.log()

    def spoilt(self, words, file, edit):
        """edit changes the parsed JSON of a file of a copied model, or gets its path."""
        model = copy_model()
        path = os.path.join(model, file)
        if file.endswith(".json"):
            with open(path, encoding="utf-8") as f:
                value = json.load(f)
            edit(value)
            with open(path, "w", encoding="utf-8") as f:
                json.dump(value, f)
        else:
            edit(path)
        self.ends(78, words, model=model)
        shutil.rmtree(os.path.dirname(model))

    def test_configs(self):
        for words, change in (
                ('"use_sliding_window" is true, which is not implemented',
                 {"use_sliding_window": True, "sliding_window": 128}),
                ('"model_type" is "mamba", only llama, qwen2, qwen3, qwen3_5 and falcon_h1 are '
                 'implemented', {"model_type": "mamba"}),
                ('"frobnicate" is 3, which is not implemented for "qwen3_5_text"',
                 {"frobnicate": 3}),
                ('"hidden_act" is "gelu"', {"hidden_act": "gelu"}),
                ("yarn", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}),
                ('"hidden_size" is 0, it must lie in 1 to', {"hidden_size": 0}),
                ("shape [448, 160], config.json asks for [448, 192]", {"hidden_size": 192}),
                ('tensor "model.layers.5.input_layernorm.weight" is missing',
                 {"num_hidden_layers": 6, "layer_types": LAYERS + ["full_attention"]}),
                ('is not part of a qwen3_5_text model as config.json describes it',
                 {"num_hidden_layers": 4, "layer_types": LAYERS[:4]})):
            with self.subTest(words):
                self.spoilt(words, "config.json", lambda config, c=change: config.update(c))

    def test_tokenizers(self):
        def model(**change):
            return lambda t: t["model"].update(change)
        for words, edit in (
                ('model: "byte_fallback" is true, which is not implemented',
                 model(byte_fallback=True)),
                ('model type "WordPiece" is not implemented', model(type="WordPiece")),
                ('normalizer type "Lowercase" is not implemented',
                 lambda t: t.update(normalizer={"type": "Lowercase"})),
                ('pre_tokenizer type "Metaspace" is not implemented',
                 lambda t: t.update(pre_tokenizer={"type": "Metaspace"}))):
            with self.subTest(words):
                self.spoilt(words, "tokenizer.json", edit)

    def test_weights(self):
        def cut(path):
            os.truncate(path, os.path.getsize(path) // 2)

        def rename(path):
            with open(path, "r+b") as f:
                raw = f.read(65536)
                f.seek(raw.index(b"model.norm.weight"))
                f.write(b"model.nurm.weight")

        def header(path):
            with open(path, "r+b") as f:
                f.write(b"\xff" * 8)
        for words, edit in (("lies at bytes", cut),
                            ('tensor "model.norm.weight" is missing', rename),
                            ("has a header of 18446744073709551615 bytes", header),
                            ("neither model.safetensors nor", os.remove)):
            with self.subTest(words):
                self.spoilt(words, "model.safetensors", edit)

    def test_flags(self):
        self.ends(78, "--kv-memory of 1024 bytes holds no page: 64 positions of this model take "
                  "49152 bytes", "--kv-memory", "1KiB")
        log = self.ends(78, "MiB are available", "--adapter-memory", "64TiB")
        for line in ("weights", "KV pages", "adapters", "workspace", "total"):
            self.assertIn(f"memory  {line}", log)
        self.ends(78, "--max-context is 5000, the model's limit is 1024", "--max-context", "5000")
        self.ends(78, 'could not open the adapter root "/nope"', "--adapters", "/nope")
        self.ends(78, "--frob is no flag", "--frob")
        self.ends(78, "/nope/config.json", model="/nope")


class Choice(unittest.TestCase):
    """What serves, and from which weights."""

    def run_graftd(self, *flags):
        return subprocess.run([os.environ["GRAFT_DAEMON"], *flags], capture_output=True, text=True,
                              check=False)

    def test_check(self):
        done = self.run_graftd("--check", "--model", MODEL, *MODEST)
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("cpu.isa        portable    ok", "gpu", "backend        ", "memory  weights",
                      "memory  KV pages                             33.5 MB", "memory  total"):
            self.assertIn(words, done.stdout)
        done = self.run_graftd("--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("weights", done.stdout)
        done = self.run_graftd("--check", "--model", MODEL, "--max-context", "5000")
        self.assertEqual(done.returncode, 78)
        self.assertIn("model          --max-context is 5000, the model's limit is 1024", done.stdout)

    def test_no_gpu(self):
        if "gpu.0" in self.run_graftd("--check").stdout:
            self.skipTest("this machine has a GPU")
        daemon = Daemon(MODEL, *MODEST).ready()
        self.addCleanup(daemon.stop)
        self.assertEqual(daemon.log().count("the CPU backend serves: "), 1)
        self.assertIn('backend="cpu"', daemon.log())
        done = self.run_graftd("--model", MODEL, "--backend", "cuda", "--listen",
                               f"unix:{daemon.folder}/other.sock")
        self.assertEqual(done.returncode, 78)
        self.assertRegex(done.stderr + done.stdout,
                         'could not use backend "cuda": (no NVIDIA driver|this program was built)')

    def test_random_weights(self):
        """config.json and the tokenizer are enough; a seed names a model."""
        model = copy_model()
        self.addCleanup(shutil.rmtree, os.path.dirname(model))
        os.remove(os.path.join(model, "model.safetensors"))
        seen = []
        for seed, backend in ((7, "cpu"), (7, "ref"), (8, "cpu")):
            daemon = Daemon(model, *MODEST, "--weights", f"random:{seed}", "--backend", backend,
                            "--dtype", "f32").ready()
            self.addCleanup(daemon.kill)
            with Client(daemon.address) as client:
                fingerprint = client.models.GetModel(model_pb.GetModelRequest()).fingerprint
                self.assertRegex(fingerprint, f"^random:{seed}:[0-9a-f]{{64}}$")
                seen.append(client.answer(prompt(0), sampling={"temperature": 0},
                                          stopping={"max_tokens": 8, "ignore_eos": True},
                                          output={"token_ids": True})[1])
            daemon.stop()
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[0], seen[2])
        os.remove(os.path.join(model, "tokenizer.json"))
        daemon = Daemon(model, "--weights", "random:7")
        self.assertEqual(daemon.wait(), 78)
        self.assertIn("tokenizer.json", daemon.log())


class Life(unittest.TestCase):
    def start(self, *flags, folder=None, model=MODEL):
        daemon = Daemon(model, *(flags or FLAGS), folder=folder)
        self.addCleanup(daemon.kill)
        return daemon

    def read(self, call, messages):
        try:
            for message in call:
                messages.append(message)
        except grpc.RpcError:
            pass  # the call says it

    def test_health_turns_to_serving(self):
        daemon = self.start()
        daemon.wait_log("listening on")
        with Client(daemon.address) as client:
            watch = health_pb2_grpc.HealthStub(client.channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            seen = []
            for answer in watch:
                seen.append(answer.status)
                if seen[-1] == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    break
            self.assertIn(seen, [[2, 1], [1]])  # whether we came before it was ready is a race
            daemon.ready()
            self.assertEqual(client.answer(prompt(0))[0], LINES[0].text)
        daemon.stop()

    def test_second_instance_and_kill(self):
        first = self.start().ready()
        second = self.start(folder=first.folder)
        self.assertEqual(second.wait(), 75, second.log())
        self.assertIn("s.sock", second.log())
        with Client(first.address) as client:
            self.assertEqual(client.answer(prompt(0))[0], LINES[0].text)
        first.kill()
        again = self.start(folder=first.folder).ready()
        with Client(again.address) as client:
            self.assertEqual(client.answer(prompt(0))[0], LINES[0].text)
        again.stop()

    def test_sigterm_drains(self):
        daemon = self.start().ready()
        job = {"stopping": {"ignore_eos": True, "max_tokens": 500}, "output": VERBOSE}
        with Client(daemon.address) as client:
            alone = Answer(list(client.generate(prompt(0), **job)))
        with Client(daemon.address, *NARROW) as client:
            call = client.generate(prompt(0), **job)
            running = [next(call)]  # it goes on once it is read
            daemon.signal()
            daemon.wait_log("draining")
            with self.assertRaises(grpc.RpcError) as caught:
                client.answer(prompt(0))
            self.assertEqual(caught.exception.code(), Code.UNAVAILABLE)
            running += list(call)
            self.assertEqual(Answer(running).key(), alone.key())
        self.assertEqual(daemon.wait(), 0, daemon.log())

    def test_second_sigterm_cancels(self):
        """Calls that would go on for minutes, and are read: the answers wait for nobody."""
        model = copy_model(max_position_embeddings=32768)
        self.addCleanup(shutil.rmtree, os.path.dirname(model))
        daemon = self.start("--kv-memory", "96MiB", "--backend", "ref", model=model).ready()
        with Client(daemon.address) as client:
            calls = [client.generate("x", stopping={"ignore_eos": True}) for _ in range(3)]
            answers = [[next(call)] for call in calls]
            threads = [threading.Thread(target=self.read, args=pair, daemon=True)
                       for pair in zip(calls, answers)]
            for thread in threads:
                thread.start()
            daemon.signal()
            daemon.wait_log("draining")
            daemon.signal()
            for thread in threads:
                thread.join(PATIENCE)
            for call, messages in zip(calls, answers):
                self.assertEqual(messages[-1].finish.reason, pb.FINISH_REASON_CANCELLED)
                self.assertEqual(call.code(), Code.UNAVAILABLE)
                self.assertEqual(reason(call), "DRAINING")
        self.assertEqual(daemon.wait(), 0, daemon.log())

    def test_idle_uses_no_cpu(self):
        daemon = self.start().ready()
        with Client(daemon.address) as client:
            client.answer(prompt(0), adapters=refs("date"))

            def ticks():
                with open(f"/proc/{daemon.process.pid}/stat", encoding="ascii") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                return int(fields[11]) + int(fields[12])
            end = time.monotonic() + PATIENCE
            limit = 10 if SANITIZED else 2  # a sanitizer's own thread may tick
            used = limit + 1
            while used > limit:  # one that polls is never quiet
                self.assertLess(time.monotonic(), end, f"{used} ticks of 200")
                before = ticks()
                time.sleep(2)
                used = ticks() - before
        daemon.stop()

    def test_backends_give_the_same_text(self):
        asked = [(i, names) for i in range(1 if SANITIZED else 6)
                 for names in ((), ("date",), ("slug", "json"), ("slug-s0", "json"))]
        # A sanitizer makes plain C slow; mixing_test has it there.
        slow = () if SANITIZED else (("--backend", "ref"), ("--isa", "portable"))
        for flags in ((), *slow, ("--threads", "1"), ("--dtype", "f32")):
            daemon = self.start(*FLAGS, *flags).ready()
            with Client(daemon.address) as client:
                for i, names in asked:
                    want = tasks.answer(LINES[i], names[0].removesuffix(tasks.STATE) if names
                                        else "copy", len(names) > 1)
                    self.assertEqual(client.answer(prompt(i), adapters=refs(*names))[0], want,
                                     flags)
            daemon.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
