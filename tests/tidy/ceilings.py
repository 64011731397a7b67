#!/usr/bin/env python3
"""Registers, spilled bytes and static shared memory of every kernel, held to committed ceilings.

    ceilings.py TABLE OBJECTS NVCC            the test
    ceilings.py TABLE OBJECTS NVCC --update   writes what this build has into TABLE

OBJECTS is the folder that holds *.ptxas (kernels/cuda/ptxas_log.sh), NVCC the compiler's version. The
ceilings are those of one nvcc: under another version the differences are printed and nothing fails.
Targets that were not built keep their lines. More than a block may have of static shared memory, a
kernel that is not in the table, and a build without any kernel fail too.
"""
import glob
import os
import re
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")
TYPES = {"__half": "f16", "__nv_bfloat16": "bf16"}
HEADER = """\
# Ceilings of the kernels: tests/tidy/ceilings.py compares a build with this table, and writes it with
# --update. Shared memory is the static part; spills are bytes stored and loaded.
# target kernel registers spills shared
"""


def readable(symbol):
    """linear_narrow<bf16,4> for _Z13linear_narrowI13__nv_bfloat16Li4EEv10linear_job."""
    found = re.match(r"_Z(\d+)", symbol)
    if not found:
        return symbol
    end = found.end() + int(found.group(1))
    name, rest, arguments = symbol[found.end():end], symbol[end:], []
    if not rest.startswith("I"):
        return name
    rest = rest[1:]
    while rest and rest[0] != "E":
        number, word = re.match(r"L[a-z](\d+)E", rest), re.match(r"\d+", rest)
        end = number.end() if number else 1
        argument = number.group(1) if number else rest[0]
        if word:
            end = word.end() + int(word.group())
            argument = rest[word.end():end]
        arguments.append(TYPES.get(argument, argument))
        rest = rest[end:]
    return f"{name}<{','.join(arguments)}>"


def measured(folder):
    """{(target, kernel): (registers, spills, shared)} of a build."""
    found, key, spills = {}, None, 0
    for path in sorted(glob.glob(os.path.join(folder, "*.ptxas"))):
        with open(path, encoding="utf-8") as f:
            for line in f:
                entry, spilled, used = ENTRY.search(line), SPILLS.search(line), USED.search(line)
                if entry:
                    key, spills = (entry.group(2), readable(entry.group(1))), 0
                elif spilled and key:
                    spills = int(spilled.group(1)) + int(spilled.group(2))
                elif used and key:
                    found[key] = (int(used.group(1)), spills, int(used.group(2) or 0))
                    key = None
    return found


def read_table(path):
    """The nvcc version and its ceilings; none where there is no table yet."""
    version, ceilings = None, {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for line in f:
                words = line.split("#")[0].split()
                if words[:1] == ["nvcc"]:
                    version = words[1]
                elif words:
                    ceilings[words[0], words[1]] = tuple(int(w) for w in words[2:5])
    return version, ceilings


def write_table(path, version, ceilings):
    with open(path, "w", encoding="utf-8") as f:
        f.write(HEADER + f"nvcc {version}\n")
        order = sorted(ceilings, key=lambda key: (int(key[0].strip("sm_a")), key[1]))
        for target, kernel in order:
            registers, spills, shared = ceilings[target, kernel]
            f.write(f"{target:6} {kernel:28} {registers:3} {spills:4} {shared:5}\n")


def compare(found, ceilings):
    """Sentences about what exceeds its ceiling."""
    broken = []
    for key, values in sorted(found.items()):
        if key not in ceilings:
            broken.append(f"{key[0]} {key[1]}: is not in the table")
            continue
        for name, value, ceiling in zip(("registers", "bytes of spills", "bytes of shared memory"),
                                        values, ceilings[key]):
            if value > ceiling:
                broken.append(f"{key[0]} {key[1]}: {value} {name}, the ceiling is {ceiling}")
    return broken


def main(argv):
    path, folder, version = argv[1:4]
    found = measured(folder)
    if not found:
        print(f"no *.ptxas with a kernel in {folder}")
        return 1
    of, ceilings = read_table(path)
    if "--update" in argv:
        kept = ceilings if of == version else {}
        built = {target for target, _ in found}
        write_table(path, version,
                    {**{k: v for k, v in kept.items() if k[0] not in built}, **found})
        return 0
    broken = compare(found, ceilings)
    print("\n".join(broken))
    print(f"{len(found)} kernels, {len(broken)} over their ceilings")
    if of != version:
        print(f"the table is of nvcc {of}, this is {version}: nothing is held")
        return 0
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
