"""Every SQL statement about the journal."""

from collections.abc import Sequence

from mo_grpc.db.pipeline import Query, Statement
from mo_grpc.journal.rules import Event, LoanChange

TAIL = "SELECT number, recorded_at, hash FROM journal_events WHERE customer_id = {} ORDER BY number DESC LIMIT 1"
"""The SQL that reads the last event of the customer whose id an expression is."""

_APPEND = Query("""
    INSERT INTO journal_events (customer_id, number, kind, recorded_at, actor, request_id, backfilled, payment_id, amount,
        score_before, score_after, debt_before, debt_after, loan_ids, loan_statuses_before, loan_statuses_after,
        outstandings_before, outstandings_after, status_before, status_after, preapproved_at, version, hash)
    SELECT customer_id, number, kind, recorded_at, actor, coalesce(request_id, ''), false, payment_id, amount,
        score_before, score_after, debt_before, debt_after, loan_ids, loan_statuses_before, loan_statuses_after,
        outstandings_before, outstandings_after, status_before, status_after, preapproved_at, version, decode(hash, 'hex')
    FROM unnest(CAST(:events AS new_journal_event[]))
""")


def append(events: Sequence[Event]) -> list[Statement]:
    """The statement that writes events, for customers who are locked, or none if there are none."""
    return [Statement(_APPEND, {"events": f"{{{','.join(map(_literal, events))}}}"})] if events else []


def _literal(event: Event) -> str:
    """An element of an array of `new_journal_event`; one literal is read sooner than an array for each column.

    None of the values needs escaping (`rules.Origin`), but arrays of several elements must be quoted.
    """
    new, number, recorded_at, digest = event
    origin, customer = new.origin, new.customer
    about = ",,,"
    if customer:
        status_before, status_after, preapproved_at, version = customer
        about = f"{_or_null(status_before)},{status_after},{_or_null(preapproved_at)},{version}"
    return (
        f'"({new.customer_id},{number},{new.kind.value},{recorded_at},{origin.actor},{origin.request_id},'
        f"{_or_null(new.payment_id)},{_or_null(new.amount)},{_or_null(new.score_before)},{new.score_after},"
        f'{_or_null(new.debt_before)},{new.debt_after},{_loans(new.loans)},{about},{digest.hex()})"'
    )


def _or_null(value: object) -> object:
    return "" if value is None else value


def _loans(loans: Sequence[LoanChange]) -> str:
    """The five arrays of the loans, quoted within an array."""
    if not loans:
        return "{},{},{},{},{}"
    if len(loans) == 1:  # as most events have it, in a fifth of the time
        loan_id, _, status_before, status_after, before, after = loans[0]
        return f"{{{loan_id}}},{{{status_before or 0}}},{{{status_after}}},{{{before or 0}}},{{{after}}}"
    return ",".join(
        rf"\"{{{','.join(map(str, values))}}}\""
        for values in (
            [loan.loan_id for loan in loans],
            [loan.status_before or 0 for loan in loans],
            [loan.status_after for loan in loans],
            [loan.outstanding_before or 0 for loan in loans],
            [loan.outstanding_after for loan in loans],
        )
    )
