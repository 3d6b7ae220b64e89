"""Where the processes of one data folder meet: private sockets, locks, and what a worker tells its supervisor.

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
"""A worker's word for: I serve."""

REPLACE = b"-"
"""A worker's word for: somebody wants me to go; I serve until there is a successor."""

_MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, or 104


class WorkersError(Exception):
    """The workers cannot run; the message says why."""


def endpoint(settings: "Settings", place: int) -> Path:
    """The private socket at a place, in a folder that only its user can enter."""
    return _run_dir(settings) / f"grpc-{place}.sock"


def endpoints(settings: "Settings") -> list[Path]:
    """The private sockets at which workers may be, of which one is free, or its worker is on its way out."""
    return [endpoint(settings, place) for place in range(settings.mo_workers + 1)]


def some_endpoint(settings: "Settings") -> Path:
    """A link to the private socket of one that serves; the supervisor keeps it so."""
    return _run_dir(settings) / "grpc.sock"


def edge_endpoint(settings: "Settings") -> Path:
    """The private socket of the edge's admin interface, beside them."""
    return _run_dir(settings) / "edge.sock"


def web_endpoint(settings: "Settings") -> Path:
    """The private socket of the pages, beside them."""
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
        WorkersError: somebody else's folder has its name.
    """
    run_dir = _run_dir(settings)
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = run_dir.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o777 != 0o700:
        raise WorkersError(f"{run_dir} is not a folder of this user alone.")


def claim(settings: "Settings", socket: Path) -> None:
    """Make a socket this process's own for as long as it lives: gRPC would take it from another in silence.

    Raises:
        WorkersError: another process has it.
    """
    make_run_dir(settings)
    try:
        FileLock(socket.with_suffix(".lock")).acquire()
    except AlreadyLockedError:
        raise WorkersError(f"A server runs with the data folder {settings.mo_data_dir} already.") from None


def tell(pipe: int | None, word: bytes) -> bool:
    """Tell the supervisor something; False if there is none."""
    try:
        return pipe is not None and os.write(pipe, word) > 0
    except BrokenPipeError:
        return False
