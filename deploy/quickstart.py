#!/usr/bin/env python3
"""Shows the demo: one Session, every request with its own adapters, all in one batch.

    deploy/quickstart.py unix:/path/graftd.sock [--count 200]

Prints a few prompts under the base, each LoRA, each S0 state and both kinds on one request, then
the exact-match accuracy of each on held-out prompts and the device memory of its adapters. Exits
with 1 when a LoRA answers less than 90 % of its task's prompts exactly, an S0 state (alone or with
the format's LoRA) less than 80 %, or the base more than 25 % of any.
"""
import argparse
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "demo")]

import stubs  # noqa: E402
import tasks  # noqa: E402

IN_FLIGHT = 64  # lanes at once: what the daemon puts into one batch by default
SHOWN = 3
BARS = {"lora": 0.90, "s0": 0.80}
BASE_BAR = 0.25


class Lanes:
    """Runs many requests over one Session stream, IN_FLIGHT at a time."""

    def __init__(self, stub, pb, jobs):
        self.pb, self.jobs = pb, jobs
        self.room = threading.Semaphore(IN_FLIGHT)
        self.texts = [""] * len(jobs)
        self.tokens = self.steps = 0
        self.calls = stub.Session(self.requests())

    def requests(self):
        for lane, (prompt, adapters) in enumerate(self.jobs):
            self.room.acquire()
            message = self.pb.SessionRequest(stream_id=lane)
            message.start.text = prompt
            message.start.sampling.temperature = 0
            message.start.stopping.max_tokens = 96
            for name, weight in adapters:
                message.start.adapters.add(name=name, weight=weight)
            yield message

    def run(self):
        for message in self.calls:
            self.steps += 1
            for item in message.items:
                if item.error.code:
                    sys.exit(f"request {item.stream_id}: {item.error.message}")
                self.texts[item.stream_id] += item.response.text
                if item.response.HasField("finish"):
                    self.tokens += item.response.usage.completion_tokens
                    self.room.release()
        return self.texts


def plan(count):
    """(label, adapters, what is right) of everything that is shown, the base first."""
    rows = [("base", [], None)]
    for name in tasks.ADAPTERS:
        rows += [(a, [(a, 1.0)], (name, False)) for a in (name, name + tasks.STATE)]
    rows.append((tasks.FORMAT, [(tasks.FORMAT, 1.0)], ("copy", True)))
    pairs = tasks.ADAPTERS[:1] + [name + tasks.STATE for name in tasks.ADAPTERS]
    for name in pairs:
        rows.append((f"{name}+{tasks.FORMAT}", [(name, 1.0), (tasks.FORMAT, 1.0)],
                     (name.removesuffix(tasks.STATE), True)))
    return rows, tasks.held_out(count)


def show(rows, lines, texts):
    for i in range(SHOWN):
        print(f"\n  {lines[i].text}")
        for r, (label, _, _) in enumerate(rows):
            print(f"    {label:14s} {texts[r * len(lines) + i]}")


def accuracy(lines, texts, task, as_json):
    right = sum(text == tasks.answer(line, task, as_json) for line, text in zip(lines, texts))
    return right / len(lines)


def judge(rows, lines, texts, known):
    count, failed = len(lines), []
    base = texts[:count]
    print(f"\n  exact answers of {count} held-out prompts\n")
    print(f"    {'adapters':14s} {'kinds':9s} {'bytes':>9s} {'with':>7s} {'base':>7s}")
    for r, (label, adapters, right) in enumerate(rows):
        if right is None:
            continue
        mine = accuracy(lines, texts[r * count:(r + 1) * count], *right)
        plain = accuracy(lines, base, *right)
        used = [known[name] for name, _ in adapters]
        kinds, size = "+".join(a.kind for a in used), sum(a.device_bytes for a in used)
        print(f"    {label:14s} {kinds:9s} {size:9,d} {mine:7.1%} {plain:7.1%}")
        if plain > BASE_BAR:
            failed.append(f"base answers {plain:.1%} of {label}, more than {BASE_BAR:.0%}")
        bar = BARS.get(used[0].kind, 0) if len(used) == 1 or used[0].kind == "s0" else 0
        if mine < bar:
            failed.append(f"{label} answers {mine:.1%}, less than {bar:.0%}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    stubs.path()
    import grpc
    from graft.v1 import adapter_pb2, adapter_pb2_grpc
    from graft.v1 import inference_pb2 as pb
    from graft.v1 import inference_pb2_grpc as pb_grpc

    rows, lines = plan(args.count)
    # Prompt by prompt, so that neighbours in a batch run under different adapters.
    order = [(r, i) for i in range(len(lines)) for r in range(len(rows))]
    jobs = [(tasks.prompt(lines[i].text), rows[r][1]) for r, i in order]
    channel = grpc.insecure_channel(args.address)
    begin = time.monotonic()
    lanes = Lanes(pb_grpc.InferenceServiceStub(channel), pb, jobs)
    answers = dict(zip(order, lanes.run()))
    seconds = time.monotonic() - begin
    texts = [answers[r, i] for r in range(len(rows)) for i in range(len(lines))]
    show(rows, lines, texts)
    listed = adapter_pb2_grpc.AdapterServiceStub(channel).ListAdapters(
        adapter_pb2.ListAdaptersRequest())
    failed = judge(rows, lines, texts, {a.name: a for a in listed.adapters})
    print(f"\n  {len(jobs)} requests under {len(rows)} different sets of adapters, "
          f"{lanes.tokens} tokens in {lanes.steps} steps "
          f"({lanes.tokens / max(lanes.steps, 1):.1f} tokens a step), {seconds:.1f} s")
    for line in failed:
        print(f"  NOT as promised: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
