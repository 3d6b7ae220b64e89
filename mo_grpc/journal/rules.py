"""The values of an event, and how events of a customer follow each other, without any SQL."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple

NO_HASH: Final = bytes(32)
"""What stands for the hash before a customer's first event."""


class Kind(IntEnum):
    """What happened; the numbers are those of the protos and of the database."""

    CUSTOMER_CREATED = 1
    CUSTOMER_CHANGED = 2
    LOAN_CREATED = 3
    LOAN_ACTIVATED = 4
    LOAN_REJECTED = 5
    LOAN_PAID = 6
    PAYMENT_COMPLETED = 7
    PAYMENT_REFUSED = 8
    PAYMENT_BOUNCED = 9


class Origin(NamedTuple):
    """Who makes a change, and the id of the call, which is of `A-Z a-z 0-9 . _ : ~ -`, so that it needs no escaping.

    If the caller was shown a preview, the number of the customer's last event then is the `expected` one.
    """

    actor: str
    request_id: str = ""
    expected: int | None = None


class LoanChange(NamedTuple):
    """What an event changes of a loan; the values before are None if it creates the loan."""

    loan_id: int
    external_id: str
    status_before: int | None
    status_after: int
    outstanding_before: Decimal | None
    outstanding_after: Decimal


class CustomerChange(NamedTuple):
    """What an event about a customer leaves behind; the status before is None if it creates the customer."""

    status_before: int | None
    status_after: int
    preapproved_at: datetime | None
    version: int


class NewEvent(NamedTuple):
    """Something that happened to a customer, which has no number yet."""

    customer_id: int
    customer_external_id: str
    kind: Kind
    origin: Origin
    score_before: Decimal | None
    score_after: Decimal
    debt_before: Decimal | None
    debt_after: Decimal
    loans: Sequence[LoanChange] = ()
    payment_id: int | None = None
    payment_external_id: str = ""
    amount: Decimal | None = None
    customer: CustomerChange | None = None


class Tail(NamedTuple):
    """A customer's last event: its number, time and hash."""

    number: int
    recorded_at: datetime
    hash: bytes


class Event(NamedTuple):
    """An event that follows its customer's tail."""

    new: NewEvent
    number: int
    recorded_at: datetime
    hash: bytes


class Recorded(NamedTuple):
    """What the answer of a change has of its event: the number, and the customer's credit line and debt after it."""

    number: int
    score: Decimal
    debt: Decimal


def follow(tail: Tail | None, new: NewEvent, now: datetime) -> Event:
    """The event that follows a customer's last one, or is the first. Its time is not before that of the last one."""
    if tail is None:
        tail = Tail(0, now, NO_HASH)
    number, recorded_at = tail.number + 1, max(now, tail.recorded_at)
    return Event(new, number, recorded_at, digest(tail.hash, new, number, recorded_at))


def digest(before: bytes, new: NewEvent, number: int, recorded_at: datetime) -> bytes:
    """The hash of an event, by the hash of the one before, or `NO_HASH`."""
    return hashlib.sha256(before + _content(new, number, recorded_at)).digest()


def _content(new: NewEvent, number: int, recorded_at: datetime) -> bytes:
    """What is hashed, after the 32 bytes of the hash before: a line for each value, then one for each loan (docs/events.md)."""
    customer = new.customer
    before = f"{new.score_before:.2f} {new.debt_before:.2f}" if new.score_before is not None else ""
    lines = [
        f"{new.customer_external_id}\n{number}\n{new.kind.name}\n{_time(recorded_at)}\n{new.origin.actor}\n"
        f"{new.origin.request_id}\n{new.payment_external_id}\n{_money(new.amount)}\n"
        f"{before}\n{new.score_after:.2f} {new.debt_after:.2f}\n"
    ]
    if customer:
        status = f"{customer.status_before or 0} {customer.status_after}"
        lines.append(f"{status}\n{_time(customer.preapproved_at) if customer.preapproved_at else ''}\n")
    lines += [
        f"{external_id} {status_before or 0} {status_after} {before or 0:.2f} {after:.2f}\n"
        for _, external_id, status_before, status_after, before, after in new.loans
    ]
    return "".join(lines).encode()


def _time(value: datetime) -> str:
    """A time of the database, which is in UTC, as RFC 3339 has it, to the microsecond."""
    return f"{value.isoformat(timespec='microseconds')[:26]}Z"


def _money(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:.2f}"
