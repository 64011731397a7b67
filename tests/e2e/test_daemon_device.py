"""The daemon on a device that can be lost; only where the device is emulated (preset emu)."""
import os
import shutil
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PATIENCE, ROOT, Client, Daemon, grpc  # noqa: E402
from test_daemon_case import ADAPTERS, MODEL, MODEST, copy_model, prompt, refs  # noqa: E402

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

    def lost(self, why, **environment):
        daemon = self.daemon(**environment).ready()
        with Client(daemon.address) as client, self.assertRaises(grpc.RpcError) as caught:
            list(client.generate(prompt(0), stopping={"max_tokens": 40, "ignore_eos": True}))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(daemon.process.wait(PATIENCE), LOST)
        self.assertEqual(daemon.log().count("device lost"), 1)
        for text in (daemon.log(), caught.exception.details()):
            self.assertRegex(text, r"the device failed in step \d+: .*" + why)

    def test_a_sticky_error_ends_the_process(self):
        self.lost("failed at operation 3", GRAFT_EMU_FAIL="3", GRAFT_EMU_KERNEL="publish")

    def test_a_hung_kernel_ends_the_process(self):
        self.lost("no progress for 2 s", GRAFT_EMU_HANG="3", GRAFT_EMU_KERNEL="publish",
                  GRAFT_EMU_SILENCE_MS="2000")

    def refused(self, words, daemon):
        self.assertEqual(daemon.process.wait(PATIENCE), 78, daemon.log())
        self.assertIn(words, daemon.log())

    def test_f32_needs_a_word(self):
        self.refused("16 bits, and --dtype is f32: start graftd with --dtype bf16",
                     self.daemon("--dtype", "f32", "--backend", "cuda"))
        model = os.path.join(ROOT, "tests", "golden", "llama")
        self.refused("16 bits, and the checkpoint is f32: start graftd with --dtype bf16",
                     Daemon(model, "--backend", "cuda"))

    def changed_model(self, **changes):
        model = copy_model(**changes)
        self.addCleanup(shutil.rmtree, os.path.dirname(model))
        return model

    def test_widths_that_kernels_cannot_take(self):
        model = os.path.join(ROOT, "tests", "golden", "llama-bias")
        self.refused("needs multiples of 8, and hidden_size is 54",
                     Daemon(model, "--backend", "cuda", "--dtype", "bf16"))

    def test_mixers_that_kernels_cannot_take(self):
        model = self.changed_model(linear_num_key_heads=3, linear_num_value_heads=3,
                                   linear_value_head_dim=12)
        self.refused("needs multiples of 8, and linear_num_value_heads x linear_value_head_dim "
                     "is 36",
                     Daemon(model, "--backend", "cuda", "--dtype", "bf16", "--weights", "random:1"))

    def test_heads_that_kernels_cannot_take(self):
        model = self.changed_model(head_dim=8)
        self.refused("needs a head_dim of 16 to 256, and it is 8",
                     Daemon(model, "--backend", "cuda", "--dtype", "bf16", "--weights", "random:1"))

    def test_random_weights(self):
        """Made on the device; the same model as on the CPU."""
        texts = []
        for backend in ("cuda", "cpu"):
            daemon = Daemon(MODEL, *MODEST, "--backend", backend, "--weights", "random:3",
                            "--dtype", "bf16").ready()
            self.addCleanup(daemon.kill)
            with Client(daemon.address) as client:
                texts.append(client.answer(prompt(0), sampling={"temperature": 0},
                                           stopping={"max_tokens": 4, "ignore_eos": True},
                                           output={"token_ids": True})[1])
            daemon.stop()
        self.assertEqual(len(texts[0]), 4)
        self.assertEqual(texts[0][0], texts[1][0])

    def test_memory_is_taken_at_once(self):
        """The plan's shares; more than all and too little are refused with the table."""
        daemon = Daemon(MODEL, "--gpu-memory", "50%").ready()
        self.addCleanup(daemon.kill)
        with Client(daemon.address) as client:
            self.assertEqual(len(client.answer(prompt(0), stopping={"max_tokens": 4},
                                               output={"token_ids": True})[1]), 4)
        daemon.stop()
        self.assertIn("of 268.4 MB available on the GPU", daemon.log())
        self.assertIn("driver, context and graphs", daemon.log())
        low = self.daemon("--gpu-memory", "8MiB")
        self.refused("GPU memory: weights 4 MiB + recurrent states 3 MiB + KV pages", low)
        self.assertIn("memory  workspace", low.log())
        self.refused("--gpu-memory is 600MiB", self.daemon("--gpu-memory", "600MiB"))

    def test_devices_that_are_not_there(self):
        self.refused("--devices is 0,1: several devices are not implemented",
                     self.daemon("--devices", "0,1"))
        self.refused("there is no GPU 3: this machine has 1",
                     self.daemon("--devices", "3", "--backend", "cuda"))
        self.refused("compute capability 7.5, the kernels need 8.0",
                     self.daemon("--backend", "cuda", GRAFT_EMU_CAPABILITY="75"))
        self.refused('could not use backend "cuda": ',
                     self.daemon("--backend", "cuda", GRAFT_EMU_DEVICES="0"))
        daemon = self.daemon(GRAFT_EMU_DEVICES="0").ready()
        self.addCleanup(daemon.stop)
        self.assertEqual(daemon.log().count("the CPU backend serves: "), 1)
        self.assertIn('backend="cpu"', daemon.log())


if __name__ == "__main__":
    unittest.main()
