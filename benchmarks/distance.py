"""Payments over a database that is far away: every byte between the service and the database is delayed, in both directions."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import grpc
import uvloop

from benchmarks.measure import Load, Row
from mo_grpc.db.embedded import embedded_url
from mo_grpc.process.children import spawn, stop

ROUND_TRIP = 0.040
"""Seconds."""
CALLS = {1: 25, 32: 640}
WANTED = 200.0
"""Payments a second, 32 in flight."""


def distance(load: Load) -> list[Row]:
    """Payments with idempotency keys, one and 32 in flight."""
    rows = []
    with _far_server(load) as (address, server):
        for in_flight, count in CALLS.items():
            load.sample(load.payments(in_flight * 2, keyed=True), in_flight, [address])
            name = f"keyed CreatePayment, database 40 ms away, {in_flight} in flight"
            rows.append(load.sample(load.payments(count, keyed=True), in_flight, [address], server=server.pid))
            load.samples[name] = rows[-1]
    alone, crowd = rows
    name = "A keyed payment, database 40 ms away"
    return [
        Row(f"{name}, 1 in flight: p50", "ms", alone.p50, "a round trip", ROUND_TRIP * 1000, 3.5, at_most=True),
        Row(f"{name}, 32 in flight", "payments/s", crowd.rate, "what is wanted", WANTED, 1.0),
    ]


@contextmanager
def _far_server(load: Load) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Another worker over the same database, seen through the delay."""
    near = embedded_url(load.stack.folder / "data")
    port, grpc_port = free_port(), free_port()
    far = near.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    folder = load.stack.folder / "far"
    folder.mkdir()
    # One database, one key: another worker of the same service.
    shutil.copy(load.stack.folder / "data" / "secret.key", folder)
    settings = {"MO_DATABASE_URL": far, "MO_DATA_DIR": str(folder), "MO_GRPC_PORT": str(grpc_port)}
    delay = spawn([sys.executable, "-m", "benchmarks.distance", str(port), f"{near.query['host']}/.s.PGSQL.5432"])
    with patch.dict(os.environ, settings):
        server = spawn([sys.executable, "-m", "mo_grpc", "serve"])
    try:
        address = f"127.0.0.1:{grpc_port}"
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield address, server
    finally:
        stop(server, signal.SIGTERM, 30)
        stop(delay, signal.SIGTERM, 5)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _HeldUp(asyncio.Protocol):
    """One end of a connection: what arrives is sent from the other end half a round trip later."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # uvloop's is not derived from it

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(ROUND_TRIP / 2, self._pass_on, data)

    def _pass_on(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        elif not self.other.is_closing():
            self.other.write(self._early + data)
            self._early = b""

    def connection_lost(self, error: Exception | None) -> None:
        if self.other:
            self.other.close()


class _FromService(_HeldUp):
    """The service's end, which calls PostgreSQL."""

    def __init__(self, upstream: Path) -> None:
        super().__init__()
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        _, back = await asyncio.get_running_loop().create_unix_connection(_HeldUp, str(self._upstream))
        back.other, self.other = self.transport, back.transport
        if self._early:
            self._pass_on(b"")


async def _delay(port: int, upstream: Path) -> None:
    """Forward with a delay, until SIGTERM ends the process."""
    server = await asyncio.get_running_loop().create_server(lambda: _FromService(upstream), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_delay(int(sys.argv[1]), Path(sys.argv[2])))
