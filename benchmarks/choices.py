"""Alternatives, measured: servers that answer an empty call, and ways to query PostgreSQL (docs/performance.md)."""

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psycopg
import uvloop
from mo.customers.v1.customers_pb2 import Customer, GetCustomerRequest
from rich.console import Console

from benchmarks.client import grpc_call, run
from benchmarks.measure import CALLS, GRPC_OK, REPEATS, Load, Row
from benchmarks.stack import EMPTY_RPC, serve_empty
from mo_grpc.db.embedded import embedded_url
from mo_grpc.process.children import spawn, stop

IN_FLIGHT = 64
ROUNDS = 300
ROWS_ASKED = 64
_SELECT = "SELECT id, external_id, status, score, created_at FROM customers WHERE external_id = ANY(%s)"


def choices(load: Load) -> list[Row]:
    """Print all of them; there is no target."""
    console = Console(width=120)
    for kind in ("aio-uvloop", "aio-asyncio", "threads-4", "threads-16"):
        console.print(f"empty call, {kind}: {_empty_rate(load, kind):,.0f} calls/s", highlight=False)
    url = embedded_url(load.stack.folder / "data").set(drivername="postgresql").render_as_string(hide_password=False)
    for name, microseconds in uvloop.run(_queries(url)).items():
        console.print(f"{name}: {microseconds:,.0f} µs", highlight=False)
    return []


def _empty_rate(load: Load, kind: str) -> float:
    address = f"unix:{load.stack.folder}/{kind}.sock"
    server = spawn([sys.executable, "-m", "benchmarks.choices", kind, address])
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        call = grpc_call(EMPTY_RPC, GetCustomerRequest(external_id="bench-1"), load.stack.key)
        rates = [run([address], [call] * CALLS[IN_FLIGHT], IN_FLIGHT, GRPC_OK).rate for _ in range(REPEATS + 1)]
    finally:
        stop(server, signal.SIGTERM, 10)
    return statistics.median(rates[1:])


async def _queries(url: str) -> dict[str, float]:
    """The time of one read of 64 rows, and of three statements, in each of the ways."""
    names = [f"bench-{n + 1}" for n in range(ROWS_ASKED)]
    results = {}
    for label, threshold, binary in (("prepared, text", 0, False), ("prepared, binary", 0, True), ("unprepared", None, False)):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=threshold) as connection:

            async def read(connection: "psycopg.AsyncConnection[Any]" = connection, binary: bool = binary) -> None:
                await (await connection.cursor(binary=binary).execute(_SELECT, [names])).fetchall()

            results[f"a read of {ROWS_ASKED} rows, {label}"] = await _median(read)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as connection:

        async def three() -> None:
            for _ in range(3):
                await (await connection.execute("SELECT 1")).fetchall()

        async def pipelined() -> None:
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT 1") for _ in range(3)]
                for cursor in cursors:
                    await cursor.fetchall()

        results["three statements, one by one"] = await _median(three)
        results["three statements, in a pipeline"] = await _median(pipelined)
    return results


async def _median(work: Callable[[], Awaitable[None]]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[ROUNDS // 10 :]) * 1e6


def _serve_threads(address: str, threads: int) -> None:
    def call(request: Customer, context: object) -> Customer:
        return Customer()

    handler: Any = grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=Customer.FromString, response_serializer=Customer.SerializeToString
    )
    service, method = EMPTY_RPC.split("/")
    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    server_kind, where = sys.argv[1:]
    if server_kind.startswith("threads-"):
        _serve_threads(where, int(server_kind.removeprefix("threads-")))
    else:
        (uvloop if server_kind == "aio-uvloop" else asyncio).run(serve_empty(where))
