"""The metrics of one process, and what happens to them."""

import os
from pathlib import Path
from typing import Final

from prometheus_client import Counter, values

from mo_grpc.telemetry.catalog import BusinessMetrics, CallMetrics, PostgresMetrics, ProcessMetrics, WorkMetrics
from mo_grpc.telemetry.counts import RETRY_REASONS, Happening
from mo_grpc.telemetry.observing import MeteredCalls

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_EVENTS: Final = {
    "CUSTOMER_CREATED": ("customers", "created"),
    "CUSTOMER_CHANGED": ("customers", "changed"),
    "LOAN_CREATED": ("loans", "created"),
    "LOAN_ACTIVATED": ("loans", "activated"),
    "LOAN_REJECTED": ("loans", "rejected"),
    "LOAN_PAID": ("loans", "paid"),
    "PAYMENT_COMPLETED": ("payments", "completed"),
    "PAYMENT_REFUSED": ("payments", "refused"),
    "PAYMENT_BOUNCED": ("payments", "bounced"),
}

_MOVEMENTS: Final = {"LOAN_ACTIVATED": "lent", "PAYMENT_COMPLETED": "repaid", "PAYMENT_BOUNCED": "bounced"}


class Meter:
    """Makes the metrics of this process, whose name tells its files from those of others."""

    def __init__(self, process: str, *, histograms: bool) -> None:
        # By name, not by process id: a successor goes on counting where the last one stopped.
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
        self.process = process
        self._call_metrics = CallMetrics(histograms=histograms)
        self.work = WorkMetrics()
        self.processes = ProcessMetrics()
        self.business = BusinessMetrics()
        self.postgres = PostgresMetrics()
        self.calls = MeteredCalls(self._call_metrics, self.work)
        # At zero from the start, so that the first of each is seen as an increase.
        for name, outcome in _EVENTS.values():
            getattr(self.business, name).labels(outcome)
        for movement in _MOVEMENTS.values():
            self.business.money.labels(movement)
        for reason in RETRY_REASONS:
            self.business.retries.labels(reason)
        for outcome in ("created", "failed"):
            self.business.import_lines.labels(outcome)
        for stored in ("yes", "no"):
            self.business.honeypot.labels(stored)

    def count(self, what: Happening, label: str, amount: float) -> None:
        """Count something that has happened."""
        self._counter(what, label).inc(amount)

    def _counter(self, what: Happening, label: str) -> Counter:
        business = self.business
        if what is Happening.EVENT:
            name, outcome = _EVENTS[label]
            counter: Counter = getattr(business, name)
            return counter.labels(outcome)
        if what is Happening.MONEY:
            return business.money.labels(_MOVEMENTS[label])
        counter = {
            Happening.RETRY: business.retries,
            Happening.POOL_EXHAUSTED: business.pool_exhausted,
            Happening.REPLAY: business.replays,
            Happening.IMPORT_LINE: business.import_lines,
            Happening.HONEYPOT_ATTEMPT: business.honeypot,
            Happening.TASK_FAILURE: business.task_failures,
        }[what]
        return counter.labels(label) if label else counter

    def note_memory(self) -> None:
        """Take the reading of this process's memory."""
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.processes.memory.labels(self.process).set(resident * _PAGE)
