"""Runs `mo-grpc` without a new Python for each command, whose imports take a second: a process that has them forks for each.

Each command is still a process of its own, with its own environment, descriptors and exit status. Run as
`python -m tests.commands SOCKET`, this module is that process; it ends with its standard input.
"""

import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

_MODULES = (
    "mo_grpc.cli.audit",
    "mo_grpc.cli.audit_log",
    "mo_grpc.cli.keys",
    "mo_grpc.cli.tokens",
    "mo_grpc.cli.users",
    "mo_grpc.db.migrate",
    "mo_grpc.edge.process",
    "mo_grpc.run.up",
    "mo_grpc.run.workers",
    "mo_grpc.server.serve",
    "mo_grpc.web.serve",
)
"""What the commands import when they run."""


OTHER_COPY = "TESTS_OTHER_COPY"
"""In a command's environment, the folder that has another `mo_grpc` to run."""


def _serve(path: str) -> None:
    """Fork for each command; answer with its pid, and its exit status when it has ended. In the forks, run the commands."""
    for module in _MODULES:
        importlib.import_module(module)
    # gRPC may be imported before a fork, but has to start after it.
    assert threading.active_count() == len(list(Path("/proc/self/task").iterdir())) == 1
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(100)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.data is None:
                    connection, _ = listener.accept()
                    pid = os.fork()
                    if pid == 0:
                        break
                    connection.sendall(f"{pid}\n".encode())
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    pid, connection = key.data
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with connection:
                        connection.sendall(f"{status}\n".encode())
            else:
                continue
            break
    _run(connection)


def _run(connection: socket.socket) -> None:
    """Become the command: what it raises, an exit status too, is for Python to handle."""
    with connection:
        text, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    folder, environment, arguments = json.loads(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mo-grpc", *arguments]
    if other := environment.get(OTHER_COPY):
        _forget("mo_grpc")
        sys.path.insert(0, other)
    from mo_grpc.cli.app import main

    main()


def _forget(package: str) -> None:
    """Let a package be imported again, from elsewhere."""
    for name in [*sys.modules]:
        if name.split(".")[0] == package:
            del sys.modules[name]


class Forked:
    """A command that was started; used like a `subprocess.Popen`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float = 100) -> int:
        """Its exit status, once it has ended."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("mo-grpc", timeout)
        return status

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Commands:
    """The process that forks; it starts with the first command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def start(self, environment: dict[str, str], arguments: tuple[str, ...], descriptors: tuple[int, int, int]) -> Forked:
        """Start a command with these for its standard input, output and error."""
        with self._lock:
            if self._process is None:
                self._start()
        request = json.dumps([str(Path.cwd()), environment, arguments]).encode()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        assert socket.send_fds(connection, [request], descriptors) == len(request)
        return Forked(connection)

    def start_beside(self, environment: dict[str, str], *arguments: str, stderr: IO[bytes] | None = None) -> Forked:
        """Start a command that prints where this process does, or to `stderr`, and reads nothing."""
        with Path(os.devnull).open() as nothing:
            return self.start(environment, arguments, (nothing.fileno(), 1, stderr.fileno() if stderr else 2))

    def run(self, environment: dict[str, str], arguments: tuple[str, ...], given: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, with `given` at its standard input."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(given.encode())
            stdin.seek(0)
            status = self.start(environment, arguments, (stdin.fileno(), stdout.fileno(), stderr.fileno())).wait(100)
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(["mo-grpc", *arguments], status, *texts)

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = f"{self._folder.name}/commands.sock"
        command = [sys.executable, "-m", "tests.commands", self._path]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> None:
        """End the process, if it was started."""
        if self._process is not None:
            self._process.communicate(timeout=60)
            self._folder.cleanup()
            assert self._process.returncode == 0


COMMANDS = Commands()


if __name__ == "__main__":
    _serve(sys.argv[1])
