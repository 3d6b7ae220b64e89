"""What telemetry costs: the service without any, with metrics, and with metrics and 1 % of traces."""

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from urllib.request import urlopen

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from benchmarks.beside import beside
from benchmarks.distance import free_port
from benchmarks.measure import CALLS, Load, Row, Sample, in_turns
from mo_grpc.process.children import spawn, stop

IN_FLIGHT = (1, 8, 64)
SCRAPES = 20
REPEATS = 15
"""Of short samples, because a few hundredths are to be told apart."""


def telemetry(load: Load) -> list[Row]:
    """The server's processor time for payments, and a scrape's size and time."""
    rows = []
    port = free_port()
    metrics = {"MO_METRICS_PORT": str(port)}
    with (
        _collector() as endpoint,
        beside(load, "metrics", **metrics) as measured,
        beside(
            load,
            "traces",
            MO_METRICS_PORT=str(free_port()),
            MO_TRACES_ENDPOINT=endpoint,
            MO_TRACES_SAMPLE_RATIO="0.01",
        ) as traced,
    ):
        for in_flight in IN_FLIGHT:
            name = f"CreatePayment, {in_flight} in flight"
            sides = {
                f"{name}, without telemetry": partial(_sample, load, in_flight, "", None),
                f"{name}, metrics": partial(_sample, load, in_flight, measured.address, measured.process.pid),
                f"{name}, metrics and 1 % of traces": partial(_sample, load, in_flight, traced.address, traced.process.pid),
            }
            without, *with_some = (each.server for each in in_turns(load, sides, REPEATS))
            for what, cpu, target in zip(("metrics", "metrics and 1 % of traces"), with_some, (1.03, 1.1), strict=True):
                rows.append(Row(f"{name}: server CPU with {what}", "µs", cpu, "without", without, target, at_most=True))
        rows[-1] = rows[-1]._replace(detail=_scrape(port))
    return rows


def _sample(load: Load, in_flight: int, address: str, pid: int | None) -> Sample:
    return load.sample(load.payments(CALLS[in_flight] // 3), in_flight, [address] if address else (), server=pid)


def _scrape(port: int) -> str:
    begun = time.perf_counter()
    for _ in range(SCRAPES):
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read()
    milliseconds = (time.perf_counter() - begun) / SCRAPES * 1000
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    return f"a scrape has {series} series, {len(text) / 1000:.0f} kB, and takes {milliseconds:.0f} ms"


@contextmanager
def _collector() -> Iterator[str]:
    """A process that takes spans and forgets them; its address."""
    port = free_port()
    process = spawn([sys.executable, "-m", "benchmarks.telemetry", str(port)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process, signal.SIGTERM, 10)


class _Forgetful(TraceServiceServicer):
    def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:  # noqa: N802
        return ExportTraceServiceResponse()


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(_Forgetful(), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
