"""What a batch knows of its locked customers' debts and journals, and the events that it adds."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Self

from mo_grpc.customers.debt import OPEN
from mo_grpc.customers.rules import Customer, Debt
from mo_grpc.db.pipeline import Query, Rows, Statement
from mo_grpc.errors import PreviewStale
from mo_grpc.journal import store as journal
from mo_grpc.journal.rules import CustomerChange, Event, Kind, LoanChange, NewEvent, Origin, Recorded, Tail, follow


def accounts(ids: str) -> Query:
    """The query for the accounts of the customers whose ids a query selects; it comes after the one that locks them."""
    return Query(f"""
        SELECT now, account.* FROM mo_clock() AS now LEFT JOIN (
            SELECT customer.id, debt, open_loans, tail.*
            FROM ({ids}) AS customer (id)
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(outstanding), 0.00) AS debt, count(*) AS open_loans
                FROM loans WHERE customer_id = customer.id AND {OPEN}
            ) AS debts
            LEFT JOIN LATERAL ({journal.TAIL.format("customer.id")}) AS tail ON true
        ) AS account ON true
    """)  # noqa: S608 - constants


class Accounts:
    """The debts of a batch's customers, command after command, and the events of what the batch does."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._debts: dict[int, Debt] = {}
        self._tails: dict[int, Tail] = {}
        self._events: list[Event] = []

    @classmethod
    def read(cls, rows: Iterator[Rows]) -> Self:
        """What the query of `accounts` has read."""
        found = next(rows)
        self = cls(found[0][0])
        for _, customer_id, total, open_loans, number, recorded_at, digest in found:
            if customer_id is not None:
                self._debts[customer_id] = Debt(total, open_loans)
                if number is not None:
                    self._tails[customer_id] = Tail(number, recorded_at, digest)
        return self

    def debt(self, customer_id: int) -> Debt:
        """What a customer owes now."""
        return self._debts.get(customer_id) or Debt()

    def stale(self, customer_id: int, origin: Origin) -> PreviewStale | None:
        """The refusal of a change whose preview is older than the customer's last event."""
        if origin.expected is None:
            return None
        tail = self._tails.get(customer_id)
        return PreviewStale() if origin.expected != (tail.number if tail else 0) else None

    def record_customer(self, kind: Kind, before: Customer | None, after: Customer, origin: Origin) -> Customer:
        """Record that a customer was created or changed; return the customer with what was recorded."""
        debt = self.debt(after.id).total
        change = CustomerChange(before.status if before else None, after.status, after.preapproved_at, after.version)
        recorded = self._append(
            NewEvent(
                after.id,
                after.external_id,
                kind,
                origin,
                before.score if before else None,
                after.score,
                debt if before else None,
                debt,
                customer=change,
            )
        )
        return after._replace(recorded=recorded)

    def record(
        self,
        kind: Kind,
        customer: Customer,
        origin: Origin,
        debt: Debt,
        loans: Sequence[LoanChange],
        amount: Decimal,
        payment_id: int | None = None,
        payment_external_id: str = "",
    ) -> Recorded:
        """Record what happened to a customer's loans or payments, which leaves this `debt`."""
        before = self.debt(customer.id).total
        self._debts[customer.id] = debt
        return self._append(
            NewEvent(
                customer.id,
                customer.external_id,
                kind,
                origin,
                customer.score,
                customer.score,
                before,
                debt.total,
                loans,
                payment_id,
                payment_external_id,
                amount,
            )
        )

    def _append(self, new: NewEvent) -> Recorded:
        event = follow(self._tails.get(new.customer_id), new, self.now)
        self._tails[new.customer_id] = Tail(event.number, event.recorded_at, event.hash)
        self._events.append(event)
        return Recorded(event.number, new.score_after, new.debt_after)

    def events(self) -> list[Statement]:
        """The statement that writes the events, if there are any."""
        return journal.append(self._events)
