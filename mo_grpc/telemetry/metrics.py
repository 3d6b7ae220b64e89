"""Metrics for Prometheus, which are off, and cost nothing, unless the settings have a port for them.

The processes of a data folder share a folder of files, so that whichever is asked answers for all. A process that takes the
place of another continues its counters; the gauges of a dead one are removed by whoever has started it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from mo_grpc.config import Settings, name_metrics_folder
from mo_grpc.telemetry.calls import observers
from mo_grpc.telemetry.counts import counters
from mo_grpc.telemetry.folder import forget_gauges, metrics_folder

if TYPE_CHECKING:
    from mo_grpc.telemetry.meter import Meter


class MetricsError(Exception):
    """The metrics cannot be had; the message says why."""


@contextmanager
def measured(settings: Settings, process: str) -> Iterator[Meter | None]:
    """Measure this process while inside, if the settings have a port for the metrics, and answer at that port.

    Raises:
        MetricsError: the port or the folder cannot be used.
    """
    if settings.metrics_port is None:
        yield None
        return
    folder = metrics_folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MetricsError(f"The folder {folder} of the metrics cannot be used: {error.strerror}.") from None
    name_metrics_folder(folder)
    from mo_grpc.telemetry.exposition import expose
    from mo_grpc.telemetry.meter import Meter

    forget_gauges(folder, process)
    meter = Meter(process, histograms=settings.mo_metrics_histograms)
    token = settings.mo_metrics_token
    host, port = settings.mo_metrics_host, settings.metrics_port
    try:
        expose(folder, host, port, token.get_secret_value() if token else None)
    except OSError as error:
        raise MetricsError(f"Port {port} of {host} cannot be used ({error.strerror}); set MO_METRICS_PORT.") from None
    ended = Event()
    Thread(target=_watch_memory, args=(meter, ended), name="memory", daemon=True).start()
    observers.append(meter.calls)
    counters.append(meter.count)
    try:
        yield meter
    finally:
        ended.set()
        meter.calls.tell()
        observers.remove(meter.calls)
        counters.remove(meter.count)
        forget_gauges(folder, process)


def _watch_memory(meter: Meter, ended: Event) -> None:
    while not ended.wait(1.0):
        meter.note_memory()
