"""Envoy's admin interface, as far as the edge uses it (https://www.envoyproxy.io/docs/envoy/latest/operations/admin)."""

import http.client
import socket
import time
from typing import TYPE_CHECKING

from mo_grpc.process.sockets import edge_socket

if TYPE_CHECKING:
    from mo_grpc.config import Settings

_HEALTHY = ("cluster.grpc.membership_healthy", "cluster.web.membership_healthy")
_RUNNING_CALLS = "http.edge.downstream_rq_active"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def admin_address(settings: "Settings") -> int | str:
    """Where the admin interface is: its port where the settings give one, else a socket that only this user reaches."""
    return settings.mo_edge_admin_port or str(edge_socket(settings))


class Admin:
    """Envoy's admin interface, at a port of this machine or a socket."""

    def __init__(self, address: int | str) -> None:
        self._address = address

    def _ask(self, method: str, path: str) -> tuple[int, str]:
        """Answer the status and the body; the status is 0 when Envoy does not answer."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", self._address, timeout=2)
            if isinstance(self._address, int)
            else _UnixConnection(self._address, timeout=2)
        )
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

    def drain(self, delay: float, timeout: float) -> None:
        """Say that it is not ready; after `delay` seconds, take no new connections, and ask the old ones to go.

        Then wait until no call runs, for `timeout` seconds at most.
        """
        self._ask("POST", "/healthcheck/fail")
        time.sleep(delay)
        self._ask("POST", "/drain_listeners")
        deadline = time.monotonic() + timeout
        while self._count(_RUNNING_CALLS) and time.monotonic() < deadline:
            time.sleep(0.02)
