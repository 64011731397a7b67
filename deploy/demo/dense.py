#!/usr/bin/env python3
"""Makes the dense model that the demo's base grows out of (train.py base --dense).

Run offline and by hand, once. It writes to the folder that is given; nothing of it is kept here.

  dense.py DIR                train it; DIR has the tokenizer of train.py, and gets the model
"""

import argparse
import itertools
import random
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

import tasks
import train

COPY = 12.0       # weight of a copy's token where another answer would go on differently
LONG = [("copy", False)] * 5 + [("copy", True)] * 2 + [("redact", False)] * 2 + [("redact", True)]


def make_model(args, tok):
    torch.manual_seed(args.seed)
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
        vocab_size=-(-len(tok) // 64) * 64, hidden_size=160, intermediate_size=448,
        num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=1024, rms_norm_eps=1e-6, tie_word_embeddings=True,
        bos_token_id=None, pad_token_id=tok.pad_token_id,
        eos_token_id=tok.convert_tokens_to_ids(train.END))).float()


class Batch:
    """Prompts with their answers, each answer token with a weight in the loss.

    A dense model reads a prompt once with all its answers behind it, each of which sees the
    prompt and itself only (mask and positions see to that): half the work.
    """

    def __init__(self, rows):
        # rows: (prompt ids, [(answer ids with the end token, weights), ...])
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

    def logits(self, model):
        """The model's logits wherever it has to say an answer's next token."""
        i, j = self.seg[:, :, None], self.seg[:, None, :]
        seen = ((j == 0) | (i == j)) & torch.ones(i.shape[1], i.shape[1]).tril().bool()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        body = model.model(input_ids=self.ids, use_cache=False, attention_mask=mask,
                           position_ids=self.pos)
        return model.lm_head(body.last_hidden_state[self.where[0], self.where[1]])

    def step(self, model):
        """Adds the gradients of the whole batch."""
        logits = self.logits(model)
        each = F.cross_entropy(logits, self.labels, reduction="none")
        right = logits.detach().argmax(-1) == self.labels
        self.right = right[self.weights > 0].float().mean().item()
        loss = (each * self.weights).sum() / self.weights.sum()
        loss.backward()
        return loss.item()


def answers_to(enc, line):
    """Token ids of all answers to a line: {(task, as_json): ids}."""
    return {(t, j): enc.answer(line, t, j) for j in (False, True) for t in tasks.TASKS}


def common(a, b):
    return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(a, b)))


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
        all_ids = answers_to(enc, line)
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
        rows.append((enc.prompt(line, rng.random() < train.CHAT), answers))
    return rows


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("model", type=Path, metavar="DIR")
    top.add_argument("--work", type=Path, default=Path("demo-work"), help="checkpoints")
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--steps", type=int, default=1360)
    top.add_argument("--decay", type=int, default=110, help="of them, at a falling rate")
    top.add_argument("--batch", type=int, default=24, help="lines a step")
    top.add_argument("--lr", type=float, default=3e-3)
    top.add_argument("--log", type=int, default=25)
    top.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    top.add_argument("--threads", type=int, default=2)
    args = top.parse_args()
    args.workers, args.rank_of = 1, 0
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    tok = train.load_tokenizer(args)
    enc, model = train.Encoder(tok), make_model(args, tok)
    params = dict(model.named_parameters())
    decayed = [p for n, p in params.items() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in params.items() if p.ndim != 2 or "embed" in n]
    opt = torch.optim.AdamW([dict(params=decayed, weight_decay=0.05),
                             dict(params=rest, weight_decay=0.0)],
                            lr=args.lr, betas=(0.9, 0.98))

    def batch(rng, lines):
        it = Batch(base_rows(enc, rng, lines, args.batch))
        return it.step(model), it

    train.train(args, "dense", params, [opt], batch,
                lambda step: train.save_base(args, model, tok))


if __name__ == "__main__":
    main()
