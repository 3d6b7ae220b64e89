"""The folder in which the processes of a data folder share their metrics; a supervisor, which imports little, keeps it tidy."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a supervisor does without the settings' libraries
    from mo_grpc.config import Settings

WEB = "web"
CELERY = "celery"
AUDIT = "audit"


def worker_name(number: int | str) -> str:
    """The name of a server's process among those that are measured."""
    return f"worker-{number}"


def metrics_folder(settings: "Settings") -> Path:
    """Where the processes of a data folder keep their metrics."""
    return settings.mo_data_dir.resolve() / "metrics"


def forget_gauges(folder: Path, process: str) -> None:
    """Remove the gauges of a process that has ended."""
    for path in folder.glob(f"gauge_live*_{process}.db"):
        path.unlink(missing_ok=True)


def forget_all(folder: Path, process: str = "*") -> None:
    """Remove what former processes of this name have left: with their services, counters begin anew."""
    for path in folder.glob(f"*_{process}.db"):
        path.unlink(missing_ok=True)
