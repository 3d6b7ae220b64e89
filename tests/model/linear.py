"""Checks a history of concurrent calls: is there an order of effects, one after the other, that explains every answer?

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993): a call takes effect at one instant
between its beginning and its end. States that were seen with the same calls done are not visited again, as in Lowe's "Testing
for linearizability" (2017). A call whose outcome is unknown takes effect at some time after its beginning, or never.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any, NamedTuple

from tests.doors import Json
from tests.model.answers import plain
from tests.model.laboratory import BEGIN
from tests.model.ledger import Ledger
from tests.model.requests import Outcome, Told

_EFFECTS = ("Create", "Update", "Activate", "Reject", "Batch")


class Operation(NamedTuple):
    """A call, from its beginning to its end. Without an outcome, nobody knows whether it took effect."""

    began: float
    ended: float
    rpc: str
    request: Json
    outcome: Outcome | None
    key: str = ""
    caller: str = ""

    @property
    def changes_nothing(self) -> bool:
        refused = bool(self.outcome and (self.outcome.code or self.outcome.replayed))
        return refused or bool(self.outcome and not self.rpc.split(".")[1].startswith(_EFFECTS))

    def __str__(self) -> str:
        end = "?" if self.ended == inf else f"{self.ended * 1000:.1f}"
        answer = f"{self.outcome.code} {timeless(self.outcome.content)}" if self.outcome else "unknown"
        again = " (again)" if self.outcome and self.outcome.replayed else ""
        what = f"{self.rpc} {timeless(self.request)} {self.key}"
        return f"{self.began * 1000:9.1f} to {end:>9} ms  {what}\n        -> {answer}{again}"


def timeless(value: Any) -> Any:
    """An answer without its times and tokens: the order of changes alone has to explain it."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if not str(name).endswith("_token")}
    if isinstance(value, list | tuple):
        return [timeless(item) for item in value]
    return "a moment" if isinstance(value, datetime) else value


def explained(operations: Sequence[Operation], journal: Sequence[Any] | None = None) -> bool:
    """Whether some order of the operations explains all outcomes, from an empty ledger on.

    If it is known which events there were in the end, orders that lead to others are left at once.
    """
    operations = sorted(operations, key=lambda operation: operation[:2])
    journal = _journal(operations) if journal is None else journal
    known = sum(1 << place for place, operation in enumerate(operations) if operation.outcome)
    answers = [timeless(plain(operation.outcome._asdict())) if operation.outcome else None for operation in operations]
    visited: set[tuple[int, str]] = set()
    states = [(0, Ledger())]
    while states:
        done, ledger = states.pop()
        if done & known == known:
            return True
        for place in reversed([*_next(operations, done)]):
            after = ledger.copy()
            operation = operations[place]
            now = BEGIN + timedelta(microseconds=done.bit_count())
            outcome = after.call(operation.rpc, operation.request, Told(now, operation.key, operation.caller))
            fits = timeless(plain(outcome._asdict())) == answers[place] if operation.outcome else _changes(ledger, after)
            if fits and _leads_to(journal, ledger, after):
                state = (done | 1 << place, _fingerprint(after))
                if state not in visited:
                    visited.add(state)
                    states.append((state[0], after))
    return False


def _journal(operations: Sequence[Operation]) -> Sequence[Any] | None:
    """The events of the last look into the journal; None if nobody has looked."""
    looks = [operation.outcome for operation in operations if operation.outcome and operation.rpc == "journal.ListEvents"]
    return [timeless(event) for event in looks[-1].content["events"]] if looks else None


def _changes(before: Ledger, after: Ledger) -> bool:
    """Whether a call changed anything; of one whose outcome is unknown, it need not be known when it did not."""
    return (before.events, before.answers) != (after.events, after.answers)


def _leads_to(journal: Sequence[Any] | None, before: Ledger, after: Ledger) -> bool:
    """Whether the events that a call has added are those that came next."""
    if journal is None:
        return True
    added = [(number, event) for events in after.events.values() for number, event in enumerate(events)]
    last = sum(map(len, before.events.values()))
    return all(number < len(journal) and timeless(plain(event)) == journal[number] for number, event in added[last:])


def _next(operations: Sequence[Operation], done: int) -> Iterator[int]:
    """The operations that may take effect next: of those that are left, none has ended before they began."""
    left = [place for place in range(len(operations)) if not done >> place & 1]
    first_end = min(operations[place].ended for place in left)
    return (place for place in left if operations[place].began <= first_end)


def _fingerprint(ledger: Ledger) -> str:
    """What makes a difference to later answers: the rows without their times, and the order in which loans were taken."""
    taken = sorted((loan["taken_at"], name) for name, loan in ledger.loans.items() if loan["taken_at"])
    return repr((timeless([*vars(ledger).values()]), [name for _, name in taken]))


def smallest_unexplained(operations: Sequence[Operation]) -> list[Operation]:
    """Of a history that nothing explains: the shortest beginning that nothing explains, without what it does not need."""
    journal = _journal(operations)
    for end in sorted(operation.ended for operation in operations):
        part = [_until(end, operation) for operation in operations if operation.began <= end]
        if not explained(part, journal):
            break
    for operation in sorted(part, key=lambda operation: operation[:2], reverse=True):
        fewer = [other for other in part if other is not operation]
        if (operation.changes_nothing or operation.outcome is None) and not explained(fewer, journal):
            part = fewer
    return sorted(part, key=lambda operation: operation[:2])


def _until(end: float, operation: Operation) -> Operation:
    """An operation as it was known at a time: one that has not ended has no outcome."""
    return operation if operation.ended <= end else operation._replace(ended=inf, outcome=None)


def assert_explained(operations: Sequence[Operation]) -> None:
    """Check that some order explains a history; if none does, show the part that nothing explains."""
    if not explained(operations):
        part = smallest_unexplained(operations)
        raise AssertionError("\n".join(["No order of these calls explains all answers:", *map(str, part)]))
