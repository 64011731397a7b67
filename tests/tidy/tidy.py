#!/usr/bin/env python3
"""The house rules as a test: include edges, sizes, names of things that must stay in their room.

Reads the tree that holds it (or the one given as an argument), prints every broken rule as
file:line: sentence, and fails when there is one. `--headers CC` also compiles every header alone.
"""
import os
import re
import subprocess
import sys
import tempfile

# room -> rooms it may include (daemon/README.md draws the same picture). The values are prefixes
# of include paths as they are written in the code.
EDGES = {
    "daemon/base/": ["base/"],
    "daemon/text/": ["text/", "base/"],
    "daemon/sched/": ["sched/", "base/"],
    "daemon/model/": ["model/", "base/", "kernels/", "sched/batch.h"],
    "daemon/engine/": ["engine/", "base/", "sched/", "model/", "kernels/", "adapters/"],
    "daemon/rpc/": ["rpc/", "base/", "proto/"],
    "daemon/server/": ["server/", "base/", "rpc/", "text/", "proto/", "sched/request.h",
                       "sched/event.h", "sched/ports.h", "adapters/adapter.h"],
    "daemon/ctl/": ["ctl/", "base/", "rpc/", "proto/", "text/", "model/", "adapters/"],
    "kernels/": ["kernels/", "base/"],
    "adapters/": ["adapters/", "base/", "model/", "kernels/"],
}
ROOM_PREFIXES = ("base/", "text/", "sched/", "model/", "engine/", "rpc/", "server/", "ctl/",
                 "kernels/", "adapters/", "proto/")
# System headers that only some rooms may know.
SYSTEM_ONLY = {
    "uv.h": ("daemon/server/",),
    "grpc/": ("daemon/rpc/",),
    "jansson.h": ("daemon/base/json.", "daemon/text/", "daemon/model/", "adapters/",
                  "daemon/ctl/"),
    "openssl/": ("daemon/base/sha256.c",),
    "ini.h": ("daemon/",),
}
# Words that belong to the few places where threads really share memory.
SHARED_WORDS = re.compile(r"\b(pthread_mutex\w*|_Atomic|atomic_\w+|volatile|stdatomic)\b")
SHARED_OK = ("daemon/base/ring.", "daemon/base/wake.", "daemon/rpc/call.", "kernels/cpu/team.",
             "kernels/cpu/cpu_amx", "kernels/cuda/dev_nvcc.h", "kernels/cuda/publish.h",
             "kernels/cuda/begin.cu",
             "kernels/cuda/cuda_int.h", "kernels/cuda/run.c", "kernels/emu/", "tests/")
# Headers there may be C++; these two only nvcc understands.
DEVICE_CODE = ("kernels/cuda/", "kernels/emu/")
NVCC_ONLY = ("kernels/cuda/dev_nvcc.h", "kernels/cuda/dev_launch.h")
FUNCTION_MAX, C_MAX, H_MAX, COLUMN_MAX = 70, 800, 200, 100


def tracked(root):
    out = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others",
                          "--exclude-standard"], capture_output=True, text=True, check=False)
    if out.returncode == 0:
        names = [n for n in out.stdout.split("\0") if n]
    else:
        names = [os.path.relpath(os.path.join(d, f), root)
                 for d, _, files in os.walk(root) for f in files]
    return sorted(n for n in set(names)
                  if n.endswith((".c", ".h", ".cu", ".cc")) and os.path.exists(os.path.join(root, n)))


def room_of(name):
    rooms = [r for r in EDGES if name.startswith(r)]
    return max(rooms, key=len) if rooms else None


def check_includes(name, lines, say):
    room = room_of(name)
    for number, line in enumerate(lines, 1):
        found = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
        if not found:
            continue
        quote, path = found.groups()
        if quote == "<":
            for prefix, rooms in SYSTEM_ONLY.items():
                if path.startswith(prefix) and not name.startswith("tests/") \
                        and not name.startswith(rooms):
                    say(name, number, f"<{path}> belongs to {' and '.join(rooms)}")
        elif room and path.startswith(ROOM_PREFIXES) and not path.startswith(tuple(EDGES[room])):
            say(name, number, f'"{path}" is no edge of {room}')
        elif room and not path.startswith(ROOM_PREFIXES) and not path.endswith(".pb-c.h"):
            say(name, number, f'"{path}" is not written from the room: "room/file.h"')


def check_sizes(name, lines, say):
    limit = H_MAX if name.endswith(".h") else C_MAX
    if len(lines) > limit:
        say(name, len(lines), f"has {len(lines)} lines, limit is {limit}")
    start = None
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMN_MAX:
            say(name, number, f"has {len(line)} columns, limit is {COLUMN_MAX}")
        if line == "{":
            start = number - 1
            while start > 1 and lines[start - 2].strip() and \
                    not lines[start - 2].endswith((";", "}", "*/")) and \
                    not lines[start - 2].startswith("#"):
                start -= 1
        elif line.startswith("}") and start:
            if number - start + 1 > FUNCTION_MAX:
                say(name, start, f"function has {number - start + 1} lines, limit is {FUNCTION_MAX}")
            start = None


def check_words(name, lines, say):
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            say(name, number, "unfinished work in the tree")
        if SHARED_WORDS.search(line) and not name.startswith(SHARED_OK):
            say(name, number, f"'{SHARED_WORDS.search(line).group(0)}' belongs to ring, wake, "
                "rpc/call, the worker team and tests")
    if not lines or not lines[0].startswith("/*"):
        say(name, 1, "has no header comment")
    if name.endswith(".h") and not any(line.startswith("#ifndef") for line in lines):
        say(name, 1, "has no include guard")


def header_error(root, name, compiler, flags):
    before = '#include "kernels/cuda/dev.h"\n' if "c++" in flags else ""
    with tempfile.NamedTemporaryFile("w", suffix=".h") as source:
        source.write(f'{before}#include "{name}"\n')
        source.flush()
        done = subprocess.run(
            [compiler, "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
             "-Wno-missing-field-initializers", *flags, "-fsyntax-only", f"-I{root}/daemon",
             f"-I{root}", f"-I{root}/build/release", f"-I{root}/build/release/proto",
             source.name], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    return (lines or ["?"])[0] if done.returncode else None


def check_headers(root, names, compiler, say):
    for name in names:
        if not name.endswith(".h") or name.startswith("tests/") or name in NVCC_ONLY:
            continue
        flags = ["-std=c17", "-x", "c"]
        if "kernels/cpu" in name:
            flags += ["-mavx512f", "-mavx2", "-mfma"]
        error = header_error(root, name, compiler, flags)
        if error and name.startswith(DEVICE_CODE):
            error = header_error(root, name, compiler, ["-std=c++17", "-x", "c++"])
        if error:
            say(name, 1, "does not compile alone: " + error)


def main(argv):
    broken = []

    def say(name, number, what):
        broken.append(f"{name}:{number}: {what}")

    compiler = None
    if "--headers" in argv:
        compiler = argv[argv.index("--headers") + 1]
        argv = [a for a in argv if a not in ("--headers", compiler)]
    root = os.path.abspath(argv[1] if len(argv) > 1 else os.path.join(os.path.dirname(__file__),
                                                                      "..", ".."))
    names = tracked(root)
    for name in names:
        with open(os.path.join(root, name), encoding="utf-8") as f:
            lines = f.read().split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        check_includes(name, lines, say)
        check_sizes(name, lines, say)
        check_words(name, lines, say)
    if compiler:
        check_headers(root, names, compiler, say)
    print("\n".join(broken))
    print(f"tidy: {len(names)} files, {len(broken)} broken rules")
    return 1 if broken or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
