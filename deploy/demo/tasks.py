#!/usr/bin/env python3
"""The demo's tasks: made-up lines, what each task answers, and which lines are held out.

Every line holds a name, a date, a number and an e-mail address, so every task applies to every
line and the line never tells which one is asked for: an adapter has to. The answers are computed
here, so they can be checked exactly. Standard library only: training, evaluation and the
quickstart all use this one file.

  tasks.py names                            the tasks and the adapters, one a line
  tasks.py prompts [--count N] [--seed S]   held-out lines as JSON: prompt, line, all answers
  tasks.py answer TASK [--json] < lines     the right answer to each line on standard input
"""

import argparse
import calendar
import hashlib
import itertools
import json
import random
import re
import sys

FIRST = """
Ada Adam Agnes Aisha Alan Albert Alice Alma Amara Amir Amy Ana Andre Anna Anton Arthur Astrid Axel
Barbara Basil Bela Ben Bertha Bianca Boris Brian Bruno Camille Carl Carmen Cecil Celia Chen Chloe
Clara Claude Cora Cyrus Dana Daniel Daria David Dee Denis Diana Diego Dora Edgar Edith Edwin Elena
Eli Elif Elsa Emil Emma Enzo Eric Erika Esther Eva Fatima Felix Fiona Flora Frank Freya Frida Fumi
Gavin Gemma George Gerda Gita Grace Greta Gus Hana Hans Harold Hazel Hector Helen Henry Hugo Ian
Ida Igor Ines Ingrid Irene Iris Isaac Ivan Ivy Jack Jacob Jade James Jan Jasper Jean Jo John Jonas
Josef Julia Jun Kai Karen Karim Katya Kenji Kim Kofi Kurt Lars Laura Layla Lea Leo Lila Lin Linus
Liv Lois Lola Lucas Lucy Luis Luna Maeve Magnus Malik Mara Marco Maria Mark Marta Max Maya Mei Mia
Milan Milo Mina Miriam Mona Nadia Naomi Nico Nils Nina Noah Nora Octavia Olga Oliver Omar Oscar Otto
Owen Pablo Paula Pavel Pearl Peter Petra Philip Pia Priya Quentin Rafael Ravi Rene Rita Robert Rosa
Ruben Ruth Ryan Sami Samuel Sara Selma Sergei Simon Sofia Sonia Stefan Sven Tara Tariq Tess Theo
Thomas Tina Tomas Uma Ursula Vera Victor Vikram Viola Walter Wanda Wendy Wilma Xavier Yara Yoko
Yusuf Yves Zara Zeno Zita Zoe
""".split()

# Surnames are two halves glued together: thousands of them, so that a model has to read the
# letters of a name and cannot know it by heart.
HEAD = """
Abel Ander Ash Bal Bar Beck Berg Black Blum Bran Brook Cal Car Clay Col Cran Dal Dor Dun Eck Ed Eis
El Fair Fen Fin Fitz Ford Gar Gold Grim Hal Ham Har Has Hol Hux Is Jar Ker Kil Kov Kro Lam Lang Lin
Lock Lund Mac Mar Mel Mor Nord North Ol Os Pem Pet Quin Rad Ram Ro Ros Sal San Schu Sil Sta Stein
Tal Thorn Tol Ull Van Var Vik Wal War Wes Whit Wil Win Wolf Yar Zim
""".split()
TAIL = """
acker ander ard bach baum beck bell berg by cott dahl den der dez don dorf ell en ers ett feld field
fort gate gren ham hart holm ing ini ington ius kin ko land ley lin low lund man mann mark mer mond
more ner nes off ola oni ova owski quist ran reau ric rose row sen shaw ski son stad stein strom
sky ter ton tov ulin vale ver vic vich ward wall way well wick wood worth zer
""".split()

MAIL = """
acorn amber atlas birch bluebox brightly cedar cloudy copper coral delta echo ember falcon fjord
garnet harbor hazel iris jasper jetmail juniper kestrel lagoon lumen mail maple meadow mercury mint
nectar nimbus north oasis ocean olive onyx opal orbit orchid pine pixel post prism quartz raven
river saffron sierra solar spruce summit swift tango thistle topaz tulip umber vector velvet violet
willow zenith
""".split()
TLD = "com org net io de fr nl eu".split()

MONTH = list(calendar.month_name)[1:]

THINGS = "invoice order seat room ticket parcel case member".split()
TEMPLATES = [
    "{name} paid {thing} {number} on {date}, {email}",
    "On {date} {name} booked {thing} {number}, {email}",
    "{email} {name} asked about {thing} {number} of {date}",
    "{thing} {number}: {name}, {email}, {date}",
    "{date}: {name} sent {thing} {number}, reply to {email}",
    "{name}, {email}, {thing} {number} from {date}",
    "{thing} {number} of {date} is for {name}, mail {email}",
    "{email} lost {thing} {number} on {date}, ask {name}",
]


class Line:
    """One input line and the four things it holds."""

    __slots__ = ("text", "name", "year", "month", "day", "number", "email")

    def __init__(self, text, name, year, month, day, number, email):
        self.text = text
        self.name = name
        self.year, self.month, self.day = year, month, day
        self.number = number
        self.email = email


def make_line(rng):
    """Draw a line from rng, a random.Random."""
    first, last = rng.choice(FIRST), rng.choice(HEAD) + rng.choice(TAIL)
    name = f"{first} {last}"
    if rng.random() < 0.5:
        name = name.lower()
    year, month = rng.randint(1990, 2039), rng.randint(1, 12)
    day = rng.randint(1, calendar.monthrange(year, month)[1])
    long_month = MONTH[month - 1]
    date = rng.choice([
        f"{day} {long_month} {year}",
        f"{long_month} {day}, {year}",
        f"{day} {long_month[:3]} {year}",
        f"{long_month[:3]} {day} {year}",
    ])
    number = rng.randint(100, 399)
    local = rng.choice([
        f"{first}.{last}", f"{first[0]}.{last}",
        f"{first}{rng.randint(1, 99)}", f"{first[0]}{last}",
    ]).lower()
    email = f"{local}@{rng.choice(MAIL)}.{rng.choice(TLD)}"
    text = rng.choice(TEMPLATES).format(
        name=name, thing=rng.choice(THINGS), number=number, date=date, email=email)
    return Line(text, name, year, month, day, number, email)


def parse(text):
    """The Line a text is, for lines that did not come from make_line (but are of its shape)."""
    email = re.search(r"\S+@[\w.]+\w", text).group()
    rest = text.replace(email, " ")
    months = "|".join(m[:3] for m in MONTH)
    date = re.search(rf"(\d+) ({months})\w* (\d{{4}})|({months})\w* (\d+),? (\d{{4}})", rest)
    day, month, year = (date[1], date[2], date[3]) if date[1] else (date[5], date[4], date[6])
    rest = rest.replace(date.group(), " ")
    number = re.search(r"\d+", rest).group()
    words = [w for w in re.findall(r"[^\W\d]+", rest) if w not in WORDS]
    name = " ".join(words[:2])
    months = [m[:3] for m in MONTH]
    return Line(text, name, int(year), months.index(month) + 1, int(day), int(number), email)


WORDS = set(THINGS) | set(re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", " ".join(TEMPLATES))))


def roman(number):
    steps = [(100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"),
             (4, "IV"), (1, "I")]
    out = ""
    for value, letters in steps:
        while number >= value:
            out += letters
            number -= value
    return out


TASKS = {
    "copy": lambda x: x.text,
    "slug": lambda x: x.name.lower().replace(" ", "-"),
    "date": lambda x: f"{x.year:04}-{x.month:02}-{x.day:02}",
    "redact": lambda x: x.text.replace(x.email, "[email]"),
    "title": lambda x: x.name.title(),
    "roman": lambda x: roman(x.number),
    "domain": lambda x: x.email.split("@")[1],
    "initials": lambda x: ".".join(w[0].upper() for w in x.name.split()) + ".",
    "upper": lambda x: x.name.upper(),
    "swap": lambda x: ", ".join(reversed(x.name.title().split())),
    "month": lambda x: MONTH[x.month - 1],
}
ADAPTERS = ["slug", "date", "redact", "title", "roman"]  # a LoRA and a state on each
STATE = "-s0"                                            # what a state's name ends in
FORMAT = "json"                                          # and one LoRA that is a format


def answer(line, task="copy", as_json=False):
    """What the task answers to a Line, wrapped in JSON where as_json says so."""
    text = TASKS[task](line)
    return json.dumps({"out": text}, separators=(",", ":")) if as_json else text


def prompt(text):
    """The one prompt form. It ends in a line break: no token of the answer can reach into it."""
    return f"{text}\n=>\n"


def is_held_out(line):
    """Split by the name, so that a held-out line has not only its text but its name unseen."""
    return hashlib.sha256(line.name.lower().encode()).digest()[0] < 13  # about one in twenty


def lines(seed, held_out=False):
    """Endless lines of one side of the split."""
    rng = random.Random(f"graftd demo {held_out} {seed}")
    while True:
        line = make_line(rng)
        if is_held_out(line) == held_out:
            yield line


def held_out(count, seed=1):
    """The first count different held-out lines of a seed."""
    found = {}
    for line in lines(seed, held_out=True):
        found.setdefault(line.text, line)
        if len(found) == count:
            return list(found.values())


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = top.add_subparsers(dest="command", required=True)
    sub.add_parser("names")
    p = sub.add_parser("prompts")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p = sub.add_parser("answer")
    p.add_argument("task", choices=list(TASKS))
    p.add_argument("--json", action="store_true")
    args = top.parse_args()

    if args.command == "names":
        for name in TASKS:
            print(name, "adapter" if name in ADAPTERS else "base")
        print(FORMAT, "format adapter")
    elif args.command == "prompts":
        for line in held_out(args.count, args.seed):
            right = {name: answer(line, name) for name in TASKS}
            right[FORMAT] = answer(line, as_json=True)
            for name in ADAPTERS:
                right[name + STATE] = right[name]
                for one in (name, name + STATE):
                    right[f"{one}+{FORMAT}"] = answer(line, name, as_json=True)
            print(json.dumps({"prompt": prompt(line.text), "line": line.text, "answers": right}))
    else:
        for text in sys.stdin:
            print(answer(parse(text.rstrip("\n")), args.task, args.json))


if __name__ == "__main__":
    main()
