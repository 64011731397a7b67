#!/usr/bin/env python3
"""Makes the demo model: tokenizer, base, S0 states, LoRA adapters, and the figures in README.md.

Run offline and by hand; neither the build nor the tests need it. Everything is seeded, and every
step's data depends on the seed and the step alone, so a run that was cut off goes on where its
last checkpoint (in --work) was and makes what it would have made.

  train.py tokenizer          train and write the tokenizer
  train.py base               train the base; saves it to model/ at every checkpoint
  train.py state NAME         train one task's S0 state on the finished base
  train.py adapter NAME       train one LoRA adapter; the format goes last, on top of all others
  train.py eval               exact match of the saved files, greedy, on held-out lines
  train.py probe              one training step of a fresh model, to see that it runs

Needs torch, transformers, peft, tokenizers and safetensors.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from transformers.models.qwen3_5 import modeling_qwen3_5

import tasks

HERE = Path(__file__).resolve().parent
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LAYERS = "lfffl"           # l: gated DeltaNet, f: attention
COPIED = [None, 0, 1, 2, 3]  # the layer of the dense model that each grew out of
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


# --- tokenizer -------------------------------------------------------------------------------

def make_tokenizer(args):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    plain = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.decoder = decoders.ByteLevel(**plain)
    tok.post_processor = processors.ByteLevel(**plain)
    # Merges are learned from the fixed words alone, without the space before them. Names and
    # mail addresses stay letters, and a word is the same tokens wherever it stands: what a small
    # model needs to copy names that it never saw.
    words = sorted(tasks.WORDS) + tasks.MONTH + [m[:3] for m in tasks.MONTH] + tasks.TLD
    words += ['{"', "out", '":"', '"}', "=>\n", ">\n", "[email]", "user", "assistant", "system"]
    words += ["XX", "XXX", "CC", "CCC", "II", "III"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=args.vocab - len(SPECIAL), initial_alphabet=alphabet,
                                  show_progress=False)
    tok.train_from_iterator([w for w in words for _ in range(2)], trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    args.model.mkdir(parents=True, exist_ok=True)
    tok.save(str(args.model / "tokenizer.json"))
    special = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    config = dict(
        add_bos_token=False, add_prefix_space=False,
        added_tokens_decoder={str(tok.token_to_id(s)): dict(content=s, **special)
                              for s in SPECIAL},
        additional_special_tokens=SPECIAL[1:], bos_token=None, chat_template=CHATML,
        clean_up_tokenization_spaces=False, eos_token=END, errors="replace",
        model_max_length=1024, pad_token=SPECIAL[0], split_special_tokens=False,
        tokenizer_class="Qwen2Tokenizer", unk_token=None)
    with open(args.model / "tokenizer_config.json", "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    fast = load_tokenizer(args)
    text = tasks.prompt(next(tasks.lines(0)).text)
    assert fast(text).input_ids == tok.encode(text).ids
    print("vocabulary", len(fast), "tokens;", fast.tokenize(text))


def load_tokenizer(args):
    return transformers.AutoTokenizer.from_pretrained(args.model)


# --- model -----------------------------------------------------------------------------------

def make_config(tok):
    vocab = -(-len(tok) // 64) * 64
    kinds = {"l": "linear_attention", "f": "full_attention"}
    return transformers.Qwen3_5TextConfig(
        vocab_size=vocab, hidden_size=160, intermediate_size=448, num_hidden_layers=len(LAYERS),
        layer_types=[kinds[k] for k in LAYERS], num_attention_heads=6, num_key_value_heads=2,
        head_dim=32, linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=16,
        linear_num_key_heads=4, linear_num_value_heads=8, max_position_embeddings=1024,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0),
        rms_norm_eps=1e-6, tie_word_embeddings=True, use_cache=True,
        bos_token_id=None, pad_token_id=tok.pad_token_id,
        eos_token_id=tok.convert_tokens_to_ids(END))


def make_model(args, tok):
    """The hybrid, not trained yet: says what the dense model says wherever it starts from zeros,
    but for what the attention did that the last layer lost."""
    torch.manual_seed(args.seed)
    model = transformers.Qwen3_5ForCausalLM(make_config(tok)).float()
    dense = transformers.AutoModelForCausalLM.from_pretrained(args.dense, dtype=torch.float32)
    old = dense.state_dict()
    for name, p in model.named_parameters():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        source = name
        if layer:
            n = COPIED[int(layer[1])]
            source = name.replace(layer[0], f"model.layers.{n}.")
        if name.endswith("A_log"):  # memories of a few tokens to ones that outlast the prompt
            p.data = torch.linspace(math.log(0.001), math.log(0.3), p.numel())
        elif name.endswith("dt_bias"):
            p.data.zero_()
        elif "linear_attn.out_proj" in name or (source not in old and "down_proj" in name):
            p.data.zero_()  # says nothing yet
        elif name.endswith("norm.weight") and source in old and "linear_attn" not in name:
            p.data = old[source] - 1  # stored around zero
        elif "q_proj" in name:  # a gate of zeros lets half through
            q = old[source].unflatten(0, (-1, model.config.head_dim))
            p.data = torch.cat([q, torch.zeros_like(q)], 1).flatten(0, 1)
        elif "o_proj" in name:
            p.data = 2 * old[source]
        elif source in old:
            p.data = old[source]
    count = sum(p.numel() for p in model.parameters())
    assert count <= 3_000_000, count
    print(f"{count:,} parameters", flush=True)
    return model


def save_base(args, model, tok):
    """Writes the base in bf16, as transformers does, beside its tokenizer."""
    copy = type(model)(model.config).float()
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config = transformers.GenerationConfig(
        do_sample=False, pad_token_id=tok.pad_token_id,
        eos_token_id=[tok.convert_tokens_to_ids(END), tok.convert_tokens_to_ids(SPECIAL[0])])
    copy.save_pretrained(args.model)
    os.chmod(args.model / "model.safetensors", 0o644)


def load_base(args):
    """The saved base, its bf16 weights computed with in fp32."""
    return transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)


# --- states ----------------------------------------------------------------------------------

class Scan:
    """Stands in for the chunked delta rule of transformers and starts sequences from states."""
    plain = staticmethod(modeling_qwen3_5.torch_chunk_gated_delta_rule)
    states = None   # one tensor [sequences or 1, HV, K, V] a recurrent layer; none: zeros
    is_pad = None   # where a sequence has not begun yet, [sequences, tokens]

    def __init__(self, chunk):
        self.chunk, self.turn = chunk, itertools.count()

    def __call__(self, query, key, value, g, beta, **kw):
        if self.states is not None:
            layer = next(self.turn) % len(self.states)
            if kw.get("initial_state") is None:
                kw["initial_state"] = self.states[layer].expand(query.shape[0], -1, -1, -1)
        if self.is_pad is not None:
            g = g.masked_fill(self.is_pad[:, :, None], 0.0)  # else padding would wear the state off
        return self.plain(query, key, value, g, beta, **kw | dict(chunk_size=self.chunk))


SCAN = Scan(32)
modeling_qwen3_5.torch_chunk_gated_delta_rule = SCAN


@contextlib.contextmanager
def started(states, is_pad=None):
    """Every sequence starts from the states given."""
    SCAN.states, SCAN.is_pad, SCAN.turn = states, is_pad, itertools.count()
    try:
        yield
    finally:
        SCAN.states = SCAN.is_pad = None


def recurrent(model):
    return [i for i, kind in enumerate(model.config.layer_types) if kind == "linear_attention"]


def state_shape(model):
    c = model.config
    return [c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim]


def save_state(args, model, name, states):
    out = args.adapters / (name + tasks.STATE)
    out.mkdir(parents=True, exist_ok=True)
    layers, shape = recurrent(model), state_shape(model)
    save_file({str(i): s.detach().reshape(shape).float().contiguous()
               for i, s in zip(layers, states)}, out / "states.safetensors")
    os.chmod(out / "states.safetensors", 0o644)
    config = dict(n_steps=args.steps, lr=args.lr, l2_lambda=0.0, alpha=1.0, normalize=False,
                  grad_clip=1.0, max_length=1024)
    meta = dict(arch="gated_delta_net", recurrent_layers=layers, state_shape=shape)
    for file, what in (("config.json", config), ("meta.json", meta)):
        with open(out / file, "w") as f:
            json.dump(what, f, indent=2)
            f.write("\n")


def load_state(args, name):
    """The states as they are injected, in the order of the layers."""
    folder = args.adapters / name
    with open(folder / "config.json") as f:
        config = json.load(f)
    assert not config["normalize"]
    found = load_file(folder / "states.safetensors")
    return [config["alpha"] * found[k][None] for k in sorted(found, key=int)]


# --- batches ---------------------------------------------------------------------------------

class Batch:
    """Sequences of a prompt and an answer each; the loss is on the answers alone."""

    def __init__(self, rows):
        # rows: (prompt ids, answer ids with the end token, where the loss begins, key of the state)
        self.rows = sorted(rows, key=lambda r: len(r[0]) + len(r[1]))

    def parts(self):
        """Short sequences and long ones apart, to pad less."""
        half = len(self.rows) // 2
        return [p for p in (self.rows[:half], self.rows[half:]) if p]

    def step(self, model, states):
        """Adds the gradients of the whole batch; states(keys) says what sequences start from."""
        total = sum(len(a) - begin for _, a, begin, _ in self.rows)
        loss = right = 0
        for rows in self.parts():
            width = -(-max(len(p) + len(a) for p, a, _, _ in rows) // 16) * 16
            ids = torch.tensor([p + a[:-1] + [0] * (width - len(p) - len(a) + 1)
                                for p, a, _, _ in rows])
            where = torch.tensor([(b, len(p) - 1 + i) for b, (p, a, begin, _) in enumerate(rows)
                                  for i in range(begin, len(a))]).T
            labels = torch.tensor([t for _, a, begin, _ in rows for t in a[begin:]])
            with started(states([r[3] for r in rows])):
                body = model.model(input_ids=ids, use_cache=False)
            logits = model.lm_head(body.last_hidden_state[where[0], where[1]])
            part = F.cross_entropy(logits, labels, reduction="sum") / total
            part.backward()
            loss += part.item()
            right += (logits.argmax(-1) == labels).sum().item() / total
        self.right = right
        return loss


class Encoder:
    def __init__(self, tok):
        self.tok = tok
        self.end = tok.convert_tokens_to_ids(END)
        self.opening = len(self.ids(['{"out":"'])[0])

    def ids(self, texts):
        return [e.ids for e in self.tok.backend_tokenizer.encode_batch(
            texts, add_special_tokens=False)]

    def answer(self, line, task, wrap):
        return self.ids([tasks.answer(line, task, wrap)])[0] + [self.end]

    def prompt(self, line, chat=False):
        if chat:
            text = self.tok.apply_chat_template([{"role": "user", "content": line.text}],
                                                tokenize=False, add_generation_prompt=True)
        else:
            text = tasks.prompt(line.text)
        return self.ids([text])[0]


STEPS = {"slug": 90, "date": 90, "roman": 60, "json": 120}  # LoRAs that 40 steps do not do
STEPS_STATE = 24
CHAT = 0.15       # share of prompts in the chat template's form
WRAPPED = 0.25    # share of answers inside JSON
SHARE = dict(copy=4, redact=2, slug=3, date=3, title=3, roman=3)


def base_rows(enc, rng, lines, count):
    """Lines with the answer of one task each. The input never tells the task: the state does."""
    rows = []
    for line in itertools.islice(lines, count):
        task = rng.choices(list(SHARE), SHARE.values())[0]
        wrap = rng.random() < WRAPPED
        rows.append((enc.prompt(line, rng.random() < CHAT), enc.answer(line, task, wrap), 0,
                     (task, wrap)))
    return rows


def adapter_rows(enc, rng, lines, count, task, wrap):
    """Lines with the one answer an adapter or a state is for.

    A task's also sees its answer inside JSON, but learns nothing about the JSON's opening: it
    must still know its task there, so that the format's adapter can be added to it.
    """
    rows = []
    for line in itertools.islice(lines, count):
        inside = wrap or rng.random() < WRAPPED
        rows.append((enc.prompt(line, rng.random() < CHAT), enc.answer(line, task, inside),
                     enc.opening if inside and not wrap else 0, None))
    return rows


# --- training --------------------------------------------------------------------------------

def rate(step, args):
    """Short warm-up, flat, and a straight line down to nothing over the last --decay steps."""
    warm = min(20, args.steps // 2)
    return min(1.0, (step + 1) / warm, (args.steps - step) / args.decay)


def share_grads(params, workers):
    """Averages the gradients of all workers."""
    if workers == 1:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten()
                      for p in params])
    torch.distributed.all_reduce(flat)
    for p, g in zip(params, flat.split([p.numel() for p in params])):
        p.grad = (g / workers).view_as(p)


def train(args, name, params, opts, make_batch, after=lambda step: None):
    """The loop of base and adapters. Params are what is learned: {name: parameter}."""
    path, start = args.work / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path)
        with torch.no_grad():
            for n, p in params.items():
                p.copy_(state["params"][n])
        for opt, saved in zip(opts, state["opts"]):
            opt.load_state_dict(saved)
        start = state["step"]
        print(name, "resumed at step", start, flush=True)
    peak = [[g["lr"] for g in opt.param_groups] for opt in opts]
    if path.exists():
        peak = state["peak"]
    began, total, right, seen = time.time(), 0.0, 0.0, 0
    for step in range(start, args.steps):
        data = f"{name} {args.seed} {step} {args.rank_of}"
        rng = random.Random(data)
        loss, batch = make_batch(rng, tasks.lines(data))
        share_grads(list(params.values()), args.workers)
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        for opt, rates in zip(opts, peak):
            for group, lr in zip(opt.param_groups, rates):
                group["lr"] = lr * rate(step, args)
            opt.step()
            opt.zero_grad()
        total, right, seen = total + loss, right + batch.right, seen + 1
        if args.rank_of:
            continue
        if (step + 1) % args.log == 0:
            print(f"{name} step {step + 1}/{args.steps} loss {total / seen:.4f} token accuracy "
                  f"{right / seen:.4f} {(time.time() - began) / (step + 1 - start):.2f} s/step",
                  flush=True)
            total, right, seen = 0.0, 0.0, 0
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            temp = path.with_suffix(".tmp")
            torch.save(dict(step=step + 1, params=params, peak=peak,
                            opts=[o.state_dict() for o in opts]), temp)
            os.replace(temp, path)
            after(step + 1)


def train_base(args):
    tok = load_tokenizer(args)
    enc, model = Encoder(tok), make_model(args, tok)
    # One state a task and one for the format, added where both are wanted; a copy has none.
    known = [t for t in SHARE if t != "copy"] + [tasks.FORMAT]
    learned = [torch.nn.Parameter(0.1 * torch.randn(len(known), *state_shape(model)))
               for _ in recurrent(model)]
    mine = dict(model.named_parameters())
    params = mine | {f"state.{i}": s for i, s in enumerate(learned)}
    fresh = [p for n, p in mine.items() if "linear_attn" in n or ".layers.0." in n]
    ids = set(map(id, fresh))
    grown = [p for p in mine.values() if id(p) not in ids]
    opts = [torch.optim.AdamW([dict(params=grown, lr=args.lr / 4), dict(params=fresh, lr=args.lr),
                               dict(params=learned, lr=4 * args.lr)],
                              betas=(0.9, 0.98), weight_decay=0.0)]

    def states(keys):
        pick = torch.tensor([[1.0 if k in (task, tasks.FORMAT if wrap else "") else 0.0
                              for k in known] for task, wrap in keys])
        return [torch.einsum("bk,khij->bhij", pick, s) for s in learned]

    def batch(rng, lines):
        it = Batch(base_rows(enc, rng, lines, args.batch // args.workers))
        return it.step(model, states), it

    def after(step):
        save_base(args, model, tok)
        keys = [(t, w) for w in (False, True) for t in SHARE]
        skills(model, enc, states, keys)

    train(args, "base", params, opts, batch, after)


@torch.no_grad()
def skills(model, enc, states, keys, count=24):
    """Prints how many answers are right when each token follows the right ones before it."""
    model.eval()
    out = []
    for key in keys:
        good = 0
        for line in tasks.held_out(count, seed=7):
            p, a = enc.prompt(line), enc.answer(line, *key)
            with started(states([key])):
                guess = model(input_ids=torch.tensor([p + a[:-1]])).logits[0].argmax(-1)
            good += guess[len(p) - 1:].tolist() == a
        out.append(f"{key[0]}{'+json' if key[1] else ''} {100 * good / count:.0f}")
    print("  % right:", ", ".join(out), flush=True)
    model.train()


def train_state(args):
    tok = load_tokenizer(args)
    enc, model = Encoder(tok), load_base(args)
    model.requires_grad_(False)
    name = args.name + tasks.STATE
    learned = [torch.nn.Parameter(torch.zeros(1, *state_shape(model))) for _ in recurrent(model)]
    opt = torch.optim.Adam(learned, lr=args.lr, betas=(0.9, 0.98))

    def batch(rng, lines):
        it = Batch(adapter_rows(enc, rng, lines, args.batch // args.workers, args.name, False))
        return it.step(model, lambda _: learned), it

    train(args, name, {str(i): s for i, s in enumerate(learned)}, [opt], batch)
    if not args.rank_of:
        save_state(args, model, args.name, learned)


def targets():
    return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
            "in_proj_qkv", "in_proj_z", "out_proj"]


def train_adapter(args):
    tok = load_tokenizer(args)
    enc, name = Encoder(tok), args.name
    torch.manual_seed(args.seed + sum(map(ord, name)))
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, bias="none",
                        target_modules=targets(), task_type="CAUSAL_LM",
                        base_model_name_or_path="graftd-demo")
    model = get_peft_model(load_base(args), config, adapter_name=name)
    under, above, stated = [], [], {}
    if name == tasks.FORMAT:  # learned alone and on top of each task's adapter, which stay as are
        under = [t for t in tasks.ADAPTERS if (args.adapters / t).exists()]
        for task in under:
            model.load_adapter(str(args.adapters / task), adapter_name=task)
        above = [t + tasks.STATE for t in tasks.ADAPTERS]
        stated = {s: load_state(args, s) for s in above}
        hard = ["roman", "roman" + tasks.STATE] * 2  # numerals end at any letter, also in JSON
    params = {n: p for n, p in model.named_parameters() if f".{name}." in n}
    opt = torch.optim.AdamW(params.values(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)

    def batch(rng, lines):
        task, wrap = name, name == tasks.FORMAT
        state = None
        if wrap:
            task = rng.choice(["copy"] * 3 + under + above + hard)
            if task in above:
                state, task = stated[task], task.removesuffix(tasks.STATE)
                model.base_model.set_adapter([name])
            else:
                model.base_model.set_adapter([name] if task == "copy" else [task, name])
        for n, p in model.named_parameters():  # set_adapter wakes all that it sets
            p.requires_grad_(n in params)
        it = Batch(adapter_rows(enc, rng, lines, args.batch // args.workers, task, wrap))
        return it.step(model.base_model.model, lambda _: state), it

    train(args, name, params, [opt], batch)
    if args.rank_of:
        return
    # bf16 is what is kept and measured: half the bytes, and nothing to round later.
    for p in params.values():
        p.data = p.data.to(torch.bfloat16)
    config.base_model_name_or_path = "graftd-demo"  # peft puts the folder's path there
    config.target_modules = sorted(config.target_modules)
    scratch = args.work / f"save-{name}"
    model.save_pretrained(scratch, selected_adapters=[name], save_embedding_layers=False)
    out = args.adapters / name
    out.mkdir(parents=True, exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        os.replace(scratch / name / file, out / file)
        os.chmod(out / file, 0o644)


# --- evaluation ------------------------------------------------------------------------------

@torch.no_grad()
def generate(model, tok, prompts, states=None, limit=96):
    """Greedy answers, batched from the left as transformers wants it."""
    tok.padding_side = "left"
    out = []
    for at in range(0, len(prompts), 128):
        batch = tok(prompts[at:at + 128], return_tensors="pt", padding=True,
                    add_special_tokens=False)
        with started(states, batch.attention_mask == 0):
            ids = model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                                 max_new_tokens=limit, do_sample=False)
        out += tok.batch_decode(ids[:, batch.input_ids.shape[1]:], skip_special_tokens=True)
    return out


def evaluate(args):
    tok = load_tokenizer(args)
    model = load_base(args).eval()
    if args.bf16:
        model = model.to(torch.bfloat16)
    found = tasks.held_out(args.count)
    prompts = [tasks.prompt(line.text) for line in found]
    if args.chat:
        prompts = [tok.apply_chat_template([{"role": "user", "content": line.text}],
                                           tokenize=False, add_generation_prompt=True)
                   for line in found]

    def score(name, texts, task, wrap=False):
        right = [t == tasks.answer(line, task, wrap) for t, line in zip(texts, found)]
        print(f"{name:14} on {task + ('+json' if wrap else ''):14} "
              f"{sum(right):4}/{len(right)}  {100 * sum(right) / len(right):5.1f} %", flush=True)
        if args.wrong:
            for ok, text, line in zip(right, texts, found):
                if not ok:
                    print(f"    {line.text!r} -> {text!r}")

    texts = generate(model, tok, prompts)
    for task in tasks.TASKS:
        score("base", texts, task)
    score("base", texts, "copy", True)
    names = [n for n in tasks.ADAPTERS if (args.adapters / n).exists()]
    stated = [n for n in tasks.ADAPTERS if (args.adapters / (n + tasks.STATE)).exists()]
    for name in stated:
        states = load_state(args, name + tasks.STATE)
        score(name + tasks.STATE, generate(model, tok, prompts, states), name)
    loras = names + [tasks.FORMAT] * (args.adapters / tasks.FORMAT).exists()
    if not loras:
        return
    peft = PeftModel.from_pretrained(model, str(args.adapters / loras[0]), adapter_name=loras[0])
    for name in loras[1:]:
        peft.load_adapter(str(args.adapters / name), adapter_name=name)
    if args.bf16:
        peft = peft.to(torch.bfloat16)

    def under(*adapters, states=None):
        peft.base_model.set_adapter(list(adapters))
        return generate(peft, tok, prompts, states)

    for name in names:
        score(name, under(name), name)
    if tasks.FORMAT not in loras:
        return
    score(tasks.FORMAT, under(tasks.FORMAT), "copy", True)
    for name in names:
        score(f"{name}+{tasks.FORMAT}", under(name, tasks.FORMAT), name, True)
    for name in stated:
        states = load_state(args, name + tasks.STATE)
        score(f"{name}{tasks.STATE}+{tasks.FORMAT}", under(tasks.FORMAT, states=states), name, True)


def probe(args):
    """One training step of a fresh model: does this architecture run here?"""
    tok = load_tokenizer(args)
    enc, model = Encoder(tok), make_model(args, tok)
    rows = base_rows(enc, random.Random(0), tasks.lines("probe"), args.batch)
    began = time.time()
    loss = Batch(rows).step(model, lambda _: None)
    print(f"one step, loss {loss:.3f}, {time.time() - began:.2f} s; tensors:")
    for name, p in model.named_parameters():
        print(f"  {name} {list(p.shape)}")


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("command", choices=["tokenizer", "base", "state", "adapter", "eval", "probe"])
    top.add_argument("name", nargs="?", choices=tasks.ADAPTERS + [tasks.FORMAT])
    top.add_argument("--model", type=Path, default=HERE / "model")
    top.add_argument("--dense", type=Path, help="base: the dense model it grows out of")
    top.add_argument("--adapters", type=Path, default=HERE / "adapters")
    top.add_argument("--work", type=Path, default=Path("demo-work"), help="checkpoints")
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--vocab", type=int, default=512)
    top.add_argument("--steps", type=int)
    top.add_argument("--decay", type=int, help="of them, at a falling rate")
    top.add_argument("--batch", type=int, help="lines a step")
    top.add_argument("--lr", type=float)
    top.add_argument("--rank", type=int, default=8)
    top.add_argument("--log", type=int, default=25)
    top.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    top.add_argument("--threads", type=int, default=2)
    top.add_argument("--workers", type=int, default=2, help="processes that share a batch")
    top.add_argument("--matmul", choices=["highest", "medium"], default="highest",
                     help="medium: may multiply in bf16")
    top.add_argument("--count", type=int, default=256, help="held-out lines of eval")
    top.add_argument("--chat", action="store_true", help="eval: the chat template's prompt form")
    top.add_argument("--bf16", action="store_true", help="eval: compute in bf16")
    top.add_argument("--wrong", action="store_true", help="eval: show the wrong answers")
    args = top.parse_args()
    base = args.command == "base"
    args.steps = args.steps or dict(base=130, state=STEPS_STATE).get(
        args.command, STEPS.get(args.name, 40))
    args.decay = args.decay or (80 if base else -(-args.steps // 3))
    args.batch = args.batch or (48 if base else 16)
    args.lr = args.lr or dict(base=3e-3, state=3e-2).get(args.command, 4e-3)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.command not in ("base", "state", "adapter"):
        args.workers = 1
    (args.work / "workers").unlink(missing_ok=True)
    if args.workers == 1:
        run(0, args)
    else:
        torch.multiprocessing.start_processes(run, (args,), nprocs=args.workers)


def run(rank, args):
    """One worker of --workers, each with one thread and its part of every batch."""
    args.rank_of = rank
    torch.set_num_threads(1 if args.workers > 1 else args.threads)
    torch.set_float32_matmul_precision(args.matmul)
    if args.workers > 1:
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.FileStore(str(args.work / "workers"), args.workers),
            rank=rank, world_size=args.workers)
    {"tokenizer": make_tokenizer, "base": train_base, "state": train_state,
     "adapter": train_adapter, "eval": evaluate, "probe": probe}[args.command](args)


if __name__ == "__main__":
    main()
