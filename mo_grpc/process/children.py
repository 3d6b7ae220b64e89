"""Child processes that never outlive the one that started them, and locks that end with their holder.

Run as `python -I -S children.py SIGNAL PARENT UID GID COMMAND…`, this module becomes the command, to be sent the
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
    """An exclusive lock, which the kernel releases when its holder ends, in whatever way.

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
        """Release the lock, if it is held."""
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


class UnixUser(NamedTuple):
    """The user that a child runs as."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str],
    log: Path | None = None,
    dies_with: signal.Signals = signal.SIGTERM,
    cwd: Path | None = None,
    user: UnixUser | None = None,
    keep: Collection[int] = (),
) -> Process:
    """Start a child in a session of its own, which the terminal's Ctrl-C does not reach, and which ends when this process does.

    What it prints goes to the end of `log`, or where this process's own output goes. It inherits the descriptors `keep`.
    """
    identity = user or UnixUser(os.geteuid(), os.getegid())
    # It needs the standard library alone, so Python starts sooner.
    wrapper = [sys.executable, "-I", "-S", __file__, dies_with.name, str(os.getpid()), *map(str, identity)]
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


def stop(process: Process, number: signal.Signals, timeout: float) -> None:
    """End a child by a signal, and by SIGKILL if it takes longer than `timeout` seconds."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, to show with a failure."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _become(dies_with: str, parent: str, uid: str, gid: str, *command: str) -> None:
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # What nohup ignores would otherwise be ignored until the command sets a handler, if it ever does.
    signal.signal(signal.Signals[dies_with], signal.SIG_DFL)
    # Last, because a change of user forgets it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals[dies_with])
    if os.getppid() != int(parent):  # it died before the signal was asked for
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command is an argument list


if __name__ == "__main__":
    _become(*sys.argv[1:])
