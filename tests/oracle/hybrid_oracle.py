#!/usr/bin/env python3
"""Makes the checkpoints, adapters and goldens of the hybrid families, of S0 states and of IA3.

Run offline (README.md), as oracle.py, whose helpers and rejection rules it uses.
Usage: hybrid_oracle.py [--out DIR] [CASE ...]

golden.safetensors is as oracle.py writes it, with the runs a case lists out of
    base, a, b, pair   as there
    s                  an S0 state: alpha null, which is the architecture's default, not normalised
    n                  another: alpha given, normalised; the last recurrent layer's tensor is zeros
    sa                 the state s and LoRA a
    ia3                an IA3 adapter
and in the cases of STATES s.state.<layer>, F32, in the reference's layout: the recurrent state after
the prompt under s. The search draws the weights and the prompt anew for a base that is rejected, and
only the adapter for a run that is.
"""
import contextlib
import itertools
import json
import math
import os
import shutil

import oracle
from oracle import DISTINCT, DTYPES, ROWS, ROWS_16, small

import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM, DynamicCache, FalconH1Config, Qwen2Config, Qwen3_5TextConfig, Qwen3NextConfig,
)
from transformers.models.falcon_h1 import modeling_falcon_h1
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

DRAWS = 30  # of an adapter before the whole seed is rejected
SPREAD = 1e-5  # of the row's largest |logit|, what the reference's own two forms may differ by
ROUNDED = 1.5e-2  # of the row's largest |logit|, what rounding all activations to bf16 may change
MOVED = 1e-2  # of the largest logit, what every adapter must change

FULL = ("base", "a", "b", "pair", "s", "sa", "n", "ia3")
STAGES = (("base",), ("a",), ("b", "pair"), ("s", "sa"), ("n",), ("ia3",))
STATES = ("qwen35", "falcon-h1")

S0_ALPHA = {"gated_delta_net": 0.07, "mamba2": 0.65}
S0_N_ALPHA = {"gated_delta_net": 24.5, "mamba2": 30.25}
S0_SIZE = 1.5  # of an entry as injected under s

# module, function, argument with the initial state, argument that asks for the final one
SCAN = {
    "gated_delta_net": (
        modeling_qwen3_5, "torch_chunk_gated_delta_rule", "initial_state", "output_final_state"),
    "mamba2": (modeling_falcon_h1, "mamba2_chunk_scan", "initial_states", "return_final_states"),
}


def qwen35(**kw):
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    return small(Qwen3_5TextConfig, rope_parameters=rope, head_dim=32, num_attention_heads=2,
                 num_key_value_heads=1, **kw)


def layers(pattern):
    kinds = {"l": "linear_attention", "f": "full_attention"}
    return {"num_hidden_layers": len(pattern), "layer_types": [kinds[k] for k in pattern]}


def gdn(key_heads, value_heads, key_dim, value_dim):
    return {"linear_num_key_heads": key_heads, "linear_num_value_heads": value_heads,
            "linear_key_head_dim": key_dim, "linear_value_head_dim": value_dim}


def falcon(heads, width, groups, state, **kw):
    return small(
        FalconH1Config, mamba_n_heads=heads, mamba_d_head=width, mamba_d_ssm=heads * width,
        mamba_n_groups=groups, mamba_d_state=state, mamba_chunk_size=32,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        embedding_multiplier=1.7, lm_head_multiplier=0.6, key_multiplier=0.8,
        attention_in_multiplier=1.15, attention_out_multiplier=0.85, ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.75, mlp_multipliers=[1.1, 0.65], ssm_multipliers=[0.9, 1.3, 0.7, 1.4, 0.95],
        **kw)


# name -> dtype, config, prompt length, runs
CASES = {
    # fewer key heads than value heads, K not V, tied, as a text-only export
    "qwen35": ("f32", qwen35(
        vocab_size=137, hidden_size=40, intermediate_size=40, tie_word_embeddings=True,
        **layers("llfl"), **gdn(2, 4, 16, 24)), 72, FULL),
    # as released: text_config and vision_config, longer names, tensors of other networks
    "qwen35-nested": ("f32", qwen35(
        vocab_size=139, hidden_size=40, intermediate_size=48, tie_word_embeddings=False,
        **layers("llfl"), **gdn(2, 2, 16, 16)), 140, ("base",)),
    # Qwen3-Next's fused projections
    "qwen35-fused": ("f32", qwen35(
        vocab_size=131, hidden_size=40, intermediate_size=40, tie_word_embeddings=True,
        **layers("lfl"), **gdn(2, 6, 16, 24)), 140, ("base",)),
    # no gated norm, one group, untied
    "falcon-h1": ("f32", falcon(
        3, 16, 1, 20, vocab_size=135, hidden_size=40, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16, mamba_rms_norm=False,
        mamba_norm_before_gate=False, mamba_conv_bias=True), 140, FULL),
    # two groups, norm before gate, tied
    "falcon-h1-norm": ("f32", falcon(
        4, 12, 2, 16, vocab_size=141, hidden_size=40, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=24, mamba_rms_norm=True,
        mamba_norm_before_gate=True, mamba_conv_bias=True, tie_word_embeddings=True), 140,
        ("base", "a", "s", "n", "ia3")),
    # gate before norm, no bias of the convolution
    "falcon-h1-gate": ("f32", falcon(
        4, 8, 2, 12, vocab_size=133, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, mamba_rms_norm=True,
        mamba_norm_before_gate=False, mamba_conv_bias=False, tie_word_embeddings=True), 72,
        ("base", "s")),
    "qwen35-bf16": ("bf16", qwen35(
        vocab_size=144, hidden_size=48, intermediate_size=64, tie_word_embeddings=True,
        **layers("lfl"), **gdn(4, 8, 16, 16)), 72, FULL),
    "falcon-h1-bf16": ("bf16", falcon(
        8, 16, 2, 16, vocab_size=152, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, mamba_rms_norm=True,
        mamba_norm_before_gate=False, mamba_conv_bias=True), 72, FULL),
    # dense: IA3 scales biased outputs
    "qwen2-ia3": ("f32", small(
        Qwen2Config, vocab_size=130, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True), 72, ("base", "ia3")),
}

GDN_LINEAR = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
# peft refuses LoRA on out_proj in models with Mamba layers, IA3 it makes
LORA = {
    "gated_delta_net": {
        "a": oracle.ALL + GDN_LINEAR,
        "b": ["q_proj", "v_proj", "in_proj_qkv", "in_proj_a", "down_proj"],
    },
    "mamba2": {
        "a": oracle.ALL + ["in_proj"],
        "b": ["q_proj", "v_proj", "in_proj", "down_proj"],
    },
}
RANKS = {
    "f32": {"a": dict(r=4, lora_alpha=8), "b": dict(r=3, lora_alpha=4, use_rslora=True)},
    "bf16": {"a": dict(r=4, lora_alpha=8), "b": dict(r=8, lora_alpha=8)},
}
# targets, and those of them whose input is scaled
IA3 = {
    "gated_delta_net": (["k_proj", "v_proj", "in_proj_z", "down_proj", "out_proj"], ["down_proj", "out_proj"]),
    "mamba2": (["k_proj", "v_proj", "in_proj", "down_proj", "out_proj"], ["down_proj", "out_proj"]),
    None: (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
}


def arch_of(config):
    return {"qwen3_5_text": "gated_delta_net", "falcon_h1": "mamba2"}.get(config.model_type)


def recurrent(config):
    """The recurrent layers, and the shape of their states."""
    if arch_of(config) == "gated_delta_net":
        shape = [config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim]
        return [i for i, kind in enumerate(config.layer_types) if kind == "linear_attention"], shape
    shape = [config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state]
    return list(range(config.num_hidden_layers)), shape


@contextlib.contextmanager
def started(config, states):
    """Every sequence starts from `states`; yields the states after the last whole sequence.

    A call that continues a sequence has a state already and keeps it."""
    module, name, initial, wants = SCAN[arch_of(config)]
    plain = getattr(module, name)
    turn = itertools.cycle(recurrent(config)[0])
    final = {}

    def scan(*args, **kw):
        if kw[initial] is not None:
            return plain(*args, **kw)
        layer = next(turn)
        if layer in states:
            kw[initial] = states[layer][None]
        has_wanted = kw[wants]
        out, final[layer] = plain(*args, **kw | {wants: True})
        return (out, final[layer]) if has_wanted or arch_of(config) == "gated_delta_net" else out

    setattr(module, name, scan)
    try:
        yield final
    finally:
        setattr(module, name, plain)


def save_s0(case, name, gen, path):
    config = CASES[case][1]
    arch = arch_of(config)
    at, shape = recurrent(config)
    states = {str(i): torch.randn(shape, generator=gen) * S0_SIZE / S0_ALPHA[arch] for i in at}
    is_normal = name == "n"
    if is_normal:
        states[str(at[-1])].zero_()
    folder = f"{path}/adapters/{name}"
    os.makedirs(folder, exist_ok=True)
    save_file(states, f"{folder}/states.safetensors")
    with open(f"{folder}/config.json", "w") as f:
        json.dump({"n_steps": 20, "lr": 1e-3, "l2_lambda": 5e-4,
                   "alpha": S0_N_ALPHA[arch] if is_normal else None, "normalize": is_normal,
                   "grad_clip": 1.0, "max_length": 2048}, f, indent=2)
    with open(f"{folder}/meta.json", "w") as f:
        json.dump({"arch": arch, "recurrent_layers": at, "state_shape": shape}, f, indent=2)


def load_s0(folder):
    """What is injected, by layer."""
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    with open(f"{folder}/meta.json") as f:
        alpha = S0_ALPHA[json.load(f)["arch"]] if config["alpha"] is None else config["alpha"]
    states = {}
    for key, s in load_file(f"{folder}/states.safetensors").items():
        norm = s.norm()
        states[int(key)] = alpha * s / norm if config["normalize"] and norm > 0 else alpha * s
    return states


def fill(model, gen, dtype):
    """oracle.fill, and ranges that suit the recurrences: decays from slow to gone in a token or two.

    Not so in bf16: the output of a head without memory is one value times a sign, q.k's, once it is
    normalised, and rounding turns that."""
    oracle.fill(model, gen, dtype)
    is_qwen = model.config.model_type == "qwen3_5_text"
    slow, fast = 0.01, 0.25 if dtype == "bf16" else 4 if is_qwen else 6
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            rates = torch.linspace(math.log(slow), math.log(fast), p.numel())
            p.data.copy_(rates + 0.05 * torch.randn(p.shape, generator=gen))
        elif name.endswith("dt_bias"):
            p.data.copy_(0.5 * torch.randn(p.shape, generator=gen) - 0.5)
        elif name.endswith("mamba.D"):
            p.data.copy_(1 + 0.3 * torch.randn(p.shape, generator=gen))
        elif name.endswith("conv1d.weight"):
            p.data.mul_(0.5)
        elif "out_proj" in name:
            p.data.mul_(0.35 if is_qwen and dtype == "f32" else 0.6)
        elif is_qwen and dtype == "f32" and ("down_proj" in name or "o_proj" in name):
            p.data.mul_(0.7)
        elif is_qwen and "norm" in name and "linear_attn" not in name:
            p.data.sub_(1)  # stored around zero


def save_model(case, gen, path):
    dtype, config, length, _ = CASES[case]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, gen, dtype)
    model.tie_weights()
    if dtype != "f32":
        exact = {n: p.data for n, p in model.named_parameters() if "A_log" in n or "linear_attn.norm" in n}
        model.to(DTYPES[dtype])
        if config.model_type == "qwen3_5_text":
            for name, p in model.named_parameters():
                p.data = exact.get(name, p.data)
    model.save_pretrained(path)
    return torch.randint(3, config.vocab_size, (length,), generator=gen)


def save_adapter(case, name, gen, path):
    dtype, config = CASES[case][:2]
    if name in ("s", "n"):
        save_s0(case, name, gen, path)
        return
    if name == "ia3":
        targets, inputs = IA3[arch_of(config)]
        adapter = IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=inputs)
    else:
        adapter = LoraConfig(
            task_type="CAUSAL_LM", target_modules=LORA[arch_of(config)][name], **RANKS[dtype][name])
    oracle.save_adapter(case, name, adapter, gen, dtype, path)


def load_run(name, path):
    """The model of a run, and the states it starts from."""
    if name in ("base", "s", "n"):
        model = oracle.load(path)
    elif name == "pair":
        model = oracle.pair_model(path)
    else:
        model = oracle.load_adapted(path, "a" if name == "sa" else name)
    model.config.use_cache = False
    return model, load_s0(f"{path}/adapters/{name[0]}") if name in ("s", "n", "sa") else {}


def run(case, name, prompt, path):
    """The tensors of a run; None for one to reject."""
    dtype, config = CASES[case][:2]
    is_greedy = dtype != "bf16"
    model, states = load_run(name, path)
    out = {}
    with started(config, states) if arch_of(config) else contextlib.nullcontext() as final:
        if name == "s" and case in STATES:
            with torch.no_grad():
                model(prompt[None])
            out = {f"s.state.{layer}": s[0].float().contiguous() for layer, s in final.items()}
        result = oracle.run(model, prompt, ROWS if is_greedy else ROWS_16, is_greedy)
    if result is None or is_greedy and len(set(result[1].tolist())) < DISTINCT:
        return None
    out[f"{name}.logits"] = result[0]
    if is_greedy:
        out[f"{name}.tokens"] = result[1]
    return out


def is_kept(case, name, prompt, golden, path):
    """Whether a run's adapter shows in it, and its roundings do not."""
    dtype, config = CASES[case][:2]
    if name != "base" and oracle.moved(golden, name) < MOVED:
        return False
    if dtype == "bf16" and rounded(case, name, prompt, golden, path) > ROUNDED:
        return False
    return not arch_of(config) or spread(case, name, prompt, path) <= SPREAD


def draw(case, stage, seed, prompt, golden, path):
    """Draws the stage's adapter until its runs pass. Returns False when none does."""
    for number in range(1 if stage[0] == "base" else DRAWS):
        added = {}
        if stage[0] != "base":
            save_adapter(case, stage[0], torch.Generator().manual_seed(1000 * seed + number), path)
        for name in stage:
            tensors = run(case, name, prompt, path)
            if tensors is None or not is_kept(case, name, prompt, golden | tensors, path):
                break
            added |= tensors
        else:
            golden |= added
            return True
    return False


@torch.no_grad()
def spread(case, name, prompt, path):
    """The largest difference in a stored row, of its largest |logit|, of one pass and of token by token."""
    config = CASES[case][1]
    model, states = load_run(name, path)
    with started(config, states):
        whole = model(prompt[None]).logits[0]
        cache = DynamicCache(config=config)
        steps = [model(prompt[None, i:i + 1], past_key_values=cache, use_cache=True).logits[0]
                 for i in range(len(prompt))]
    apart = (torch.cat(steps) - whole).abs().amax(1) / whole.abs().amax(1)
    return float(apart[-(ROWS if CASES[case][0] == "f32" else ROWS_16):].max())


@torch.no_grad()
def rounded(case, name, prompt, golden, path):
    """What rounding every activation to bf16 changes, of the row's largest |logit|."""
    model, states = load_run(name, path)
    exact = {n: p.data for n, p in model.named_parameters() if "A_log" in n or "linear_attn.norm" in n}
    model.bfloat16()
    for n, p in model.named_parameters():
        p.data = exact.get(n, p.data)
    want = golden[f"{name}.logits"]
    with started(CASES[case][1], states):
        got = model(prompt[None]).logits[0].float()[-len(want):]
    return float(((got - want).abs().amax(1) / want.abs().amax(1)).max())


def rewrite(path, tensors, config):
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{path}/model.safetensors",
              metadata={"format": "pt"})
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f, indent=2)


def check_same(path, prompt, golden):
    """transformers reads the rewritten files to the same result."""
    with torch.no_grad():
        logits = oracle.load(path)(prompt[None], use_cache=False).logits[0][-ROWS:]
    assert (logits - golden["base.logits"]).abs().max() == 0


def nest(path, gen):
    """To the released multimodal form: text_config, longer names, a vision tower and a draft network."""
    with open(f"{path}/config.json") as f:
        text = json.load(f)
    d = text["hidden_size"]
    tensors = {k.replace("model.", "model.language_model.", 1) if k.startswith("model.") else k: v
               for k, v in load_file(f"{path}/model.safetensors").items()}
    for name, shape in {
        "model.visual.patch_embed.proj.weight": (8, 3, 1, 2, 2),
        "model.visual.patch_embed.proj.bias": (8,),
        "model.visual.pos_embed.weight": (4, 8),
        "model.visual.blocks.0.norm1.weight": (8,),
        "model.visual.blocks.0.attn.qkv.weight": (24, 8),
        "model.visual.merger.linear_fc2.weight": (d, 32),
        "mtp.fc.weight": (d, 2 * d),
        "mtp.norm.weight": (d,),
        "mtp.pre_fc_norm_embedding.weight": (d,),
        "mtp.pre_fc_norm_hidden.weight": (d,),
        "mtp.layers.0.input_layernorm.weight": (d,),
        "mtp.layers.0.self_attn.k_proj.weight": (8, d),
    }.items():
        tensors[name] = torch.randn(shape, generator=gen)
    text.pop("architectures")
    version = text.pop("transformers_version")
    text["rope_parameters"] |= {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text |= {"attn_output_gate": True, "full_attention_interval": 3, "mamba_ssm_dtype": "float32",
             "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}
    rewrite(path, tensors, {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "image_token_id": 136,
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "transformers_version": version,
        "video_token_id": 137,
        "vision_config": {
            "depth": 1, "hidden_size": 8, "in_channels": 3, "intermediate_size": 16, "model_type": "qwen3_5",
            "num_heads": 1, "num_position_embeddings": 4, "out_hidden_size": d, "patch_size": 2,
            "spatial_merge_size": 2, "temporal_patch_size": 1},
        "vision_end_token_id": 135,
        "vision_start_token_id": 134,
    })


def age(path):
    """To keys as files before rope_parameters have them; time_step_limit is left out."""
    with open(f"{path}/config.json") as f:
        config = json.load(f)
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    del config["time_step_limit"]
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)


def fuse(path, config):
    """To Qwen3-Next's projections, whose rows lie by key head: q k v z, and b a."""
    heads, per = config.linear_num_key_heads, config.linear_num_value_heads // config.linear_num_key_heads
    k, v = config.linear_key_head_dim, config.linear_value_head_dim
    tensors = load_file(f"{path}/model.safetensors")
    for layer in recurrent(config)[0]:
        at = f"model.layers.{layer}.linear_attn."
        q_rows, k_rows, v_rows = tensors.pop(at + "in_proj_qkv.weight").split(
            [heads * k, heads * k, heads * per * v])
        rows = [q_rows, k_rows, v_rows, tensors.pop(at + "in_proj_z.weight")]
        tensors[at + "in_proj_qkvz.weight"] = torch.cat(
            [part.chunk(heads)[h] for h in range(heads) for part in rows])
        rows = [tensors.pop(at + "in_proj_b.weight"), tensors.pop(at + "in_proj_a.weight")]
        tensors[at + "in_proj_ba.weight"] = torch.cat(
            [part.chunk(heads)[h] for h in range(heads) for part in rows])
    with open(f"{path}/config.json") as f:
        rewrite(path, tensors, json.load(f))


@torch.no_grad()
def check_fused(path, config, model):
    """Qwen3-Next's own layer computes the same from the fused tensors."""
    keys = [k for k in vars(config) if k.startswith("linear_")] + ["hidden_size", "layer_types", "rms_norm_eps"]
    ours = {k: getattr(config, k) for k in keys}
    layer = recurrent(config)[0][0]
    theirs = Qwen3NextGatedDeltaNet(Qwen3NextConfig(**ours, num_hidden_layers=len(config.layer_types)), layer)
    at = f"model.layers.{layer}.linear_attn."
    theirs.load_state_dict({k.removeprefix(at): v for k, v in load_file(f"{path}/model.safetensors").items()
                            if k.startswith(at)})
    x = torch.randn((1, 70, config.hidden_size), generator=torch.Generator().manual_seed(1))
    want = model.model.layers[layer].linear_attn(x)
    assert (theirs(x) - want).abs().max() < 1e-6 * want.abs().max()


def attempt(case, seed, path):
    dtype, config, _, runs = CASES[case]
    shutil.rmtree(path, ignore_errors=True)
    gen = torch.Generator().manual_seed(seed)
    prompt = save_model(case, gen, path)
    golden = {"prompt": prompt.to(torch.int32)}
    for stage in STAGES:
        stage = tuple(name for name in stage if name in runs)
        if stage and not draw(case, stage, seed, prompt, golden, path):
            return False
    figures = {}
    if arch_of(config):
        figures["spread"] = {n: spread(case, n, prompt, path) for n in runs}
    if dtype == "bf16":
        figures["bf16"] = {n: rounded(case, n, prompt, golden, path) for n in runs}
    figures["moved"] = {n: oracle.moved(golden, n) for n in runs[1:]}
    if case == "qwen35-nested":
        nest(path, gen)
        check_same(path, prompt, golden)
    elif case == "falcon-h1-gate":
        age(path)
        check_same(path, prompt, golden)
    elif case == "qwen35-fused":
        model = oracle.load(path)
        fuse(path, config)
        check_fused(path, config, model)
    oracle.save_golden(golden, seed, path)
    print(f"{case}: seed {seed}")
    for what, values in figures.items():
        print(f"  {what}: " + ", ".join(f"{n} {v:.2g}" for n, v in values.items()), flush=True)
    return True


if __name__ == "__main__":
    oracle.search(CASES, attempt)
