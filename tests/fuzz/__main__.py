"""`make fuzz`: looks for bytes that break a target, guided by coverage, and keeps those that reach something new.

With a target's name, it fuzzes that one, with libFuzzer's options; without, each in turn for its part of the minutes.
"""

import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from tests.fuzz import corpus


def fuzz(target: str, options: list[str]) -> None:
    """Fuzz one target; this process ends with it."""
    import atheris

    with atheris.instrument_imports(include=["mo_grpc", "multipart", "email", "tests"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()


def fuzz_all(minutes: float) -> None:
    """Fuzz each target, and keep what reaches something that nothing else does: libFuzzer leaves no other files."""
    targets = corpus.targets()
    seconds = max(1, round(minutes * 60 / len(targets)))
    for target in targets:
        print(f"{target}: {seconds} seconds", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            kept = corpus.read(target)
            for data in kept:
                Path(folder, sha256(data).hexdigest()).write_bytes(data)
            run(target, f"-max_total_time={seconds}", folder)
            corpus.write(target, {path.read_bytes() for path in Path(folder).iterdir()})


def run(target: str, *options: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", target, "-max_len=600", "-timeout=10", "-print_final_stats=1", *options]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    if sys.argv[1] in corpus.targets():
        fuzz(sys.argv[1], sys.argv[2:])
    else:
        fuzz_all(float(sys.argv[1]))
