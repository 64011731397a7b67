"""The daemon's answers: exact, the same for whoever shares the batch, and every field's meaning."""
import os
import random
import shutil
import unittest

from harness import PATIENCE, Client, grpc, model_pb, pb, details
from test_daemon_case import (END, GREEDY, LINES, NARROW, SANITIZED, VERBOSE, Answer, Code,
                              DaemonCase, copy_model, prompt, refs, tasks)

SETS = [(), ("date",), ("slug",), ("slug", "json"), (("roman", 0.5), ("json", 1.0)),
        (("title", -0.75),), (("redact", 1.25), ("date", 0.25), ("json", 0.5)),
        ("date-s0",), ("slug-s0", "json")]


class Answers(DaemonCase):
    def test_adapters_answer_their_tasks(self):
        for i in range(4):
            line = LINES[i]
            self.assertEqual(self.ask(prompt(i)).text, line.text)
            for name in ("date", "date-s0", "slug", "slug-s0"):
                text = self.ask(prompt(i), adapters=refs(name)).text
                self.assertEqual(text, tasks.answer(line, name.removesuffix(tasks.STATE)))
            for name in ("slug", "slug-s0"):
                text = self.ask(prompt(i), adapters=refs(name, "json")).text
                self.assertEqual(text, tasks.answer(line, "slug", True))

    def test_forms_of_input(self):
        ids = self.client.models.Tokenize(model_pb.TokenizeRequest(text=prompt(0))).token_ids
        by_ids = self.ask(token_ids={"ids": ids})
        self.assertEqual(by_ids.key(), self.ask(prompt(0)).key())
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        _, _, _, messages = self.client.answer(chat=chat, stopping={"max_tokens": 4},
                                               output={"echo": True})
        self.assertTrue("".join(m.text for m in messages).startswith(rendered))
        answer = self.ask(chat=chat, stopping={"max_tokens": 6})
        self.assertEqual(answer.key(), self.ask(rendered, stopping={"max_tokens": 6}).key())

    def test_weight_0_is_the_base_bit_for_bit(self):
        base = self.ask(prompt(0))
        for adapters in [(("date", 0.0),), (("slug", 0.0), ("json", 0.0))]:
            self.assertEqual(self.ask(prompt(0), adapters=refs(*adapters)).key(), base.key())
        half = self.ask(prompt(0), adapters=refs(("date", 0.5)))
        self.assertNotEqual(half.logprobs[0], base.logprobs[0])

    def test_started_names_what_answers(self):
        _, _, _, messages = self.client.answer(prompt(0), stopping={"max_tokens": 1},
                                               adapters=refs("slug", ("json", 0.5)))
        got = [(a.name, a.weight, a.revision) for a in messages[0].started.adapters]
        revisions = [self.adapter(n).revision for n in ("slug", "json")]
        self.assertEqual(got, [("slug", 1.0, revisions[0]), ("json", 0.5, revisions[1])])
        ref = {"name": "slug", "revision": revisions[0][:8]}
        self.assertEqual(self.ask(prompt(0), adapters=[ref]).text, tasks.answer(LINES[0], "slug"))
        ref["revision"] = "0" * 8
        with self.assertRaises(grpc.RpcError):
            self.ask(prompt(0), adapters=[ref])


class Crowd(DaemonCase):
    count = 8 if SANITIZED else 64

    def jobs(self):
        rng = random.Random(7)
        jobs = []
        longest = 16 if SANITIZED else 40
        for i in range(self.count):
            sampling = GREEDY if i % 2 else {"temperature": 1.1, "seed": i, "top_p": 0.9,
                                             "frequency_penalty": 0.5}
            jobs.append({"text": prompt(i), "adapters": refs(*rng.choice(SETS)),
                         "sampling": sampling, "stopping": {"max_tokens": rng.randint(4, longest)},
                         "output": {"token_ids": True, "top_logprobs": 2}})
        return jobs

    def test_streams_answer_as_alone(self):
        jobs = self.jobs()
        calls = [self.client.generate(**job) for job in jobs]
        crowd = [Answer(list(call)) for call in calls]
        for job, answer in zip(jobs, crowd):
            self.assertEqual(self.ask(**job).key(), answer.key())

    def test_session_answers_as_alone(self):
        jobs = self.jobs()
        got = [[] for _ in jobs]

        def requests():
            for lane, job in enumerate(jobs):
                yield pb.SessionRequest(stream_id=lane, start=pb.GenerateRequest(**job))
            yield pb.SessionRequest(stream_id=len(jobs), start=pb.GenerateRequest(
                text="x", adapters=refs("nope")))
        errors, last = {}, 0
        for message in self.client.inference.Session(requests()):
            self.assertGreaterEqual(message.step, last)
            last = message.step
            for item in message.items:
                if item.error.code:
                    errors[item.stream_id] = item.error.code
                else:
                    got[item.stream_id].append(item.response)
        self.assertEqual(errors, {len(jobs): Code.NOT_FOUND.value[0]})
        for job, messages in zip(jobs, got):
            self.assertEqual(self.ask(**job).key(), Answer(messages).key())


class Ends(DaemonCase):
    """Calls that never end by themselves: they wait to be read, a small part of their way."""

    @classmethod
    def setUpClass(cls):
        cls.model = copy_model(max_position_embeddings=32768)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(os.path.dirname(cls.model))

    def setUp(self):
        super().setUp()
        self.narrow = Client(self.daemon.address, *NARROW)
        self.addCleanup(self.narrow.channel.close)

    def endless(self, **fields):
        return self.narrow.generate(prompt(0), stopping={"ignore_eos": True}, output=VERBOSE,
                                    **fields)

    def test_cancel_frees(self):
        call = self.endless(adapters=refs("date"), request_id="left", timeout=10 * PATIENCE)
        next(call)
        next(call)
        self.assertEqual(self.adapter("date").active_requests, 1)
        call.cancel()
        self.until(lambda: self.adapter("date").active_requests == 0)
        log = self.daemon.wait_log('id="left"').log()
        line = next(x for x in log.splitlines() if 'id="left"' in x)
        self.assertIn('end="cancelled"', line)  # not as one that does not read

    def test_deadline(self):
        calls = [self.endless(timeout=0.3, adapters=refs("date")) for _ in range(16)]
        self.assertEqual({call.code() for call in calls}, {Code.DEADLINE_EXCEEDED})
        self.until(lambda: self.adapter("date").active_requests == 0)

    def test_abort(self):
        call = self.endless(request_id="mine")
        next(call)
        error = self.refused(Code.ALREADY_EXISTS, "REQUEST_EXISTS",
                             lambda: self.client.generate("x", request_id="mine"))
        self.assertIn('"mine"', error.details())
        done = self.client.inference.Abort(pb.AbortRequest(request_ids=["mine", "other"]))
        self.assertEqual(list(done.aborted), ["mine"])
        self.assertEqual(list(call)[-1].finish.reason, pb.FINISH_REASON_CANCELLED)


class Fields(DaemonCase):
    def test_greedy_takes_the_first_alternative(self):
        a = self.ask(prompt(1))
        self.assertEqual(a.top_ids[::3], a.ids)
        self.assertEqual(a.tops[::3], a.logprobs)
        for i in range(0, len(a.tops), 3):
            self.assertEqual(a.tops[i:i + 3], sorted(a.tops[i:i + 3], reverse=True))
        self.assertEqual(len(a.ids), a.usage[1])
        self.assertEqual((a.ids[-1], a.reason), (END, pb.FINISH_REASON_EOS))

    def test_prompt_logprobs_agree_with_generation(self):
        # What was generated, read as a prompt, is as likely as it was when it was generated.
        a = self.ask(prompt(1))
        request = model_pb.TokenizeRequest(text=prompt(1))
        head = list(self.client.models.Tokenize(request).token_ids)
        _, ids, _, messages = self.client.answer(
            token_ids={"ids": head + a.ids}, stopping={"max_tokens": 1},
            output={"prompt_logprobs": 1, "echo": True, "token_ids": True})
        got_ids = [i for m in messages for i in m.prompt_logprobs.token_ids]
        got = [v for m in messages for v in m.prompt_logprobs.logprobs]
        top_ids = [i for m in messages for i in m.prompt_logprobs.top_token_ids]
        self.assertEqual(got_ids, (head + a.ids)[1:])
        self.assertEqual(ids[:-1], head + a.ids)
        self.assertEqual(got[-len(a.ids):], a.logprobs)
        self.assertEqual(top_ids[-len(a.ids):], a.ids)

    def test_echo(self):
        line = LINES[0].text
        text, ids, _, _ = self.client.answer(prompt(0), output={"echo": True})
        self.assertEqual((text, ids), (prompt(0) + line, []))
        text, ids, _, _ = self.client.answer(prompt(0), output={"text": False, "token_ids": True})
        self.assertEqual((text, ids), ("", self.ask(prompt(0)).ids))

    def test_logit_bias(self):
        first = self.ask(prompt(0)).ids[0]
        biased = self.ask(prompt(0), sampling={"temperature": 0, "logit_bias": {
            first: float("-inf")}})
        self.assertNotIn(first, biased.ids)
        forced = self.ask(prompt(0), stopping={"max_tokens": 3}, sampling={
            "temperature": 0, "logit_bias": {65: 100.0}})
        self.assertEqual(forced.ids, [65] * 3)

    def test_min_tokens_and_ignore_eos(self):
        short = self.ask(prompt(0), adapters=refs("date"))
        longer = self.ask(prompt(0), adapters=refs("date"),
                          stopping={"min_tokens": 30, "max_tokens": 40})
        self.assertNotIn(END, longer.ids[:29])
        self.assertGreaterEqual(longer.usage[1], 30)
        on = self.ask(prompt(0), adapters=refs("date"),
                      stopping={"ignore_eos": True, "max_tokens": 40})
        self.assertEqual(on.ids[:len(short.ids)], short.ids)
        self.assertEqual((on.usage[1], on.reason), (40, pb.FINISH_REASON_LENGTH))

    def test_stop_strings_and_tokens(self):
        whole = self.ask(prompt(0), adapters=refs("date"))  # one token a digit
        stopped = self.ask(prompt(0), adapters=refs("date"), stopping={"stop": ["zz", "0-0"]})
        self.assertEqual(stopped.text, whole.text[:whole.text.index("0-0")])
        self.assertEqual(stopped.reason, pb.FINISH_REASON_STOP_STRING)
        stop = whole.ids[4]
        _, ids, last, messages = self.client.answer(
            prompt(0), adapters=refs("date"), output={"token_ids": True},
            stopping={"stop_token_ids": [stop]})
        self.assertEqual(ids, whole.ids[:whole.ids.index(stop) + 1])
        self.assertEqual((last.finish.reason, last.finish.token_id),
                         (pb.FINISH_REASON_STOP_TOKEN, stop))
        self.assertEqual("".join(m.text for m in messages), whole.text[:len(ids) - 1])

    def test_seed(self):
        hot = {"temperature": 1.5}
        stopping = {"max_tokens": 24, "ignore_eos": True}
        _, ids, _, messages = self.client.answer(prompt(0), sampling=hot, stopping=stopping,
                                                 output={"token_ids": True})
        hot["seed"] = messages[0].started.seed
        again = self.ask(prompt(0), sampling=hot, stopping=stopping)
        self.assertEqual(again.ids, ids)
        others = [self.ask(prompt(0), sampling={"temperature": 1.5, "seed": s},
                           stopping=stopping).ids for s in range(4)]
        self.assertGreater(len({tuple(x) for x in others}), 1)

    def test_filters_leave_the_likeliest(self):
        greedy = self.ask(prompt(0)).ids
        for field, value in (("top_k", 1), ("top_p", 1e-6), ("min_p", 0.999)):
            sampling = {"temperature": 2.0, "seed": 3, field: value}
            self.assertEqual(self.ask(prompt(0), sampling=sampling).ids, greedy, field)

    def test_penalties(self):
        stopping = {"max_tokens": 40, "ignore_eos": True}
        plain = self.ask(prompt(0), stopping=stopping).ids
        for field, value in (("presence_penalty", 30.0), ("frequency_penalty", 30.0),
                             ("repetition_penalty", 5.0)):
            ids = self.ask(prompt(0), stopping=stopping, sampling={"temperature": 0,
                                                                   field: value}).ids
            self.assertNotEqual(ids, plain, field)
            self.assertLess(len(ids) - len(set(ids)), len(plain) - len(set(plain)), field)


class Refusals(DaemonCase):
    def bad(self, words, text="x", code=Code.INVALID_ARGUMENT, why="INVALID_PARAMETER", **fields):
        error = self.refused(code, why, lambda: self.client.generate(text, **fields))
        self.assertIn(words, error.details())
        return error

    def test_context_length(self):
        error = self.bad("the prompt has 1 tokens and max_tokens is 1024, the context holds 1024",
                         why="CONTEXT_LENGTH_EXCEEDED", stopping={"max_tokens": 1024})
        self.assertEqual(dict(details(error)["ErrorInfo"].metadata),
                         {"maxContextTokens": "1024", "promptTokens": "1", "maxTokens": "1024"})
        self.bad("the context holds 1024", text="x" * 3000, why="CONTEXT_LENGTH_EXCEEDED")
        self.bad("the text has 4000000 bytes and so over 1024 tokens, the context holds 1024",
                 text="x" * 4000000, why="CONTEXT_LENGTH_EXCEEDED")

    def test_adapters(self):
        self.bad('adapter "date" is named twice', adapters=refs("date", "slug", "date"))
        self.bad("the request names 9 adapters, limit is 8",
                 adapters=refs(*[f"a{i}" for i in range(9)]))
        self.bad("must be finite", adapters=refs(("date", float("nan"))))
        self.bad("must be finite", adapters=refs(("date", float("inf"))))
        self.bad("is no adapter name", adapters=refs("../date"))
        self.bad('could not load adapter "nope": the adapter root has no folder of that name',
                 code=Code.NOT_FOUND, why="ADAPTER_NOT_FOUND", adapters=refs("nope"))

    def test_prompt(self):
        self.bad("the prompt is empty", text="")
        self.bad("the prompt is empty", text=None, token_ids={"ids": []})
        self.bad("the request has no input", text=None)
        self.bad("token_ids[1] is 448, the vocabulary has 448 tokens", text=None,
                 token_ids={"ids": [1, 448]})
        self.bad("the chat has no message", text=None, chat={})
        self.bad('role "Tool 1" must be', text=None,
                 chat={"messages": [{"role": "Tool 1", "content": "x"}]})

    def test_not_implemented(self):
        for field in ({"priority": 1}, {"cache": {"salt": "s"}}):
            self.bad("implemented", code=Code.UNIMPLEMENTED, why="NOT_IMPLEMENTED", **field)

    def test_names(self):
        self.bad('model "gpt" is not served here, "model" is', code=Code.NOT_FOUND,
                 why="MODEL_NOT_FOUND", model="gpt")
        self.bad("request_id has 129 characters, limit is 128", request_id="x" * 129)

    def test_numbers(self):
        self.bad("sampling.temperature is -1, must be 0 to 100", sampling={"temperature": -1})
        self.bad("sampling.top_p is 0", sampling={"top_p": 0})
        self.bad("stopping.max_tokens is 0", stopping={"max_tokens": 0})
        self.bad("stopping.min_tokens is 9, over max_tokens, which is 3",
                 stopping={"max_tokens": 3, "min_tokens": 9})
        self.bad("output.top_logprobs is 21, limit is 20", output={"top_logprobs": 21})
        self.bad("names token 448", sampling={"logit_bias": {448: 1.0}})


class ShortContext(DaemonCase):
    flags = (*DaemonCase.flags, "--max-context", "128")

    def test_unset_max_tokens_is_the_rest_of_the_context(self):
        a = self.ask(prompt(0), stopping={"ignore_eos": True})
        self.assertEqual((sum(a.usage), a.reason), (128, pb.FINISH_REASON_LENGTH))
        self.assertEqual(self.client.models.GetModel(model_pb.GetModelRequest()).context_tokens,
                         128)


class NoRoom(DaemonCase):
    flags = ("--kv-memory", "192KiB", "--max-context", "1024")

    def test_what_the_cache_never_holds(self):
        error = self.refused(Code.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED",
                             lambda: self.client.generate("x", stopping={"max_tokens": 300}))
        self.assertIn("256", error.details())
        self.assertEqual(self.ask(prompt(0), stopping={"max_tokens": 90}).text, LINES[0].text)

    def test_no_adapter_root(self):
        error = self.refused(Code.NOT_FOUND, "ADAPTER_NOT_FOUND",
                             lambda: self.client.generate("x", adapters=refs("date"),
                                                          stopping={"max_tokens": 9}))
        self.assertIn("no adapter root is configured (--adapters)", error.details())


if __name__ == "__main__":
    unittest.main(verbosity=2)
