"""The import of a file of a million lines, against its COPY and INSERT … SELECT alone."""

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.api.httpbody_pb2 import HttpBody
from mo.customers.v1.customers_pb2 import GetCustomerRequest
from mo.imports.v1.imports_pb2 import Import, WatchImportRequest
from mo.imports.v1.imports_pb2_grpc import ImportServiceStub

from benchmarks.client import grpc_call, run
from benchmarks.measure import CUSTOMERS, GET, GRPC_OK, Load, Row
from benchmarks.stack import cpu_seconds
from mo_grpc.db.base import is_external_id
from mo_grpc.formats import AMOUNT

LINES = 1_000_000
WRONG = 20  # each so many lines, one
RUNS = 3
MEANWHILE = 4  # reads in flight while an import runs
_BLOCK = 1024 * 1024


def import_file(load: Load) -> Row:
    """The import of a file, against the same by psycopg alone; and the latency of reads meanwhile."""
    spent: dict[str, list[tuple[float, float]]] = {"service": [], "psycopg": []}
    reads: list[float] = []
    stop = threading.Event()
    for turn in range(RUNS + 1):
        ours, theirs = (load.stack.folder / f"{name}-{turn}.csv" for name in ("ours", "theirs"))
        for path in (ours, theirs):
            _write(path)
        last = turn == RUNS
        reader = threading.Thread(target=_read_meanwhile, args=(load, reads, stop))
        if last:
            reader.start()
        before = _clocks(load)
        found = _import(load, ours)
        after = _clocks(load)
        assert (found.state, found.failed_count) == (Import.SUCCEEDED, LINES // WRONG), found
        if last:
            stop.set()
            reader.join()
            break
        spent["service"].append((after[0] - before[0], after[1] - before[1]))
        with load.stack.connect() as connection:
            before = _clocks(load)
            _raw(connection, theirs)
            after = _clocks(load)
            spent["psycopg"].append((after[0] - before[0], after[1] - before[1]))
    rates = {name: LINES / statistics.median(seconds for seconds, _ in each) for name, each in spent.items()}
    cpu = {name: statistics.median(seconds for _, seconds in each) / LINES * 1e6 for name, each in spent.items()}
    peak = Path(f"/proc/{load.stack.server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    p99 = sorted(reads)[int(len(reads) * 0.99)] * 1000
    detail = (
        f"CPU of all a line {cpu['service']:.1f} µs, of psycopg and PostgreSQL {cpu['psycopg']:.1f} µs, "
        f"{cpu['psycopg'] / cpu['service']:.2f} of it; "
        f"peak memory of the worker {int(peak) / 1024:.0f} MiB; GetCustomer meanwhile, {MEANWHILE} in flight: p99 {p99:.1f} ms"
    )
    name = f"Import of {LINES:,} lines, 5 % wrong"
    return Row(name, "lines/s", rates["service"], "COPY and INSERT … SELECT", rates["psycopg"], 0.75, detail=detail)


def _clocks(load: Load) -> tuple[float, float]:
    """The time, and the processor time of the service, PostgreSQL and this process."""
    servers = cpu_seconds(load.stack.server.pid) + cpu_seconds(load.stack.postgres.pid)
    return time.perf_counter(), servers + time.process_time()


def _write(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{path.stem}-{n},{'x' if n % WRONG == 0 else n % 100_000}.50\n" for n in range(LINES))


def _import(load: Load, path: Path) -> Import:
    def bodies() -> Iterator[HttpBody]:
        yield HttpBody(content_type="text/csv")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield HttpBody(data=block)

    metadata = (("x-api-key", load.stack.key),)
    with grpc.insecure_channel(load.stack.service_address) as channel:
        stub = ImportServiceStub(channel)
        found = stub.UploadCustomers(bodies(), metadata=metadata)
        for each in stub.WatchImport(WatchImportRequest(id=found.id), metadata=metadata):
            found = each
    return found


def _raw(connection: "psycopg.Connection[Any]", path: Path) -> None:
    """The cost of the file alone: it is read, and its good lines are written, in one transaction."""
    with connection.transaction():
        connection.execute('CREATE UNLOGGED TABLE raw (external_id text COLLATE "C", score text)')
        with connection.cursor() as cursor, cursor.copy("COPY raw FROM STDIN (FORMAT csv)") as copy, path.open("rb") as file:
            while block := file.read(_BLOCK):
                copy.write(block)
        connection.execute(f"""
            INSERT INTO customers (external_id, score, created_at, updated_at)
            SELECT external_id, score::numeric, now(), now() FROM raw
            WHERE {is_external_id("external_id")} AND score ~ '{AMOUNT}'
            ON CONFLICT (external_id) DO NOTHING
        """)
        connection.execute("DROP TABLE raw")


def _read_meanwhile(load: Load, reads: list[float], stop: threading.Event) -> None:
    calls = [grpc_call(GET, GetCustomerRequest(external_id=f"bench-{n % CUSTOMERS + 1}"), load.stack.key) for n in range(200)]
    while not stop.is_set():
        reads += run([load.stack.service_address], calls, MEANWHILE, GRPC_OK).latencies
