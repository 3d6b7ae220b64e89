"""Rebuild `generated/` from the protos: messages, servicers, type stubs, Envoy's descriptor set, the OpenAPI document.

`make generate` runs it. With `--check` (`make lint`) it rebuilds elsewhere and fails, naming each file that is stale.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.api import annotations_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "generated"
GOOGLE = Path(annotations_pb2.__file__).parents[1]

# Envoy writes the details of an error as JSON only if the descriptor set has their types.
ERROR_DETAILS = [PROTOS / "google/rpc/error_details.proto", PROTOS / "google/rpc/status.proto"]


def build(out: Path) -> None:
    """Fill the folder `out` with everything that follows from the protos."""
    ours = sorted(PROTOS.glob("mo/**/*.proto"))
    services = [source for source in ours if "\nservice " in source.read_text(encoding="utf-8")]
    _protoc([*ours, *ERROR_DETAILS], f"--descriptor_set_out={out / 'descriptor.binpb'}", "--include_imports")
    _protoc([*ours, PROTOS / "buf/validate/validate.proto"], f"--python_out={out}", f"--mypy_out=quiet:{out}")
    _protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")
    with tempfile.NamedTemporaryFile() as commented:
        _protoc([*ours, *ERROR_DETAILS], f"--descriptor_set_out={commented.name}", "--include_imports", "--include_source_info")
        command = [sys.executable, "-m", "mo_grpc.web.reference", commented.name, str(out / "openapi.json")]
        # In a Python of its own, which sees the messages as they were just made.
        subprocess.run(command, check=True, cwd=PROTOS.parent, env=os.environ | {"PYTHONPATH": str(out)})


def _protoc(sources: list[Path], *outputs: str) -> None:
    builtin = Path(protoc.__file__).parent / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{builtin}", *outputs]
    # protoc finds its mypy plugins beside this Python.
    path = {"PATH": str(Path(sys.executable).parent)}
    subprocess.run([*command, *(str(s.relative_to(PROTOS)) for s in sources)], check=True, env=path)


def stale(fresh: Path) -> list[str]:
    """Name what differs between `fresh` and `generated/`, and vendored protos that the googleapis package has changed."""
    ours, theirs = ({f.relative_to(d): f.read_bytes() for f in _files(d)} for d in (GENERATED, fresh))
    names = [f"generated/{name}" for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    vendored = (f.relative_to(PROTOS) for f in (PROTOS / "google").rglob("*.proto"))
    names += [f"protos/{f}" for f in vendored if (PROTOS / f).read_bytes() != (GOOGLE.parent / f).read_bytes()]
    return sorted(names)


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]


def main() -> int:
    """Rebuild, or check; the exit status is 1 when the check fails."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        try:
            build(fresh)
        except subprocess.CalledProcessError:  # which has said why
            return 1
        if "--check" in sys.argv:
            names = stale(fresh)
            print(*(f"{name} is stale: run `make generate`" for name in names), sep="\n", end="\n" if names else "")
            return 1 if names else 0
        shutil.rmtree(GENERATED, ignore_errors=True)
        # A temporary folder is its owner's alone; what is made in it is not.
        shutil.copytree(fresh, GENERATED, copy_function=shutil.copyfile)
        GENERATED.chmod(0o755)
    for f in (PROTOS / "google").rglob("*.proto"):
        shutil.copyfile(GOOGLE.parent / f.relative_to(PROTOS), f)
    return 0


if __name__ == "__main__":
    sys.exit(main())
