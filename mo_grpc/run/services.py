"""The supervisor of `mo-grpc up`: it starts the servers and Envoy beside PostgreSQL, and ends them in the opposite order."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mo_grpc.edge.admin import Admin
from mo_grpc.process.children import PYTHON, Adopted, Process, spawn, tail
from mo_grpc.process.restarts import Restarts
from mo_grpc.process.supervisor import Child, SupervisorError, supervise

START_TIMEOUT = 60.0
"""Seconds that the services may take until they answer."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run. `make` forwards the terminal's Ctrl-C, so a second one says nothing new."""

MARGIN = 10.0
"""Seconds beyond the grace after which a service that should have ended is killed."""

_MO_GRPC = [*PYTHON, "-m", "mo_grpc"]


class Plan(NamedTuple):
    """What the supervisor of a run needs to know."""

    logs: str
    """The folder of the services' logs."""
    postgres: int | None
    """The pid of the embedded PostgreSQL, which runs already."""
    postgres_timeout: float
    """Seconds that it may take to end."""
    leftovers: list[str]
    """Files and folders to remove once it has ended."""
    key_note: str
    """The file that names the API key of the run."""
    greeting: int
    """The descriptor from which to read what to print when all is ready; it holds the key."""
    admin: int | str
    """The port or the socket of Envoy's admin interface."""
    grace: float
    """Seconds that running calls get to finish."""


class Service(Child):
    """A part of the run: what it is called, and where its log is."""

    def __init__(
        self, name: str, log: Path, start: Callable[[], Process | Adopted], number: signal.Signals, timeout: float
    ) -> None:
        super().__init__(start(), number, timeout)
        self.name = name
        self.log = log
        self._start = start
        self._restarts = Restarts()
        self._dead = False

    def require(self) -> None:
        """See that it runs.

        Raises:
            SupervisorError: it does not.
        """
        if not self.running:
            raise SupervisorError(f"{self.name} ended {self.end}, so all stops. The end of {self.log}:\n{tail(self.log)}")

    def revive(self) -> None:
        """Start it again if it has ended, with exponential back-off."""
        if self.running:
            return
        if not self._dead:
            self._dead = True
            self._restarts.died(self.lived)
            pause = self._restarts.pause()
            print(
                f"{self.name} ended {self.end}; it starts again in {pause:.0f} s. See {self.log}.", file=sys.stderr, flush=True
            )
        if self._restarts.due():
            self.process = self._start()
            self.started_at = time.monotonic()
            self._dead = False


class Services:
    """All services of a run, in the order of their start."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._logs = Path(plan.logs)
        self._admin = Admin(plan.admin)
        self._postgres: Service | None = None
        if plan.postgres:
            adopt = partial(Adopted, plan.postgres)
            log = self._logs / "postgres.log"
            self._postgres = Service("PostgreSQL", log, adopt, signal.SIGINT, plan.postgres_timeout)
        self._servers: list[Service] = []
        self._deadline = time.monotonic() + START_TIMEOUT
        self._ready = False

    def look(self) -> None:
        """Start the servers; once they answer, greet, and start the pages and Envoy again whenever they end.

        Raises:
            SupervisorError: one of them does not start, or what all need has ended.
        """
        if not self._servers:
            for name, command in (("The gRPC server", "serve"), ("The web server", "web"), ("Envoy", "edge")):
                log = self._logs / f"{command}.log"
                start = partial(spawn, [*_MO_GRPC, command], log)
                self._servers.append(Service(name, log, start, signal.SIGTERM, self._plan.grace + MARGIN))
        # The gRPC server restarts its workers by itself, and ends only when none of them can serve.
        grpc, *restarted = self._servers
        for service in [self._postgres, grpc, *([] if self._ready else restarted)]:
            if service:
                service.require()
        if self._ready:
            for service in restarted:
                service.revive()
        # Envoy is ready when it finds the gRPC server healthy.
        elif self._admin.ready():
            self._ready = True
            with os.fdopen(self._plan.greeting, encoding="utf-8") as greeting:
                print(greeting.read(), flush=True)
        elif time.monotonic() > self._deadline:
            raise SupervisorError(f"Not ready after {START_TIMEOUT:.0f} seconds; see the logs in {self._logs}.")

    def end(self) -> None:
        """Revoke the key, and end all services; running calls finish before."""
        revoking = Path(self._plan.key_note).exists() and Child(
            spawn([*_MO_GRPC, "up", "--revoke-key"], self._logs / "up.log"), signal.SIGTERM, 0
        )
        for server in reversed(self._servers):
            server.stop()
        if revoking:
            # Where the database does not answer, the next run revokes the key.
            deadline = time.monotonic() + self._plan.grace
            while revoking.running and time.monotonic() < deadline:
                time.sleep(0.02)
            revoking.stop()
        if self._postgres:
            self._postgres.stop()
        for path in map(Path, self._plan.leftovers):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def watch(plan: Plan) -> int:
    """Supervise a run until a signal ends it; answer the exit status."""
    status = supervise(Services(plan), SIGNALS)
    if status == 0:
        print("Stopped.", flush=True)
    return status
