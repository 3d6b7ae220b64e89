"""Each customer without events gets those that the rows tell of (docs/rules.md, R84).

The rows do not tell what a credit line or a customer's status was before: all events have those of today. They are written in
short transactions of their own, so that nobody waits for long, and a migration that was interrupted continues where it was.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from alembic import op
from psycopg.rows import namedtuple_row

from mo_grpc.journal.rules import CustomerChange, Event, Kind, LoanChange, NewEvent, Origin, Tail, follow

revision = "0040"
down_revision = "0020"
branch_labels = None
depends_on = None

CUSTOMERS_AT_ONCE = 500

PENDING, ACTIVE, REJECTED, PAID = 1, 2, 3, 4

# What these make of a loan, and of the debt: the status before and after, and how often its amount is added.
TRANSITIONS = {
    Kind.LOAN_CREATED: (None, PENDING, 1),
    Kind.LOAN_ACTIVATED: (PENDING, ACTIVE, 0),
    Kind.LOAN_REJECTED: (PENDING, REJECTED, -1),
}

# The order of what has the same time. The payments of one batch, completed or refused, have.
RANKS = {
    Kind.LOAN_CREATED: 1,
    Kind.LOAN_ACTIVATED: 2,
    Kind.LOAN_REJECTED: 2,
    Kind.PAYMENT_COMPLETED: 3,
    Kind.PAYMENT_REFUSED: 3,
    Kind.PAYMENT_BOUNCED: 4,
}

LOCK = "SELECT id FROM customers WHERE id > %s ORDER BY id LIMIT %s FOR NO KEY UPDATE"

# Each is read after the lock, so that the rows are those of now.
WITH_EVENTS = "SELECT customer_id FROM journal_events WHERE customer_id = ANY(%s) AND number = 1"
CUSTOMERS = "SELECT id, external_id, status, score, preapproved_at, version, created_at FROM customers WHERE id = ANY(%s)"
LOANS = """
    SELECT id, customer_id, external_id, amount, status, created_at, taken_at, updated_at FROM loans WHERE customer_id = ANY(%s)
"""
PAYMENTS = """
    SELECT id, customer_id, external_id, total_amount, paid_at, rejected_at
    FROM payments WHERE customer_id = ANY(%s)
"""
DETAILS = """
    SELECT payment_id, loan_id, payment_details.amount FROM payments JOIN payment_details ON payment_id = payments.id
        JOIN loans ON loans.id = loan_id
    WHERE payments.customer_id = ANY(%s) ORDER BY payment_id, taken_at, loan_id
"""
WRITE = """
    COPY journal_events (customer_id, number, kind, recorded_at, actor, request_id, backfilled, payment_id, amount,
        score_before, score_after, debt_before, debt_after, loan_ids, loan_statuses_before, loan_statuses_after,
        outstandings_before, outstandings_after, status_before, status_after, preapproved_at, version, hash)
    FROM STDIN
"""

NOBODY = Origin("")
NOTHING = Decimal("0.00")

Row = Any
"""A row of one of the queries, whose columns are its attributes."""


class Step(NamedTuple):
    """Something that happened to a customer's loan or payment."""

    at: datetime
    kind: Kind
    row: Row


def upgrade() -> None:
    if op.get_context().as_sql:
        op.execute("-- Writes the events of all customers who have none.")
        return
    with op.get_context().autocommit_block():
        connection = op.get_bind().connection.driver_connection
        # The statistics may be older than the rows.
        connection.execute("SET enable_seqscan = off")
        backfill(connection)
        connection.execute("RESET enable_seqscan")


def downgrade() -> None:
    """The events stay: they belong to the journal, which an older migration made."""


def backfill(connection: "psycopg.Connection[Any]") -> int:
    """Write the events of all customers who have none, on a connection in autocommit mode; return how many were written."""
    written = last = 0
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        while True:
            with connection.transaction():
                ids = [row.id for row in cursor.execute(LOCK, [last, CUSTOMERS_AT_ONCE])]
                if not ids:
                    return written
                last = ids[-1]
                with_events = {row.customer_id for row in cursor.execute(WITH_EVENTS, [ids])}
                written += _write(cursor, [each for each in ids if each not in with_events])


def _write(cursor: "psycopg.Cursor[Row]", ids: Sequence[int]) -> int:
    customers = cursor.execute(CUSTOMERS, [ids]).fetchall()
    loans = _by(cursor.execute(LOANS, [ids]), 1)
    payments = _by(cursor.execute(PAYMENTS, [ids]), 1)
    details = _by(cursor.execute(DETAILS, [ids]), 0)
    lines = [
        _line(event)
        for customer in customers
        for event in _chained(customer, _events(customer, loans[customer.id], payments[customer.id], details))
    ]
    with cursor.copy(WRITE) as copy:
        copy.write("".join(lines))
    return len(lines)


def _by(rows: Iterator[Row], column: int) -> Mapping[int, list[Row]]:
    """Rows by one of their columns, in their order."""
    found: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return found


def _chained(customer: Row, events: Iterator[tuple[datetime, NewEvent]]) -> Iterator[Event]:
    tail = None
    for at, new in events:
        event = follow(tail, new, at)
        tail = Tail(event.number, event.recorded_at, event.hash)
        yield event


def _events(
    customer: Row, loans: Sequence[Row], payments: Sequence[Row], details: Mapping[int, Sequence[Row]]
) -> Iterator[tuple[datetime, NewEvent]]:
    """What happened to a customer, and when, in order."""
    names = {loan.id: loan.external_id for loan in loans}
    left: dict[int, Decimal] = {}
    debt = NOTHING

    def event(kind: Kind, more: Decimal, changes: Sequence[LoanChange], amount: Decimal, payment: Row = None) -> NewEvent:
        nonlocal debt
        before, debt = debt, debt + more
        about = (payment.id, payment.external_id) if payment else (None, "")
        balances = customer.score, customer.score, before, debt
        return NewEvent(customer.id, customer.external_id, kind, NOBODY, *balances, changes, *about, amount)

    today = CustomerChange(None, customer.status, customer.preapproved_at, customer.version)
    balances = None, customer.score, None, debt
    created = NewEvent(customer.id, customer.external_id, Kind.CUSTOMER_CREATED, NOBODY, *balances, customer=today)
    yield customer.created_at, created
    for at, kind, row in _steps(loans, payments, details):
        if kind in TRANSITIONS:
            status_before, status_after, sign = TRANSITIONS[kind]
            before = row.amount if status_before else None
            left[row.id] = row.amount
            change = LoanChange(row.id, row.external_id, status_before, status_after, before, row.amount)
            yield at, event(kind, sign * row.amount, [change], row.amount)
            continue
        parts = details[row.id] if kind != Kind.PAYMENT_REFUSED else []
        sign = 1 if kind == Kind.PAYMENT_BOUNCED else -1
        changes = [_pay(left, part.loan_id, names[part.loan_id], sign * part.amount) for part in parts]
        yield at, event(kind, sign * sum((part.amount for part in parts), NOTHING), changes, row.total_amount, row)
        for part, change in zip(parts, changes, strict=True):
            if kind == Kind.PAYMENT_COMPLETED and not change.outstanding_after:
                settled = change._replace(status_before=PAID, outstanding_before=change.outstanding_after)
                yield at, event(Kind.LOAN_PAID, NOTHING, [settled], part.amount, row)


def _pay(left: dict[int, Decimal], loan_id: int, external_id: str, more: Decimal) -> LoanChange:
    """Change what is left of a loan."""
    before = left[loan_id]
    left[loan_id] = after = before + more
    return LoanChange(loan_id, external_id, _status(before), _status(after), before, after)


def _status(outstanding: Decimal) -> int:
    return ACTIVE if outstanding else PAID


def _steps(loans: Sequence[Row], payments: Sequence[Row], details: Mapping[int, Sequence[Row]]) -> list[Step]:
    """What happened to loans and payments, in order.

    It is the order of the times. Where these contradict it, a loan is created before it is taken, and taken before it is paid,
    and a payment is made before it bounces, all the same.
    """
    steps: list[Step] = []
    payable: dict[int, datetime] = {}
    for loan in loans:
        steps.append(Step(loan.created_at, Kind.LOAN_CREATED, loan))
        payable[loan.id] = max(loan.created_at, loan.taken_at or loan.created_at)
        if loan.status == REJECTED:
            steps.append(Step(max(loan.created_at, loan.updated_at), Kind.LOAN_REJECTED, loan))
        elif loan.taken_at:
            steps.append(Step(payable[loan.id], Kind.LOAN_ACTIVATED, loan))
    for payment in payments:
        if not payment.paid_at:
            steps.append(Step(payment.rejected_at, Kind.PAYMENT_REFUSED, payment))
            continue
        paid_at = max([payment.paid_at, *(payable[part.loan_id] for part in details[payment.id])])
        steps.append(Step(paid_at, Kind.PAYMENT_COMPLETED, payment))
        if payment.rejected_at:
            steps.append(Step(max(paid_at, payment.rejected_at), Kind.PAYMENT_BOUNCED, payment))
    return sorted(steps, key=lambda step: (step.at, RANKS[step.kind], step.row.id))


def _line(event: Event) -> str:
    """A line of COPY; none of the values needs escaping."""
    new, loans, customer = event.new, event.new.loans, event.new.customer
    values = (
        *(new.customer_id, event.number, int(new.kind), event.recorded_at, "", "", True, new.payment_id, new.amount),
        *(new.score_before, new.score_after, new.debt_before, new.debt_after),
        _array(loan.loan_id for loan in loans),
        _array(loan.status_before or 0 for loan in loans),
        _array(loan.status_after for loan in loans),
        _array(loan.outstanding_before or 0 for loan in loans),
        _array(loan.outstanding_after for loan in loans),
        *(customer or (None, None, None, None)),
        f"\\\\x{event.hash.hex()}",
    )
    return "\t".join("\\N" if value is None else str(value) for value in values) + "\n"


def _array(values: Iterable[object]) -> str:
    return f"{{{','.join(map(str, values))}}}"
