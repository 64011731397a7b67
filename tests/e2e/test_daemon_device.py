"""The daemon on a device that can be lost; only where the device is emulated (preset emu)."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PATIENCE, ROOT, Client, Daemon, grpc  # noqa: E402
from test_daemon_case import ADAPTERS, MODEL, MODEST, prompt, refs  # noqa: E402

LOST = 70  # the exit status of a process whose device was lost


class Device(unittest.TestCase):
    def daemon(self, *flags, **environment):
        saved = dict(os.environ)
        os.environ.update(environment)
        try:
            return Daemon(MODEL, "--adapters", ADAPTERS, *MODEST, *flags)
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def test_the_device_is_found_and_used(self):
        daemon = self.daemon().ready()
        self.addCleanup(daemon.stop)
        self.assertIn('backend="cuda"', daemon.log())
        self.assertIn('isa="emulated sm_90"', daemon.log())
        with Client(daemon.address) as client:
            pair = {"adapters": refs("slug", ("json", 0.5)), "sampling": {"temperature": 0},
                    "stopping": {"max_tokens": 8}, "output": {"token_ids": True}}
            answers = [[i for m in client.generate(prompt(0), **pair) for i in m.token_ids]
                       for _ in range(2)]
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(len(answers[0]), 8)

    def lost(self, **environment):
        daemon = self.daemon(**environment).ready()
        with Client(daemon.address) as client, self.assertRaises(grpc.RpcError) as caught:
            list(client.generate(prompt(0), stopping={"max_tokens": 40, "ignore_eos": True}))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(daemon.process.wait(PATIENCE), LOST)
        self.assertEqual(daemon.log().count("device lost"), 1)

    def test_a_sticky_error_ends_the_process(self):
        self.lost(GRAFT_EMU_FAIL="3", GRAFT_EMU_KERNEL="publish")

    def test_a_hung_kernel_ends_the_process(self):
        self.lost(GRAFT_EMU_HANG="3", GRAFT_EMU_KERNEL="publish")

    def test_f32_needs_a_word(self):
        daemon = self.daemon("--dtype", "f32", "--backend", "cuda")
        daemon.process.wait(PATIENCE)
        self.assertEqual(daemon.process.returncode, 78)
        self.assertIn("--dtype bf16", daemon.log())

    def test_widths_that_kernels_cannot_take(self):
        model = os.path.join(ROOT, "tests", "golden", "llama-bias")
        daemon = Daemon(model, "--backend", "cuda", "--dtype", "bf16")
        daemon.process.wait(PATIENCE)
        self.assertEqual(daemon.process.returncode, 78)
        self.assertIn("needs multiples of 8, and hidden_size is 54", daemon.log())


if __name__ == "__main__":
    unittest.main()
