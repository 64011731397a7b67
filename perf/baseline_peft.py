#!/usr/bin/env python3
"""What a user would write with transformers and peft, on the same card: the baseline of gpu_bench.

The same shapes with random bf16 weights, eight rank-16 LoRA adapters on every linear, the same
steps: decode of 1 row, of 32 rows at a context of 512 without adapters and with eight distinct
ones in one batch (peft's adapter_names), and a prefill of eight prompts. Ways that are compared
take turns; a line is the median with the least and the most.

Exit status 3 where a package or CUDA is missing: "not available: ...".
"""
import argparse
import contextlib
import statistics
import sys
import time

SHAPES = {  # layers, hidden, ffn, heads, KV heads, head_dim, vocabulary
    "8b": (32, 4096, 14336, 32, 8, 128, 128256),
    "3b": (28, 3072, 8192, 24, 8, 128, 128256),
    "0.5b": (24, 896, 4864, 14, 2, 64, 151936),
    "tiny": (2, 64, 128, 4, 2, 16, 256),
}
ADAPTERS = 8
RANK = 16


def not_available(why):
    print(f"not available: {why}")
    sys.exit(3)


def build(torch, transformers, peft, shape, device):
    layers, hidden, ffn, heads, kv_heads, head_dim, vocab = SHAPES[shape]
    config = transformers.LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden, intermediate_size=ffn,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        vocab_size=vocab, max_position_embeddings=8192, rope_theta=5e5,
        tie_word_embeddings=False)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
        lora = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear",
                               init_lora_weights=False)
        model = peft.get_peft_model(model, lora, adapter_name="a0")
        for i in range(1, ADAPTERS):
            model.add_adapter(f"a{i}", lora)
    return model.to(device).eval()


class Bench:
    def __init__(self, torch, model, device, args):
        self.torch, self.model, self.device, self.args = torch, model, device, args
        self.vocab = model.config.vocab_size

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def tokens(self, rows, n):
        ids = self.torch.arange(rows * n, device=self.device) * 131 % self.vocab
        return ids.reshape(rows, n)

    def adapters(self, names):
        """None: the base; a name: of all rows; a list: of each row."""
        if names is None:
            return self.model.disable_adapter(), {}
        if isinstance(names, str):
            self.model.set_adapter(names)
            return contextlib.nullcontext(), {}
        return contextlib.nullcontext(), {"adapter_names": names}

    def decode(self, rows, names):
        """Seconds a step, one token a sequence."""
        steps = self.args.steps
        context, kwargs = self.adapters(names)
        with context, self.torch.inference_mode():
            out = self.model(input_ids=self.tokens(rows, self.args.context - steps),
                             use_cache=True, logits_to_keep=1, **kwargs)
            cache = out.past_key_values
            ids = out.logits[:, -1:].argmax(-1)
            self.wait()
            start = time.perf_counter()
            for _ in range(steps):
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **kwargs)
                ids = out.logits[:, -1:].argmax(-1)
            self.wait()
        return (time.perf_counter() - start) / steps

    def prefill(self, rows, n, names):
        context, kwargs = self.adapters(names)
        with context, self.torch.inference_mode():
            self.wait()
            start = time.perf_counter()
            self.model(input_ids=self.tokens(rows, n), logits_to_keep=1, **kwargs)
            self.wait()
        return time.perf_counter() - start


def say(name, values, unit):
    print(f"{name}: {statistics.median(values):.3f} {unit} ({min(values):.3f}..{max(values):.3f})",
          flush=True)


def compare(name, pairs, base, other):
    """Both in turn; prints the ratio of the other to the base."""
    first, second = [], []
    base()
    other()
    for _ in range(pairs):
        first.append(base())
        second.append(other())
    ratio = [b / a for a, b in zip(first, second)]
    print(f"{name}: {statistics.median(ratio):.4f} ({min(ratio):.4f}..{max(ratio):.4f})", flush=True)
    return first, second


def run(bench, args):
    batch, prompt = (32, 256) if args.shape != "tiny" else (8, 16)
    distinct = [f"a{i % ADAPTERS}" for i in range(batch)]
    bench.decode(1, None)
    say("decode, 1 row", [1e3 * bench.decode(1, None) for _ in range(args.pairs)], "ms")
    first, second = compare(f"decode, {batch} rows, 8 distinct adapters / base", args.pairs,
                            lambda: bench.decode(batch, None),
                            lambda: bench.decode(batch, distinct))
    say(f"decode, {batch} rows, base", [1e3 * v for v in first], "ms")
    say(f"decode, {batch} rows, 8 distinct adapters", [1e3 * v for v in second], "ms")
    for text, names in (("8 distinct adapters", distinct[:8]), ("one adapter for all", "a0")):
        compare(f"prefill, {text} / base, rows/s", args.pairs,
                lambda n=names: bench.prefill(8, prompt, n),
                lambda: bench.prefill(8, prompt, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    args.context = 512 if args.shape != "tiny" else 64
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        not_available(str(error))
    if args.device == "cuda" and not torch.cuda.is_available():
        not_available("torch finds no CUDA device")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "the CPU"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"peft {peft.__version__}, {name}, shape {args.shape}")
    model = build(torch, transformers, peft, args.shape, args.device)
    run(Bench(torch, model, args.device, args), args)


if __name__ == "__main__":
    main()
