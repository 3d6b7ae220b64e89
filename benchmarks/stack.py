"""The servers that the benchmarks drive, and their CPU time and memory."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
import uvloop
from mo.customers.v1.customers_pb2 import Customer

from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from mo_grpc.process.children import spawn, stop

EMPTY_RPC = "bench.Empty/Call"


class Stack(NamedTuple):
    """A running service with one worker, and an empty server beside it."""

    folder: Path
    environment: dict[str, str]
    postgres: "subprocess.Popen[bytes]"
    server: "subprocess.Popen[bytes]"
    edge: "subprocess.Popen[bytes]"
    empty: "subprocess.Popen[bytes]"
    key: str

    @property
    def service_address(self) -> str:
        """Where the worker listens."""
        return f"unix:{self.folder}/data/run/grpc-0.sock"

    @property
    def empty_address(self) -> str:
        """Where the empty server listens."""
        return f"unix:{self.folder}/empty.sock"

    @property
    def rest_address(self) -> str:
        """Where Envoy listens."""
        return f"127.0.0.1:{self.environment['MO_HTTP_PORT']}"

    def connect(self) -> "psycopg.Connection[Any]":
        """Open a connection as the schema's owner."""
        url = embedded_url(self.folder / "data").set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


@contextmanager
def running() -> Iterator[Stack]:
    """PostgreSQL with its usual settings (fsync on), the service with one worker, Envoy, and an empty server."""
    with tempfile.TemporaryDirectory(prefix="mo-bench-") as name:
        folder = Path(name)
        environment = os.environ | {
            "MO_DATA_DIR": f"{name}/data",
            "MO_WORKERS": "1",
            "MO_GRPC_PORT": "50951",
            "MO_HTTP_PORT": "8951",
            "MO_LOG_LEVEL": "warning",
        }
        os.environ.update(environment)
        mo_grpc = [sys.executable, "-m", "mo_grpc"]
        with EmbeddedPostgres(folder / "data") as postgres:
            subprocess.run([*mo_grpc, "migrate"], check=True)
            key = subprocess.run([*mo_grpc, "keys", "create", "bench"], check=True, capture_output=True, text=True)
            parts = [
                spawn([*mo_grpc, "serve", "--worker", "0"]),
                spawn([*mo_grpc, "edge"]),
                spawn([sys.executable, "-m", "benchmarks.stack", f"unix:{name}/empty.sock"]),
            ]
            try:
                stack = Stack(folder, environment, postgres.process, parts[0], parts[1], parts[2], key.stdout.strip())
                _wait_for(stack)
                yield stack
            finally:
                for part in parts:
                    stop(part, signal.SIGTERM, 30)


def _wait_for(stack: Stack) -> None:
    for address in (stack.service_address, stack.empty_address, stack.rest_address):
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)


def cpu_seconds(pid: int) -> float:
    """The processor time that a process and its children have used; PostgreSQL's are its sessions."""
    total = 0.0
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    for each in (pid, *map(int, children.stdout.split())):
        with suppress(OSError):  # it has ended
            # What clock_getcpuclockid(3) answers, in nanoseconds; /proc/PID/stat counts hundredths of a second.
            total += time.clock_gettime((~each << 3) | 2)
    return total


def memory_mib(pid: int) -> float:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class _Empty(grpc.GenericRpcHandler):
    """Answers every call with an empty message, through the same serialization as the service's."""

    def __init__(self) -> None:
        async def call(request: Customer, context: object) -> Customer:
            return Customer()

        self._handler = grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=Customer.FromString, response_serializer=Customer.SerializeToString
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler


async def serve_empty(address: str) -> None:
    """Serve nothing but empty calls, until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Empty(),))
    server.add_insecure_port(address)
    await server.start()
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve_empty(sys.argv[1]))
