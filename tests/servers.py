"""gRPC servers of a test's own, beside the stack's."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import free_port
from tests.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Server:
    """A running server, and a channel to it."""

    process: "subprocess.Popen[bytes]"
    channel: grpc.Channel

    def health(self, service: str = "") -> int | None:
        """What the server says of its health; None if it does not answer."""
        try:
            stub = health_pb2_grpc.HealthStub(self.channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)
        except grpc.RpcError:
            return None


@contextmanager
def a_server(environment: dict[str, str], **settings: str) -> Iterator[Server]:
    """`mo-grpc serve` on a port of its own, healthy; ended afterwards by SIGTERM unless it has ended already."""
    port = str(free_port())
    command = [sys.executable, "-m", "mo_grpc", "serve"]
    with (
        subprocess.Popen(command, env=environment | {"MO_GRPC_PORT": port} | settings) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel,
    ):
        server = Server(process, channel)
        try:
            eventually(lambda: server.health() == SERVING, 30)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
