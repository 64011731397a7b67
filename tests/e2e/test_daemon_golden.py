"""What tests of the daemon on a golden case (tests/golden) share: a tokenizer of token names, the
tensors of a file, and an adapter root whose folders change as a whole."""
import array
import json
import os
import shutil
import struct
import tempfile

from harness import ROOT
from test_daemon_case import GREEDY, MODEST, DaemonCase, refs

GOLDEN = os.path.join(ROOT, "tests", "golden")


def read_header(path):
    """The header of a safetensors file and its data."""
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    return header, bytearray(raw[8 + n:])


def write_header(path, header, data):
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def read_tensors(path):
    """name -> (shape, values) of I32 and F32 tensors."""
    header, data = read_header(path)
    found = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        values = array.array({"I32": "i", "F32": "f"}[tensor["dtype"]])
        values.frombytes(bytes(data[begin:end]))
        found[name] = (tensor["shape"], values.tolist())
    return found


def write_token_model(folder, vocab_n):
    """A tokenizer whose token 5 is the text "<5>", and no other text is known."""
    tokenizer = {
        "added_tokens": [{"id": i, "content": f"<{i}>", "special": False, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False}
                         for i in range(vocab_n)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f)


def text_of(ids):
    return "".join(f"<{i}>" for i in ids)


class GoldenCase(DaemonCase):
    """A daemon on a golden case, over a root of its own with the named adapters of a case."""
    case = "qwen35"
    adapters_of = None  # the case itself
    names = ("a", "b", "s", "n", "ia3")
    backend = ("--backend", "cpu")
    more = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="graft-e2e-golden-")
        cls.model = os.path.join(cls.folder, cls.case)
        cls.root = os.path.join(cls.folder, "adapters")
        source = os.path.join(GOLDEN, cls.case)
        cls.source = os.path.join(GOLDEN, cls.adapters_of or cls.case, "adapters")
        os.mkdir(cls.model)
        os.mkdir(cls.root)
        for file in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.copy(os.path.join(source, file), cls.model)
        with open(os.path.join(cls.model, "config.json"), encoding="utf-8") as f:
            write_token_model(cls.model, json.load(f)["vocab_size"])
        cls.golden = read_tensors(os.path.join(source, "golden.safetensors"))
        cls.prompt = cls.golden["prompt"][1]
        for name in cls.names:
            cls.put(name)
        cls.flags = (*cls.backend, "--adapters", cls.root, *MODEST, *cls.more)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.folder)

    @classmethod
    def put(cls, name, source=None, change=None):
        """The folder becomes, at one moment, a copy of a golden adapter that `change` was at."""
        new = tempfile.mkdtemp(prefix=".", dir=cls.root)
        shutil.copytree(os.path.join(cls.source, source or name), new, dirs_exist_ok=True)
        if change:
            change(new)
        cls.publish(name, os.path.basename(new))
        return new

    @classmethod
    def publish(cls, name, target):
        """Links the name to a folder of the root, in place of what it was linked to."""
        link = tempfile.mktemp(prefix=".link-", dir=cls.root)
        os.symlink(target, link)
        os.rename(link, os.path.join(cls.root, name))

    @classmethod
    def expected(cls, run):
        return cls.golden[f"{run}.tokens"][1]

    @classmethod
    def job(cls, *adapters, tokens=64, prompt=None, **fields):
        """A greedy request of a number of tokens after the golden prompt."""
        return {"token_ids": {"ids": prompt or cls.prompt}, "adapters": refs(*adapters),
                "sampling": GREEDY, "stopping": {"ignore_eos": True, "max_tokens": tokens},
                "output": {"token_ids": True, "top_logprobs": 2}, **fields}
