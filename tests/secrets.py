"""Every secret that a run of the tests has seen, so that at its end all that was logged can be searched for them."""

import re
from pathlib import Path
from typing import Any

PASSWORD = "harbour lantern 42"
"""What people log in with."""

_FIELDS = {"key", "access_token", "refresh_token", "challenge", "secret"}
_RUN = re.compile(r"[0-9A-Za-z]{16,}")
_used: set[str] = {PASSWORD}


def used(secret: str) -> None:
    """Remember a secret."""
    _used.add(secret)


def answered(answer: Any) -> None:
    """Remember the secrets of an answer."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name in _FIELDS and isinstance(value, str) and value:
                used(value)
            answered(value)
    elif isinstance(answer, list):
        for item in answer:
            answered(item)


def shown_in(folder: Path) -> list[str]:
    """The files of a folder that hold a secret, or the longest run of letters and digits in one; and how many were used."""
    runs = {max(found, key=len) for secret in _used if (found := _RUN.findall(secret))}
    whole = {secret for secret in _used if not _RUN.search(secret)}
    files = []
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8", errors="replace")
        if runs.intersection(_RUN.findall(text)) or any(secret in text for secret in whole):
            files.append(path.name)
    return files


def count() -> int:
    """How many secrets were used."""
    return len(_used)
