"""Events, as messages."""

from decimal import Decimal

from mo.customers.v1 import customers_pb2
from mo.journal.v1 import journal_pb2
from mo.loans.v1 import loans_pb2

from mo_grpc.journal.events import StoredEvent
from mo_grpc.rpc.conversions import money, timestamp

_Loan = journal_pb2.Event.LoanChange
_loan_status = loans_pb2.Loan.Status.ValueType
_status = customers_pb2.Customer.Status.ValueType


def to_message(event: StoredEvent) -> journal_pb2.Event:
    """A stored event, as a message."""
    customer = event.customer_external_id
    message = journal_pb2.Event(
        position=event.position,
        customer_external_id=customer,
        number=event.number,
        kind=journal_pb2.Event.Kind.ValueType(event.kind),
        recorded_at=timestamp(event.recorded_at),
        actor=event.actor,
        request_id=event.request_id,
        backfilled=event.backfilled,
        payment_external_id=event.payment_external_id or "",
        amount="" if event.amount is None else money(event.amount),
        balance_after=_balance(customer, event.score_after, event.debt_after),
        status_before=_status(event.status_before or 0),
        status_after=_status(event.status_after or 0),
        preapproved_at=timestamp(event.preapproved_at),
        hash=event.hash.hex(),
    )
    if event.score_before is not None and event.debt_before is not None:
        message.balance_before.CopyFrom(_balance(customer, event.score_before, event.debt_before))
    message.loans.extend(
        _Loan(
            external_id=external_id,
            status_before=_loan_status(status_before),
            status_after=_loan_status(status_after),
            outstanding_before=money(before),
            outstanding_after=money(after),
        )
        for external_id, status_before, status_after, before, after in zip(
            event.loan_external_ids,
            event.loan_statuses_before,
            event.loan_statuses_after,
            event.outstandings_before,
            event.outstandings_after,
            strict=True,
        )
    )
    return message


def _balance(customer: str, score: Decimal, debt: Decimal) -> customers_pb2.CustomerBalance:
    return customers_pb2.CustomerBalance(
        external_id=customer, score=money(score), total_debt=money(debt), available_amount=money(score - debt)
    )
