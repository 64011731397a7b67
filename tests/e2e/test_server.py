"""The server room against a real gRPC client, with an engine that echoes the prompt."""
import os
import queue
import signal
import socket
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import (END, PATIENCE, Client, Server, adapter_pb, details, grpc,  # noqa: E402
                     model_pb, pb, reason)
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase)
from google.protobuf import descriptor_pool  # noqa: E402

Code = grpc.StatusCode


class ServerCase(unittest.TestCase):
    """One server for all tests of a class."""
    options = {}

    @classmethod
    def setUpClass(cls):
        cls.server = Server(**cls.options).ready()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        if "Sanitizer" in cls.server.log():
            raise AssertionError(cls.server.log())

    def setUp(self):
        self.client = Client(self.server.address)
        self.addCleanup(self.client.channel.close)

    def refused(self, code, why, call):
        with self.assertRaises(grpc.RpcError) as caught:
            result = call()
            if hasattr(result, "__iter__"):
                list(result)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertEqual(reason(caught.exception), why)
        return caught.exception


class Generate(ServerCase):
    def test_text_comes_back(self):
        text, ids, last, messages = self.client.answer("hello, wörld €", stopping={"max_tokens": 17})
        self.assertEqual(text, "hello, wörld €")
        self.assertEqual(ids, [])
        self.assertEqual(last.finish.reason, pb.FINISH_REASON_LENGTH)
        self.assertEqual((last.usage.prompt_tokens, last.usage.completion_tokens), (17, 17))
        self.assertTrue(messages[0].HasField("started"))
        self.assertEqual(messages[0].started.model, "echo")
        self.assertTrue(messages[0].started.request_id)
        self.assertEqual(sum(m.HasField("started") for m in messages), 1)
        self.assertEqual(sum(m.HasField("finish") for m in messages), 1)
        self.assertGreater(last.timing.first_token_ns, 0)

    def test_token_ids_only(self):
        text, ids, last, _ = self.client.answer(
            token_ids={"ids": [72, 105]}, stopping={"max_tokens": 5},
            output={"text": False, "token_ids": True})
        self.assertEqual((text, ids), ("", [72, 105, 72, 105, 72]))
        self.assertEqual(last.usage.completion_tokens, 5)

    def test_text_is_always_whole_characters(self):
        _, _, _, messages = self.client.answer("€" * 20, stopping={"max_tokens": 59})
        for m in messages:
            m.text.encode("utf-8")
        self.assertEqual("".join(m.text for m in messages), "€" * 19 + "\ufffd")

    def test_echo(self):
        text, ids, _, _ = self.client.answer("abc", stopping={"max_tokens": 3},
                                             output={"echo": True, "token_ids": True})
        self.assertEqual((text, ids), ("abcabc", [97, 98, 99] * 2))

    def test_echo_of_tokens_and_chat(self):
        text, _, _, _ = self.client.answer(token_ids={"ids": [257, 97]},
                                           stopping={"max_tokens": 2}, output={"echo": True})
        self.assertEqual(text, "<|im_start|>aa")
        text, _, _, _ = self.client.answer(
            chat={"messages": [{"role": "user", "content": "hi"}]}, stopping={"max_tokens": 1},
            output={"echo": True})
        self.assertEqual(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")

    def test_nul_is_sent_as_the_replacement_character(self):
        text, ids, _, _ = self.client.answer(
            token_ids={"ids": [97, 0, 98]}, stopping={"max_tokens": 6},
            output={"echo": True, "token_ids": True})
        self.assertEqual((text, ids), ("a\ufffdb" * 3, [97, 0, 98] * 3))

    def test_logprobs(self):
        _, _, _, messages = self.client.answer("abcd", stopping={"max_tokens": 3},
                                               output={"top_logprobs": 2, "prompt_logprobs": 1})
        got = [(i, v) for m in messages for i, v in zip(m.logprobs.token_ids, m.logprobs.logprobs)]
        self.assertEqual(got, [(97, -0.25), (98, -0.25), (99, -0.25)])
        self.assertEqual([n for m in messages for n in m.logprobs.top_n], [2, 2, 2])
        self.assertEqual([t for m in messages for t in m.logprobs.top_token_ids], [0, 1] * 3)
        self.assertEqual([t for m in messages for t in m.prompt_logprobs.token_ids], [98, 99, 100])
        self.assertEqual([t for m in messages for t in m.prompt_logprobs.top_logprobs], [-1.0] * 3)

    def test_stop_string_across_tokens(self):
        text, ids, last, _ = self.client.answer(
            "one two three", stopping={"max_tokens": 500, "stop": ["zzz", "wo t", "ee"]},
            output={"token_ids": True})
        self.assertEqual(text, "one t")
        self.assertEqual(bytes(ids), b"one two t")
        self.assertEqual(last.finish.reason, pb.FINISH_REASON_STOP_STRING)
        self.assertEqual(last.finish.stop, "wo t")
        self.assertEqual(last.usage.completion_tokens, 9)

    def test_stop_string_waits_for_min_tokens(self):
        text, _, last, _ = self.client.answer(
            "abc", stopping={"max_tokens": 50, "min_tokens": 5, "stop": ["b"]})
        self.assertEqual(text, "abca")
        self.assertEqual(last.finish.reason, pb.FINISH_REASON_STOP_STRING)

    def test_half_a_stop_string_is_given_out_at_the_end(self):
        text, _, last, _ = self.client.answer("abab", stopping={"max_tokens": 4, "stop": ["bc"]})
        self.assertEqual((text, last.finish.reason), ("abab", pb.FINISH_REASON_LENGTH))

    def test_stop_token_gives_no_text(self):
        text, ids, last, _ = self.client.answer(
            "ab.cd", stopping={"max_tokens": 50, "stop_token_ids": [46]}, output={"token_ids": True})
        self.assertEqual((text, ids), ("ab", [97, 98, 46]))
        self.assertEqual((last.finish.reason, last.finish.token_id),
                         (pb.FINISH_REASON_STOP_TOKEN, 46))

    def test_eos_and_ignore_eos(self):
        text, _, last, _ = self.client.answer(token_ids={"ids": [97, END]})
        self.assertEqual((text, last.finish.reason), ("a", pb.FINISH_REASON_EOS))
        text, _, last, _ = self.client.answer(
            token_ids={"ids": [97, END]}, stopping={"max_tokens": 4, "ignore_eos": True})
        self.assertEqual((text, last.finish.reason), ("aa", pb.FINISH_REASON_LENGTH))

    def test_adapters_are_resolved(self):
        _, _, _, messages = self.client.answer(
            "x", stopping={"max_tokens": 1},
            adapters=[{"name": "beta", "weight": -0.5}, {"name": "alpha"}])
        started = messages[0].started
        self.assertEqual([(a.name, a.weight) for a in started.adapters],
                         [("beta", -0.5), ("alpha", 1.0)])
        self.assertTrue(all(len(a.revision) == 64 for a in started.adapters))

    def test_seed_is_drawn_and_returned(self):
        def seed(**sampling):
            return self.client.answer("x", stopping={"max_tokens": 1},
                                      sampling=sampling)[3][0].started.seed
        self.assertEqual(seed(seed=0), 0)
        self.assertEqual(seed(seed=2**64 - 1), 2**64 - 1)
        self.assertNotEqual(seed(), seed())

    def test_every_field_together(self):
        text, _, last, _ = self.client.answer(
            "abc", request_id="all-fields", model="echo", adapters=[{"name": "alpha"}],
            sampling={"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
                      "repetition_penalty": 1.1, "presence_penalty": -1, "frequency_penalty": 1,
                      "seed": 7, "logit_bias": {1: -float("inf"), 2: 3.5}},
            stopping={"max_tokens": 6, "min_tokens": 2, "stop": ["q"], "stop_token_ids": [1]},
            output={"text": True, "token_ids": True, "top_logprobs": 0, "prompt_logprobs": 0,
                    "echo": False}, load_policy=pb.LOAD_POLICY_WAIT)
        self.assertEqual((text, last.finish.reason), ("abcabc", pb.FINISH_REASON_LENGTH))

    def test_cancel(self):
        call = self.client.generate("spin", request_id="to-cancel")
        next(call)
        call.cancel()
        self.server.wait_log("to-cancel")
        # The id is free again.
        self.client.answer("x", request_id="to-cancel", stopping={"max_tokens": 1})

    def test_deadline(self):
        for timeout in (0.3, 2, 10):  # "spin" lasts longer; a slow machine may need more to begin
            got = []
            with self.assertRaises(grpc.RpcError) as caught:
                for m in self.client.generate("spin", timeout=timeout):
                    got.append(m)
            self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
            if got:
                break
        self.assertTrue(got)

    def test_request_in_use_and_abort(self):
        call = self.client.generate("spin", request_id="twice")
        next(call)
        self.refused(Code.ALREADY_EXISTS, "REQUEST_EXISTS",
                     lambda: self.client.generate("x", request_id="twice"))
        abort = self.client.inference.Abort
        answer = abort(pb.AbortRequest(request_ids=["twice", "unknown"]))
        self.assertEqual(list(answer.aborted), ["twice"])
        last = list(call)[-1]
        self.assertEqual(last.finish.reason, pb.FINISH_REASON_CANCELLED)
        self.assertEqual(list(abort(pb.AbortRequest(request_ids=["twice"])).aborted), [])

    def test_64_streams(self):
        def run(i):
            text, _, last, _ = self.client.answer(f"stream {i} ", stopping={"max_tokens": 100})
            want = (f"stream {i} " * 100)[:100]
            results[i] = text == want and last.usage.completion_tokens == 100
        results = [None] * 64
        threads = [threading.Thread(target=run, args=(i,)) for i in range(64)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(results, [True] * 64)

    def test_64_streams_on_connections_of_their_own(self):
        clients = [Client(self.server.address) for _ in range(64)]
        calls = [c.generate(f"{i};", stopping={"max_tokens": 40}) for i, c in enumerate(clients)]
        for i, call in enumerate(calls):
            self.assertEqual("".join(m.text for m in call), (f"{i};" * 40)[:40])
        for c in clients:
            c.channel.close()


class Refusals(ServerCase):
    def bad(self, field, words, **fields):
        fields.setdefault("text", "x")
        error = self.refused(Code.INVALID_ARGUMENT, "INVALID_PARAMETER",
                             lambda: self.client.generate(**fields))
        self.assertIn(words, error.details())
        self.assertNotRegex(error.details(), r"\.$")
        violations = details(error)["BadRequest"].field_violations
        self.assertEqual([v.field for v in violations], [field])
        self.assertEqual(violations[0].description, error.details())

    def test_context(self):
        error = self.refused(
            Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED",
            lambda: self.client.generate("x" * 1000, stopping={"max_tokens": 99001}))
        self.assertEqual(error.details(), "the prompt has 1000 tokens and max_tokens is 99001, "
                         "the context holds 100000")
        self.assertEqual(dict(details(error)["ErrorInfo"].metadata), {
            "maxContextTokens": "100000", "promptTokens": "1000", "maxTokens": "99001"})
        self.refused(Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED",
                     lambda: self.client.generate("x" * 100000))

    def test_prompt(self):
        self.bad("text", "the prompt is empty", text="")
        self.bad("input", "the prompt is empty", text=None, token_ids={"ids": []})
        self.bad("input", "the request has no input", text=None)
        self.bad("token_ids", "token_ids[1] is 259, the vocabulary has 259 tokens", text=None,
                 token_ids={"ids": [0, 259]})
        self.bad("chat.messages", "the chat has no message", text=None, chat={})
        self.bad("chat.messages", "", text=None,
                 chat={"messages": [{"role": "no role!", "content": ""}]})

    def test_numbers(self):
        nan, inf = float("nan"), float("inf")
        for name, values in {"temperature": [-0.1, nan, inf, 101], "top_p": [0, 1.5, nan],
                             "min_p": [-1, 1, nan], "repetition_penalty": [0, -1, inf],
                             "presence_penalty": [101, nan], "frequency_penalty": [-101, inf]
                             }.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.bad(f"sampling.{name}", f"sampling.{name} is ", sampling={name: value})
        self.bad("sampling.logit_bias", "must be finite or -inf", sampling={"logit_bias": {1: inf}})
        self.bad("sampling.logit_bias", "names token 259", sampling={"logit_bias": {259: 0}})
        self.bad("sampling.logit_bias", "1025 entries, limit is 1024", text=None,
                 token_ids={"ids": [1]}, sampling={"logit_bias": dict.fromkeys(range(1025), 0)})

    def test_stopping(self):
        self.bad("stopping.max_tokens", "is 0, must be at least 1", stopping={"max_tokens": 0})
        self.bad("stopping.min_tokens", "is 4, over max_tokens, which is 3",
                 stopping={"max_tokens": 3, "min_tokens": 4})
        self.bad("stopping.stop", "", stopping={"stop": ["x"] * 17})
        self.bad("stopping.stop", "", stopping={"stop": [""]})
        self.bad("stopping.stop_token_ids", "is 1000", stopping={"stop_token_ids": [1000]})
        self.bad("stopping.stop_token_ids", "65 entries", stopping={"stop_token_ids": [1] * 65})

    def test_output(self):
        self.bad("output.top_logprobs", "is 21, limit is 20", output={"top_logprobs": 21})
        self.bad("output.prompt_logprobs", "is 21, limit is 20", output={"prompt_logprobs": 21})

    def test_ids_and_adapters(self):
        self.bad("request_id", "129 characters, limit is 128", request_id="i" * 129)
        self.bad("request_id", "character 2", request_id="a b")
        self.bad("adapters", "9 adapters, limit is 8",
                 adapters=[{"name": f"a{i}"} for i in range(9)])
        self.bad("adapters.name", 'adapter "alpha" is named twice',
                 adapters=[{"name": "alpha"}, {"name": "alpha"}])
        for name in ("", "Alpha", "../x", "a/b", "a" * 65):
            self.bad("adapters.name", "is no adapter name", adapters=[{"name": name}])
        for weight in (float("nan"), float("inf")):
            self.bad("adapters.weight", "must be finite",
                     adapters=[{"name": "alpha", "weight": weight}])
        self.bad("adapters.revision", "hex digits", adapters=[{"name": "alpha", "revision": "XY"}])

    def test_not_found(self):
        error = self.refused(Code.NOT_FOUND, "MODEL_NOT_FOUND",
                             lambda: self.client.generate("x", model="other"))
        self.assertEqual(details(error)["ResourceInfo"].resource_name, "other")
        error = self.refused(Code.NOT_FOUND, "ADAPTER_NOT_FOUND",
                             lambda: self.client.generate("x", adapters=[{"name": "nobody"}]))
        info = details(error)["ResourceInfo"]
        self.assertEqual((info.resource_type, info.resource_name), ("adapter", "nobody"))

    def test_not_implemented(self):
        for fields in ({"priority": 1}, {"cache": {}}, {"cache": {"salt": "s"}},
                       {"load_policy": 9}):
            self.refused(Code.UNIMPLEMENTED, "NOT_IMPLEMENTED",
                         lambda f=fields: self.client.generate("x", **f))

    def test_cold_adapter(self):
        self.client.adapters.UnloadAdapter(adapter_pb.UnloadAdapterRequest(name="beta"))
        error = self.refused(
            Code.UNAVAILABLE, "ADAPTER_LOADING",
            lambda: self.client.generate("x", adapters=[{"name": "beta"}],
                                         load_policy=pb.LOAD_POLICY_FAIL_IF_COLD))
        self.assertGreater(details(error)["RetryInfo"].retry_delay.seconds, 0)

    def raw(self, method, payload):
        call = self.client.channel.unary_stream(method, lambda x: x, lambda x: x)
        return list(call(payload))

    def test_malformed_messages(self):
        generate = "/graft.v1.InferenceService/Generate"
        nul = pb.GenerateRequest(text="ab").SerializeToString().replace(b"ab", b"a\0")
        utf = pb.GenerateRequest(text="ab").SerializeToString().replace(b"ab", b"a\xff")
        bomb = b"\x32" + b"\x80\x80\x08" + b"\x0a\x00" * 65536  # a chat of 65536 empty messages
        for payload in (b"\xff\xff\xff", nul, utf, bomb):
            with self.assertRaises(grpc.RpcError) as caught:
                self.raw(generate, payload)
            self.assertEqual(caught.exception.code(), Code.INVALID_ARGUMENT)
        for method in ("/graft.v1.InferenceService/Nothing", "/other/Thing"):
            error = self.refused(Code.UNIMPLEMENTED, "NOT_IMPLEMENTED",
                                 lambda m=method: self.raw(m, b""))
            self.assertIn(method, error.details())

    def test_too_large(self):
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.client.generate("x" * (17 << 20)))
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)

    def test_compressed(self):
        gzip = grpc.Compression.Gzip
        for n in (1, 1000, 30 << 20):
            requests = [pb.GenerateRequest(text="x" * n, stopping={"max_tokens": 1})]
            calls = [self.client.inference.Generate(requests[0], compression=gzip),
                     self.client.inference.Session(
                         (pb.SessionRequest(start=r) for r in requests), compression=gzip)]
            for call in calls:
                with self.assertRaises(grpc.RpcError) as caught:
                    list(call)
                self.assertEqual(caught.exception.code(), Code.UNIMPLEMENTED)
        self.assertEqual(self.client.answer("on", stopping={"max_tokens": 2})[0], "on")

    def test_long_chat(self):
        for n, words in ((16385, "16385 messages, limit is 16384"), (16384, "")):
            chat = {"messages": [{"role": "user", "content": "a"}] * n}
            self.bad("chat.messages" if words else "stopping.max_tokens", words, text=None,
                     chat=chat, stopping={"max_tokens": 0})


class Session(ServerCase):
    def setUp(self):
        super().setUp()
        self.requests = queue.Queue()
        self.call = self.client.inference.Session(iter(self.requests.get, None))

    def start(self, lane, text="x", **fields):
        self.requests.put(pb.SessionRequest(stream_id=lane,
                                            start=pb.GenerateRequest(text=text, **fields)))

    def items(self, count):
        """Reads until `count` lanes have ended; {lane: [items]}."""
        lanes, ended = {}, 0
        for message in self.call:
            for item in message.items:
                lanes.setdefault(item.stream_id, []).append(item)
                ended += item.HasField("error") or item.response.HasField("finish")
            if ended == count:
                break
        return lanes

    def test_64_lanes(self):
        for i in range(64):
            self.start(i, f"lane {i};", stopping={"max_tokens": 50})
        self.requests.put(None)
        lanes = self.items(64)
        for i in range(64):
            self.assertEqual("".join(x.response.text for x in lanes[i]), (f"lane {i};" * 50)[:50])
        self.assertEqual(list(self.call), [])
        self.assertEqual(self.call.code(), Code.OK)

    def test_one_message_holds_many_lanes(self):
        for i in range(16):
            self.start(i, "spin")
        most = 0
        for message in self.call:
            self.assertEqual(len({x.stream_id for x in message.items}), len(message.items))
            most = max(most, len(message.items))
            if most > 8 or any(x.response.HasField("finish") for x in message.items):
                break
        self.assertGreater(most, 8)
        for i in range(16):
            self.requests.put(pb.SessionRequest(stream_id=i, cancel={}))
        self.assertEqual(len(self.items(16)), 16)
        self.requests.put(None)

    def test_lanes_fail_alone(self):
        self.start(1, "abc")  # runs on until it is cancelled
        self.start(2, "", stopping={"max_tokens": 1})
        self.start(3, "x", adapters=[{"name": "nobody"}])
        self.start(1, "again")
        self.start(4, "x", stopping={"max_tokens": 1})
        lanes = self.items(4)
        self.assertEqual(lanes[2][-1].error.code, Code.INVALID_ARGUMENT.value[0])
        self.assertEqual(lanes[3][-1].error.code, Code.NOT_FOUND.value[0])
        self.assertEqual(len(lanes[3][-1].error.details), 2)
        errors = [x.error.code for x in lanes[1] if x.HasField("error")]
        self.assertEqual(errors, [Code.ALREADY_EXISTS.value[0]])
        self.assertEqual(lanes[4][-1].response.finish.reason, pb.FINISH_REASON_LENGTH)
        self.requests.put(pb.SessionRequest(stream_id=1, cancel={}))
        rest = self.items(1)[1]
        self.assertEqual(rest[-1].response.finish.reason, pb.FINISH_REASON_CANCELLED)
        text = "".join(x.response.text for x in lanes[1] + rest)
        self.assertEqual(text, ("abc" * len(text))[:len(text)])
        self.assertEqual(rest[-1].response.usage.completion_tokens, len(text))
        # A lane's number is free again at once.
        self.start(4, "y", stopping={"max_tokens": 1})
        self.assertEqual("".join(x.response.text for x in self.items(1)[4]), "y")
        self.requests.put(None)
        self.assertEqual(list(self.call), [])

    def test_cancel_lane(self):
        self.start(7, "spin")
        self.requests.put(pb.SessionRequest(stream_id=7, cancel={}))
        self.requests.put(pb.SessionRequest(stream_id=99, cancel={}))
        lanes = self.items(1)
        self.assertEqual(lanes[7][-1].response.finish.reason, pb.FINISH_REASON_CANCELLED)
        self.requests.put(None)
        self.assertEqual(list(self.call), [])

    def unread_refusals(self, server):
        """A session that was refused many requests and reads no answer."""
        # The client's window must not grow with what it was sent: nobody reads.
        client = Client(server.address, ("grpc.http2.bdp_probe", 0))
        self.addCleanup(client.channel.close)
        all_sent = threading.Event()

        def starts():
            for i in range(6000):
                yield pb.SessionRequest(stream_id=i, start=pb.GenerateRequest(text=""))
            all_sent.set()

        call = client.inference.Session(starts())
        self.assertTrue(all_sent.wait(PATIENCE))
        return call

    def test_refusals_that_nobody_reads(self):
        call = self.unread_refusals(self.server)
        # What was sent may still wait in buffers, and reading makes room for more refusals.
        self.server.wait_log("refused and not read")
        with self.assertRaises(grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.assertIn("limit is 1024", caught.exception.details())
        self.requests.put(None)
        self.assertEqual(self.client.answer("ab", stopping={"max_tokens": 2})[0], "ab")

    def test_refusals_that_nobody_reads_take_no_room_from_requests(self):
        server = Server(drain_ms=500).ready()
        calls = []
        for n in range(1, 9):
            calls.append(self.unread_refusals(server))
            server.wait_log("ended a session: 1024 of its requests were refused", count=n)
        with Client(server.address) as client:
            self.assertEqual(client.answer("on", stopping={"max_tokens": 2})[0], "on")
            request = pb.SessionRequest(start=pb.GenerateRequest(text=""))
            with self.assertRaises(grpc.RpcError) as caught:
                list(client.inference.Session(iter([request])))
            self.assertEqual(caught.exception.details(), "the server holds 8192 refusals that "
                             "sessions have not read, limit is 8192")
            calls[0].cancel()
            end = time.monotonic() + PATIENCE
            codes = []
            while not codes and time.monotonic() < end:  # until the refusals have gone with it
                try:
                    codes = [i.error.code for m in client.inference.Session(iter([request]))
                             for i in m.items]
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), Code.RESOURCE_EXHAUSTED)
            self.assertEqual(codes, [Code.INVALID_ARGUMENT.value[0]])
        server.stop()

    def test_full_server_refuses_a_lane_not_its_session(self):
        server = Server(step_us=20000, active=10000).ready()
        silent = pb.GenerateRequest(text="x", output={"text": False})

        def fill(client):
            """1024 lanes that are running."""
            requests = queue.Queue()
            call = client.inference.Session(iter(requests.get, None))
            for i in range(1024):
                requests.put(pb.SessionRequest(stream_id=i, start=silent))
            started = 0
            while started < 1024:
                for item in next(call).items:
                    if item.HasField("error"):  # a full inbox
                        requests.put(pb.SessionRequest(stream_id=item.stream_id, start=silent))
                    started += item.response.HasField("started")
            return requests, call

        with Client(server.address) as crowd, Client(server.address) as client:
            full = [fill(crowd) for _ in range(8)]
            requests = queue.Queue()
            call = client.inference.Session(iter(requests.get, None))
            one = pb.SessionRequest(start=pb.GenerateRequest(text="on", stopping={"max_tokens": 2}))
            requests.put(one)
            (item,) = next(call).items
            self.assertEqual(item.error.message, "the server holds 8192 requests, limit is 8192")
            for lanes, _ in full:
                lanes.put(pb.SessionRequest(stream_id=0, cancel={}))
            for _, lanes in full:
                while not any(i.response.HasField("finish") for i in next(lanes).items):
                    pass
            requests.put(one)
            requests.put(None)
            items = [i for m in call for i in m.items]
            self.assertEqual("".join(i.response.text for i in items), "on")
            for lanes, _ in full:
                lanes.put(None)
        server.kill()  # its requests would not end for long

    def test_empty_session(self):
        self.requests.put(None)
        self.assertEqual(list(self.call), [])
        self.assertEqual(self.call.code(), Code.OK)

    def test_broken_message(self):
        self.start(1, "spin")
        next(self.call)
        self.requests.put(pb.SessionRequest(stream_id=5))  # no action
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.call)
        self.assertEqual(caught.exception.code(), Code.INVALID_ARGUMENT)
        self.assertIn("not a valid graft.v1.SessionRequest", self.server.log())
        self.requests.put(None)

    def test_cancelled_session(self):
        for i in range(8):
            self.start(i, "spin", request_id=f"gone-{i}")
        seen = set()
        while len(seen) < 8:
            seen.update(x.stream_id for x in next(self.call).items)
        self.call.cancel()
        for i in range(8):
            self.server.wait_log(f"gone-{i}")
        self.requests.put(None)


class Adapters(ServerCase):
    def test_life(self):
        stub = self.client.adapters
        loaded = stub.LoadAdapter(adapter_pb.LoadAdapterRequest(name="alpha"))
        self.assertFalse(loaded.unchanged)
        self.assertEqual(loaded.adapter.state, adapter_pb.ADAPTER_STATE_DEVICE)
        self.assertEqual(loaded.adapter.kind, "lora")
        self.assertTrue(stub.LoadAdapter(adapter_pb.LoadAdapterRequest(name="alpha")).unchanged)
        got = stub.GetAdapter(adapter_pb.GetAdapterRequest(name="alpha"))
        self.assertEqual((got.rank_max, got.modules_applied, got.loads), (8, 14, 1))
        names = [a.name for a in stub.ListAdapters(adapter_pb.ListAdaptersRequest()).adapters]
        self.assertEqual(names, ["alpha", "beta", "broken", "slow"])
        gone = stub.UnloadAdapter(adapter_pb.UnloadAdapterRequest(name="alpha"))
        self.assertEqual(gone.adapter.state, adapter_pb.ADAPTER_STATE_REGISTERED)

    def test_load_on_a_worker(self):
        loads = [self.client.adapters.LoadAdapter.future(adapter_pb.LoadAdapterRequest(name="slow"))
                 for _ in range(3)]
        for load in loads:
            self.assertEqual(load.result().adapter.state, adapter_pb.ADAPTER_STATE_DEVICE)

    def test_cancelled_load(self):
        stub = self.client.adapters
        stub.UnloadAdapter(adapter_pb.UnloadAdapterRequest(name="slow"))
        load = stub.LoadAdapter.future(adapter_pb.LoadAdapterRequest(name="slow"))
        load.cancel()
        stub.GetAdapter(adapter_pb.GetAdapterRequest(name="slow"))

    def test_refusals(self):
        stub = self.client.adapters
        error = self.refused(
            Code.FAILED_PRECONDITION, "ADAPTER_INCOMPATIBLE",
            lambda: stub.LoadAdapter(adapter_pb.LoadAdapterRequest(name="broken")))
        violation = details(error)["PreconditionFailure"].violations[0]
        self.assertEqual((violation.type, violation.subject), ("ADAPTER_INCOMPATIBLE", "broken"))
        self.assertIn("24 rows", stub.GetAdapter(
            adapter_pb.GetAdapterRequest(name="broken")).last_error)
        self.refused(Code.NOT_FOUND, "ADAPTER_NOT_FOUND",
                     lambda: stub.GetAdapter(adapter_pb.GetAdapterRequest(name="nobody")))
        for name in ("", "../etc", "/tmp", "a/b", "A"):
            self.refused(Code.INVALID_ARGUMENT, "INVALID_PARAMETER",
                         lambda n=name: stub.LoadAdapter(adapter_pb.LoadAdapterRequest(name=n)))

    def test_answers_that_nobody_takes(self):
        # A client whose window is 0 holds its calls, not the room of their answers.
        def size():
            with open(f"/proc/{self.server.process.pid}/status", encoding="ascii") as f:
                return next(int(x.split()[1]) << 10 for x in f if x.startswith("VmSize"))

        def frame(kind, flags, stream, payload):
            return (len(payload).to_bytes(3, "big") + bytes([kind, flags])
                    + stream.to_bytes(4, "big") + payload)

        def field(name, value):  # HPACK: a literal, new name
            return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

        head = b"".join(field(*pair) for pair in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"),
            (b":path", b"/graft.v1.AdapterService/ListAdapters"), (b"te", b"trailers"),
            (b"content-type", b"application/grpc")))
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(self.server.path)
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                      + frame(4, 0, 0, b"\0\4\0\0\0\0"))  # initial window 0
            before, data = size(), b""
            for i in range(300):
                s.sendall(frame(1, 4, 2 * i + 1, head) + frame(0, 1, 2 * i + 1, bytes(5)))
                kind = None
                while kind != 1:  # HEADERS come, for they need no window
                    while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                        data += s.recv(65536)
                    kind = data[3]
                    data = data[9 + int.from_bytes(data[:3], "big"):]
            self.assertLess(size() - before, 600 << 20)


class Model(ServerCase):
    def test_get(self):
        model = self.client.models.GetModel(model_pb.GetModelRequest())
        self.assertEqual((model.name, model.vocab_size, model.context_tokens),
                         ("echo", 259, 100000))
        self.assertEqual(list(model.eos_token_ids), [END])
        self.assertEqual(model.chat_format, "chatml")
        self.assertIn("no default system prompt", model.chat_note)
        self.assertEqual(model.default_sampling.temperature, 1.0)
        self.refused(Code.NOT_FOUND, "MODEL_NOT_FOUND", lambda: self.client.models.GetModel(
            model_pb.GetModelRequest(name="other")))

    def test_saturated_values_are_live(self):
        def count():
            return self.client.models.GetModel(model_pb.GetModelRequest()).saturated_values
        before = count()
        self.client.answer("abc", stopping={"max_tokens": 3})
        self.assertEqual(count() - before, 3 << 32)

    def test_tokenize(self):
        def ids(**fields):
            return list(self.client.models.Tokenize(model_pb.TokenizeRequest(**fields)).token_ids)
        self.assertEqual(ids(text="hé"), [104, 195, 169])
        self.assertEqual(ids(text="a<|end|>"), [97, END])
        self.assertEqual(ids(chat={"messages": [{"role": "user", "content": "x"}]})[0], 257)
        self.assertEqual(ids(text=""), [])
        self.refused(Code.INVALID_ARGUMENT, "INVALID_PARAMETER",
                     lambda: self.client.models.Tokenize(model_pb.TokenizeRequest()))

    def test_tokenize_too_much(self):
        # A token has at most 12 bytes, the context 100000 tokens.
        long_text = "x" * 1200001
        long_chat = {"messages": [{"role": "user", "content": long_text}]}
        for fields in ({"text": long_text}, {"chat": long_chat}):
            error = self.refused(
                Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED",
                lambda f=fields: self.client.models.Tokenize(model_pb.TokenizeRequest(**f)))
            self.assertIn("1200001 bytes", error.details())
        error = self.refused(
            Code.INVALID_ARGUMENT, "INVALID_PARAMETER",
            lambda: self.client.models.Tokenize(model_pb.TokenizeRequest(
                chat={"messages": [{"role": "user", "content": "a"}] * 16385})))
        self.assertIn("16385 messages, limit is 16384", error.details())


class Standard(ServerCase):
    options = {"tcp": True}

    def test_health(self):
        stub = health_pb2_grpc.HealthStub(self.client.channel)
        for name in ("", "readiness", "liveness", "graft.v1.InferenceService",
                     "graft.v1.AdapterService", "graft.v1.ModelService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        self.assertEqual(caught.exception.code(), Code.NOT_FOUND)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        watch.cancel()

    def test_reflection_v1alpha_by_the_client_library(self):
        database = ProtoReflectionDescriptorDatabase(self.client.channel)
        self.assertEqual(set(database.get_services()), {
            "graft.v1.InferenceService", "graft.v1.AdapterService", "graft.v1.ModelService",
            "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"})
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("graft.v1.InferenceService")
        self.assertEqual([m.name for m in service.methods], ["Generate", "Session", "Abort"])
        message = pool.FindMessageTypeByName("graft.v1.GenerateRequest")
        self.assertIn("logit_bias", message.fields_by_name["sampling"].message_type.fields_by_name)
        self.assertIsNotNone(pool.FindMessageTypeByName("google.rpc.RetryInfo"))

    def ask(self, package, requests):
        method = f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo"
        call = self.client.channel.stream_stream(
            method, reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString)
        return list(call(iter(requests)))

    def test_reflection_v1_and_questions_in_a_row(self):
        request = reflection_pb2.ServerReflectionRequest
        for package in ("v1", "v1alpha"):
            answers = self.ask(package, [
                request(list_services=""),
                request(file_by_filename="graft/v1/model.proto"),
                request(file_containing_symbol="graft.v1.Sampling.LogitBiasEntry"),
                request(file_containing_symbol="graft.v1.ModelService.Tokenize"),
                request(file_containing_symbol="graft.v1.Nothing"),
                request(file_by_filename="nothing.proto"),
                request(all_extension_numbers_of_type="graft.v1.Model"),
                request()])
            self.assertEqual(len(answers), 8)
            self.assertEqual(len(answers[0].list_services_response.service), 6)
            # model.proto imports inference.proto, status.proto and any.proto
            self.assertEqual(len(answers[1].file_descriptor_response.file_descriptor_proto), 4)
            self.assertTrue(answers[2].HasField("file_descriptor_response"))
            self.assertTrue(answers[3].HasField("file_descriptor_response"))
            codes = [a.error_response.error_code for a in answers[4:]]
            self.assertEqual(codes, [5, 5, 12, 12])

    def test_reflection_of_a_long_question(self):
        request = reflection_pb2.ServerReflectionRequest
        answers = self.ask("v1", [request(file_by_filename="n" * 4090),
                                  request(file_by_filename="n" * 5000),
                                  request(list_services="")])
        self.assertEqual([a.error_response.error_code for a in answers[:2]], [5, 8])
        self.assertEqual(answers[1].error_response.error_message,
                         "the question has 5003 bytes, limit is 4096")
        self.assertEqual(len(answers[2].list_services_response.service), 6)

    def test_stub_packages_reflection(self):
        self.assertTrue(reflection_pb2_grpc.ServerReflectionStub(self.client.channel))

    def test_tcp_speaks_grpc_and_refuses_http(self):
        port = self.server.tcp_port()
        with Client(f"127.0.0.1:{port}") as client:
            self.assertEqual(client.answer("tcp", stopping={"max_tokens": 3})[0], "tcp")
        for path in ("/metrics", "/"):
            with socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = b""
                while chunk := s.recv(4096):
                    answer += chunk
            self.assertTrue(answer.startswith(b"HTTP/1.1 404 Not Found\r\n"), answer)
            head, body = answer.split(b"\r\n\r\n", 1)
            self.assertIn(b"Content-Length: %d" % len(body), head)

    def test_strange_connections(self):
        for head in (b"", b"\x16\x03\x01\x02", b"PRXX", b"PRI", b"\0\0\0\0"):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(self.server.path)
                s.sendall(head)
        # The preface in two pieces is still gRPC.
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.server.path)
            s.sendall(b"PR")
            time.sleep(0.05)
            s.sendall(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            s.settimeout(PATIENCE)
            self.assertEqual(s.recv(9)[3], 4)  # the server's SETTINGS frame
        self.assertEqual(self.client.answer("on", stopping={"max_tokens": 2})[0], "on")

    def test_socket_mode(self):
        self.assertEqual(os.stat(self.server.path).st_mode & 0o777, 0o660)

    def test_second_instance(self):
        second = Server(folder=self.server.folder)
        self.assertEqual(second.wait(), 75)
        self.assertIn("another instance listens on", second.log())
        self.assertEqual(self.client.answer("on", stopping={"max_tokens": 2})[0], "on")

    def test_abrupt_disconnects(self):
        for i in range(20):
            client = Client(self.server.address)
            calls = [client.generate("spin", request_id=f"cut-{i}-{j}") for j in range(3)]
            next(calls[0])
            client.channel.close()
        for i in range(20):
            self.server.wait_log(f"cut-{i}-0")
        self.assertEqual(self.client.answer("on", stopping={"max_tokens": 2})[0], "on")


class SlowReader(ServerCase):
    options = {"step_us": 20}

    def test_slow_reader_gets_everything_and_others_go_on(self):
        n = 60000
        options = [("grpc.http2.lookahead_bytes", 16384), ("grpc.use_local_subchannel_pool", 1),
                   ("grpc.http2.bdp_probe", 0)]
        slow = Client(self.server.address)
        slow.channel.close()
        slow.channel = grpc.insecure_channel(self.server.address, options)
        call = slow.channel.unary_stream(
            "/graft.v1.InferenceService/Generate", pb.GenerateRequest.SerializeToString,
            pb.GenerateResponse.FromString)(pb.GenerateRequest(
                text="0123456789" * 10, request_id="slow", stopping={"max_tokens": n},
                output={"token_ids": True, "top_logprobs": 20}))
        next(call)
        self.server.wait_log("park slow")  # it does not read; the other one is served
        self.assertEqual(self.client.answer("fast", stopping={"max_tokens": 400})[0], "fast" * 100)
        ids = [i for m in call for i in m.token_ids]
        self.assertGreaterEqual(len(ids), n - 20)
        self.assertIn("resume slow", self.server.log())
        slow.channel.close()


class StartAndStop(unittest.TestCase):
    def test_starting(self):
        server = Server(waits=True).wait_log("listening")
        with Client(server.address) as client:
            health = health_pb2_grpc.HealthStub(client.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            live = health.Check(health_pb2.HealthCheckRequest(service="liveness"))
            self.assertEqual(live.status, health_pb2.HealthCheckResponse.SERVING)
            calls = [lambda: list(client.generate("x")),
                     lambda: client.models.GetModel(model_pb.GetModelRequest()),
                     lambda: client.adapters.ListAdapters(adapter_pb.ListAdaptersRequest())]
            for call in calls:
                with self.assertRaises(grpc.RpcError) as caught:
                    call()
                self.assertEqual(caught.exception.code(), Code.UNAVAILABLE)
                self.assertEqual(reason(caught.exception), "STARTING")
                self.assertIn("RetryInfo", details(caught.exception))
            server.go_on()
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(client.answer("now", stopping={"max_tokens": 3})[0], "now")
            watch.cancel()
        server.stop()

    def test_signal_while_starting(self):
        server = Server(waits=True).wait_log("listening")
        server.stop()
        self.assertFalse(os.path.exists(server.path))

    def test_drain(self):
        server = Server(step_us=2000, drain_ms=600000).ready()
        with Client(server.address) as client, Client(server.address) as other:
            health = health_pb2_grpc.HealthStub(other.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            idle = queue.Queue()
            session = other.inference.Session(iter(idle.get, None))
            held = other.generate("spin")  # so that the drain is not over before it was looked at
            next(held)
            call = client.generate("abc", stopping={"max_tokens": 600})
            next(call)
            server.signal()
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            with self.assertRaises(grpc.RpcError) as caught:
                list(other.generate("x"))
            self.assertEqual(reason(caught.exception), "DRAINING")
            self.assertIn("RetryInfo", details(caught.exception))
            with self.assertRaises(grpc.RpcError) as caught:
                other.models.Tokenize(model_pb.TokenizeRequest(text="x"))
            self.assertEqual(reason(caught.exception), "DRAINING")
            self.assertEqual(other.models.GetModel(model_pb.GetModelRequest()).name, "echo")
            messages = list(call)
            self.assertEqual(messages[-1].usage.completion_tokens, 600)
            held.cancel()
            with self.assertRaises(grpc.RpcError) as caught:
                list(session)
            self.assertEqual(caught.exception.code(), Code.UNAVAILABLE)
            idle.put(None)
            self.assertEqual(server.wait(), 0, server.log())
        self.assertFalse(os.path.exists(server.path))
        self.assertFalse(os.path.exists(server.path + ".lock"))

    def cancelled(self, server, client, cancel):
        """What somebody who reads all the time gets when cancel(server) ends a request."""
        messages, started = [], threading.Event()

        def read():
            for message in client.generate("spin"):
                messages.append(message)
                started.set()

        with ThreadPoolExecutor(1) as reader:
            done = reader.submit(read)
            self.assertTrue(started.wait(PATIENCE))
            cancel(server)
            error = done.exception(PATIENCE)
        self.assertEqual(messages[-1].finish.reason, pb.FINISH_REASON_CANCELLED)
        self.assertEqual(error.code(), Code.UNAVAILABLE)
        self.assertEqual(reason(error), "DRAINING")
        self.assertEqual(server.wait(), 0, server.log())

    def test_second_signal_cancels(self):
        def cancel(server):
            server.signal()
            server.wait_log("draining")
            server.signal(signal.SIGINT)

        server = Server().ready()
        with Client(server.address) as client:
            self.cancelled(server, client, cancel)

    def test_drain_timeout_cancels(self):
        server = Server(drain_ms=300).ready()
        with Client(server.address) as client:
            self.cancelled(server, client, Server.signal)

    def test_drain_with_a_client_that_never_reads(self):
        server = Server(step_us=20, drain_ms=500).ready()
        with Client(server.address) as client:
            call = client.generate("spin" * 50, output={"token_ids": True, "top_logprobs": 20})
            next(call)
            server.wait_log("park ")
            server.signal()
            self.assertEqual(server.wait(), 0, server.log())

    def test_killed_instance_leaves_no_lock(self):
        server = Server().ready()
        server.kill()
        self.assertTrue(os.path.exists(server.path))
        again = Server(folder=server.folder).ready()
        with Client(again.address) as client:
            self.assertEqual(client.answer("on", stopping={"max_tokens": 2})[0], "on")
        again.stop()

    def test_queue_and_many_waiting(self):
        server = Server(active=2).ready()
        with Client(server.address) as client:
            calls = [client.generate("ab", stopping={"max_tokens": 10}) for _ in range(200)]
            for call in calls:
                self.assertEqual("".join(m.text for m in call), "ababababab")
        server.stop()

    def test_out_of_descriptors(self):
        server = Server(files=64).ready()
        crowd = []
        for _ in range(80):
            s = socket.socket(socket.AF_UNIX)
            s.connect(server.path)
            crowd.append(s)
        server.wait_log("refused a connection")
        for s in crowd:
            s.close()
        with Client(server.address) as client:
            # A listener that is looked at before those hang-ups may refuse this one once, too.
            request = pb.GenerateRequest(text="on", stopping={"max_tokens": 2})
            call = client.inference.Generate(request, timeout=PATIENCE, wait_for_ready=True)
            self.assertEqual("".join(m.text for m in call), "on")
        server.stop()

    def test_idle_uses_no_cpu(self):
        server = Server().ready()
        with Client(server.address) as client:
            client.answer("x", stopping={"max_tokens": 10})

            def ticks():
                with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                return int(fields[11]) + int(fields[12])
            end = time.monotonic() + PATIENCE
            used = 200
            while used > 4 and time.monotonic() < end:  # what it had to do may take a while
                before = ticks()
                time.sleep(2)
                used = ticks() - before
            self.assertLessEqual(used, 4)  # of 200
        server.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
