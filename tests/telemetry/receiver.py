"""A receiver of traces: it takes OTLP over gRPC, as an OpenTelemetry collector does, and keeps the spans."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Link:
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    attributes: Attributes
    links: list[Link]
    failed: bool

    @property
    def milliseconds(self) -> float:
        return (self.ended - self.began) / 1e6


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """What was received: the requests as they are, and the spans in them."""

    requests: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)
    overloaded: bool = False
    refused: int = 0

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any) -> Any:  # noqa: N802 - gRPC's name
        if self.overloaded:
            self.refused += 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "too much")
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [
            _span(_attributes(of.resource.attributes)["service.name"], span)
            for request in list(self.requests)
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def receiving(port: int, credentials: grpc.ServerCredentials | None = None) -> Iterator[Receiver]:
    """Receive at this port of localhost."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(receiver, server)
    address = f"localhost:{port}"
    if credentials:
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        links=[Link(link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> Attributes:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
