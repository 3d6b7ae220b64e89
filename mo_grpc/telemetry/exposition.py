"""The metrics of all processes of this host, over HTTP: each process answers at the same port for all, from a shared folder."""

import hmac
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_fd_to_metric_families
from prometheus_client.registry import Collector

PATH = "/metrics"

PATIENCE = 5.0
"""Seconds that a client may take to send its request."""

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Files(Collector):
    """The metrics that other programs, such as `mo-grpc audit --metrics`, have left in the folder as `*.prom`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Read them."""
        for path in sorted(self._folder.glob("*.prom")):
            with path.open(encoding="utf-8") as file:
                yield from text_fd_to_metric_families(file)


def expose(folder: Path, host: str, port: int, token: str | None) -> None:
    """Answer at a port, by a thread for each client, until the process ends.

    Raises:
        OSError: the port cannot be used.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(Files(folder))
    server = _Server((host, port), _Handler)
    server.set_app(_guarded(make_wsgi_app(registry), token))
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingMixIn, WSGIServer):
    """Shares its port with the other processes; the kernel gives each client to one of them."""

    allow_reuse_port = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking the name service for this host's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, *_: Any) -> None:
        """Say nothing: a scrape is no news."""


def _guarded(app: Any, token: str | None) -> Wsgi:
    """The application, at one path, and only for those who have the token, if there is one."""
    wanted = f"Bearer {token}".encode() if token else None

    def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _refuse(start, "404 Not Found", "The metrics are at /metrics.\n")
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if wanted and not hmac.compare_digest(given, wanted):
            return _refuse(start, "401 Unauthorized", "The metrics need their token.\n", ("www-authenticate", "Bearer"))
        answer: Iterable[bytes] = app(environ, start)
        return answer

    return guarded


def _refuse(start: Callable[..., Any], status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start(status, [("content-type", "text/plain; charset=utf-8"), *headers])
    return [text.encode()]
