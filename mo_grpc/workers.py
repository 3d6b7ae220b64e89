"""All cores in use: a server process for each, watched over by one that replaces those that die (DESIGN §7).

Direct clients share one port among the workers. Envoy finds each at a private socket, because the kernel spreads connections
over a shared port, and Envoy's few long ones would leave a worker idle.
"""

import hashlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import structlog

from mo_grpc.config import Settings
from mo_grpc.processes import AlreadyLockedError, FileLock, spawn, stop

log = structlog.get_logger()

QUICK_DEATH = 30.0
"""Seconds: a worker that dies sooner was never well."""

MAX_QUICK_DEATHS = 3
"""So many in a row, and it is not bad luck: all stops, and whoever watches this process is told."""

_MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, or 104


class WorkersError(Exception):
    """The workers cannot run; the message says why."""


def endpoint(settings: Settings, worker: int) -> Path:
    """The private socket of a worker, in a folder that only its user can enter."""
    return _run_dir(settings) / f"grpc-{worker}.sock"


def edge_endpoint(settings: Settings) -> Path:
    """The private socket of the edge's admin interface, beside them."""
    return _run_dir(settings) / "edge.sock"


def web_endpoint(settings: Settings) -> Path:
    """The private socket of the pages, beside them."""
    return _run_dir(settings) / "web.sock"


def _run_dir(settings: Settings) -> Path:
    run_dir = settings.mo_data_dir.resolve() / "run"
    if len(os.fsencode(run_dir / "grpc-00.sock")) <= _MAX_SOCKET_PATH:
        return run_dir
    name = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"mo-grpc-{os.geteuid()}-{name}"


def make_run_dir(settings: Settings) -> None:
    """Make the sockets' folder.

    Raises:
        WorkersError: somebody else's folder has its name.
    """
    run_dir = _run_dir(settings)
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = run_dir.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o777 != 0o700:
        raise WorkersError(f"{run_dir} is not a folder of this user alone.")


def claim_endpoint(settings: Settings, worker: int) -> None:
    """Make a worker's private socket its own for as long as its process lives: gRPC would take it from another in silence.

    Raises:
        WorkersError: another process has it.
    """
    make_run_dir(settings)
    try:
        FileLock(endpoint(settings, worker).with_suffix(".lock")).acquire()
    except AlreadyLockedError:
        raise WorkersError(f"A server runs with the data folder {settings.mo_data_dir} already.") from None


class _Worker:
    """One worker, and how it has fared."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.quick_deaths = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mo_grpc", "serve", "--worker", str(self.number)]
        self.process = spawn(command)
        self.started_at = time.monotonic()

    def look_after(self) -> None:
        """Start it again if it has died.

        Raises:
            WorkersError: it dies again and again.
        """
        status = self.process.poll()
        if status is None:
            return
        quick = time.monotonic() - self.started_at < QUICK_DEATH
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        if self.quick_deaths >= MAX_QUICK_DEATHS:
            raise WorkersError(f"Worker {self.number} ended with status {status}, as it did {MAX_QUICK_DEATHS} times in a row.")
        log.warning("worker died", worker=self.number, status=status)
        self.start()


def run_workers(settings: Settings) -> None:
    """Run the workers until SIGTERM or SIGINT, and let them drain.

    Raises:
        WorkersError: the port is taken, or a worker cannot be kept alive.
    """
    stopping = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    make_run_dir(settings)
    with _reserve(settings.mo_grpc_host, settings.mo_grpc_port):
        workers = [_Worker(number) for number in range(settings.mo_workers)]
        try:
            while not stopping:
                for worker in workers:
                    worker.look_after()
                time.sleep(0.1)
        finally:
            for worker in workers:
                worker.process.send_signal(signal.SIGTERM)
            for worker in workers:
                stop(worker.process, signal.SIGTERM, settings.mo_shutdown_grace_seconds + 5)


def _reserve(host: str, port: int) -> socket.socket:
    """Hold the port for the workers: a bound socket that does not listen gets no connections.

    Workers share the port, so the kernel would let a forgotten server of the same user share it too, and take its part of
    the calls. The first, unshared attempt finds it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise WorkersError(f"Port {port} of {host} cannot be used: {error.strerror}.") from None
    return held
