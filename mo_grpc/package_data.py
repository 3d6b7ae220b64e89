"""The files that the code reads: at the top of the source tree, and within the package where it was installed from a wheel."""

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("mo_grpc")))
_INSTALLED = _PACKAGE / "data"


def data_path(name: str) -> Path:
    """Where a file or folder is; `name` is its path in the source tree, and one of `force-include` in `pyproject.toml`."""
    return (_INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent) / name
