"""Child processes that never outlive the one that started them, and locks that end with their holder.

Run as `python -m mo_grpc.process.children SIGNAL PARENT UID GID COMMAND…`, this module becomes the command, to be sent the
signal (Linux's parent-death signal) when its parent dies, even by `kill -9`.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

PYTHON = (sys.executable, "-P")
"""Our Python, to run modules of ours. Without `-P`, `-m` would import whatever has their names in the current folder."""

_PR_SET_PDEATHSIG = 1


class AlreadyLockedError(Exception):
    """Another process holds the lock."""


class FileLock:
    """An exclusive lock, which the kernel lets go of when its holder ends, however it ends.

    A program that its holder becomes (`exec`) has it too; children do not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyLockedError: at once, if another process has it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyLockedError(self._path) from None
        os.set_inheritable(descriptor, True)  # `subprocess` closes it in children all the same
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


Process = subprocess.Popen[bytes]


class Adopted:
    """A child that this process started before it became another program (`supervisor.become`); used like a `Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, as `Popen.poll` says it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class User(NamedTuple):
    """Whom a child runs as."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str],
    log: Path | None = None,
    dies_with: signal.Signals = signal.SIGTERM,
    cwd: Path | None = None,
    user: User | None = None,
    keep: Collection[int] = (),
) -> Process:
    """Start a child in a session of its own, out of reach of the terminal's Ctrl-C, that ends when this process does.

    What it prints goes to the end of `log`, or where this process's own output goes. It inherits the descriptors `keep`.
    """
    identity = user or User(os.geteuid(), os.getegid())
    wrapper = [*PYTHON, "-m", __name__, dies_with.name, str(os.getpid()), *map(str, identity)]
    with log.open("ab") if log else nullcontext() as output:
        return subprocess.Popen(
            [*wrapper, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=cwd,
            pass_fds=keep,
        )


def stop(process: Process, number: signal.Signals, patience: float) -> None:
    """End a child by a signal, and by SIGKILL if it takes longer than `patience` seconds."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, to show to whoever has to understand a failure."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _become(dies_with: str, parent: str, uid: str, gid: str, *command: str) -> None:
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # What nohup has told to be ignored would stay so until the command has a handler of its own, if it ever has.
    signal.signal(signal.Signals[dies_with], signal.SIG_DFL)
    # Last, because a change of user forgets it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals[dies_with])
    if os.getppid() != int(parent):  # it died before we could ask to be told
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command is an argument list


if __name__ == "__main__":
    _become(*sys.argv[1:])
