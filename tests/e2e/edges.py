"""Edges of a test's own, and a server behind them that remembers what reached it."""

import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Any

import grpc
import httpx

from mo_grpc.config import Settings
from mo_grpc.edge.configuration import render
from mo_grpc.edge.process import envoy_path
from mo_grpc.process.children import stop
from tests.conftest import TLS, free_port, settings_environment
from tests.waiting import TO_START, eventually


def status_of(url: str) -> int:
    try:
        return httpx.get(url, verify=TLS).status_code
    except httpx.TransportError:
        return 0


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run an Envoy, and give its address once it answers."""
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    with started(command, environment, lambda: status_of(f"{url}/healthz") == 200):
        yield url


@contextmanager
def started(
    command: list[str], environment: dict[str, str], answers: Callable[[], bool], stderr: IO[bytes] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run an Envoy, and give its process once it answers."""
    with subprocess.Popen(command, env=environment, stderr=stderr) as process:
        try:
            eventually(lambda: process.poll() is not None or answers(), TO_START)
            assert process.poll() is None, "the edge has ended"
            yield process
        finally:
            stop(process, signal.SIGTERM, 10)


EDGE = [sys.executable, "-m", "mo_grpc", "edge"]


def edge_environment(folder: Path, upstream: str, **settings: str) -> dict[str, str]:
    """The environment of `mo-grpc edge` in front of `upstream`."""
    host, port = upstream.rsplit(":", 1)
    return settings_environment(folder, MO_EDGE_UPSTREAM_HOST=host, MO_GRPC_PORT=port, **settings)


@contextmanager
def running_edge(folder: Path, upstream: str, **settings: str) -> Iterator[str]:
    """Run `mo-grpc edge` in front of `upstream`."""
    with running(EDGE, edge_environment(folder, upstream, **settings)) as url:
        yield url


@contextmanager
def bare_edge(folder: Path, upstream: "Upstream", **settings: object) -> Iterator[str]:
    """Run Envoy itself with the configuration of these settings, which is sooner there, until it finds the upstream."""
    host, port = upstream.address.rsplit(":", 1)
    http_port = free_port()
    ours = {"mo_edge_upstream_host": host, "mo_grpc_port": port, "mo_http_port": http_port, "mo_health": False}
    config = folder / "envoy.yaml"
    config.write_text(render(Settings.model_validate(ours | settings)), encoding="utf-8")
    with running(
        [envoy_path(), "-c", str(config), "--disable-hot-restart", "-l", "error"], {"MO_HTTP_PORT": str(http_port)}
    ) as url:
        eventually(lambda: status_of(f"{url}/readyz") == 200, TO_START)
        yield url


class Upstream(grpc.GenericRpcHandler):
    """A gRPC server that answers every call with an empty message, and remembers its metadata."""

    def __init__(self) -> None:
        self.seen: deque[list[tuple[str, str | bytes]]] = deque(maxlen=100)
        self.open = Event()
        """Calls wait for this."""
        self.open.set()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, handler_call_details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.seen.append([(str(key), value) for key, value in context.invocation_metadata()])
            assert self.open.wait(30)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def heard(self, name: str) -> list[str | bytes]:
        """The values of a header of the last call."""
        return [value for key, value in self.seen[-1] if key == name]

    @contextmanager
    def serving(self) -> Iterator["Upstream"]:
        """Serve for a while."""
        self._server.start()
        try:
            yield self
        finally:
            self.open.set()
            self._server.stop(grace=None).wait()
