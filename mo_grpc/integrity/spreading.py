"""Whether each payment of the journal was spread as the rules say, by doing it again (docs/rules.md, R94).

Events that were backfilled are left out: where the times of their rows contradict each other, nobody knows the order.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.integrity.rules import SHOWN, Finding
from mo_grpc.journal.rules import Kind
from mo_grpc.loans.rules import ActiveLoan
from mo_grpc.payments import rules

_NAME = "A payment is spread over the loans that were ACTIVE before it, the oldest first, or was more than these"

_READ_AT_ONCE = 5_000

_FOLLOWING = text(f"""
    SELECT events.*, coalesce(payments.external_id, events.payment_id::text) AS payment, ARRAY(
            SELECT taken_at FROM unnest(loan_ids) WITH ORDINALITY AS loan (id, place) LEFT JOIN loans USING (id) ORDER BY place
        ) AS taken_ats
    FROM (
        SELECT customer_id, number, kind, backfilled, payment_id, amount, recorded_at, loan_ids, outstandings_after
        FROM journal_events WHERE (customer_id, number) > (:customer_id, :number) AND kind IN ({Kind.LOAN_ACTIVATED},
            {Kind.PAYMENT_COMPLETED}, {Kind.PAYMENT_REFUSED}, {Kind.PAYMENT_BOUNCED})
        ORDER BY customer_id, number LIMIT :limit
    ) AS events LEFT JOIN payments ON payments.id = events.payment_id
    ORDER BY events.customer_id, events.number
""")  # noqa: S608 - constants


async def verify_spreading(connection: AsyncConnection) -> Finding:
    """Spread each payment again, over the loans that the events before it left; it holds one customer's loans at a time."""
    checked = broken = 0
    shown: list[tuple[str, str]] = []
    loans, customer_id, number = _Loans(), 0, 0
    while events := await _following(connection, customer_id, number):
        for event in events:
            if event.customer_id != customer_id:
                loans = _Loans()
            customer_id, number = event.customer_id, event.number
            checked += event.kind in (Kind.PAYMENT_COMPLETED, Kind.PAYMENT_REFUSED)
            if not loans.follow(event) and not event.backfilled:
                broken += 1
                shown += [(event.payment, f"the event {number} does not spread it as the rules do")][: SHOWN - len(shown)]
    return Finding(_NAME, "payments", checked, broken, shown)


async def _following(connection: AsyncConnection, customer_id: int, number: int) -> Sequence[Any]:
    parameters = {"customer_id": customer_id, "number": number, "limit": _READ_AT_ONCE}
    return (await connection.execute(_FOLLOWING, parameters)).all()


class _Loans:
    """A customer's ACTIVE loans, event after event, in the order in which payments pay them."""

    def __init__(self) -> None:
        self._active: dict[int, ActiveLoan] = {}
        self._places: dict[int, tuple[datetime, int]] = {}

    def follow(self, event: Any) -> bool:
        """Take in what an event left; False if it is a payment that the rules decide otherwise."""
        right = event.amount is not None
        if event.kind == Kind.PAYMENT_COMPLETED and right:
            details = rules.spread(event.amount, self._active)
            left = [(detail.loan_id, self._outstanding(detail.loan_id)) for detail in details or ()]
            right = details is not None and left == list(zip(event.loan_ids, event.outstandings_after, strict=False))
        elif event.kind == Kind.PAYMENT_REFUSED and right:
            right = rules.spread(event.amount, dict(self._active)) is None
        for loan_id, outstanding, taken_at in zip(event.loan_ids, event.outstandings_after, event.taken_ats, strict=False):
            self._set(loan_id, outstanding, taken_at or event.recorded_at)
        return right

    def _outstanding(self, loan_id: int) -> Decimal:
        loan = self._active.get(loan_id)
        return loan.outstanding if loan else Decimal(0)

    def _set(self, loan_id: int, outstanding: Decimal, taken_at: datetime) -> None:
        if not outstanding:
            self._active.pop(loan_id, None)
            return
        is_last = (
            not self._active or loan_id in self._active or self._places[next(reversed(self._active))] < (taken_at, loan_id)
        )
        self._active[loan_id] = ActiveLoan(loan_id, "", outstanding)
        self._places[loan_id] = (taken_at, loan_id)
        if not is_last:
            self._active = dict(sorted(self._active.items(), key=lambda item: self._places[item[0]]))
