"""Files that nobody but their owner can read."""

import os
from pathlib import Path
from typing import BinaryIO


def create_private(path: Path) -> BinaryIO:
    """Create a file that its owner alone can read and write, and open it for writing.

    Raises:
        FileExistsError: something has that name already, be it a link.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read; it is a new file each time, which neither follows a link nor keeps a mode."""
    path.unlink(missing_ok=True)
    with create_private(path) as file:
        file.write(text.encode())
