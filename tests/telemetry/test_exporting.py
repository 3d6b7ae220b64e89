"""A collector that refuses spans, or does not even answer, disturbs nobody."""

import socket
import time

import pytest
from structlog.testing import capture_logs

from mo_grpc.telemetry import exporting
from tests.conftest import free_port
from tests.telemetry.receiver import receiving
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "INTERVAL", 0.05)
    monkeypatch.setattr(exporting, "PATIENCE", 0.3)


def test_that_spans_are_lost_is_logged_once_and_again_when_they_are_not() -> None:
    port = free_port()
    with capture_logs() as logged, receiving(port) as receiver:
        receiver.overloaded = True
        sent = exporting.Exporting(f"http://localhost:{port}", 0)
        for _ in range(3):
            refused = receiver.refused
            sent.tracer.start_span("lost").end()
            eventually(lambda before=refused: receiver.refused > before, 20)  # type: ignore[misc]
        eventually(lambda: bool(logged), 20)
        receiver.overloaded = False
        sent.tracer.start_span("taken").end()
        eventually(lambda: len(logged) == 2, 20)
        sent.tracer.start_span("the last").end()
        sent.end()
    assert [span.name for span in receiver.spans] == ["taken", "the last"]
    assert [(line["log_level"], line["event"]) for line in logged] == [
        ("warning", "traces are lost: the collector does not take them"),
        ("info", "the collector takes traces again"),
    ]


def test_a_process_does_not_wait_for_a_collector_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sent = exporting.Exporting(f"http://127.0.0.1:{silent.getsockname()[1]}", 0)
        for _ in range(exporting.MOST_WAITING):
            sent.tracer.start_span("lost").end()
        began = time.monotonic()
        sent.end()
        assert time.monotonic() - began < exporting.PATIENCE + 0.5
