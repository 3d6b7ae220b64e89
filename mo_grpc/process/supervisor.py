"""The supervisor's loop: it starts processes, watches them, and drains them at the end. `up`, `serve` and `edge` each run one.

A supervisor lives as long as the service and does nothing but wait, so it should need little memory. What needs libraries (the
settings, migrations, Envoy's configuration) is done first; then the process replaces itself, by `exec`, with a program that
imports little more than the standard library. The pid, the children, the locks and the sockets stay what they are.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import NoReturn, Protocol

from mo_grpc.process.children import PYTHON, Adopted, Process

WATCH = "--watch"
"""The argument that stands before a supervisor's plan, which is JSON."""

INTERVAL = 0.05
"""Seconds between two looks at the children."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class SupervisorError(Exception):
    """The supervisor cannot go on; the message says why."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Supervised(Protocol):
    """What a supervisor looks after."""

    def look(self) -> None:
        """Start what is to run, and notice what has ended.

        Raises:
            SupervisorError: it cannot go on.
        """

    def end(self) -> None:
        """Let what runs finish its work, and end it."""


class Child:
    """A running child. At the end it gets a signal, and SIGKILL if it takes longer than `timeout` seconds."""

    def __init__(self, process: Process | Adopted, number: signal.Signals, timeout: float) -> None:
        self.process = process
        self.started_at = time.monotonic()
        self._signal = number
        self._timeout = timeout
        self._kill_at = float("inf")

    @property
    def running(self) -> bool:
        """Whether it runs; one that should have ended long ago is killed."""
        if self.process.poll() is not None:
            return False
        if time.monotonic() > self._kill_at:
            self.process.kill()
        return True

    @property
    def lived(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_at

    @property
    def end(self) -> str:
        """How it ended, in words."""
        status = self.process.returncode
        return f"by signal {-status}" if status is not None and status < 0 else f"with exit status {status}"

    def drain(self) -> None:
        """Tell it to end."""
        if self.running:
            self.process.send_signal(self._signal)
            self._kill_at = time.monotonic() + self._timeout

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.drain()
        wait_for([self])


def wait_for(children: Iterable[Child]) -> None:
    """Wait until all have ended."""
    while children := [child for child in children if child.running]:
        time.sleep(INTERVAL)


def become(command: str, plan: Mapping[str, object]) -> NoReturn:
    """Replace this process by the supervisor of a command, which `mo_grpc/__main__.py` starts with the plan.

    Inheritable descriptors stay open, and a signal that comes meanwhile waits. The plan becomes JSON; it holds no secret, since
    the list of processes shows it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    os.execv(PYTHON[0], [*PYTHON, "-m", "mo_grpc", command, WATCH, json.dumps(plan)])  # noqa: S606 - an argument list


def supervise(supervised: Supervised, until: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> int:
    """Look after it until a signal comes, or until it cannot go on, and end it; answer the exit status."""
    stopping = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in until:
        signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        try:
            while not stopping:
                supervised.look()
                time.sleep(INTERVAL)
        finally:
            supervised.end()
    except SupervisorError as error:
        print(error, file=sys.stderr, flush=True)
        return error.status
    return 0
