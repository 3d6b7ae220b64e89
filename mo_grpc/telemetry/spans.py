"""The spans of calls and of their work, by OpenTelemetry: `traces.py` imports this if traces are on.

A traced call is a span, a child of the edge's. What was done for it in the database is another one: a batch is a child of the
first traced call that rode in it, and linked with all of them. Below it are its phases, and in these the round trips to
PostgreSQL.

Spans say of which kind a call was and how long everything took, and nothing of what the call was about: no ids, names or
amounts, no message of an error (it may contain them), no parameter of a statement.
"""

import random
import re
from collections.abc import Callable
from functools import cache
from time import perf_counter_ns, time_ns
from typing import Any, cast

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mo_grpc.telemetry.calls import Call, Observer, RoundTrip, Work

OURS = "/mo."
"""How the methods begin that are traced; health and reflection are not."""

# W3C Trace Context, 3.2. Its `tracestate` is others' business: nothing is called from here that could use it.
_HEADER = "traceparent"
_SAMPLED = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]")
_W3C = TraceContextTextMapPropagator()

# By OpenTelemetry's conventions for gRPC, these are errors of the server; the others are the caller's.
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}

_CHANGE = re.compile(r"\b(INSERT|(?<!FOR )(?<!KEY )UPDATE|DELETE)\s+(?:INTO\s+|FROM\s+)?([a-z_]+)")
_READ = re.compile(r"\bFROM\s+([a-z_]+)\b(?!\s*\()")


class Tracing(Observer):
    """Makes spans of the calls that are traced; one that is not costs a look at its metadata.

    The edge decides for the calls that it passes on. Whoever else sends a `traceparent` finds the call in that trace if it is
    traced, but cannot have it traced: that is decided here, by chance.
    """

    def __init__(self, tracer: Tracer, ratio: float, is_edge: Callable[[grpc.aio.ServicerContext[Any, Any]], bool]) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._is_edge = is_edge

    def call_began(self, call: Call) -> None:
        """Decide whether the call is traced, and begin its span."""
        if not call.method.startswith(OURS):
            return
        metadata = call.context.invocation_metadata() or ()
        parent = next((value for key, value in metadata if key == _HEADER and isinstance(value, str)), None)
        if parent and self._is_edge(call.context):
            if not _SAMPLED.fullmatch(parent):
                return
        elif random.random() >= self._ratio:  # noqa: S311 - not a secret
            return
        service, _, method = call.method[1:].partition("/")
        call.span = self._tracer.start_span(
            call.method[1:],
            _W3C.extract({_HEADER: parent} if parent else {}, Context()),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            start_time=_wall_clock()(call.began),
        )

    def call_ended(self, call: Call) -> None:
        """End the call's span."""
        if call.span is None:
            return
        span = cast("Span", call.span)
        span.set_attribute("rpc.grpc.status_code", call.code.value[0])
        if call.reason:
            span.set_attribute("error.type", call.reason)
        if call.code in _FAULTS:
            span.set_status(StatusCode.ERROR)
        span.end(_wall_clock()(call.ended))

    def work_ended(self, work: Work) -> None:
        """Make the spans of work for traced calls."""
        if not work.riders:
            return
        at = _wall_clock()
        spans = [cast("Span", rider.span) for rider in work.riders]
        made = self._tracer.start_span(
            f"{'batch' if work.batch else 'transaction'} {work.method.rpartition('/')[2]}",
            set_span_in_context(spans[0], Context()),
            attributes={"mo.calls": work.size, "mo.statements": work.statements, "mo.round_trips": work.round_trips},
            links=[Link(span.get_span_context()) for span in spans],
            start_time=at(work.began),
        )
        for rider, span in zip(work.riders, spans, strict=True):
            if span.is_recording():  # it has not given up waiting
                span.add_link(made.get_span_context(), {"mo.waited_seconds": max(0.0, work.began - rider.asked)})
        below = set_span_in_context(made, Context())
        trips = work.trips
        for name, began, ended in work.phases:
            phase = self._tracer.start_span(name, below, start_time=at(began))
            self._trace_trips([trip for trip in trips if began <= trip.began <= ended], phase, at)
            phase.end(at(ended))
        self._trace_trips([trip for trip in trips if not work.phases or trip.began > work.phases[-1].ended], made, at)
        made.end(at(work.ended))

    def _trace_trips(self, trips: list[RoundTrip], parent: Span, at: Callable[[float], int]) -> None:
        for statements, began, ended in trips:
            summaries = [_summary(sql) for sql in statements]
            span = self._tracer.start_span(
                summaries[0] if len(summaries) == 1 else "pipeline",
                set_span_in_context(parent, Context()),
                SpanKind.CLIENT,
                {"db.system.name": "postgresql", "db.query.summary": "; ".join(summaries)},
                start_time=at(began),
            )
            span.end(at(ended))


def _wall_clock() -> Callable[[float], int]:
    """What makes nanoseconds since 1970 of seconds of `perf_counter`; made anew each time, since the two clocks drift apart."""
    offset = time_ns() - perf_counter_ns()
    return lambda seconds: offset + int(seconds * 1e9)


@cache
def _summary(sql: str) -> str:
    """What a statement does, and with which tables: `INSERT payments`; of one that only reads, the first table."""
    if changes := [f"{operation} {table}" for operation, table in _CHANGE.findall(sql)]:
        return ", ".join(dict.fromkeys(changes))
    table = _READ.search(sql)
    return f"SELECT {table[1]}" if table else sql.split(maxsplit=1)[0]
