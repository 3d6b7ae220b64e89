"""All cores in use: a server process for each, and one that watches over them.

A worker that dies is replaced, the more often the later, while the others serve. One that is told to end (SIGTERM) is replaced
first: it serves until its successor does, and then finishes its calls. So neither costs a call that has not begun.
"""

import os
import signal
import socket
import time
from typing import Final

import structlog

from mo_grpc.config import Settings
from mo_grpc.process.children import PYTHON, end_requests, spawn
from mo_grpc.process.places import READY, REPLACE, WorkersError, claim, endpoint, make_run_dir, some_endpoint
from mo_grpc.run.restarts import Restarts

log = structlog.get_logger()

MAX_FAILED_STARTS = 3
"""How often in a row a worker may end before it serves. When all have, and none serves, this process ends."""

DRAIN: Final = signal.SIGHUP
"""What tells a worker to finish its calls and end, at once. The kernel sends it, too, when the supervisor dies."""

MARGIN = 5.0
"""Seconds beyond the grace after which a worker that should have ended is killed."""

_INTERVAL = 0.05


class _Worker:
    """One process, at one of the places."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.started_at = time.monotonic()
        self.ready = False
        self.goes = False
        self.killed_at = float("inf")
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        command = [*PYTHON, "-m", "mo_grpc", "serve", "--worker", str(place), "--supervisor", str(theirs)]
        self.process = spawn(command, dies_with=DRAIN, keep=(theirs,))
        os.close(theirs)

    def listen(self) -> None:
        """Hear what it has to say."""
        try:
            words = os.read(self._pipe, 100)
        except BlockingIOError:
            return
        self.ready = self.ready or READY in words
        self.goes = self.goes or REPLACE in words

    def drain(self, patience: float) -> None:
        """Let it finish its calls, and see to it that it ends."""
        self.process.send_signal(DRAIN)
        self.killed_at = time.monotonic() + patience

    def gone(self) -> bool:
        """Whether it has ended."""
        if self.process.poll() is None:
            if time.monotonic() > self.killed_at:
                self.process.kill()
            return False
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        return True


class _Post:
    """What one worker after the other stands at."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.serving: _Worker | None = None
        self.coming: _Worker | None = None
        self.failed_starts = 0
        self.restarts = Restarts()

    @property
    def workers(self) -> list[_Worker]:
        return [worker for worker in (self.serving, self.coming) if worker]

    def wants(self, *, others_serve: bool) -> bool:
        """Whether it is time to start a worker. Where nobody else serves, a long pause would help nobody."""
        if self.coming or (self.serving and not self.serving.goes):
            return False
        return self.restarts.due() if self.serving or others_serve else self.restarts.due(longest=1.0)

    def start(self, place: int) -> None:
        self.coming = _Worker(place)

    def bury(self) -> None:
        """Notice who has died."""
        for worker in [worker for worker in self.workers if worker.gone()]:
            self.restarts.died(time.monotonic() - worker.started_at)
            if worker is self.serving:
                self.serving = None
            else:
                self.coming = None
                self.failed_starts += 1
            status = worker.process.returncode
            log.warning("worker died", worker=self.number, status=status, ready=worker.ready, pause=self.restarts.pause())

    def relieve(self) -> _Worker | None:
        """Let the successor take over as soon as it serves; answer whom it has relieved."""
        for worker in self.workers:
            worker.listen()
        if self.coming is None or not self.coming.ready:
            return None
        relieved, self.serving, self.coming = self.serving, self.coming, None
        self.failed_starts = 0
        return relieved


class _Supervisor:
    """Keeps a worker at every post."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._patience = settings.mo_shutdown_grace_seconds + MARGIN
        self._posts = [_Post(number) for number in range(settings.mo_workers)]
        self._leaving: list[_Worker] = []
        self._linked: _Worker | None = None

    def look_after(self) -> None:
        """Replace who has died and who is to go.

        Raises:
            WorkersError: no worker can be made to serve.
        """
        self._leaving = [worker for worker in self._leaving if not worker.gone()]
        for post in self._posts:
            post.bury()
            if relieved := post.relieve():
                relieved.drain(self._patience)
                self._leaving.append(relieved)
        serving = [post.serving for post in self._posts if post.serving]
        if not serving and all(post.failed_starts >= MAX_FAILED_STARTS for post in self._posts):
            raise WorkersError(f"No worker can be made to serve: each ended before it did, {MAX_FAILED_STARTS} times in a row.")
        self._link(serving)
        for post in self._posts:
            if post.wants(others_serve=bool(serving)) and (places := self._free_places()):
                post.start(places[0])

    def end(self) -> None:
        """Let all finish their calls."""
        workers = [*self._leaving, *(worker for post in self._posts for worker in post.workers)]
        for worker in workers:
            worker.drain(self._patience)
        while workers := [worker for worker in workers if not worker.gone()]:
            time.sleep(_INTERVAL)

    def _free_places(self) -> list[int]:
        taken = {worker.place for worker in (*self._leaving, *(w for post in self._posts for w in post.workers))}
        return [place for place in range(len(self._posts) + 1) if place not in taken]

    def _link(self, serving: list[_Worker]) -> None:
        """Keep one socket that leads to somebody who serves, for the pages."""
        if not serving or self._linked in serving:
            return
        self._linked = serving[0]
        link = some_endpoint(self._settings)
        new = link.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(endpoint(self._settings, self._linked.place))
        new.replace(link)


def run_workers(settings: Settings) -> None:
    """Run the workers until SIGTERM or SIGINT, and let them drain.

    Raises:
        WorkersError: the port is taken, or no worker can be made to serve.
    """
    stopping = end_requests()
    make_run_dir(settings)
    claim(settings, some_endpoint(settings))
    with _reserve(settings.mo_grpc_host, settings.mo_grpc_port):
        supervisor = _Supervisor(settings)
        try:
            while not stopping():
                supervisor.look_after()
                time.sleep(_INTERVAL)
        finally:
            supervisor.end()


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
