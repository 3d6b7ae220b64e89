"""Whether the events of each customer are a hash chain, by computing it again (docs/rules.md, R81)."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.integrity.rules import SHOWN, Finding
from mo_grpc.journal.rules import NO_HASH, CustomerChange, Kind, LoanChange, NewEvent, Origin, digest

_READ_AT_ONCE = 5_000

_FOLLOWING = text("""
    SELECT events.*, customers.external_id AS customer_external_id, payments.external_id AS payment_external_id,
        ARRAY(
            SELECT loans.external_id FROM unnest(loan_ids) WITH ORDINALITY AS loan (id, place) LEFT JOIN loans USING (id)
            ORDER BY place
        ) AS loan_external_ids
    FROM (
        SELECT * FROM journal_events WHERE (customer_id, number) > (:customer_id, :number)
        ORDER BY customer_id, number LIMIT :limit
    ) AS events
    LEFT JOIN customers ON customers.id = events.customer_id LEFT JOIN payments ON payments.id = events.payment_id
    ORDER BY events.customer_id, events.number
""")


async def verify_hashes(connection: AsyncConnection) -> Finding:
    """Compute the hash of each event from the one before; it reads some thousands of events at a time."""
    checked = broken = 0
    shown: list[tuple[str, str]] = []
    customer_id, number, last = 0, 0, NO_HASH
    while events := await _following(connection, customer_id, number):
        checked += len(events)
        for event in events:
            if not _follows(event, last if event.customer_id == customer_id else NO_HASH):
                broken += 1
                name = event.customer_external_id or event.customer_id
                shown += [(f"{name} {event.number}", "was changed, or does not follow the one before")][: SHOWN - len(shown)]
            customer_id, number, last = event.customer_id, event.number, event.hash
    return Finding("An event's hash is that of its values and of the event before", "journal_events", checked, broken, shown)


def _follows(event: Any, last: bytes) -> bool:
    try:
        return bool(event.hash == digest(last, _new_event(event), event.number, event.recorded_at))
    except (TypeError, ValueError):  # it lacks what each event of its kind has
        return False


async def _following(connection: AsyncConnection, customer_id: int, number: int) -> Sequence[Any]:
    parameters = {"customer_id": customer_id, "number": number, "limit": _READ_AT_ONCE}
    return (await connection.execute(_FOLLOWING, parameters)).all()


def _new_event(row: Any) -> NewEvent:
    """What the event's writer knew.

    Raises:
        ValueError: there is no such kind, or there is not as much of each loan.
    """
    changes = zip(
        row.loan_ids,
        (external_id or "" for external_id in row.loan_external_ids),
        row.loan_statuses_before,
        row.loan_statuses_after,
        row.outstandings_before,
        row.outstandings_after,
        strict=True,
    )
    about_customer = row.kind in (Kind.CUSTOMER_CREATED, Kind.CUSTOMER_CHANGED)
    return NewEvent(
        row.customer_id,
        row.customer_external_id or "",
        Kind(row.kind),
        Origin(row.actor, row.request_id),
        row.score_before,
        row.score_after,
        row.debt_before,
        row.debt_after,
        [LoanChange._make(change) for change in changes],
        row.payment_id,
        row.payment_external_id or "",
        row.amount,
        CustomerChange(row.status_before, row.status_after, row.preapproved_at, row.version) if about_customer else None,
    )
