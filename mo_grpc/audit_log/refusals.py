"""Refused calls, counted in memory and written behind: a flood of them costs a few events, and no call waits for them."""

from collections import Counter
from typing import NamedTuple

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent
from mo_grpc.audit_log.store import append
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.process.tasks import Tasks

INTERVAL = 5.0
"""Seconds between two writes."""

RECORDED = 10
"""Events of a write: those refused most often have one each, the others one together."""

REMEMBERED = 1000
"""Different refusals between two writes that are counted separately."""


class RefusedCall(NamedTuple):
    """Whose calls were refused, and the reason."""

    reason: str
    actor: Actor


class RefusedCalls:
    """The refusals that are still to be recorded."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._counts: Counter[RefusedCall] = Counter()
        self._methods: dict[RefusedCall, str] = {}
        self._others = 0

    def start(self, tasks: Tasks) -> None:
        """Record them behind the calls."""
        tasks.write_behind("refused calls", self.flush, INTERVAL)

    def note(self, refusal: RefusedCall, method: str) -> None:
        """Count a refused call of `method`."""
        if refusal not in self._counts and len(self._counts) >= REMEMBERED:
            self._others += 1
            return
        self._counts[refusal] += 1
        self._methods.setdefault(refusal, method)

    async def flush(self) -> None:
        """Record what is still to be recorded; when the database is away, it stays counted."""
        counts, others = self._counts.copy(), self._others
        if not counts:
            return
        reported = counts.most_common(RECORDED)
        events = [self._event(refusal.reason, refusal.actor, self._methods[refusal], count) for refusal, count in reported]
        if rest := counts.total() - sum(count for _, count in reported) + others:
            events.append(self._event("", Actor(""), "", rest))
        await self._database.write(lambda connection: append(connection, self._vault, events))
        self._counts -= counts
        self._others -= others
        self._methods = {refusal: self._methods[refusal] for refusal in self._counts}

    @staticmethod
    def _event(reason: str, actor: Actor, method: str, count: int) -> NewAuditEvent:
        return NewAuditEvent(AuditKind.CALLS_REFUSED, actor, method, {"reason": reason, "count": str(count)})
