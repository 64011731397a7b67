#!/usr/bin/env python3
"""Plants one fault per rule in an otherwise clean tree and expects tidy.py to name each."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = "\n".join(["/* x */", "void f(void)", "{"] + ["    ;"] * 70 + ["}"])
FAULTS = {
    "daemon/sched/a.c": ('/* x */\n#include "kernels/kern.h"\n', "is no edge of daemon/sched/"),
    "kernels/a.c": ('/* x */\n#include "model/model.h"\n', "is no edge of kernels/"),
    "daemon/model/a.c": ('/* x */\n#include "sched/event.h"\n', "is no edge of daemon/model/"),
    "daemon/engine/a.c": ("/* x */\n#include <uv.h>\n", "<uv.h> belongs to"),
    "daemon/text/a.c": ("/* x */\nstatic _Atomic int n;\n", "'_Atomic' belongs to"),
    "daemon/base/a.c": (LONG, "function has 73 lines"),
    "daemon/base/b.c": ("/* x */\n" + "\n" * 800, "has 801 lines, limit is 800"),
    "daemon/base/c.h": ("/* x */\n#ifndef A\n" + "\n" * 200 + "#endif\n", "limit is 200"),
    "daemon/base/d.c": ("int x;\n", "has no header comment"),
    "daemon/base/e.c": ("/* T" + "ODO */\n", "unfinished work"),
    "daemon/base/f.h": ("/* x */\n#ifndef F\n#define F\nstruct s { unknown x; };\n#endif\n",
                        "does not compile alone"),
}


def run(root):
    return subprocess.run([sys.executable, os.path.join(HERE, "tidy.py"), "--headers", "cc", root],
                          capture_output=True, text=True, check=False)


def main():
    failed = []
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "daemon/base"))
        with open(os.path.join(root, "daemon/base/clean.c"), "w", encoding="utf-8") as f:
            f.write('/* x */\n#include "base/base.h"\n')
        if run(root).returncode != 0:
            failed.append("a clean tree is refused")
        for name, (text, expected) in FAULTS.items():
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            done = run(root)
            if done.returncode == 0 or name not in done.stdout or expected not in done.stdout:
                failed.append(f"{name}: '{expected}' was not found in: {done.stdout.strip()}")
            os.remove(path)
    print("\n".join(failed) or f"{len(FAULTS)} planted faults found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
