#!/usr/bin/env python3
"""Plants reads past the counted words into a copy of kernels/cuda and expects counted.py to name each."""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = os.path.join(HERE, "..", "..", "kernels", "cuda")
RAW = "uint4 raw = ld16(LD_WEIGHT, w + i);"
KEY = "attend_widen<T>(key + d, k);"
# file, what stands there, what is planted in its place, what is to be said
FAULTS = [
    ("join.cu", RAW, "uint4 raw = *reinterpret_cast<const uint4 *>(w + i);", "w (w) is read"),
    ("join.cu", RAW, "uint4 raw = reinterpret_cast<const uint4 *>(w + i)[0];", "w (w) is read"),
    ("join.cu", RAW, "uint4 raw; memcpy(&raw, w + i, 16);", "is passed to memcpy"),
    ("join.cu", RAW, "uint4 raw = __ldg(reinterpret_cast<const uint4 *>(w + i));",
     "is passed to __ldg"),
    ("join.cu", RAW, RAW + " const T *other = w + i; v[0] = other[1];", "other (other) is read"),
    ("join.cu", RAW, RAW + " const T *other; other = i > 8 ? w : nullptr; v[0] = *other;",
     "other (other) is read"),
    ("join.cu", RAW, RAW + " v[0] = static_cast<const T *>(op.w)[i];", "op.w (weights) is read"),
    ("join.cu", RAW, RAW + " v[0] = (w + i)[3];", "w (w) is read"),
    ("join.cu", RAW, RAW + " const T *const *all = &w;", "w (w) is read"),
    ("join.cu", RAW, RAW + " op.rest = w;", "is kept in op.rest"),
    ("join.cu", RAW, RAW + " i += slot_token[w[0]];", "w (w) is read"),
    ("attend.cu", KEY, KEY + " k[0] = to_f32(key[d]);", "key (key) is read"),
    ("attend.cu", KEY, "k[0] = to_f32(attend_at<T>(job.kv, job.op, ATTEND_K, 0, 0, at)[d]);",
     "attend_at) is read"),
    ("attend_prompt.cu", "cp_async16(to + i * rows * pitch, from + i * rows * dim, bytes);",
     "memcpy(to + i * rows * pitch, from + i * rows * dim, bytes);", "is passed to memcpy"),
    ("attend.cu", "uint4 raw = ld16(LD_KV, p);", "uint4 raw = *static_cast<const uint4 *>(p);",
     "p (p) is read"),
    ("linear_mac.h", "ld16(rows.cls, row + k)", "*reinterpret_cast<const uint4 *>(row + k)",
     "row (row) is read"),
    ("linear_mac.h", "return row && k < left", "return static_cast<const T *>(rows.row[0]), k < left",
     "is returned by linear_load"),
    ("linear_expand.h", "ld4(LD_ADAPTER, row + 8)", "*reinterpret_cast<const uint32_t *>(row + 8)",
     "row (row) is read"),
    ("linear_expand.h", "const void *b = tile.block + e.b_at;",
     "const char *b = tile.block + e.b_at; s.rank += b[0];", "b (b) is read"),
    ("linear_rows.h", "static_cast<const T *>(shrink.a) +", "static_cast<const T *>(shrink.a)[0] +",
     "shrink.a (an adapter's A) is read"),
    ("linear_finish.h", "to[i] = held_of<T>(job.saturated, y[i * out.pitch]);",
     "to[i] = held_of<T>(job.saturated, to_f32(to[i]));", "to (to) is read"),
    ("recurrent.h", "__uint_as_float(ld4(LD_STATE, from.at + i))", "from.at[i]",
     "from.at (what a state begins with) is read"),
    ("recurrent.h", "uint2 raw = ld8(LD_STATE, run.start + offsetof(effect_block, state_at));",
     "uint2 raw; memcpy(&raw, run.start, 8);", "is passed to memcpy"),
    ("recurrent_step.cu", "to[at + (size_t)i * job.value_dim] = state[i];",
     "to[at + (size_t)i * job.value_dim] += state[i];", "to (to) is read"),
    ("attend.h", "kv.data", "kv.memory", "no KV under"),
    ("attend.cu", "attend_widen", "attend_wider", "no function attend_widen"),
]


def run(root):
    return subprocess.run([sys.executable, os.path.join(HERE, "counted.py"), root],
                          capture_output=True, text=True, check=False)


def main():
    failed = []
    if run(os.path.join(HERE, "..", "..")).returncode != 0:
        failed.append("the tree as it is is refused")
    for name, old, new, expected in FAULTS:
        with tempfile.TemporaryDirectory() as root:
            shutil.copytree(ROOM, os.path.join(root, "kernels/cuda"))
            # a source is gone only when it is gone from every file
            for path in sorted(os.listdir(os.path.join(root, "kernels/cuda"))):
                place = os.path.join(root, "kernels/cuda", path)
                with open(place, encoding="utf-8") as f:
                    text = f.read()
                if path == name and old not in text:
                    failed.append(f"{name}: there is no '{old}' to replace")
                if path == name or expected.startswith("no "):
                    with open(place, "w", encoding="utf-8") as f:
                        f.write(text.replace(old, new))
            done = run(root)
            if done.returncode == 0 or expected not in done.stdout:
                failed.append(f"{name}: '{expected}' was not found in: {done.stdout.strip()}")
    print("\n".join(failed) or f"{len(FAULTS)} planted faults found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
