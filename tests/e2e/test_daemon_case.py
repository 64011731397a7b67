"""What the daemon's end-to-end tests share: the demo model, its prompts, and comparing answers."""
import json
import os
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PATIENCE, ROOT, Client, Daemon, adapter_pb, grpc, reason  # noqa: E402

DEMO = os.path.join(ROOT, "deploy", "demo")
sys.path.insert(0, DEMO)
import tasks  # noqa: E402

Code = grpc.StatusCode
MODEL = os.path.join(DEMO, "model")
ADAPTERS = os.path.join(DEMO, "adapters")
SANITIZED = bool(os.environ.get("GRAFT_SANITIZED"))
LINES = tasks.held_out(64)
END = 394  # <|im_end|>, which ends the demo's answers

# Small memories: what a test wants to be scarce it says itself.
MODEST = ("--kv-memory", "32MiB", "--adapter-memory", "8MiB")
GREEDY = {"temperature": 0}
# With this output the daemon makes some 400 tokens and waits for them to be read: a client with
# these options takes little unasked.
VERBOSE = {"token_ids": True, "top_logprobs": 20}
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))


def prompt(i):
    return tasks.prompt(LINES[i % len(LINES)].text)


def refs(*adapters):
    """AdapterRefs of names or (name, weight)."""
    return [{"name": a} if isinstance(a, str) else {"name": a[0], "weight": a[1]}
            for a in adapters]


class Answer:
    """Everything of an answer that must not depend on who else was served."""

    def __init__(self, messages):
        self.text = "".join(m.text for m in messages)
        self.ids = [i for m in messages for i in m.token_ids]
        self.logprobs = [v for m in messages for v in m.logprobs.logprobs]
        self.tops = [v for m in messages for v in m.logprobs.top_logprobs]
        self.top_ids = [i for m in messages for i in m.logprobs.top_token_ids]
        self.reason = messages[-1].finish.reason
        self.usage = (messages[-1].usage.prompt_tokens, messages[-1].usage.completion_tokens)
        self.preemptions = messages[-1].timing.preemptions

    def key(self):
        return (self.text, self.ids, self.logprobs, self.tops, self.top_ids, self.reason,
                self.usage)


class DaemonCase(unittest.TestCase):
    """One daemon for all tests of a class."""
    model = MODEL
    flags = ("--adapters", ADAPTERS, *MODEST)

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.model, *cls.flags).ready()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()
        if "Sanitizer" in cls.daemon.log():
            raise AssertionError(cls.daemon.log())

    def setUp(self):
        self.client = Client(self.daemon.address)
        self.addCleanup(self.client.channel.close)

    def ask(self, text=None, **fields):
        """An answer with ids and log-probabilities, greedy unless said otherwise."""
        fields.setdefault("sampling", GREEDY)
        fields.setdefault("output", {"token_ids": True, "top_logprobs": 3})
        return Answer(list(self.client.generate(text, **fields)))

    def refused(self, code, why, call):
        with self.assertRaises(grpc.RpcError) as caught:
            result = call()
            if hasattr(result, "__iter__"):
                list(result)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertEqual(reason(caught.exception), why)
        return caught.exception

    def adapter(self, name):
        return self.client.adapters.GetAdapter(adapter_pb.GetAdapterRequest(name=name))

    def load(self, name):
        return self.client.adapters.LoadAdapter(adapter_pb.LoadAdapterRequest(name=name),
                                                timeout=PATIENCE)

    def unload(self, name):
        return self.client.adapters.UnloadAdapter(adapter_pb.UnloadAdapterRequest(name=name))

    def until(self, is_so):
        end = time.monotonic() + PATIENCE
        while not is_so():
            self.assertLess(time.monotonic(), end, "it never came to be")
            time.sleep(0.01)


def copy_adapter(root, name, source=None):
    """Copies a demo adapter's files into the folder, each replaced as a whole."""
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(os.path.join(ADAPTERS, source or name, file), os.path.join(folder, file))
    return folder


def copy_model(**changes):
    """The demo model in a folder of its own, with changes of its config.json."""
    folder = tempfile.mkdtemp(prefix="graft-e2e-model-")
    target = os.path.join(folder, "model")
    shutil.copytree(MODEL, target)
    path = os.path.join(target, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump({**config, **changes}, f)
    return target
