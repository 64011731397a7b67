#!/usr/bin/env python3
"""Plants kernels over their ceilings and expects ceilings.py to name each, and to pass their twins."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4joinI6__halfLi4EEvPK9cuda_step9kern_join' for 'sm_90'
ptxas info    : Function properties for _Z4joinI6__halfLi4EEvPK9cuda_step9kern_join
    0 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem
ptxas info    : Compiling entry function '_Z7publishPK10kern_token' for 'sm_90'
ptxas info    : Function properties for _Z7publishPK10kern_token
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""
PLAIN = {"registers": 22, "stores": 0, "loads": 0, "shared": 32}
CASES = [
    ({}, 0, "2 kernels, 0 over"),
    ({"registers": 21, "shared": 16}, 0, "2 kernels, 0 over"),
    ({"registers": 23}, 1, "sm_90 join<f16,4>: 23 registers, the ceiling is 22"),
    ({"stores": 4}, 1, "sm_90 join<f16,4>: 4 bytes of spills, the ceiling is 0"),
    ({"loads": 8}, 1, "sm_90 join<f16,4>: 8 bytes of spills, the ceiling is 0"),
    ({"shared": 33}, 1, "sm_90 join<f16,4>: 33 bytes of shared memory, the ceiling is 32"),
]


def run(folder, log, version="13.0", *more):
    with open(os.path.join(folder, "join.cu.o.ptxas"), "w", encoding="utf-8") as f:
        f.write(log)
    return subprocess.run([sys.executable, os.path.join(HERE, "ceilings.py"),
                           os.path.join(folder, "table.txt"), folder, version, *more],
                          capture_output=True, text=True, check=False)


def main():
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        run(folder, LOG.format(**PLAIN), "13.0", "--update")
        for change, code, words in CASES:
            done = run(folder, LOG.format(**{**PLAIN, **change}))
            if done.returncode != code or words not in done.stdout:
                failed.append(f"{change}: {done.returncode}, {done.stdout.strip()}")
        done = run(folder, LOG.format(**{**PLAIN, "registers": 23}), "13.1")
        if done.returncode != 0 or "nothing is held" not in done.stdout:
            failed.append(f"another nvcc: {done.returncode}, {done.stdout.strip()}")
        done = run(folder, LOG.format(**PLAIN).replace("publish", "another"))
        if done.returncode != 1 or "another: is not in the table" not in done.stdout:
            failed.append(f"a new kernel: {done.returncode}, {done.stdout.strip()}")
        done = run(folder, "")
        if done.returncode != 1:
            failed.append(f"no kernels: {done.returncode}, {done.stdout.strip()}")
    print("\n".join(failed) or f"{len(CASES) + 3} cases")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
