"""What the end-to-end tests share: a byte-level tokenizer, a server process, channels and stubs.

GRAFT_ECHO_SERVER and GRAFT_DAEMON name the programs.
"""
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
import stubs  # noqa: E402

# Sanitizer builds: whole libraries that are not instrumented are left out, by name.
TESTS = os.path.join(ROOT, "tests")
os.environ.setdefault("TSAN_OPTIONS", f"halt_on_error=1 suppressions={TESTS}/tsan.supp")
os.environ.setdefault("LSAN_OPTIONS", f"suppressions={TESTS}/lsan.supp")

warnings.filterwarnings("ignore")
stubs.path()
import grpc  # noqa: E402
from google.rpc import error_details_pb2 as details_pb  # noqa: E402
from graft.v1 import adapter_pb2 as adapter_pb  # noqa: E402
from graft.v1 import adapter_pb2_grpc, inference_pb2_grpc, model_pb2_grpc  # noqa: E402
from graft.v1 import inference_pb2 as pb  # noqa: E402
from graft.v1 import model_pb2 as model_pb  # noqa: E402
from grpc_status import rpc_status  # noqa: E402

__all__ = ["grpc", "pb", "adapter_pb", "model_pb", "Server", "Daemon", "Client", "details", "reason",
           "write_byte_model", "END"]

END = 256  # <|end|> of the byte model
# A sanitizer build is slower; every wait of the tests is a limit, never an expectation.
PATIENCE = float(os.environ.get("GRAFT_E2E_PATIENCE", "60"))


def byte_characters():
    """The characters that stand for bytes in byte-level vocabularies, by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 256
    for byte in range(256):
        if byte in plain:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(extra)
            extra += 1
    return table


def write_byte_model(folder):
    """A tokenizer whose ids 0 to 255 are the bytes, and three special tokens."""
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    vocab = {char: byte for byte, char in byte_characters().items()}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": 256 + i, "content": s, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False} for i, s in enumerate(specials)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": []},
    }
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"chat_template": "{{ '<|im_start|>' }}", "eos_token": "<|end|>"}, f)


def program(variable):
    path = os.environ.get(variable)
    if not path:
        sys.exit(f"{variable} names no program")
    return path


class Process:
    """A program that serves graft.v1 on a unix socket in a folder of its own."""

    def __init__(self, folder, arguments, files=None):
        self.folder = folder
        self.path = os.path.join(folder, "s.sock")
        self.address = "unix:" + self.path
        self.log_path = os.path.join(folder, f"log-{time.monotonic_ns()}")
        self.files = files  # how many descriptors it may have once it is ready
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(arguments, stderr=log, stdout=log)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def wait_log(self, text, count=1):
        end = time.monotonic() + PATIENCE
        while True:
            has_ended = self.process.poll() is not None  # before the look at what it wrote
            log = self.log()
            if log.count(text) >= count:
                return self
            if has_ended or time.monotonic() > end:
                raise AssertionError(f"{text!r} is not in the log:\n{log[-4000:]}")
            time.sleep(0.01)

    def ready(self):
        self.wait_log(" ready")
        if self.files:  # it has raised its own limit by now
            limits = (self.files, self.files)
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, limits)
        return self

    def tcp_port(self):
        line = next(x for x in self.log().splitlines() if "tcp://" in x)
        return int(line.rsplit(":", 1)[1])

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE)

    def stop(self):
        if self.process.poll() is None:
            self.signal()
        code = self.wait()
        if code != 0:
            raise AssertionError(f"the server ended with {code}:\n{self.log()[-8000:]}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Server(Process):
    """The echo server."""

    def __init__(self, step_us=200, waits=False, drain_ms=20000, active=64, tcp=False, folder=None,
                 files=None):
        folder = folder or tempfile.mkdtemp(prefix="graft-e2e-")
        write_byte_model(folder)
        addresses = [f"unix:{folder}/s.sock"] + (["tcp://127.0.0.1:0"] if tcp else [])
        super().__init__(folder, [program("GRAFT_ECHO_SERVER"), folder, str(step_us),
                                  "1" if waits else "0", str(drain_ms), str(active), *addresses],
                         files)

    def go_on(self):
        """Lets a server that waits become ready."""
        with open(os.path.join(self.folder, "go"), "wb"):
            pass


class Daemon(Process):
    """graftd itself on a model, with any flags."""

    def __init__(self, model, *flags, folder=None):
        folder = folder or tempfile.mkdtemp(prefix="graft-e2e-")
        super().__init__(folder, [program("GRAFT_DAEMON"), "--model", model, "--listen",
                                  f"unix:{folder}/s.sock", *flags])


class Client:
    """Channel and stubs; a context manager."""

    def __init__(self, address, *options):
        self.channel = grpc.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), *options])
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.adapters = adapter_pb2_grpc.AdapterServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def generate(self, text=None, timeout=PATIENCE, **fields):
        """Starts Generate; stopping and others as keyword arguments of the message."""
        if text is not None:
            fields["text"] = text
        return self.inference.Generate(pb.GenerateRequest(**fields), timeout=timeout)

    def answer(self, text=None, **fields):
        """Runs Generate to its end; returns (text, token ids, last message, all messages)."""
        messages = list(self.generate(text, **fields))
        ids = [i for m in messages for i in m.token_ids]
        return "".join(m.text for m in messages), ids, messages[-1], messages


def details(error):
    """The details of a failed call by their short type name, exactly one ErrorInfo among them."""
    status = rpc_status.from_call(error)
    found = {}
    for any_detail in status.details:
        name = any_detail.type_url.rsplit(".", 1)[1]
        message = getattr(details_pb, name)()
        assert any_detail.Unpack(message)
        assert name not in found
        found[name] = message
    assert found["ErrorInfo"].domain == "graft"
    assert status.message == error.details()
    return found


def reason(error):
    return details(error)["ErrorInfo"].reason
