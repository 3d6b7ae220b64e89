"""Why a payment paid what it paid: recomputed from the journal, and compared with what was done (docs/rules.md, R94)."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.errors import JournalInconsistent
from mo_grpc.journal import past
from mo_grpc.journal.past import Written, WrittenChange
from mo_grpc.journal.rules import Kind, LoanChange
from mo_grpc.loans.rules import ActiveLoan, PastLoan
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.loans.store import past_loans
from mo_grpc.payments import rules, store
from mo_grpc.payments.rules import Detail, Payment, RejectionKind

_NOTHING = Decimal(0)

# Otherwise the payment might bounce between two of the reads.
_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


class Outcome(IntEnum):
    """What a payment did for a loan; the numbers are those of the protos."""

    PAID_IN_FULL = 1
    GOT_THE_REST = 2
    NOTHING_LEFT = 3
    PAYMENT_REFUSED = 4


class Considered(NamedTuple):
    """A loan as it was before a payment, and what it got."""

    loan: PastLoan
    amount: Decimal
    outcome: Outcome


class Explanation(NamedTuple):
    """A payment, the loans that were considered, and, if it bounced, what that changed."""

    payment: Payment
    considered: Sequence[Considered]
    restored: Sequence[LoanChange] | None


async def explain(connection: AsyncConnection, external_id: str) -> Explanation:
    """Explain a payment, in a transaction whose first statement this runs.

    Raises:
        NotFound: there is no such payment.
        JournalInconsistent: what the journal leads to is not what was done.
    """
    await connection.execute(_ONE_SNAPSHOT)
    payment = await store.one_payment(connection, external_id)
    events = await past.payment_events(connection, payment.id)
    before = [await past_loans(connection, payment.customer_id, event.number - 1) for event in events]
    bounced = payment.rejection_kind == RejectionKind.BOUNCED
    if len(events) == 1 + bounced:
        active = [loan for loan in before[0] if loan.status == LoanStatus.ACTIVE]
        details = respread(payment.total_amount, active)
        restored = restore(payment, before[1]) if bounced else None
        expected = [decision(payment.total_amount, active, details)]
        if restored is not None:
            expected.append(Written(Kind.PAYMENT_BOUNCED, payment.total_amount, _written(restored)))
        if payment.details == (details or ()) and [event.written for event in events] == expected:
            return Explanation(payment, outcomes(active, details), restored)
    raise JournalInconsistent(external_id)


def respread(total_amount: Decimal, active: Iterable[PastLoan]) -> tuple[Detail, ...] | None:
    """Spread a payment of the past over the loans that were ACTIVE; None if it was more than they were."""
    loans = {loan.id: ActiveLoan(loan.id, loan.external_id, loan.outstanding) for loan in active}
    return rules.spread(total_amount, loans)


def decision(total_amount: Decimal, active: Iterable[PastLoan], details: Sequence[Detail] | None) -> Written:
    """What a payment that is spread like this writes into the journal."""
    outstanding = {loan.id: loan.outstanding for loan in active}
    changes = [rules.paid(detail, outstanding[detail.loan_id] - detail.amount) for detail in details or ()]
    return Written(Kind.PAYMENT_REFUSED if details is None else Kind.PAYMENT_COMPLETED, total_amount, _written(changes))


def restore(payment: Payment, loans: Iterable[PastLoan]) -> list[LoanChange]:
    """What the bounce of a payment changes of its loans."""
    outstanding = {loan.id: loan.outstanding for loan in loans}
    return [rules.restored(detail, outstanding.get(detail.loan_id, _NOTHING)) for detail in payment.details]


def outcomes(active: Iterable[PastLoan], details: Sequence[Detail] | None) -> list[Considered]:
    """What each loan got of a payment that was spread like this, and why."""
    if details is None:
        return [Considered(loan, _NOTHING, Outcome.PAYMENT_REFUSED) for loan in active]
    got = {detail.loan_id: detail.amount for detail in details}
    return [Considered(loan, got.get(loan.id, _NOTHING), _outcome(loan, got.get(loan.id, _NOTHING))) for loan in active]


def _outcome(loan: PastLoan, amount: Decimal) -> Outcome:
    if amount == loan.outstanding:
        return Outcome.PAID_IN_FULL
    return Outcome.GOT_THE_REST if amount else Outcome.NOTHING_LEFT


def _written(changes: Iterable[LoanChange]) -> list[WrittenChange]:
    """Changes as events have them."""
    return [
        (
            change.loan_id,
            change.status_before or 0,
            change.status_after,
            change.outstanding_before or _NOTHING,
            change.outstanding_after,
        )
        for change in changes
    ]
