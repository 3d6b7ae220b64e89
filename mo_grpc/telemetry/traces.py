"""Traces of calls, by OpenTelemetry, which is not even imported unless MO_TRACES_ENDPOINT says where they go.

What is made of a call and its work is in `spans.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from mo_grpc.config import Settings
from mo_grpc.telemetry.calls import Call, observers

if TYPE_CHECKING:
    import grpc
    from opentelemetry.trace import Span


def require_library(settings: Settings) -> None:
    """Check that there is what traces need, if they are on.

    Raises:
        ModuleNotFoundError: the extra `traces` is not installed.
    """
    if settings.mo_traces_endpoint:
        import_module("mo_grpc.telemetry.exporting")


@contextmanager
def traced(settings: Settings, worker: int, is_edge: Callable[[grpc.aio.ServicerContext[Any, Any]], bool]) -> Iterator[None]:
    """Trace the calls of this process, if traces are on; at the end, send what is left.

    Args:
        settings: where traces go, and how many.
        worker: the number of the process.
        is_edge: whether a call comes from the edge, which has decided already whether it is traced.
    """
    if settings.mo_traces_endpoint is None:
        yield
        return
    from mo_grpc.telemetry.exporting import Exporting
    from mo_grpc.telemetry.spans import Tracing

    exporting = Exporting(settings.mo_traces_endpoint, worker)
    tracing = Tracing(exporting.tracer, settings.mo_traces_sample_ratio, is_edge)
    observers.append(tracing)
    try:
        yield
    finally:
        observers.remove(tracing)
        exporting.end()


def trace_id(call: Call) -> str | None:
    """The id of the trace that a call is in, 32 hexadecimal digits; None if it is not traced."""
    return None if call.span is None else f"{cast('Span', call.span).get_span_context().trace_id:032x}"
