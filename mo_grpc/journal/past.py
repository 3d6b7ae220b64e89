"""How things were: what the journal says of a customer after one of its events (docs/rules.md, R92 and R93)."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Self, TypeAlias

from mo.as_of.v1.as_of_pb2 import AsOf
from mo.errors.v1.error_reason_pb2 import ErrorReason
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.errors import OutOfRange, PreconditionFailed, Resource
from mo_grpc.journal.rules import Kind
from mo_grpc.rpc.conversions import moment


class Instant(NamedTuple):
    """An instant of the past, by one of the two."""

    time: datetime | None
    position: int | None

    @classmethod
    def of(cls, as_of: AsOf) -> Self:
        """The instant of a request that is valid.

        Raises:
            InvalidFields: the time has nanoseconds that are not the fraction of a second.
        """
        if as_of.HasField("time"):
            return cls(moment(as_of.time, "as_of.time"), None)
        return cls(None, as_of.position)


class Standing(NamedTuple):
    """The last event of a customer up to an instant: its number, and what it left of the credit line and the debt."""

    number: int
    score: Decimal
    debt: Decimal


class CustomerState(NamedTuple):
    """A customer as an event left it."""

    status: int
    preapproved_at: datetime | None
    version: int
    recorded_at: datetime


class LoanState(NamedTuple):
    """A loan as an event left it."""

    loan_id: int
    status: int
    outstanding: Decimal
    recorded_at: datetime


WrittenChange: TypeAlias = "tuple[int, int, int, Decimal, Decimal]"
"""What an event changed of a loan: its id, the statuses before and after, what was outstanding before and after."""


class Written(NamedTuple):
    """What an event of a payment says that it did."""

    kind: int
    amount: Decimal
    changes: list[WrittenChange]


class PaymentEvent(NamedTuple):
    """An event that made a payment, or that it bounced by."""

    number: int
    recorded_at: datetime
    written: Written


def _standing(condition: str) -> TextClause:
    """The query for the last event of a customer that meets a condition, which events meet until one does not."""
    return text(f"""
        SELECT mo_clock(), position, event.* FROM journal_head LEFT JOIN LATERAL (
            SELECT number, score_after, debt_after FROM journal_events
            WHERE customer_id = :customer_id AND {condition}
            ORDER BY number DESC LIMIT 1
        ) AS event ON true
    """)  # noqa: S608 - constants


_BY_TIME = _standing("recorded_at <= :instant")

# The positions are in the order of the numbers, and the index has them, so this reads one event.
_BY_POSITION = _standing("""
    number = (SELECT number FROM journal_positions WHERE customer_id = :customer_id AND position <= :instant
        ORDER BY number DESC LIMIT 1)
""")

_CUSTOMER = text(f"""
    SELECT status_after, preapproved_at, version, recorded_at FROM journal_events
    WHERE customer_id = :customer_id AND number <= :number AND kind IN ({Kind.CUSTOMER_CREATED}, {Kind.CUSTOMER_CHANGED})
    ORDER BY number DESC LIMIT 1
""")  # noqa: S608 - constants

LOAN_STATES = """
    SELECT DISTINCT ON (loan_id) loan_id, status, outstanding, recorded_at
    FROM journal_events, unnest(loan_ids, loan_statuses_after, outstandings_after) AS loan (loan_id, status, outstanding)
    WHERE customer_id = :customer_id AND number <= :number
    ORDER BY loan_id, number DESC
"""
"""The SQL for the states of all loans of a customer after an event."""

_LOAN = text("""
    SELECT loan_id, status, outstanding, recorded_at
    FROM journal_events, unnest(loan_ids, loan_statuses_after, outstandings_after) AS loan (loan_id, status, outstanding)
    WHERE customer_id = :customer_id AND number <= :number AND loan_id = :loan_id
    ORDER BY number DESC LIMIT 1
""")

_PAYMENT = text(f"""
    SELECT number, recorded_at, kind, amount,
        loan_ids, loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after
    FROM journal_events
    WHERE payment_id = :payment_id AND number <= coalesce(:number, number) AND kind <> {Kind.LOAN_PAID} ORDER BY number
""")  # noqa: S608 - constants


async def standing(connection: AsyncConnection, customer_id: int | None, instant: Instant) -> Standing | None:
    """The last event of a customer up to an instant; None if there was none, or the customer is None.

    What is read later of events up to its number is of the same instant, since events never change.

    Raises:
        OutOfRange: the instant is in the future.
    """
    statement = _BY_POSITION if instant.time is None else _BY_TIME
    value = instant.position if instant.time is None else instant.time
    rows = await connection.execute(statement, {"customer_id": customer_id, "instant": value})
    now, last_position, number, score, debt = rows.one()
    if instant.time is not None and instant.time > now:
        message = f"as_of.time: {instant.time.isoformat()} is in the future."
        raise OutOfRange(ErrorReason.TIME_IN_FUTURE, message, metadata={"field": "as_of.time"})
    if instant.position is not None and instant.position > last_position:
        message = f"as_of.position: the last position is {last_position}."
        metadata = {"field": "as_of.position", "last_position": str(last_position)}
        raise OutOfRange(ErrorReason.POSITION_IN_FUTURE, message, metadata=metadata)
    return None if number is None else Standing(number, score, debt)


def not_yet_created(resource: Resource, external_id: str) -> PreconditionFailed:
    """What is asked for did not exist at the instant."""
    message = f"The {resource.name} '{external_id}' did not exist yet."
    return PreconditionFailed(ErrorReason.NOT_YET_CREATED, message, external_id, {"external_id": external_id})


async def customer_state(connection: AsyncConnection, customer_id: int, number: int) -> CustomerState | None:
    """A customer after an event."""
    row = (await connection.execute(_CUSTOMER, {"customer_id": customer_id, "number": number})).one_or_none()
    return CustomerState._make(row) if row else None


async def loan_state(connection: AsyncConnection, customer_id: int, number: int, loan_id: int) -> LoanState | None:
    """A loan of a customer after an event; None if it did not exist."""
    parameters = {"customer_id": customer_id, "number": number, "loan_id": loan_id}
    row = (await connection.execute(_LOAN, parameters)).one_or_none()
    return LoanState._make(row) if row else None


async def payment_events(connection: AsyncConnection, payment_id: int, number: int | None = None) -> list[PaymentEvent]:
    """The events of a payment up to an event of its customer: the one that made it, then perhaps its bounce."""
    rows = await connection.execute(_PAYMENT, {"payment_id": payment_id, "number": number})
    return [
        PaymentEvent(number, recorded_at, Written(kind, amount, list(zip(*changes, strict=True))))
        for number, recorded_at, kind, amount, *changes in rows
    ]
