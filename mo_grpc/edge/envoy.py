"""The edge's supervisor: it runs Envoy, follows the certificates, and lets running calls finish before it ends."""

import signal
from pathlib import Path
from typing import NamedTuple

from mo_grpc import logs
from mo_grpc.edge.admin import Admin
from mo_grpc.edge.certificates import Certificates
from mo_grpc.process.children import spawn
from mo_grpc.process.supervisor import Child, SupervisorError, supervise


class Plan(NamedTuple):
    """What the edge's supervisor needs to know."""

    command: list[str]
    admin: int | str
    """The port or the socket of Envoy's admin interface."""
    certificates: dict[str, str]
    """The files, by kind (`certificates.paths`)."""
    folder: str
    """Where Envoy finds links to them."""
    delay: float
    """Seconds for which it says that it is not ready, but takes calls."""
    grace: float
    """Seconds that running calls get to finish."""
    log_level: str
    log_format: str


class Envoy:
    """The one child of the edge."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._certificates = Certificates({kind: Path(path) for kind, path in plan.certificates.items()}, Path(plan.folder))
        self._child: Child | None = None

    def look(self) -> None:
        """Start Envoy, once the certificates can be used, and follow them from then on.

        Raises:
            SupervisorError: they cannot, or Envoy has ended.
        """
        if self._child is None:
            self._certificates.offer()
            self._child = child = Child(spawn(self._plan.command), signal.SIGTERM, 5)
            signal.signal(signal.SIGUSR1, lambda number, _frame: child.process.send_signal(number))
        if not self._child.running:
            raise SupervisorError(f"Envoy ended {self._child.end}.", abs(self._child.process.returncode or 0))
        self._certificates.follow()

    def end(self) -> None:
        """Let running calls finish, then end Envoy."""
        if self._child and self._child.running:
            Admin(self._plan.admin).drain(self._plan.delay, self._plan.grace)
            self._child.stop()


def watch(plan: Plan) -> int:
    """Supervise Envoy; answer the exit status."""
    logs.configure(plan.log_level, plan.log_format)
    return supervise(Envoy(plan))
