"""Python stubs of the public protos, generated on first use beside the virtual environment.

    import stubs; stubs.path()      # then: from graft.v1 import inference_pb2, ...
"""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def path():
    """Puts the stubs on sys.path, generating them when a .proto is newer; returns their folder."""
    out = os.path.join(ROOT, ".venv", "graft_stubs")
    proto = os.path.join(ROOT, "proto")
    files = [os.path.join(folder, name) for folder in ("graft/v1", "google/rpc")
             for name in sorted(os.listdir(os.path.join(proto, folder))) if name.endswith(".proto")]
    stamp = os.path.join(out, "stamp")
    newest = max(os.path.getmtime(os.path.join(proto, f)) for f in files)
    if not os.path.exists(stamp) or os.path.getmtime(stamp) < newest:
        from grpc_tools import protoc  # only needed to generate
        include = os.path.join(os.path.dirname(protoc.__file__), "_proto")
        os.makedirs(out, exist_ok=True)
        # google/rpc comes installed with grpcio-status; only our own files get stubs.
        own = [f for f in files if f.startswith("graft/")]
        if protoc.main(["protoc", f"-I{proto}", f"-I{include}", f"--python_out={out}",
                        f"--grpc_python_out={out}", *own]):
            raise RuntimeError("could not generate the Python stubs")
        with open(stamp, "w", encoding="utf-8"):
            pass
    if out not in sys.path:
        sys.path.insert(0, out)
    return out
