#!/usr/bin/env python3
"""End to end through gRPC: 8 requests at once, 64 prompt and 48 generated tokens each.

    perf/bench_e2e.py --graftd build/release/daemon/graftd --data DIR [--rounds 5] [--bar GB_PER_S]

DIR is what perf/make_checkpoint.py wrote. Starts the daemon on a unix socket, sends the requests
without adapters, all with the same, and with eight different ones, in turn, and prints output
tokens per second (median and best), and time to first token. With --bar (the read bandwidth that
bench_model printed in the same session) it compares with the bar that perf/README.md derives.
"""
import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PROMPT, OUTPUT, REQUESTS = 64, 48, 8


def request(pb, rng, adapters):
    r = pb.GenerateRequest()
    r.token_ids.ids.extend(rng.randrange(300) for _ in range(PROMPT))
    for name in adapters:
        r.adapters.add().name = name
    r.sampling.temperature = 0
    r.stopping.max_tokens = OUTPUT
    r.stopping.ignore_eos = True
    r.output.token_ids = True
    return r


def run_once(stub, pb, adapters_of, seed):
    rng = random.Random(seed)
    done, first = [0] * REQUESTS, [0.0] * REQUESTS

    def one(i):
        begin = time.monotonic()
        for m in stub.Generate(request(pb, random.Random(rng.random() + i), adapters_of(i))):
            if m.token_ids and not first[i]:
                first[i] = time.monotonic() - begin
            done[i] += len(m.token_ids)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(REQUESTS)]
    begin = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.monotonic() - begin
    if done != [OUTPUT] * REQUESTS:
        sys.exit(f"a request did not generate {OUTPUT} tokens: {done}")
    return REQUESTS * OUTPUT / seconds, statistics.median(first)


def wait_ready(channel):
    """Until GetModel answers: the listeners open before the weights are read."""
    import grpc
    from graft.v1 import model_pb2, model_pb2_grpc
    stub = model_pb2_grpc.ModelServiceStub(channel)
    for _ in range(1200):
        try:
            stub.GetModel(model_pb2.GetModelRequest(), wait_for_ready=True)
            return
        except grpc.RpcError:
            time.sleep(0.1)
    sys.exit("the daemon did not become ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graftd", default=os.path.join(ROOT, "build/release/daemon/graftd"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bar", type=float)
    args = parser.parse_args()
    sys.path.insert(0, os.path.join(ROOT, "deploy"))
    import stubs
    stubs.path()
    import grpc
    from graft.v1 import inference_pb2 as pb
    from graft.v1 import inference_pb2_grpc as pb_grpc
    address = "unix:" + os.path.join(tempfile.mkdtemp(prefix="graft_bench_"), "s.sock")
    daemon = subprocess.Popen([args.graftd, "--model", os.path.join(args.data, "model"),
                               "--adapters", os.path.join(args.data, "adapters"),
                               "--listen", address, "--max-context", "2048"])
    try:
        channel = grpc.insecure_channel(address)
        stub = pb_grpc.InferenceServiceStub(channel)
        wait_ready(channel)
        run_once(stub, pb, lambda i: [f"a{i}"], 0)  # loads the adapters
        modes = {"no adapter": lambda i: [], "all the same": lambda i: ["a0"],
                 "8 different": lambda i: [f"a{i}"]}
        results = {name: [] for name in modes}
        for seed in range(1, args.rounds + 1):
            for name, adapters_of in modes.items():
                results[name].append(run_once(stub, pb, adapters_of, seed))
        for name, figures in results.items():
            speeds = [f[0] for f in figures]
            print(f"{name:12s} {statistics.median(speeds):7.1f} tok/s (best {max(speeds):.1f}), "
                  f"first token {statistics.median(f[1] for f in figures):.2f} s")
        if args.bar:
            # Best peer known per class of machine, at the read bandwidth it was measured with.
            peer, read = (39, 79) if "AuthenticAMD" in open("/proc/cpuinfo").read() else (34, 37)
            bar = 3 * peer * args.bar / read
            print(f"bar {bar:.1f} tok/s: {statistics.median([f[0] for f in results['8 different']]) / bar:.2f} x")
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)


if __name__ == "__main__":
    main()
