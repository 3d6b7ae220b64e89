"""Draw docs/pictures/trace.svg: a payment over REST, by the spans of a service of its own (`make screenshots`)."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import matplotlib as mpl
from matplotlib import pyplot

from tests.conftest import KEY, free_port, read_greeting, settings_environment
from tests.doors import RestDoor
from tests.factories import a_customer, a_loan, pay
from tests.repository import ROOT
from tests.telemetry.receiver import Receiver, Span, receiving
from tests.waiting import eventually

PICTURE = ROOT / "docs" / "pictures" / "trace.svg"
WARM = 50
"""Payments before the one that is drawn: connections are open then, and statements are prepared."""

COLOURS = {"mo-edge": "#7b5ea7", "mo-grpc": "#2f6fb5"}


def main() -> None:
    """Start a service that traces everything, pay, and draw the last payment."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mo-grpc"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, receiving(port) as receiver:
        endpoint = f"http://localhost:{port}"
        environment = settings_environment(
            Path(folder) / "data", MO_TRACES_ENDPOINT=endpoint, MO_TRACES_SAMPLE_RATIO="1", MO_WORKERS="1"
        )
        command = [sys.executable, "-m", "mo_grpc", "up"]
        up = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            key = KEY.search(read_greeting(up))
            assert key
            url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
            with httpx.Client(base_url=url, headers={"x-api-key": key[0]}, timeout=30) as client:
                door = RestDoor(client)
                customer = a_customer(door)
                a_loan(door, customer)
                for _ in range(WARM):
                    pay(door, customer, "0.50")
            eventually(lambda: len(payments(receiver)) == WARM, 20)
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=60)
        last = max(payments(receiver), key=lambda span: span.began)
        draw(receiver.trace(last.trace_id))


def payments(receiver: Receiver) -> list[Span]:
    """The spans of payments that have arrived with those of the edge above them."""
    spans = receiver.spans
    ids = {span.span_id for span in spans}
    return [span for span in spans if span.name.endswith("/CreatePayment") and span.parent_id in ids]


def draw(spans: list[Span]) -> None:
    """Draw the spans of a trace, each below its parent."""
    [root] = [span for span in spans if not span.parent_id]
    rows: list[tuple[int, Span]] = []

    def visit(span: Span, depth: int) -> None:
        rows.append((depth, span))
        for child in sorted((each for each in spans if each.parent_id == span.span_id), key=lambda each: each.began):
            visit(child, depth + 1)

    visit(root, 0)
    figure, axes = pyplot.subplots(figsize=(10, 0.34 * len(rows) + 0.8))
    for place, (depth, span) in enumerate(rows):
        began = (span.began - root.began) / 1e6
        axes.barh(place, span.milliseconds, left=began, height=0.62, color=COLOURS[span.service], alpha=1 - 0.15 * depth)
        axes.text(
            max(began + span.milliseconds, 0) + root.milliseconds * 0.01,
            place,
            f"{span.milliseconds:.2f} ms",
            va="center",
            size=8,
        )
    axes.set_yticks(range(len(rows)), [f"{'    ' * depth}{_name(span)}" for depth, span in rows], fontsize=8, ha="left")
    axes.tick_params(axis="y", pad=330, length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, root.milliseconds * 1.12)
    axes.set_xlabel("ms since the request reached Envoy")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")


def _name(span: Span) -> str:
    """What the picture calls a span; of many statements, the first and the last."""
    first, *others = str(span.attributes.get("db.query.summary", span.name)).split("; ")
    return f"{first} … {others[-1]}" if others else first.removeprefix("mo.payments.v1.")


if __name__ == "__main__":
    main()
