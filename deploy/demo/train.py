#!/usr/bin/env python3
"""Makes the demo model: tokenizer, base, LoRA adapters, and the figures in README.md.

Run offline and by hand; neither the build nor the tests need it. Everything is seeded, and every
step's data depends on the seed and the step alone, so a run that was cut off goes on where its
last checkpoint (in --work) was and makes what it would have made.

  train.py tokenizer          train and write the tokenizer
  train.py base               train the base; saves it to model/ at every checkpoint
  train.py adapter NAME       train one adapter; the format goes last, on top of the others
  train.py eval               exact match of the saved files, greedy, on held-out lines
  train.py probe              one training step of a fresh model, to see that it runs

--arch qwen3 is the dense model, --arch qwen3_5 the hybrid (gated DeltaNet and attention).
Needs torch, transformers, peft, tokenizers and safetensors.
"""

import argparse
import itertools
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

import tasks

HERE = Path(__file__).resolve().parent
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
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

def make_config(args, tok):
    vocab = -(-len(tok) // 64) * 64
    common = dict(
        vocab_size=vocab, hidden_size=160, intermediate_size=448, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
        rms_norm_eps=1e-6, tie_word_embeddings=True, use_cache=True,
        bos_token_id=None, pad_token_id=tok.pad_token_id,
        eos_token_id=tok.convert_tokens_to_ids(END))
    if args.arch == "qwen3":
        return transformers.Qwen3Config(**common)
    common["head_dim"] = 64  # only a quarter of it turns with the position
    return transformers.Qwen3_5TextConfig(
        **common, linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=32,
        linear_num_key_heads=4, linear_num_value_heads=8,
        layer_types=["linear_attention", "linear_attention", "linear_attention",
                     "full_attention"])


def make_model(args, tok):
    torch.manual_seed(args.seed)
    kind = {"qwen3": "Qwen3ForCausalLM", "qwen3_5": "Qwen3_5ForCausalLM"}[args.arch]
    model = getattr(transformers, kind)(make_config(args, tok)).float()
    count = sum(p.numel() for p in model.parameters())
    assert count <= 3_000_000, count
    print(kind, f"{count:,} parameters", flush=True)
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


# --- batches ---------------------------------------------------------------------------------

class Batch:
    """Prompts with their answers, each answer token with a weight in the loss.

    A dense model reads a prompt once with all its answers behind it, each of which sees the
    prompt and itself only (mask and positions see to that): half the work. A recurrent layer
    knows no such mask, so the hybrid gets a sequence for each answer.
    """

    def __init__(self, rows, share):
        # rows: (prompt ids, [(answer ids with the end token, weights), ...])
        if not share:
            rows = [(prompt, [answer]) for prompt, answers in rows for answer in answers]
        self.ids, self.pos, self.seg, where, labels, weights = [], [], [], [], [], []
        for b, (prompt, answers) in enumerate(rows):
            ids, pos, seg = prompt[:-1], list(range(len(prompt) - 1)), [0] * (len(prompt) - 1)
            for k, (answer, weight) in enumerate(answers):
                where += [(b, len(ids) + i) for i in range(len(answer))]
                labels += answer
                weights += weight
                ids = ids + prompt[-1:] + answer[:-1]
                pos = pos + list(range(len(prompt) - 1, len(prompt) - 1 + len(answer)))
                seg = seg + [k + 1] * len(answer)
            self.ids.append(ids)
            self.pos.append(pos)
            self.seg.append(seg)
        width = max(map(len, self.ids))

        def pad(rows, x):
            return torch.tensor([r + [x] * (width - len(r)) for r in rows])

        self.ids, self.pos, self.seg = pad(self.ids, 0), pad(self.pos, 0), pad(self.seg, -1)
        self.where = torch.tensor(where).T
        self.labels, self.weights = torch.tensor(labels), torch.tensor(weights)
        self.share = share

    def logits(self, model):
        """The model's logits wherever it has to say an answer's next token."""
        kw = {}
        if self.share:
            i, j = self.seg[:, :, None], self.seg[:, None, :]
            seen = ((j == 0) | (i == j)) & torch.ones(i.shape[1], i.shape[1]).tril().bool()
            kw = dict(attention_mask=torch.zeros(seen.shape).masked_fill(
                ~seen, torch.finfo(torch.float32).min)[:, None], position_ids=self.pos)
        body = model.model(input_ids=self.ids, use_cache=False, **kw)
        return model.lm_head(body.last_hidden_state[self.where[0], self.where[1]])

    def loss(self, model):
        logits = self.logits(model)
        each = F.cross_entropy(logits, self.labels, reduction="none")
        with torch.no_grad():
            right = logits.argmax(-1) == self.labels
            self.right = right[self.weights > 0].float().mean().item()
        return (each * self.weights).sum() / self.weights.sum()


class Encoder:
    def __init__(self, tok):
        self.tok = tok
        self.end = tok.convert_tokens_to_ids(END)
        self.opening = len(self.ids(['{"out":"'])[0])

    def ids(self, texts):
        return [e.ids for e in self.tok.backend_tokenizer.encode_batch(
            texts, add_special_tokens=False)]

    def answers(self, line):
        """Token ids of all answers to a line: {(task, as_json): ids}."""
        keys = [(t, j) for j in (False, True) for t in tasks.TASKS]
        ids = self.ids([tasks.answer(line, t, j) for t, j in keys])
        return {k: i + [self.end] for k, i in zip(keys, ids)}

    def prompt(self, line, chat=False):
        if chat:
            text = self.tok.apply_chat_template([{"role": "user", "content": line.text}],
                                                tokenize=False, add_generation_prompt=True)
        else:
            text = tasks.prompt(line.text)
        return self.ids([text])[0]


def common(a, b):
    return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(a, b)))


STEPS = {"roman": 120, "json": 140}  # the two adapters that are not done after 60
COPY = 12.0       # weight of a copy's token where another answer would go on differently
CHAT = 0.15       # share of prompts in the chat template's form
LONG = [("copy", False)] * 5 + [("copy", True)] * 2 + [("redact", False)] * 2 + [("redact", True)]


def base_rows(enc, rng, lines, count):
    """Lines with a few answers each, one of them long: what the base learns.

    The input never tells the task, so the model's best guess at the first token (and wherever
    answers part ways later) is the mixture it was trained on. The copy outweighs all else there
    and is what the base says greedily. Elsewhere every token counts the same, so that the rare
    answers are learned as fast as the copy.
    """
    short = [t for t in tasks.TASKS if t not in ("copy", "redact")]
    rows = []
    for line in itertools.islice(lines, count):
        all_ids = enc.answers(line)
        chosen = [rng.choice(LONG)]
        plain, wrapped = rng.sample(short, 4), rng.sample(short, 2)
        if "roman" not in plain and rng.random() < 0.5:
            plain[0] = "roman"  # a table to know by heart, not letters to copy: takes longer
        chosen += [(t, False) for t in plain] + [(t, True) for t in wrapped]
        answers = []
        for task, wrap in chosen:
            ids = all_ids[task, wrap]
            weights = [1.0] * len(ids)
            if task == "copy":
                for other in tasks.TASKS:
                    if other != "copy":
                        weights[common(ids, all_ids[other, wrap])] = COPY
            if wrap:
                weights[0] = 0.5
            answers.append((ids, weights))
        rows.append((enc.prompt(line, rng.random() < CHAT), answers))
    return rows


def adapter_rows(enc, rng, lines, count, task, wrap):
    """Lines with the one answer an adapter is for.

    A task's adapter also sees its answer inside JSON, but learns nothing about the JSON's
    opening: it must still know its task there, so that the format's adapter can be added to it.
    """
    rows = []
    for line in itertools.islice(lines, count):
        all_ids = enc.answers(line)
        answers = [(all_ids[task, wrap], [1.0] * len(all_ids[task, wrap]))]
        if not wrap:
            ids = all_ids[task, True]
            answers.append((ids, [0.0] * enc.opening + [1.0] * (len(ids) - enc.opening)))
        rows.append((enc.prompt(line, rng.random() < CHAT), answers))
    return rows


# --- training --------------------------------------------------------------------------------

def rate(step, args):
    """Short warm-up, flat, and a straight line down to nothing over the last --decay steps."""
    warm = min(100, args.steps / 10)
    return args.lr * min(1.0, (step + 1) / warm, (args.steps - step) / args.decay)


def train(args, name, params, opt, make_batch, model, after=lambda step: None):
    """The loop of base and adapters. Params are what is learned: {name: parameter}."""
    path, start = args.work / f"{name}-{args.arch}.pt", 0
    if path.exists():
        state = torch.load(path)
        with torch.no_grad():
            for n, p in params.items():
                p.copy_(state["params"][n])
        opt.load_state_dict(state["opt"])
        start = state["step"]
        print(name, "resumed at step", start, flush=True)
    began, total, right, seen = time.time(), 0.0, 0.0, 0
    for step in range(start, args.steps):
        rng = random.Random(f"{name} {args.seed} {step}")
        batch = make_batch(rng, tasks.lines(f"{name} {args.seed} {step}"))
        loss = batch.loss(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        for group in opt.param_groups:
            group["lr"] = rate(step, args)
        opt.step()
        opt.zero_grad()
        total, right, seen = total + loss.item(), right + batch.right, seen + 1
        if (step + 1) % args.log == 0:
            print(f"{name} step {step + 1}/{args.steps} loss {total / seen:.4f} token accuracy "
                  f"{right / seen:.4f} {(time.time() - began) / (step + 1 - start):.2f} s/step",
                  flush=True)
            total, right, seen = 0.0, 0.0, 0
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            temp = path.with_suffix(".tmp")
            torch.save(dict(step=step + 1, params=params, opt=opt.state_dict()), temp)
            os.replace(temp, path)
            after(step + 1)


def train_base(args):
    tok = load_tokenizer(args)
    enc, model = Encoder(tok), make_model(args, tok)
    params = dict(model.named_parameters())
    decayed = [p for n, p in params.items() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in params.items() if p.ndim != 2 or "embed" in n]
    opt = torch.optim.AdamW([dict(params=decayed, weight_decay=0.05),
                             dict(params=rest, weight_decay=0.0)],
                            lr=args.lr, betas=(0.9, 0.98))

    def batch(rng, lines):
        return Batch(base_rows(enc, rng, lines, args.batch), share=args.arch == "qwen3")

    def after(step):
        save_base(args, model, tok)
        skills(args, model, enc)

    train(args, "base", params, opt, batch, model, after)


@torch.no_grad()
def skills(args, model, enc, count=24):
    """Prints what the base can do once it knows the task: an answer counts as right when each of
    its tokens is the model's choice after those before it, tokens where tasks part aside."""
    model.eval()
    good = {}
    for line in tasks.held_out(count, seed=7):
        all_ids = enc.answers(line)
        rows = [(enc.prompt(line), [(ids, [1.0] * len(ids)) for ids in all_ids.values()])]
        guess = Batch(rows, share=args.arch == "qwen3").logits(model).argmax(-1).tolist()
        for key, ids in all_ids.items():
            parts = {common(ids, v) for k, v in all_ids.items() if k != key}
            mine, guess = guess[:len(ids)], guess[len(ids):]
            right = all(g == t for i, (g, t) in enumerate(zip(mine, ids)) if i not in parts)
            good[key] = good.get(key, 0) + right
    out = [f"{t}{'+json' if j else ''} {100 * n / count:.0f}" for (t, j), n in good.items()]
    print("  task known, % right:", ", ".join(out), flush=True)
    model.train()


def targets(args):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if args.arch == "qwen3_5":
        names += ["in_proj_qkv", "in_proj_z", "out_proj"]
    return names


def train_adapter(args):
    tok = load_tokenizer(args)
    enc, name = Encoder(tok), args.name
    torch.manual_seed(args.seed + sum(map(ord, name)))
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, bias="none",
                        target_modules=targets(args), task_type="CAUSAL_LM",
                        base_model_name_or_path="graftd-demo")
    model = get_peft_model(load_base(args), config, adapter_name=name)
    under = []
    if name == tasks.FORMAT:  # learned alone and on top of each task's adapter, which stay as are
        under = [t for t in tasks.ADAPTERS if (args.adapters / t).exists()]
        for task in under:
            model.load_adapter(str(args.adapters / task), adapter_name=task)
    params = {n: p for n, p in model.named_parameters() if f".{name}." in n}
    opt = torch.optim.AdamW(params.values(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)

    def batch(rng, lines):
        task, wrap = name, name == tasks.FORMAT
        if wrap:
            task = rng.choice(["copy"] * 2 + under)
        model.base_model.set_adapter([name] if task in (name, "copy") else [task, name])
        for n, p in model.named_parameters():  # set_adapter wakes all that it sets
            p.requires_grad_(n in params)
        return Batch(adapter_rows(enc, rng, lines, args.batch, task, wrap),
                     share=args.arch == "qwen3")

    train(args, name, params, opt, batch, model.base_model.model)
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
def generate(model, tok, prompts, limit=96):
    """Greedy answers, batched from the left as transformers wants it."""
    tok.padding_side = "left"
    out = []
    for at in range(0, len(prompts), 64):
        batch = tok(prompts[at:at + 64], return_tensors="pt", padding=True,
                    add_special_tokens=False)
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
    names = [n for n in tasks.ADAPTERS + [tasks.FORMAT] if (args.adapters / n).exists()]
    peft = None
    for name in names:
        path = str(args.adapters / name)
        if peft is None:
            peft = PeftModel.from_pretrained(model, path, adapter_name=name)
        else:
            peft.load_adapter(path, adapter_name=name)
    if args.bf16 and peft is not None:
        peft = peft.to(torch.bfloat16)
    for name in names:
        peft.base_model.set_adapter([name])
        wrap = name == tasks.FORMAT
        score(name, generate(peft, tok, prompts), "copy" if wrap else name, wrap)
    for name in names[:-1] if tasks.FORMAT in names else []:
        peft.base_model.set_adapter([name, tasks.FORMAT])
        score(f"{name}+{tasks.FORMAT}", generate(peft, tok, prompts), name, True)


def probe(args):
    """One training step of a fresh model: does this architecture run here?"""
    tok = load_tokenizer(args)
    enc, model = Encoder(tok), make_model(args, tok)
    rows = base_rows(enc, random.Random(0), tasks.lines("probe"), 4)
    loss = Batch(rows, share=args.arch == "qwen3").loss(model)
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    print(f"{args.arch}: one step, loss {loss.item():.3f}; tensors:")
    for name, p in model.named_parameters():
        print(f"  {name} {list(p.shape)}")


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("command", choices=["tokenizer", "base", "adapter", "eval", "probe"])
    top.add_argument("name", nargs="?", choices=tasks.ADAPTERS + [tasks.FORMAT])
    top.add_argument("--arch", choices=["qwen3", "qwen3_5"], default="qwen3")
    top.add_argument("--model", type=Path, default=HERE / "model")
    top.add_argument("--adapters", type=Path, default=HERE / "adapters")
    top.add_argument("--work", type=Path, default=Path("demo-work"), help="checkpoints")
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--vocab", type=int, default=512)
    top.add_argument("--steps", type=int)
    top.add_argument("--decay", type=int, help="of them, at a falling rate")
    top.add_argument("--batch", type=int, default=24, help="lines a step")
    top.add_argument("--lr", type=float)
    top.add_argument("--rank", type=int, default=8)
    top.add_argument("--log", type=int, default=25)
    top.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    top.add_argument("--threads", type=int, default=2)
    top.add_argument("--count", type=int, default=256, help="held-out lines of eval")
    top.add_argument("--chat", action="store_true", help="eval: the chat template's prompt form")
    top.add_argument("--bf16", action="store_true", help="eval: compute in bf16")
    top.add_argument("--wrong", action="store_true", help="eval: show the wrong answers")
    args = top.parse_args()
    base = args.command == "base"
    args.steps = args.steps or (1360 if base else STEPS.get(args.name, 60))
    args.decay = args.decay or (110 if base else -(-args.steps // 3))
    args.lr = args.lr or (3e-3 if base else 4e-3)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    {"tokenizer": make_tokenizer, "base": train_base, "adapter": train_adapter,
     "eval": evaluate, "probe": probe}[args.command](args)


if __name__ == "__main__":
    main()
