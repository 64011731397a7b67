#!/usr/bin/env python3
"""Weights, adapter factors, KV and states are read through the counted words only.

    counted.py [ROOT]

What the emulator counts at ld16, ld8, ld4 and cp_async16 is what a kernel reads only if nothing else
reads those bytes. So every pointer to them is followed through kernels/cuda/*.cu and *.h:

1. It begins at a source: the members of SOURCES, and the parameters of CARRIERS.
2. A pointer that is set from one is one, to the end of its function.
3. It may stand in a counted word, in address arithmetic, in a condition and in calls of CARRIERS.
   `p[..]`, `*p`, `p->`, `&p` and any other call read it otherwise. It may be kept in members of SOURCES
   and be returned by functions of RETURNS only. One that is not const may be stored to: `p[..] = ..`.

A source or carrier that nothing is named after any more fails too: rename it here as well.
"""
import glob
import os
import re
import sys

WORDS = {"ld16", "ld8", "ld4", "cp_async16"}
SOURCES = {
    "weights": re.compile(r"[\w\])](?:\.|->)w\b"),
    "KV": re.compile(r"\bkv(?:\.|->)data\b"),
    "an adapter's block": re.compile(r"\btile(?:\.|->)block\b"),
    "an adapter's A": re.compile(r"\bshrink(?:\.|->)a\b"),
    "states": re.compile(r"\bstate(?:\.|->)data\b"),
    "a version's states": re.compile(r"\brun(?:\.|->)start\b"),
    "what a state begins with": re.compile(r"\bfrom(?:\.|->)at\b"),
    "rows of weights": re.compile(r"\brows(?:\.|->)row\[[^\]]*\]"),
}
CARRIERS = {"attend_widen": "p", "finish_b": "b"}  # function: the parameter that brings one
RETURNS = {"attend_at", "recurrent_slot"}
CAST = re.compile(r"\b(?:static|reinterpret|const)_cast<[^<>()]*>\s*$")
CALLEE = re.compile(r"(\w+)(?:<[\w\s,*:]*>)?\s*$")
GROUPING = {"if", "while", "for", "return", "switch", "sizeof", ""}
DECLARED = re.compile(r"\b(const\s+)?[\w:]+(?:<[^<>;]*>)?\s*\*\s*(?:const\s+)?(\w+)\s*=(?!=)")
ASSIGNED = re.compile(r"([\w.\->\[\]]+)\s*=(?!=)")


def plain(text):
    """Without comments, strings and preprocessor lines; every line stays where it is."""
    text = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"',
                  lambda m: "\n" * m.group().count("\n") or " ", text, flags=re.S)
    return re.sub(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", lambda m: "\n" * m.group().count("\n"), text,
                  flags=re.M)


def functions(text):
    """(name, line of the body, body) of every function, those of a struct together."""
    for found in re.finditer(r"(?:^|\n)([^\n{}][^{}]*)\n?\{\n(.*?)\n\}", text, flags=re.S):
        names = re.findall(r"(\w+)\s*\(", found.group(1).split(";")[-1])
        names = [n for n in names if not n.startswith("__")]
        yield names[0] if names else "", text.count("\n", 0, found.start(2)) + 1, found.group(2)


def closing(text, at):
    depth = 0
    for i in range(at, len(text)):
        depth += text[i] in "([" and 1 or text[i] in ")]" and -1
        if depth == 0:
            return i + 1
    return len(text)


def opening(text, at):
    """The innermost parenthesis or bracket that is open at `at`; -1 when there is none."""
    depth = 0
    for i in range(at - 1, -1, -1):
        if text[i] in ")]":
            depth += 1
        elif text[i] in "([":
            if depth == 0:
                return i
            depth -= 1
    return -1


def is_read(text, start, end):
    before, after = text[:start].rstrip(), text[end:].lstrip()
    if after.startswith(("[", "->")):
        return True
    if before.endswith(("*", "&")) and not before.endswith("&&"):
        left = before[:-1].rstrip()
        return not left or left[-1] in "=(,;{}[!&|<>?:+-*/%^~" or left.endswith("return")
    return False


def use_of(text, start, end):
    """What is done with the pointer at [start, end): "word", "condition", "address", or a fault."""
    while True:
        if is_read(text, start, end):
            return "is read past the counted words"
        at = opening(text, start)
        if at < 0 or text[at] == "[":
            break
        cast, callee = CAST.search(text[:at]), CALLEE.search(text[:at])
        name = callee.group(1) if callee else ""
        if cast:
            start, end = cast.start(), closing(text, at)
        elif name in WORDS or name in CARRIERS:
            return "word"
        elif name in GROUPING:
            if name:
                return "condition" if name != "return" else "address"
            start, end = at, closing(text, at)
        else:
            return f"is passed to {name}"
    if at >= 0:
        return "is an index"
    follows = re.match(r"\s*(&&|\|\||\?|==|!=)", text[end:])
    return "condition" if follows else "address"


def occurrences(text, names):
    for what, pattern in SOURCES.items():
        for m in pattern.finditer(text):
            start = m.start()
            while start > 0 and re.match(r"[\w.\->\[\]]", text[start - 1]) and \
                    not text[start - 1:start + 1] == "->":
                start -= 1
            yield start, m.end(), what
    for m in re.finditer(r"\b(\w+)(?:<[^<>()]*>)?\s*\(", text):
        if m.group(1) in RETURNS:
            yield m.start(), closing(text, m.end() - 1), m.group(1)
    for m in re.finditer(r"(?<![\w.>])\w+", text):
        if m.group() in names:
            yield m.start(), m.end(), m.group()


def check_statement(text, function, names, say):
    stored = {m.start(1) for m in re.finditer(r"(?:^|[{};)])\s*(\w+)\[[^=;]*\]\s*=(?!=)", text)
              if names.get(m.group(1)) == "mutable"}
    for start, end, what in list(occurrences(text, names)):
        if re.search(r"\*\s*(const\s+)?$", text[:start]) and re.match(r"\s*=(?!=)", text[end:]):
            continue  # the declaration of another pointer of this name
        if start in stored:
            continue
        use = use_of(text, start, end)
        if use in ("word", "condition"):
            continue
        if use != "address":
            say(start, f"{text[start:end].strip()} ({what}) {use}")
            continue
        if re.search(r"\breturn\b[^;{}]*$", text[:start]) and function not in RETURNS:
            say(start, f"{text[start:end].strip()} ({what}) is returned by {function}")
        declared = [m for m in DECLARED.finditer(text[:start])]
        assigned = [m for m in ASSIGNED.finditer(text[:start])]
        if declared and declared[-1].end() >= assigned[-1].end():
            names[declared[-1].group(2)] = "const" if declared[-1].group(1) else "mutable"
        elif assigned and "{" not in text[assigned[-1].end():start]:
            left = assigned[-1].group(1)
            if re.fullmatch(r"\w+", left):
                names.setdefault(left, "const")
            elif not any(p.search(left) for p in SOURCES.values()):
                say(start, f"{text[start:end].strip()} ({what}) is kept in {left}, "
                    "which nothing follows")


def check_file(path, name, broken):
    with open(path, encoding="utf-8") as f:
        text = plain(f.read())
    for function, line, body in functions(text):
        names = {CARRIERS[function]: "const"} if function in CARRIERS else {}
        at = 0
        for statement in body.split(";"):
            def say(offset, what, at=at, statement=statement):
                number = line + body.count("\n", 0, at) + statement.count("\n", 0, offset)
                broken.append(f"{name}:{number}: {what}")
            check_statement(statement, function, names, say)
            at += len(statement) + 1
    return text


def main(argv):
    root = os.path.abspath(argv[1] if len(argv) > 1 else
                           os.path.join(os.path.dirname(__file__), "..", ".."))
    files = sorted(glob.glob(os.path.join(root, "kernels/cuda/*.cu")) +
                   glob.glob(os.path.join(root, "kernels/cuda/*.h")))
    files = [f for f in files if not os.path.basename(f).startswith(("dev", "host"))]
    broken = []
    whole = "".join(check_file(f, os.path.relpath(f, root), broken) for f in files)
    for what, pattern in SOURCES.items():
        if not pattern.search(whole):
            broken.append(f"tests/tidy/counted.py:1: no {what} under {pattern.pattern} any more")
    for function in [*CARRIERS, *RETURNS]:
        if not re.search(rf"\b{function}\b", whole):
            broken.append(f"tests/tidy/counted.py:1: no function {function} any more")
    print("\n".join(broken))
    print(f"counted: {len(files)} files, {len(broken)} broken rules")
    return 1 if broken or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
