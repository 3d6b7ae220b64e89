"""Runs `mo-grpc` without a new Python for each command, whose imports take a second: a process that has them forks for each.

Each command is still a process of its own, with its own environment, descriptors and exit status. Run as
`python -m tests.commands SOCKET`, this module is that process; it ends with its standard input.
"""

import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer

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
)
"""What the commands import when they run."""


class _Server(ForkingMixIn, UnixStreamServer):
    max_children = 100
    request_queue_size = 100


class _Run(StreamRequestHandler):
    """Runs a command in the process that was forked for it, and answers its status and what it printed."""

    def handle(self) -> None:
        folder, environment, arguments, given = json.loads(self.rfile.readline())
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(given.encode())
            stdin.seek(0)
            for descriptor, file in enumerate((stdin, stdout, stderr)):
                os.dup2(file.fileno(), descriptor)
            status = _status(arguments)
            texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (stdout, stderr)]
        self.wfile.write(json.dumps([status, *texts]).encode())


def _status(arguments: list[str]) -> int:
    """Run the command here, as Python would; answer its exit status."""
    from mo_grpc.cli.app import main

    sys.argv = ["mo-grpc", *arguments]
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _serve(path: str) -> None:
    for module in _MODULES:
        importlib.import_module(module)
    with _Server(path, _Run) as server:
        print("ready", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            server.handle_request()
            server.service_actions()


class Commands:
    """The process that runs the commands; it starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, environment: dict[str, str], arguments: tuple[str, ...], given: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, with `given` at its standard input."""
        with self._lock:
            if self._process is None:
                self._start()
        request = [str(Path.cwd()), environment, arguments, given]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(100)
            connection.connect(self._path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile() as answer:
                status, stdout, stderr = json.load(answer)
        return subprocess.CompletedProcess(["mo-grpc", *arguments], status, stdout, stderr)

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


if __name__ == "__main__":
    _serve(sys.argv[1])
