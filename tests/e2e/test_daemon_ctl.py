"""graftctl against the daemon: what it prints, what it advises, how it ends."""
import json
import subprocess
import unittest

from harness import PATIENCE, program
from test_daemon_case import LINES, DaemonCase, prompt, tasks


class Graftctl(DaemonCase):
    def run_ctl(self, *arguments, code=0, stdin=None, address=None):
        done = subprocess.run([program("GRAFT_CTL"), "--address", address or self.daemon.address,
                               *arguments], input=stdin, capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertNotIn("Sanitizer", done.stderr)
        return done.stdout if code == 0 else done.stderr

    def run_json(self, *arguments):
        return [json.loads(line) for line in self.run_ctl("--json", *arguments).splitlines()]

    def test_generate(self):
        line = LINES[0]
        self.assertEqual(self.run_ctl("generate", prompt(0)), line.text + "\n")
        self.assertEqual(self.run_ctl("generate", "--adapter", "date@1", "-", stdin=prompt(0)),
                         tasks.answer(line, "date") + "\n")
        pair = ("--adapter", "slug", "--adapter", "json@1.0")
        self.assertEqual(self.run_ctl("generate", *pair, prompt(0)),
                         tasks.answer(line, "slug", True) + "\n")
        self.assertEqual(self.run_ctl("generate", "--adapter", "date@0", prompt(0)),
                         line.text + "\n")

    def test_generate_json(self):
        messages = self.run_json("generate", "--adapter", "slug", "--token-ids", "--logprobs", "1",
                                 "--seed", "7", "--request-id", "mine", prompt(0))
        self.assertEqual("".join(m["text"] for m in messages), tasks.answer(LINES[0], "slug"))
        self.assertGreaterEqual(len(messages), 2)
        started = messages[0]["started"]
        self.assertEqual((started["request_id"], started["seed"]), ("mine", "7"))
        self.assertEqual(started["adapters"][0]["name"], "slug")
        ids = [i for m in messages for i in m.get("token_ids", [])]
        self.assertEqual(len(ids), messages[-1]["usage"]["completion_tokens"])
        self.assertEqual(messages[-1]["finish"]["reason"], "FINISH_REASON_EOS")

    def test_json_of_64_bits(self):
        for seed in (2**53 + 1, 2**64 - 1):
            messages = self.run_json("generate", "--max-tokens", "1", "--seed", str(seed), "x")
            self.assertEqual(messages[0]["started"]["seed"], str(seed))
            self.assertGreater(int(messages[-1]["timing"]["first_token_ns"]), 0)

    def test_adapters(self):
        self.assertTrue(self.run_ctl("adapters", "load", "roman").startswith("loaded\n"))
        self.assertTrue(self.run_ctl("adapters", "load", "roman").startswith("unchanged: "))
        self.assertIn("state       DEVICE", self.run_ctl("adapters", "get", "roman"))
        listed = self.run_ctl("adapters", "list").splitlines()
        self.assertEqual([row.split()[0] for row in listed],
                         ["NAME", "date", "date-s0", "json", "redact", "redact-s0", "roman",
                          "roman-s0", "slug", "slug-s0", "title", "title-s0"])
        self.assertIn("REGISTERED", self.run_ctl("adapters", "unload", "roman"))
        (answer,) = self.run_json("adapters", "list")
        self.assertEqual(len(answer["adapters"]), 11)
        (answer,) = self.run_json("adapters", "get", "roman")
        self.assertEqual((answer["state"], answer["loads"]), ("ADAPTER_STATE_REGISTERED", "1"))

    def test_model_tokenize_health(self):
        text = self.run_ctl("model")
        self.assertIn("Qwen3_5ForCausalLM (qwen3_5_text)", text)
        self.assertIn("saturated     0 values beyond fp16\n", text)
        (model,) = self.run_json("model")
        self.assertEqual((model["vocab_size"], model["eos_token_ids"]), (448, [394, 392]))
        self.assertEqual(self.run_ctl("tokenize", "hello"), "71 68 75 324\n")
        self.assertEqual(self.run_json("tokenize", "--chat", "hi")[0]["token_ids"][0], 393)
        self.assertEqual(self.run_ctl("health"), "SERVING\n")
        self.run_ctl("health", "graft.v1.InferenceService")

    def test_failures_say_what_to_do(self):
        for words, arguments in (
                ("`graftctl adapters list` shows what there is.",
                 ("generate", "--adapter", "no", "x")),
                ("`graftctl adapters list` shows", ("adapters", "get", "no")),
                ("leave --model out", ("generate", "--model", "no", "x")),
                ("Shorten the prompt or lower --max-tokens.",
                 ("generate", "--max-tokens", "5000", "x")),
                ("INVALID_ARGUMENT: the prompt is empty", ("generate", "")),
                ('service "x" is not known here', ("health", "x"))):
            self.assertIn(words, self.run_ctl(*arguments, code=1))
        text = self.run_ctl("health", code=1, address="unix:/tmp/there-is-none.sock")
        self.assertIn("could not reach graftd at unix:/tmp/there-is-none.sock", text)
        self.assertIn("Is it running there?", text)

    def test_wrong_usage_ends_with_2(self):
        for words, arguments in (("unknown command", ("frob",)),
                                 ("is no weight", ("generate", "--adapter", "date@x", "x")),
                                 ("exactly one PROMPT", ("generate",)),
                                 ("'list', 'get NAME'", ("adapters", "frob"))):
            self.assertIn(words, self.run_ctl(*arguments, code=2))


if __name__ == "__main__":
    unittest.main(verbosity=2)
