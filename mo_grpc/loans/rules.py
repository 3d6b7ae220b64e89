"""The values of a loan, and the decisions about one, without any SQL (docs/rules.md, R18 to R27)."""

from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.customers.rules import Customer, Debt, available_amount
from mo_grpc.customers.rules import Status as CustomerStatus
from mo_grpc.errors import FieldViolation, InvalidFields, PreconditionFailed, Resource, ServiceError
from mo_grpc.journal.rules import LoanChange, Origin, Recorded

RESOURCE = Resource("loan", "mo.loans.v1.Loan", ErrorReason.LOAN_NOT_FOUND, ErrorReason.LOAN_ALREADY_EXISTS)

# One payment may touch every open loan, so this limits the size of a payment's details, to about 1 MiB on the wire (R21).
MAX_OPEN_LOANS = 10_000


class Status(IntEnum):
    """The status of a loan; the numbers are those of the protos and of the database."""

    PENDING = 1
    ACTIVE = 2
    REJECTED = 3
    PAID = 4


class Loan(NamedTuple):
    """A loan as stored, with its customer's ids; the answer of a change has what was recorded of it, too."""

    id: int
    customer_id: int
    external_id: str
    customer_external_id: str
    amount: Decimal
    outstanding: Decimal
    status: int
    contract_version: str | None
    taken_at: datetime | None
    maximum_payment_date: datetime
    created_at: datetime
    updated_at: datetime
    recorded: Recorded | None = None


class ActiveLoan(NamedTuple):
    """What a payment needs to know of an ACTIVE loan."""

    id: int
    external_id: str
    outstanding: Decimal


class PastLoan(NamedTuple):
    """What a payment of the past needs to know of a loan, as it was after an event."""

    id: int
    external_id: str
    taken_at: datetime | None
    status: int
    outstanding: Decimal


class NewLoan(NamedTuple):
    """The command to create a loan."""

    external_id: str
    customer_external_id: str
    amount: Decimal
    contract_version: str | None
    maximum_payment_date: datetime
    origin: Origin


class LoanTransition(NamedTuple):
    """The command to activate or to reject a loan."""

    external_id: str
    origin: Origin


def created(loan: Loan) -> LoanChange:
    """What the creation of a loan changes."""
    return LoanChange(loan.id, loan.external_id, None, loan.status, None, loan.outstanding)


def changed(before: Loan, after: Loan) -> LoanChange:
    """What a transition changes of a loan."""
    return LoanChange(after.id, after.external_id, before.status, after.status, before.outstanding, after.outstanding)


def as_of(loan: Loan, status: int, outstanding: Decimal, changed_at: datetime) -> Loan:
    """A loan as it was; `taken_at` never changes once it is there, and a loan that was paid out has it."""
    taken_at = loan.taken_at if status in (Status.ACTIVE, Status.PAID) else None
    return loan._replace(status=status, outstanding=outstanding, taken_at=taken_at, updated_at=changed_at)


def may_lend(customer: Customer, debt: Debt, new: NewLoan, now: datetime) -> ServiceError | None:
    """Decide whether a locked customer gets a loan; None means yes."""
    if new.maximum_payment_date <= now:
        return InvalidFields([FieldViolation("maximum_payment_date", "must be in the future")])
    if customer.status != CustomerStatus.ACTIVE:
        return _inactive(customer)
    available = available_amount(customer.score, debt.total)
    if new.amount > available:
        message = f"A loan of {new.amount:.2f} does not fit the {available:.2f} left of the credit line."
        return _over_the_line(customer, new.amount, available, message)
    if debt.open_loans >= MAX_OPEN_LOANS:
        return PreconditionFailed(
            ErrorReason.TOO_MANY_OPEN_LOANS,
            f"The customer has {MAX_OPEN_LOANS} open loans already.",
            customer.external_id,
            {"customer_external_id": customer.external_id, "limit": str(MAX_OPEN_LOANS)},
        )
    return None


def activate(loan: Loan, customer: Customer, debt: Debt, now: datetime) -> Loan | PreconditionFailed:
    """Pay a PENDING loan out to an ACTIVE customer whose debt, with this loan, is within the credit line (R23, R24)."""
    if loan.status != Status.PENDING:
        return _wrong_status(loan, "activated")
    if customer.status != CustomerStatus.ACTIVE:
        return _inactive(customer)
    # The line may have been lowered, or a payment may have bounced, since the loan was made.
    available = available_amount(customer.score, debt.total)
    if available < 0:
        message = f"A loan of {loan.amount:.2f} is not paid out while {available:.2f} is left of the credit line."
        return _over_the_line(customer, loan.amount, available, message)
    return loan._replace(status=Status.ACTIVE, taken_at=now, updated_at=now)


def reject(loan: Loan, _customer: Customer, _debt: Debt, now: datetime) -> Loan | PreconditionFailed:
    """Refuse a PENDING loan, which frees its credit."""
    if loan.status != Status.PENDING:
        return _wrong_status(loan, "rejected")
    return loan._replace(status=Status.REJECTED, updated_at=now)


def _over_the_line(customer: Customer, amount: Decimal, available: Decimal, message: str) -> PreconditionFailed:
    return PreconditionFailed(
        ErrorReason.CREDIT_LIMIT_EXCEEDED,
        message,
        customer.external_id,
        {
            "customer_external_id": customer.external_id,
            "amount": f"{amount:.2f}",
            "available_amount": f"{available:.2f}",
        },
    )


def _inactive(customer: Customer) -> PreconditionFailed:
    return PreconditionFailed(
        ErrorReason.CUSTOMER_INACTIVE,
        f"The customer '{customer.external_id}' is INACTIVE.",
        customer.external_id,
        {"customer_external_id": customer.external_id},
    )


def _wrong_status(loan: Loan, verb: str) -> PreconditionFailed:
    status = Status(loan.status).name
    return PreconditionFailed(
        ErrorReason.LOAN_WRONG_STATUS,
        f"Only a PENDING loan can be {verb}; '{loan.external_id}' is {status}.",
        loan.external_id,
        {"external_id": loan.external_id, "status": status},
    )
