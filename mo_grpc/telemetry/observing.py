"""What the metrics learn of calls and their work, as an observer of both."""

from __future__ import annotations

from collections import defaultdict

import grpc
from google.protobuf import descriptor_pool

from mo_grpc.telemetry.calls import UNKNOWN_METHOD, Call, Observer, Work
from mo_grpc.telemetry.catalog import CallMetrics, WorkMetrics
from mo_grpc.telemetry.histograms import Notes


class MeteredCalls(Observer):
    """Counts and times the calls and the work of a process, and tells the metrics now and then, since that costs more."""

    def __init__(self, calls: CallMetrics, work: WorkMetrics) -> None:
        self._calls = calls
        self._work = work
        self._in_flight = 0
        self._running: set[Work] = set()
        self._rpcs: dict[str, _Rpc] = {}
        self._refusals: defaultdict[str, int] = defaultdict(int)
        self._phases: dict[tuple[bool, str], Notes] = {}
        self._size, self._wait = Notes(work.batch_size), Notes(work.batch_wait)
        self._statements = self._round_trips = 0

    def call_began(self, call: Call) -> None:
        """Count a call that comes in."""
        self._in_flight += 1
        rpc = self._rpcs.get(call.method)
        if rpc is None:
            rpc = self._rpcs[call.method] = _Rpc(self._calls, call.method)
        rpc.started += 1

    def call_ended(self, call: Call) -> None:
        """Count how a call ended, and how long it and its waiting took."""
        self._in_flight -= 1
        rpc = self._rpcs[call.method]
        rpc.handled[call.code] += 1
        if not call.streams:
            rpc.seconds.observe(call.ended - call.began)
        for work, asked in call.rides:
            if work.batch:
                self._wait.observe(work.began - asked)
        if call.reason:
            self._refusals[call.reason] += 1

    def work_began(self, work: Work) -> None:
        """Note that some work begins, by waiting for a connection."""
        self._running.add(work)

    def work_ended(self, work: Work) -> None:
        """Count the statements of some work, and how long its phases took."""
        self._running.discard(work)
        if work.batch:
            self._size.observe(work.size)
        self._statements += work.statements
        self._round_trips += work.round_trips
        for name, began, ended in work.phases:
            key = work.batch, name
            seconds = self._phases.get(key)
            if seconds is None:
                seconds = self._phases[key] = Notes(self._work.phases.labels("batch" if work.batch else "transaction", name))
            seconds.observe(ended - began)

    def tell(self) -> None:
        """Tell the metrics what was noted, and what runs at this moment."""
        self._calls.in_flight.set(self._in_flight)
        for rpc in self._rpcs.values():
            rpc.tell()
        for reason, count in self._refusals.items():
            self._calls.refusals.labels(reason).inc(count)
        self._refusals.clear()
        for notes in (self._size, self._wait, *self._phases.values()):
            notes.tell()
        self._work.statements.inc(self._statements)
        self._work.round_trips.inc(self._round_trips)
        self._statements = self._round_trips = 0
        for batch, name in ((True, "batches"), (False, "statements")):
            waits = [work.phase == "pool" for work in self._running if work.batch is batch]
            self._work.pool_waiting.labels(name).set(sum(waits))
            self._work.pool_in_use.labels(name).set(len(waits) - sum(waits))


class _Rpc:
    """What was noted of one RPC."""

    def __init__(self, metrics: CallMetrics, method: str) -> None:
        self._labels = _labels(method)
        self._metrics = metrics
        self.started = 0
        self.handled: defaultdict[grpc.StatusCode, int] = defaultdict(int)
        self.seconds = Notes(metrics.seconds.labels(*self._labels))

    def tell(self) -> None:
        if self.started:
            self._metrics.started.labels(*self._labels).inc(self.started)
            self.started = 0
        for code, count in self.handled.items():
            self._metrics.handled.labels(*self._labels, code.name).inc(count)
        self.handled.clear()
        self.seconds.tell()


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
