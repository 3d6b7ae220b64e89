"""All cores in use: a server process for each, and one that watches over them.

A worker that dies is replaced, with exponential back-off, while the others serve. One that is told to end (SIGTERM) is replaced
first: it serves until its successor does, and then finishes its calls. So neither costs a call that has not begun.
"""

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import structlog

from mo_grpc import logs
from mo_grpc.process.children import PYTHON, spawn
from mo_grpc.process.restarts import Restarts
from mo_grpc.process.sockets import READY, REPLACE, WorkersError, claim, make_run_dir, serving_socket, worker_sockets
from mo_grpc.process.supervisor import Child, SupervisorError, become, supervise, wait_for
from mo_grpc.telemetry.folder import forget_all, forget_gauges, metrics_folder, worker_name

if TYPE_CHECKING:
    from mo_grpc.config import Settings

log = structlog.get_logger()

MAX_FAILED_STARTS = 3
"""How often in a row a worker may end before it serves. When all have, and none serves, this process ends."""

DRAIN: Final = signal.SIGHUP
"""What tells a worker to finish its calls and end, at once. The kernel sends it, too, when the supervisor dies."""

MARGIN = 5.0
"""Seconds beyond the grace after which a worker that should have ended is killed."""


class Plan(NamedTuple):
    """What the supervisor of the workers needs to know."""

    sockets: list[str]
    """The private sockets: one more than there are workers."""
    link: str
    """A link to the socket of a worker that serves, which the supervisor keeps current for the pages."""
    grace: float
    """Seconds that a worker's calls get to finish."""
    log_level: str
    log_format: str
    metrics: str | None
    """The folder of the workers' metrics, if they are on."""


class _Worker(Child):
    """A process, at the private socket of a number."""

    def __init__(self, number: int, timeout: float, metrics: Path | None) -> None:
        self.socket_number = number
        self._metrics = metrics
        self.ready = False
        self.wants_successor = False
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        command = [*PYTHON, "-m", "mo_grpc", "serve", "--worker", str(number), "--supervisor", str(theirs)]
        super().__init__(spawn(command, dies_with=DRAIN, keep=(theirs,)), DRAIN, timeout)
        os.close(theirs)

    def listen(self) -> None:
        """Read what it reports by its pipe."""
        try:
            reports = os.read(self._pipe, 100)
        except BlockingIOError:
            return
        self.ready = self.ready or READY in reports
        self.wants_successor = self.wants_successor or REPLACE in reports

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        if self.running:
            return False
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            if self._metrics:
                forget_gauges(self._metrics, worker_name(self.socket_number))
        return True


class _Slot:
    """One of MO_WORKERS workers: the process that serves, and its successor while it starts."""

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
        """Whether it is time to start a worker. While no other serves, the pause is short."""
        if self.coming or (self.serving and not self.serving.wants_successor):
            return False
        return self.restarts.due() if self.serving or others_serve else self.restarts.due(longest=1.0)

    def notice_deaths(self) -> None:
        for worker in [worker for worker in self.workers if worker.gone]:
            self.restarts.died(worker.lived)
            if worker is self.serving:
                self.serving = None
            else:
                self.coming = None
                self.failed_starts += 1
            status = worker.process.returncode
            log.warning("worker died", worker=self.number, status=status, ready=worker.ready, pause=self.restarts.pause())

    def take_over(self) -> _Worker | None:
        """Let the successor take over as soon as it serves; answer which worker it has replaced."""
        for worker in self.workers:
            worker.listen()
        if self.coming is None or not self.coming.ready:
            return None
        replaced, self.serving, self.coming = self.serving, self.coming, None
        self.failed_starts = 0
        return replaced


class Workers:
    """A worker in every slot."""

    def __init__(self, plan: Plan) -> None:
        self._sockets = [Path(socket) for socket in plan.sockets]
        self._link = Path(plan.link)
        self._timeout = plan.grace + MARGIN
        self._metrics = Path(plan.metrics) if plan.metrics else None
        self._slots = [_Slot(number) for number in range(len(plan.sockets) - 1)]
        self._leaving: list[_Worker] = []
        self._linked: _Worker | None = None

    def look(self) -> None:
        """Replace the workers that have died and those that are to go.

        Raises:
            SupervisorError: no worker can be made to serve.
        """
        self._leaving = [worker for worker in self._leaving if not worker.gone]
        for slot in self._slots:
            slot.notice_deaths()
            if replaced := slot.take_over():
                replaced.drain()
                self._leaving.append(replaced)
        serving = [slot.serving for slot in self._slots if slot.serving]
        if not serving and all(slot.failed_starts >= MAX_FAILED_STARTS for slot in self._slots):
            raise SupervisorError(
                f"No worker can be made to serve: each ended before it did, {MAX_FAILED_STARTS} times in a row."
            )
        self._keep_link(serving)
        for slot in self._slots:
            if slot.wants(others_serve=bool(serving)) and (free := self._free_sockets()):
                slot.coming = _Worker(free[0], self._timeout, self._metrics)

    def end(self) -> None:
        """Let all finish their calls."""
        workers = self._workers()
        for worker in workers:
            worker.drain()
        wait_for(workers)

    def _workers(self) -> list[_Worker]:
        return [*self._leaving, *(worker for slot in self._slots for worker in slot.workers)]

    def _free_sockets(self) -> list[int]:
        taken = {worker.socket_number for worker in self._workers()}
        return [number for number in range(len(self._sockets)) if number not in taken]

    def _keep_link(self, serving: list[_Worker]) -> None:
        """Keep one socket that leads to a worker that serves, for the pages."""
        if not serving or self._linked in serving:
            return
        self._linked = serving[0]
        new = self._link.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(self._sockets[self._linked.socket_number])
        new.replace(self._link)


def run_workers(settings: "Settings") -> NoReturn:
    """Run the workers until SIGTERM or SIGINT, and let them drain.

    Raises:
        WorkersError: the port is taken, or the folder of the private sockets is not ours.
        ModuleNotFoundError: traces are on, and what they need is not installed.
    """
    from mo_grpc.telemetry.traces import require_library  # not for the supervisor that this becomes

    require_library(settings)
    metrics = metrics_folder(settings) if settings.metrics_port else None
    if metrics:
        forget_all(metrics, worker_name("*"))
    make_run_dir(settings)
    claim(settings, serving_socket(settings))
    _reserve(settings.mo_grpc_host, settings.mo_grpc_port)
    plan = Plan(
        sockets=[str(path) for path in worker_sockets(settings)],
        link=str(serving_socket(settings)),
        grace=settings.longest_drain,
        log_level=settings.mo_log_level,
        log_format=settings.mo_log_format,
        metrics=str(metrics) if metrics else None,
    )
    become("serve", plan._asdict())


def watch(plan: Plan) -> int:
    """Supervise the workers; answer the exit status."""
    logs.configure(plan.log_level, plan.log_format)
    return supervise(Workers(plan))


def _reserve(host: str, port: int) -> None:
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
    os.set_inheritable(held.detach(), True)
