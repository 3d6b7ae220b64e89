"""Where spans are sent: an OpenTelemetry collector, over gRPC, by a thread of its own."""

import logging
import ssl
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import structlog
from grpc import ssl_channel_credentials
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

log = structlog.get_logger()

INTERVAL = 0.5
"""Seconds between two exports, about."""

PATIENCE = 2.0
"""Seconds that the collector has to take some spans; at the end of the process, to take all that are left."""

MOST_WAITING = 2048
"""Spans that wait for the collector at most, a KB or two each; more are dropped."""


class Exporting:
    """Sends the spans of one process while it lives."""

    def __init__(self, endpoint: str, worker: int) -> None:
        # It would log each export that fails; `_Exporter` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._processor = BatchSpanProcessor(_Exporter(endpoint), MOST_WAITING, INTERVAL * 1000)
        release = version("mo-grpc")
        about = {"service.name": "mo-grpc", "service.version": release, "service.instance.id": f"worker-{worker}"}
        # It is decided elsewhere which calls are traced, so all spans that are made are kept.
        provider = TracerProvider(ALWAYS_ON, Resource(about), shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("mo_grpc", release)

    def end(self) -> None:
        """Send what is left; what the collector has not taken after `PATIENCE` is lost."""
        # A daemon, which keeps no process from ending.
        ending = Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(PATIENCE)


class _Exporter(OTLPSpanExporter):
    """Says once that the collector does not take spans, and once that it does again."""

    def __init__(self, endpoint: str) -> None:
        trusted = ssl.get_default_verify_paths().cafile  # which SSL_CERT_FILE may name
        secure = ssl_channel_credentials(Path(trusted).read_bytes() if trusted else None)
        super().__init__(endpoint, credentials=secure, timeout=PATIENCE)
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = super().export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails != self._fails:
            self._fails = fails
            if fails:
                log.warning("traces are lost: the collector does not take them", endpoint=self._endpoint)
            else:
                log.info("the collector takes traces again", endpoint=self._endpoint)
        return result
