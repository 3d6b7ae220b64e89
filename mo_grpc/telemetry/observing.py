"""What the metrics learn of calls and their work, as an observer of both."""

from __future__ import annotations

from google.protobuf import descriptor_pool
from prometheus_client import Counter, Histogram, Summary

from mo_grpc.telemetry.calls import UNKNOWN_METHOD, Call, Observer, Work
from mo_grpc.telemetry.catalog import CallMetrics, WorkMetrics


class MeteredCalls(Observer):
    """Counts and times the calls and the work of a process. The children of metrics are kept, since finding one costs most."""

    def __init__(self, calls: CallMetrics, work: WorkMetrics) -> None:
        self.in_flight = 0
        self._running: set[Work] = set()
        self._calls = calls
        self._work = work
        self._rpcs: dict[str, _Rpc] = {}
        self._refusals: dict[str, Counter] = {}
        self._phases: dict[tuple[bool, str], Summary] = {}

    def call_began(self, call: Call) -> None:
        """Count a call that comes in."""
        self.in_flight += 1
        rpc = self._rpcs.get(call.method)
        if rpc is None:
            rpc = self._rpcs[call.method] = _Rpc(self._calls, call)
        rpc.started.inc()

    def call_ended(self, call: Call) -> None:
        """Count how a call ended, and how long it and its waiting took."""
        self.in_flight -= 1
        rpc = self._rpcs[call.method]
        rpc.handled(call).inc()
        if not call.streams:
            rpc.seconds.observe(call.ended - call.began)
        for work, asked in call.rides:
            if work.batch:
                self._work.batch_wait.observe(work.began - asked)
        if call.reason:
            refusal = self._refusals.get(call.reason)
            if refusal is None:
                refusal = self._refusals[call.reason] = self._calls.refusals.labels(call.reason)
            refusal.inc()

    def work_began(self, work: Work) -> None:
        """Note that some work begins, by waiting for a connection."""
        self._running.add(work)

    def work_ended(self, work: Work) -> None:
        """Count the statements of some work, and how long its phases took."""
        self._running.discard(work)
        if work.batch:
            self._work.batch_size.observe(work.size)
        self._work.statements.inc(work.statements)
        self._work.round_trips.inc(work.round_trips)
        for phase in work.phases:
            key = work.batch, phase.name
            seconds = self._phases.get(key)
            if seconds is None:
                name = "batch" if work.batch else "transaction"
                seconds = self._phases[key] = self._work.phases.labels(name, phase.name)
            seconds.observe(phase.ended - phase.began)

    def note_pools(self) -> None:
        """Take the readings of the connections that are in use or waited for."""
        for batch, name in ((True, "batches"), (False, "statements")):
            waits = [work.phase == "pool" for work in self._running if work.batch is batch]
            self._work.pool_waiting.labels(name).set(sum(waits))
            self._work.pool_in_use.labels(name).set(len(waits) - sum(waits))


class _Rpc:
    """The metrics of one RPC."""

    def __init__(self, metrics: CallMetrics, call: Call) -> None:
        self._labels = _labels(call.method)
        self._metrics = metrics
        self._handled: dict[str, Counter] = {}
        self.started = metrics.started.labels(*self._labels)
        self.seconds: Histogram | Summary = metrics.seconds.labels(*self._labels)

    def handled(self, call: Call) -> Counter:
        code = call.code.name
        found = self._handled.get(code)
        if found is None:
            found = self._handled[code] = self._metrics.handled.labels(*self._labels, code)
        return found


def _labels(method: str) -> tuple[str, str, str]:
    """The kind, the service and the name of an RPC."""
    if method == UNKNOWN_METHOD:
        return "unary", "unknown", "unknown"
    service, name = method.removeprefix("/").split("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    kinds = {
        (False, False): "unary",
        (True, False): "client_stream",
        (False, True): "server_stream",
        (True, True): "bidi_stream",
    }
    return kinds[found.client_streaming, found.server_streaming], service, name
