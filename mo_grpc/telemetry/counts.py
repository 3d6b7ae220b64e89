"""What happens now and then, counted where it happens, for the metrics."""

from collections.abc import Callable
from enum import StrEnum


class Happening(StrEnum):
    """What is counted; the comment says by what."""

    RETRY = "retry"  # why work in the database is done again
    POOL_EXHAUSTED = "pool exhausted"
    REPLAY = "replay"  # answers to idempotency keys that were sent again
    IMPORT_LINE = "import line"  # what became of a line
    HONEYPOT_ATTEMPT = "honeypot attempt"  # whether it was stored
    EVENT = "event"  # the kind of an event of the journal
    MONEY = "money"  # the kind of the event, which moves so much
    TASK_FAILURE = "task failure"  # the background task that is tried again


RETRY_REASONS = ("serialization", "deadlock", "id taken meanwhile", "disconnected")

counters: list[Callable[[Happening, str, float], None]] = []
"""Who wants to know, in this process."""


def count(what: Happening, label: str = "", amount: float = 1) -> None:
    """Say that something has happened, so many times."""
    for counter in counters:
        counter(what, label, amount)
