#!/usr/bin/env python3
"""Writes a random-weight checkpoint of Qwen2.5-0.5B's shape, and rank-16 adapters for it.

    perf/make_checkpoint.py OUT_DIR [--adapters 8] [--rank 16] [--layers 24] [--seed 1]

OUT_DIR/model is a Hugging Face directory in bf16 (0.99 GB), OUT_DIR/adapters/a0.. are PEFT LoRA
folders on all seven linears (17.6 MB each). Values are seeded random bits with a bounded exponent:
they mean nothing, but cost what real ones cost. The tokenizer is the demo model's, whose ids are
valid ids of the larger vocabulary. Standard library only.
"""
import argparse
import json
import os
import random
import shutil
import struct

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 896, 4864, 14, 2, 64, 151936
PIECE = 1 << 24  # values; randbytes counts bits in a C int
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def bf16_bytes(rng, count, high):
    """Pieces of count bf16 values of random sign and mantissa whose high byte is `high` or -`high`."""
    table = bytes(high | (b & 0x80) for b in range(256))
    for begin in range(0, count, PIECE):
        raw = bytearray(rng.randbytes(2 * min(PIECE, count - begin)))
        raw[1::2] = raw[1::2].translate(table)
        yield bytes(raw)


def ones(count):
    yield b"\x80\x3f" * count


def write_safetensors(path, tensors):
    """tensors: list of (name, shape, maker of byte pieces)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        count = 1
        for dim in shape:
            count *= dim
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * count]}
        at += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for _, shape, make in tensors:
            count = 1
            for dim in shape:
                count *= dim
            for piece in make(count):
                f.write(piece)


def linears(layer):
    base = f"model.layers.{layer}"
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    return [(f"{base}.self_attn.q_proj", q, HIDDEN), (f"{base}.self_attn.k_proj", kv, HIDDEN),
            (f"{base}.self_attn.v_proj", kv, HIDDEN), (f"{base}.self_attn.o_proj", HIDDEN, q),
            (f"{base}.mlp.gate_proj", FFN, HIDDEN), (f"{base}.mlp.up_proj", FFN, HIDDEN),
            (f"{base}.mlp.down_proj", HIDDEN, FFN)]


def make_model(out, rng, layers):
    os.makedirs(out, exist_ok=True)
    weight = lambda count: bf16_bytes(rng, count, 0x3C)  # |w| in 2^-7 .. 2^-5
    tensors = [("model.embed_tokens.weight", [VOCAB, HIDDEN], weight)]
    for layer in range(layers):
        for name, n, k in linears(layer):
            tensors.append((f"{name}.weight", [n, k], weight))
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                tensors.append((f"{name}.bias", [n], weight))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors.append((f"model.layers.{layer}.{norm}.weight", [HIDDEN], ones))
    tensors.append(("model.norm.weight", [HIDDEN], ones))
    write_safetensors(os.path.join(out, "model.safetensors"), tensors)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
              "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": layers,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": VOCAB,
              "use_sliding_window": False, "attention_dropout": 0.0, "bos_token_id": 0,
              "eos_token_id": 0, "initializer_range": 0.02, "use_cache": True}
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(ROOT, "deploy/demo/model", name), os.path.join(out, name))


def make_adapter(out, rng, layers, rank):
    os.makedirs(out, exist_ok=True)
    tensors = []
    for layer in range(layers):
        for name, n, k in linears(layer):
            full = f"base_model.model.{name}"
            tensors.append((f"{full}.lora_A.weight", [rank, k], lambda c: bf16_bytes(rng, c, 0x3C)))
            tensors.append((f"{full}.lora_B.weight", [n, rank], lambda c: bf16_bytes(rng, c, 0x3A)))
    write_safetensors(os.path.join(out, "adapter_model.safetensors"), tensors)
    with open(os.path.join(out, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": rank,
                   "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                      "up_proj", "down_proj"]}, f, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    make_model(os.path.join(args.out, "model"), random.Random(args.seed), args.layers)
    for i in range(args.adapters):
        make_adapter(os.path.join(args.out, "adapters", f"a{i}"),
                     random.Random(args.seed * 1000 + i + 1), args.layers, args.rank)


if __name__ == "__main__":
    main()
