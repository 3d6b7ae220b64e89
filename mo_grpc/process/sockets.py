"""The private sockets of a data folder's processes, their locks, and what a worker reports to its supervisor.

Direct clients share one port among the workers. Envoy finds each at a private socket, because the kernel spreads connections
over a shared port, and Envoy's few long ones would leave a worker idle. There is one socket more than there are workers, for
the successor of one that still finishes its calls.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mo_grpc.process.children import AlreadyLockedError, FileLock

if TYPE_CHECKING:  # a supervisor does without the settings' libraries
    from mo_grpc.config import Settings

READY = b"+"
"""A worker reports: it serves."""

REPLACE = b"-"
"""A worker reports: it is to end, and serves until there is a successor."""

_MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, or 104


class WorkersError(Exception):
    """The workers cannot run; the message says why."""


def worker_socket(settings: "Settings", number: int) -> Path:
    """One of the private sockets, in a folder that only its user can enter."""
    return _run_dir(settings) / f"grpc-{number}.sock"


def worker_sockets(settings: "Settings") -> list[Path]:
    """The private sockets of all workers, and one more for the successor of a worker that ends."""
    return [worker_socket(settings, number) for number in range(settings.mo_workers + 1)]


def serving_socket(settings: "Settings") -> Path:
    """A link to the socket of a worker that serves, which the supervisor keeps current."""
    return _run_dir(settings) / "grpc.sock"


def edge_socket(settings: "Settings") -> Path:
    """The private socket of Envoy's admin interface."""
    return _run_dir(settings) / "edge.sock"


def web_socket(settings: "Settings") -> Path:
    """The private socket of the web server."""
    return _run_dir(settings) / "web.sock"


def _run_dir(settings: "Settings") -> Path:
    run_dir = settings.mo_data_dir.resolve() / "run"
    if len(os.fsencode(run_dir / "grpc-00.sock")) <= _MAX_SOCKET_PATH:
        return run_dir
    name = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"mo-grpc-{os.geteuid()}-{name}"


def make_run_dir(settings: "Settings") -> None:
    """Make the sockets' folder.

    Raises:
        WorkersError: another user's folder has its name.
    """
    run_dir = _run_dir(settings)
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = run_dir.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o777 != 0o700:
        raise WorkersError(f"{run_dir} is not a folder of this user alone.")


def claim(settings: "Settings", socket: Path) -> None:
    """Lock a socket for as long as this process lives: gRPC would silently take it from another process.

    Raises:
        WorkersError: another process has it.
    """
    make_run_dir(settings)
    try:
        FileLock(socket.with_suffix(".lock")).acquire()
    except AlreadyLockedError:
        raise WorkersError(f"A server runs with the data folder {settings.mo_data_dir} already.") from None


def notify(pipe: int | None, report: bytes) -> bool:
    """Report something to the supervisor; False if there is none."""
    try:
        return pipe is not None and os.write(pipe, report) > 0
    except BrokenPipeError:
        return False
