"""What happened to one customer in a period: the SQL of statements (docs/rules.md, R95)."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.journal.rules import Kind


class Period(NamedTuple):
    """The events of a customer from `start` to before `end`: the numbers before and at their end, and what they sum up to.

    The number, the score and the debt before or at the end are None if there was no event yet. `end` is never in the future.
    """

    end: datetime
    number_before: int | None
    score_before: Decimal | None
    debt_before: Decimal | None
    last_number: int | None
    score_after: Decimal | None
    debt_after: Decimal | None
    lent: Decimal
    rejected: Decimal
    repaid: Decimal
    bounced: Decimal
    events: int


class Entry(NamedTuple):
    """An event of a period."""

    number: int
    recorded_at: datetime
    kind: int
    loan_external_id: str | None
    payment_external_id: str | None
    amount: Decimal | None
    debt_before: Decimal | None
    debt_after: Decimal

    @property
    def debt_change(self) -> Decimal:
        """What the event added to the debt."""
        return self.debt_after - (self.debt_before or 0)


_LAST = """
    SELECT number, score_after, debt_after FROM journal_events
    WHERE customer_id = :customer_id AND recorded_at < {} ORDER BY number DESC LIMIT 1
"""


def _sum(kind: Kind) -> str:
    return f"coalesce(sum(amount) FILTER (WHERE kind = {kind}), 0)"


# What has not begun is empty: without a time to begin with, no event comes before.
_PERIOD = text(f"""
    SELECT until, before.*, last.*, totals.*
    FROM (SELECT least(mo_clock(), CAST(:end AS timestamptz)) AS until) AS period
    LEFT JOIN LATERAL ({_LAST.format("least(until, CAST(:start AS timestamptz))")}) AS before ON :start IS NOT NULL
    LEFT JOIN LATERAL ({_LAST.format("until")}) AS last ON true
    CROSS JOIN LATERAL (
        SELECT {_sum(Kind.LOAN_CREATED)}, {_sum(Kind.LOAN_REJECTED)}, {_sum(Kind.PAYMENT_COMPLETED)},
            {_sum(Kind.PAYMENT_BOUNCED)}, count(*)
        FROM journal_events
        WHERE customer_id = :customer_id AND number > coalesce(before.number, 0) AND number <= last.number
    ) AS totals
""")  # noqa: S608 - constants

_ENTRIES = text(f"""
    SELECT number, recorded_at, kind,
        CASE WHEN kind BETWEEN {Kind.LOAN_CREATED} AND {Kind.LOAN_PAID}
            THEN (SELECT external_id FROM loans WHERE id = loan_ids[1]) END,
        (SELECT external_id FROM payments WHERE id = payment_id), amount, debt_before, debt_after
    FROM journal_events WHERE customer_id = :customer_id AND number > :after AND number <= :last
    ORDER BY number LIMIT :limit
""")  # noqa: S608 - constants


async def sum_up(connection: AsyncConnection, customer_id: int, start: datetime | None, end: datetime | None) -> Period:
    """Sum up a customer's events from a time, or the first, to before another time, or now."""
    rows = await connection.execute(_PERIOD, {"customer_id": customer_id, "start": start, "end": end})
    return Period._make(rows.one())


async def list_entries(connection: AsyncConnection, customer_id: int, after: int, last: int, limit: int) -> list[Entry]:
    """The events of a customer that follow number `after`, up to `last`."""
    parameters = {"customer_id": customer_id, "after": after, "last": last, "limit": limit}
    return [Entry._make(row) for row in await connection.execute(_ENTRIES, parameters)]
