"""gRPC servers of a test's own, beside the stack's."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from tests.commands import COMMANDS, Forked
from tests.conftest import free_port
from tests.waiting import TO_START, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Server:
    """A running server, and a channel to it."""

    process: Forked
    channel: grpc.Channel
    address: str

    def health(self, service: str = "") -> int | None:
        """What the server says of its health; None if it does not answer."""
        try:
            stub = health_pb2_grpc.HealthStub(self.channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)
        except grpc.RpcError:
            return None


@contextmanager
def a_server(
    environment: dict[str, str], log: IO[bytes] | None = None, /, *, healthy: str = "", **settings: str
) -> Iterator[Server]:
    """A worker of `mo-grpc serve`, without a supervisor, on a port and in a folder of its own, over the same database, healthy.

    `healthy` is the name by which its health is asked. The settings may give it another address. It is ended afterwards by
    SIGTERM, unless it has ended already.
    """
    host, port = settings.get("MO_GRPC_HOST", "127.0.0.1"), settings.get("MO_GRPC_PORT") or str(free_port())
    # What it encrypts and seals is with the database's key, wherever its folder is.
    key = Path(environment["MO_DATA_DIR"]) / "secret.key"
    same_key = {"SECRET_KEY": key.read_text()} if key.exists() else {}
    database = embedded_url(Path(environment["MO_DATA_DIR"]), SERVICE_ROLE).set(drivername="postgresql")
    with (
        tempfile.TemporaryDirectory() as folder,
        grpc.insecure_channel(f"{host}:{port}", options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel,
    ):
        own = {
            "MO_GRPC_PORT": port,
            "MO_DATA_DIR": folder,
            "MO_DATABASE_URL": database.render_as_string(hide_password=False),
            "MO_WORKERS": "1",
        }
        process = COMMANDS.start_beside(same_key | environment | own | settings, "serve", "--worker", "0", stderr=log)
        server = Server(process, channel, f"{host}:{port}")
        try:
            eventually(lambda: server.health(healthy) == SERVING, TO_START)
            yield server
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
