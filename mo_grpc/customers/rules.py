"""The values of a customer, and the decisions about one, without any SQL (docs/rules.md, R10 to R17)."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import Resource, StaleEtag
from mo_grpc.journal.rules import Origin, Recorded

RESOURCE = Resource("customer", "mo.customers.v1.Customer", ErrorReason.CUSTOMER_NOT_FOUND, ErrorReason.CUSTOMER_ALREADY_EXISTS)


class Status(IntEnum):
    """Whether a customer may borrow; the numbers are those of the protos and of the database."""

    ACTIVE = 1
    INACTIVE = 2


class Customer(NamedTuple):
    """A customer as stored, in the order of the table's columns; the answer of a change has what was recorded of it, too."""

    id: int
    external_id: str
    status: int
    score: Decimal
    preapproved_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime
    recorded: Recorded | None = None


class NewCustomer(NamedTuple):
    """The command to create a customer."""

    external_id: str
    score: Decimal
    preapproved_at: datetime | None
    origin: Origin


class CustomerChange(NamedTuple):
    """The command to change the named `values` of a customer; an empty `etag` is not compared."""

    external_id: str
    etag: str
    values: Mapping[str, Any]
    origin: Origin


class Debt(NamedTuple):
    """The debt of a customer (R12), and the number of PENDING and ACTIVE loans."""

    total: Decimal = Decimal("0.00")
    open_loans: int = 0


class Balance(NamedTuple):
    """What a customer owes (R12), and the credit line."""

    external_id: str
    score: Decimal
    total_debt: Decimal

    @property
    def available_amount(self) -> Decimal:
        """What may still be lent."""
        return available_amount(self.score, self.total_debt)


def available_amount(score: Decimal, total_debt: Decimal) -> Decimal:
    """What may still be lent; negative when the debt is above the score (docs/rules.md, R13)."""
    return score - total_debt


def etag(customer: Customer) -> str:
    """The version of a customer, which every change changes (AIP-154)."""
    return f'"{customer.version}"'


def change(customer: Customer, command: CustomerChange, now: datetime) -> Customer | StaleEtag:
    """Apply a change to a locked customer, unless its etag is that of an older version."""
    if command.etag and command.etag != etag(customer):
        return StaleEtag(customer.external_id, etag(customer))
    return customer._replace(version=customer.version + 1, updated_at=now, **command.values)
