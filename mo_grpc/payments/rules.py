"""The values of a payment, and the decisions about one, without any SQL (docs/rules.md, R28 to R38)."""

from collections.abc import Iterable, MutableMapping
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import PreconditionFailed, Resource, ServiceError
from mo_grpc.journal.rules import LoanChange, Origin, Recorded
from mo_grpc.loans.rules import ActiveLoan
from mo_grpc.loans.rules import Status as LoanStatus

# As plain numbers, because an enumeration's take long to be written down.
_LOAN_ACTIVE, _LOAN_PAID = int(LoanStatus.ACTIVE), int(LoanStatus.PAID)

RESOURCE = Resource("payment", "mo.payments.v1.Payment", ErrorReason.PAYMENT_NOT_FOUND, ErrorReason.PAYMENT_ALREADY_EXISTS)


class Status(IntEnum):
    """The status of a payment; the numbers are those of the protos and of the database."""

    COMPLETED = 1
    REJECTED = 2


class RejectionKind(IntEnum):
    """Why a payment is REJECTED; the numbers are those of the protos and of the database."""

    INSUFFICIENT_DEBT = 1
    BOUNCED = 2


class Detail(NamedTuple):
    """The part of a payment that went to one loan."""

    loan_id: int
    loan_external_id: str
    amount: Decimal


class Payment(NamedTuple):
    """A payment as stored, with its customer's ids and its details, the oldest loan first.

    The answer of a change has what was recorded of it, too.
    """

    id: int
    customer_id: int
    external_id: str
    customer_external_id: str
    total_amount: Decimal
    status: int
    paid_at: datetime | None
    rejected_at: datetime | None
    rejection_kind: int | None
    rejection_reason: str | None
    created_at: datetime
    updated_at: datetime
    details: tuple[Detail, ...] = ()
    recorded: Recorded | None = None


class NewPayment(NamedTuple):
    """The command to take a payment."""

    external_id: str
    customer_external_id: str
    total_amount: Decimal
    origin: Origin


class PaymentRejection(NamedTuple):
    """The command to reject a payment, because it bounced."""

    external_id: str
    reason: str
    origin: Origin


def spread(total_amount: Decimal, loans: MutableMapping[int, ActiveLoan]) -> tuple[Detail, ...] | None:
    """Spread a payment over a customer's ACTIVE loans, given oldest first, and take it from their `outstanding`.

    Each loan is paid in full before the next; one paid in full is removed from `loans`. Returns None, and changes nothing,
    if the payment is more than the debt (R28 to R32).
    """
    details: list[Detail] = []
    rest = total_amount
    for loan in loans.values():
        amount = min(rest, loan.outstanding)
        details.append(Detail(loan.id, loan.external_id, amount))
        rest -= amount
        if not rest:
            break
    if rest:
        return None
    for detail in details:
        left = loans[detail.loan_id].outstanding - detail.amount
        if left:
            loans[detail.loan_id] = loans[detail.loan_id]._replace(outstanding=left)
        else:
            del loans[detail.loan_id]
    return tuple(details)


def before_its_bounce(payment: Payment, completed_at: datetime) -> Payment:
    """A payment as it was before it bounced; for others, the same."""
    if payment.rejection_kind != RejectionKind.BOUNCED:
        return payment
    return payment._replace(
        status=Status.COMPLETED, rejected_at=None, rejection_kind=None, rejection_reason=None, updated_at=completed_at
    )


def paid(detail: Detail, left: Decimal) -> LoanChange:
    """What a payment changes of a loan, of which it leaves so much."""
    status = _LOAN_ACTIVE if left else _LOAN_PAID
    before = left + detail.amount
    return LoanChange(detail.loan_id, detail.loan_external_id, _LOAN_ACTIVE, status, before, left)


def settled(change: LoanChange) -> LoanChange:
    """The loan that a payment paid in full, as the event that follows it has it: with nothing that changes."""
    return change._replace(status_before=change.status_after, outstanding_before=change.outstanding_after)


def restored(detail: Detail, left: Decimal) -> LoanChange:
    """What a bounce changes of a loan, of which so much was left (R35)."""
    status = _LOAN_ACTIVE if left else _LOAN_PAID
    after = left + detail.amount
    return LoanChange(detail.loan_id, detail.loan_external_id, status, _LOAN_ACTIVE, left, after)


def insufficient_debt(total_amount: Decimal, loans: Iterable[ActiveLoan]) -> str:
    """The reason, in words, of a payment of more than the ACTIVE debt."""
    debt = sum((loan.outstanding for loan in loans), Decimal(0))
    return f"The payment of {total_amount:.2f} is more than the active debt of {debt:.2f}."


def bounce(payment: Payment, reason: str, now: datetime) -> Payment | ServiceError:
    """Reject a COMPLETED payment; the caller adds the amounts of its details to its loans again (R34 to R36)."""
    if payment.status != Status.COMPLETED:
        status = Status(payment.status).name
        return PreconditionFailed(
            ErrorReason.PAYMENT_WRONG_STATUS,
            f"Only a COMPLETED payment can be rejected; '{payment.external_id}' is {status}.",
            payment.external_id,
            {"external_id": payment.external_id, "status": status},
        )
    return payment._replace(
        status=Status.REJECTED,
        rejected_at=now,
        rejection_kind=RejectionKind.BOUNCED,
        rejection_reason=reason,
        updated_at=now,
    )
