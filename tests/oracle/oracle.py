#!/usr/bin/env python3
"""Makes the checkpoints, adapters and goldens of tests/golden with transformers and peft.

Run offline (README.md); its output is committed, nothing of it runs in the build or the tests.
Usage: oracle.py [--out DIR] [CASE ...]

Each case is a tiny random checkpoint of one family, two LoRA adapters as peft saves them, and
golden.safetensors with what the reference computes in fp32 on the stored weights:
    prompt           I32 [n]         token ids
    <run>.logits     F32 [rows, V]   of the last `rows` prompt positions
    <run>.tokens     I32 [64]        greedy continuation (not of bf16 checkpoints)
for the runs "base", "a", "b" (one adapter each) and "pair" (0.7 a - 0.4 b, exact weighted sum).
Seeds whose greedy runs come nearer than ten tolerances to a tie, or only repeat, are rejected; so are
those of 16-bit checkpoints where fewer than 32 positions have a clear winner.
"""
import argparse
import json
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.utils import logging

TOLERANCE = 1e-4  # of the row's largest |logit|, what the f32 goldens are compared with
MARGIN = 10 * TOLERANCE
STEPS = 64
DISTINCT = 12  # different tokens in a greedy run: one that only repeats shows little
ROWS = 24
ROWS_16 = 64  # of 16-bit checkpoints, which are also run on 16-bit devices
CLEAR = 2e-2  # margin, of the row's largest |logit|, from which on a 16-bit device must pick the winner
CLEAR_ROWS = 32
PAIR = (0.7, -0.4)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}


def small(cls, **kw):
    return cls(initializer_range=0.02, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **kw)


# name -> dtype, config, prompt length, adapters (r, alpha, rsLoRA, targets)
CASES = {
    # llama3 rope scaling, untied head, grouped queries; the prompt crosses a KV page
    "llama": ("f32", small(
        LlamaConfig, vocab_size=136, hidden_size=48, intermediate_size=72, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5), 72),
    # tied, every linear biased, no width a multiple of 32
    "llama-bias": ("f32", small(
        LlamaConfig, vocab_size=151, hidden_size=54, intermediate_size=70, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=3, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True), 24),
    "qwen2": ("f32", small(
        Qwen2Config, vocab_size=137, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1), 24),
    # tied, in three files with an index
    "qwen2-tied": ("f32", small(
        Qwen2Config, vocab_size=144, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True), 72),
    # heads * head_dim is not the hidden size
    "qwen3": ("f32", small(
        Qwen3Config, vocab_size=139, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, tie_word_embeddings=True), 72),
    "llama-bf16": ("bf16", small(
        LlamaConfig, vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rope_parameters=LLAMA3_ROPE), 72),
    "qwen2-bf16": ("bf16", small(
        Qwen2Config, vocab_size=131, hidden_size=72, intermediate_size=104, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True), 72),
    "qwen3-bf16": ("bf16", small(
        Qwen3Config, vocab_size=160, hidden_size=56, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16), 72),
    "llama-f16": ("f16", small(
        LlamaConfig, vocab_size=129, hidden_size=48, intermediate_size=72, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True), 72),
    "qwen3-f16": ("f16", small(
        Qwen3Config, vocab_size=136, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=5, num_key_value_heads=1, head_dim=32), 72),
}
ADAPTERS = {
    "a": dict(r=8, lora_alpha=16, target_modules=ALL),
    "b": dict(r=5, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]),
}
ADAPTERS_16 = {
    "a": dict(r=4, lora_alpha=8, target_modules=ALL),
    "b": dict(r=8, lora_alpha=8, target_modules=["k_proj", "o_proj", "up_proj"]),
}
SHARDED = {"qwen2-tied": "112KB"}


def fill(model, gen, dtype):
    """Weights that keep activations near 1, so that every part of the network shows in the logits.

    In bf16 each layer adds a fraction of the residual, as in trained networks: else the rounding of
    activations, which the reference does not do, grows beyond what the bar means to test."""
    embed, residual, inner = (3.0, 0.4, 0.8) if dtype == "bf16" else (1.0, 0.7, 1.2)
    for name, p in model.named_parameters():
        value = torch.randn(p.shape, generator=gen)
        if p.dim() == 1:
            value = 1 + 0.1 * value if "norm" in name else 0.1 * value
        elif "embed_tokens" in name or "lm_head" in name:
            value = (embed if "embed" in name else 1) * value / p.shape[1] ** 0.5
        else:
            gain = residual if "o_proj" in name or "down_proj" in name else inner
            value = gain * value / p.shape[1] ** 0.5
        p.data.copy_(value)


def fill_adapter(model, gen, dtype):
    size = 0.12 if dtype == "bf16" else 0.2
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.data.copy_(torch.randn(p.shape, generator=gen) / p.shape[1] ** 0.5)
        elif "lora_B" in name:
            p.data.copy_(size * torch.randn(p.shape, generator=gen) / p.shape[1] ** 0.5)
        elif "ia3_l" in name:
            p.data.copy_(1 + 2 * size * torch.randn(p.shape, generator=gen))


def load(path):
    """In fp32 on the stored values, whatever they are stored as."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def pair_model(path):
    model = load(path)
    weights = dict(model.named_parameters())
    for name, w in zip(("a", "b"), PAIR):
        folder = f"{path}/adapters/{name}"
        with open(f"{folder}/adapter_config.json") as f:
            config = json.load(f)
        scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
        factors = load_file(f"{folder}/adapter_model.safetensors")
        for key, a in factors.items():
            if "lora_A" not in key:
                continue
            b = factors[key.replace("lora_A", "lora_B")]
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = weights[module + ".weight"]
            weight.data = (weight.double() + w * scale * (b.double() @ a.double())).float()
    return model


@torch.no_grad()
def run(model, prompt, rows, is_greedy):
    """Logits of the last `rows` prompt positions, and the greedy tokens; None for a seed to reject."""
    logits = model(prompt[None]).logits[0].float()
    out = logits[-rows:].clone()
    if rows == ROWS_16:
        top = out.topk(2).values
        if int(((top[:, 0] - top[:, 1]) > CLEAR * out.abs().amax(1)).sum()) < CLEAR_ROWS:
            return None
    tokens, margin = [], 1.0
    if is_greedy:
        ids = prompt
        for _ in range(STEPS):
            row = model(ids[None]).logits[0, -1].float()
            top = row.topk(2).values
            margin = min(margin, float((top[0] - top[1]) / row.abs().max()))
            tokens.append(int(row.argmax()))
            if margin < MARGIN:
                return None
            ids = torch.cat([ids, torch.tensor([tokens[-1]])])
    return out.contiguous(), torch.tensor(tokens, dtype=torch.int32)


def save_adapter(case, name, config, gen, dtype, path):
    adapted = get_peft_model(load(path), config)
    fill_adapter(adapted, gen, dtype)
    adapted.peft_config["default"].base_model_name_or_path = case
    if dtype != "f32":
        adapted.to(DTYPES[dtype])
    adapted.save_pretrained(f"{path}/adapters/{name}")
    os.remove(f"{path}/adapters/{name}/README.md")


def load_adapted(path, name):
    return PeftModel.from_pretrained(load(path), f"{path}/adapters/{name}").float().eval()


def save_golden(golden, seed, path):
    save_file(golden, f"{path}/golden.safetensors", metadata={
        "seed": str(seed), "transformers": transformers.__version__, "peft": peft.__version__,
        "torch": torch.__version__})


def moved(golden, name):
    """How far a run's logits are from the base's, of the largest."""
    base = golden["base.logits"]
    return float((golden[f"{name}.logits"] - base).abs().max() / base.abs().max())


def save_model(case, dtype, config, seed, path):
    gen = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, gen, dtype)
    model.tie_weights()
    model.to(DTYPES[dtype])
    kw = {"max_shard_size": SHARDED[case]} if case in SHARDED else {}
    model.save_pretrained(path, **kw)
    for name, lora in (ADAPTERS if dtype == "f32" else ADAPTERS_16).items():
        save_adapter(case, name, LoraConfig(task_type="CAUSAL_LM", **lora), gen, dtype, path)
    return torch.randint(3, config.vocab_size, (CASES[case][2],), generator=gen)


def attempt(case, seed, path):
    dtype, config, _ = CASES[case]
    shutil.rmtree(path, ignore_errors=True)
    prompt = save_model(case, dtype, config, seed, path)
    golden = {"prompt": prompt.to(torch.int32)}
    rows = ROWS if dtype == "f32" else ROWS_16
    is_greedy = dtype != "bf16"
    for name in ("base", "a", "b", "pair"):
        if name == "base":
            model = load(path)
        elif name == "pair":
            model = pair_model(path)
        else:
            model = load_adapted(path, name)
        result = run(model, prompt, rows, is_greedy)
        if result is None:
            return False
        golden[f"{name}.logits"] = result[0]
        if is_greedy:
            if len(set(result[1].tolist())) < DISTINCT:
                return False
            golden[f"{name}.tokens"] = result[1]
    save_golden(golden, seed, path)
    tokens = len(set(golden["base.tokens"].tolist())) if is_greedy else 0
    print(f"{case}: seed {seed}, adapter a moves logits by {moved(golden, 'a'):.3f} of the largest, "
          f"{tokens} distinct greedy tokens", flush=True)
    return True


def share(path):
    for folder, _, files in os.walk(path):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o644)


def search(cases, attempt):
    """Makes the cases named on the command line, or all, each with the first seed that passes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "golden"))
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for case in args.cases or cases:
        for seed in range(1, 2000):
            if attempt(case, seed, os.path.join(args.out, case)):
                share(os.path.join(args.out, case))
                break
        else:
            sys.exit(f"{case}: no seed has a wide enough margin")


if __name__ == "__main__":
    search(CASES, attempt)
