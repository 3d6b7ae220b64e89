"""The inputs that are kept of each target: a file of lines in base64, the shortest first."""

import base64
from collections.abc import Iterable
from pathlib import Path

_FOLDER = Path(__file__).parent


def targets() -> list[str]:
    """The targets that have a corpus."""
    return sorted(path.stem for path in _FOLDER.glob("*.txt"))


def read(target: str) -> list[bytes]:
    """The inputs of a target."""
    return [base64.b64decode(line) for line in (_FOLDER / f"{target}.txt").read_text(encoding="ascii").splitlines()]


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Replace the inputs of a target."""
    lines = [base64.b64encode(data).decode() + "\n" for data in sorted(inputs, key=lambda data: (len(data), data))]
    (_FOLDER / f"{target}.txt").write_text("".join(lines), encoding="ascii")
