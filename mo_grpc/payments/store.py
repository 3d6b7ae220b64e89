"""Every SQL statement about payments. Commands come in sets, and each has a result of its own, in order."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models as customer_models
from mo_grpc.customers import store as customers
from mo_grpc.db.coalescing import Locked, Locks
from mo_grpc.errors import AlreadyExists, NotFound, ServiceError
from mo_grpc.loans import models as loan_models
from mo_grpc.payments import models, rules
from mo_grpc.payments.rules import (
    RESOURCE,
    Detail,
    NewPayment,
    OpenLoan,
    Payment,
    PaymentRejection,
    RejectionKind,
    Status,
)

_TABLE = models.Payment.__table__
_DETAILS = models.PaymentDetail.__table__
_CUSTOMERS = customer_models.Customer.__table__
_LOANS = loan_models.Loan.__table__

# A page's details are bounded, so that it fits the 4 MiB that a gRPC client accepts; one payment has up to 10,000.
MAX_LISTED_DETAILS = 20_000

_GET = text("""
    SELECT payments.id, customer_id, payments.external_id, customers.external_id, total_amount, payments.status, paid_at,
        rejected_at, rejection_kind, rejection_reason, payments.created_at, payments.updated_at
    FROM payments JOIN customers ON customers.id = customer_id
    WHERE payments.external_id = ANY(:external_ids)
""")

_GET_DETAILS = text("""
    SELECT payment_id, loan_id, loans.external_id, payment_details.amount
    FROM payment_details JOIN loans ON loans.id = loan_id
    WHERE payment_id = ANY(:payment_ids) ORDER BY payment_id DESC, taken_at, loan_id LIMIT :limit
""")

_OPEN_LOANS = text("""
    SELECT customer_id, id, external_id, outstanding FROM loans
    WHERE customer_id = ANY(:customer_ids) AND status = 2 ORDER BY customer_id, taken_at, id
""")

# The ids are drawn beforehand, so that they follow the order of the commands though the rows are inserted in another.
_PREPARE = text("""
    SELECT mo_clock(),
        ARRAY(SELECT external_id FROM payments WHERE external_id = ANY(:external_ids)),
        ARRAY(SELECT nextval('payments_id_seq') FROM generate_series(1, :count))
""")

# One statement for the payments, their details and the loans they pay, whatever their numbers.
_CREATE = text("""
    WITH new_payments AS (
        INSERT INTO payments (id, customer_id, external_id, total_amount, status, paid_at, rejected_at, rejection_kind,
            rejection_reason, created_at, updated_at)
        SELECT id, customer_id, external_id, total_amount, status, paid_at, rejected_at, rejection_kind, rejection_reason,
            created_at, created_at
        FROM unnest(CAST(:ids AS bigint[]), CAST(:customer_ids AS bigint[]), CAST(:external_ids AS text[]),
            CAST(:total_amounts AS numeric[]), CAST(:statuses AS smallint[]), CAST(:paid_ats AS timestamptz[]),
            CAST(:rejected_ats AS timestamptz[]), CAST(:rejection_kinds AS smallint[]), CAST(:rejection_reasons AS text[]),
            CAST(:created_ats AS timestamptz[]))
            AS new (id, customer_id, external_id, total_amount, status, paid_at, rejected_at, rejection_kind,
                rejection_reason, created_at)
        ORDER BY external_id
    ), new_details AS (
        INSERT INTO payment_details (payment_id, loan_id, customer_id, amount)
        SELECT * FROM unnest(CAST(:detail_payment_ids AS bigint[]), CAST(:detail_loan_ids AS bigint[]),
            CAST(:detail_customer_ids AS bigint[]), CAST(:detail_amounts AS numeric[]))
    )
    UPDATE loans SET outstanding = new.outstanding, status = CASE WHEN new.outstanding = 0 THEN 4 ELSE 2 END,
        updated_at = new.updated_at
    FROM unnest(CAST(:loan_ids AS bigint[]), CAST(:outstandings AS numeric[]), CAST(:updated_ats AS timestamptz[]))
        AS new (id, outstanding, updated_at)
    WHERE loans.id = new.id
""")

_LOCK_OWNERS = """
    SELECT id FROM customers
    WHERE id IN (SELECT customer_id FROM payments WHERE external_id = ANY(:external_ids)) ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_ALL_OWNERS = text(_LOCK_OWNERS)
_LOCK_FREE_OWNERS = text(f"{_LOCK_OWNERS} SKIP LOCKED")

_OUTSTANDING = text("SELECT id, outstanding FROM loans WHERE id = ANY(:loan_ids)")

_NOW = text("SELECT mo_clock()")

_BOUNCE = text("""
    WITH bounced AS (
        UPDATE payments SET status = 2, rejected_at = new.rejected_at, rejection_kind = 2,
            rejection_reason = new.rejection_reason, updated_at = new.rejected_at
        FROM unnest(CAST(:ids AS bigint[]), CAST(:rejected_ats AS timestamptz[]), CAST(:rejection_reasons AS text[]))
            AS new (id, rejected_at, rejection_reason)
        WHERE payments.id = new.id
    )
    UPDATE loans SET outstanding = new.outstanding, status = 2, updated_at = :now
    FROM unnest(CAST(:loan_ids AS bigint[]), CAST(:outstandings AS numeric[])) AS new (id, outstanding)
    WHERE loans.id = new.id
""")


async def get_payments(connection: AsyncConnection, external_ids: Sequence[str]) -> list[Payment | NotFound]:
    """Get payments by id, with their details."""
    rows = await connection.execute(_GET, {"external_ids": list(set(external_ids))})
    bare = [Payment._make((*row, ())) for row in rows]
    found = {payment.external_id: payment for payment in await _with_details(connection, bare)}
    return [found.get(external_id) or NotFound(RESOURCE, external_id) for external_id in external_ids]


async def _with_details(connection: AsyncConnection, payments: Sequence[Payment], limit: int | None = None) -> list[Payment]:
    """Add the details, which never change; with a `limit`, the payments whose details do not fit in it are left out."""
    rows = await connection.execute(
        _GET_DETAILS, {"payment_ids": [payment.id for payment in payments], "limit": limit + 1 if limit else None}
    )
    details: dict[int, list[Detail]] = defaultdict(list)
    count = 0
    for payment_id, *detail in rows:
        details[payment_id].append(Detail._make(detail))
        count += 1
    if limit and count > limit:
        # The last one's details may be cut short, and older ones have none here.
        last = min(details)
        payments = [payment for payment in payments if payment.id > last]
    return [payment._replace(details=tuple(details.get(payment.id, ()))) for payment in payments]


async def list_payments(
    connection: AsyncConnection,
    customer_external_id: str,
    loan_external_id: str,
    status: int,
    before: int | None,
    limit: int,
) -> tuple[list[Payment], bool]:
    """List payments, newest first, from below the id `before`; an empty or zero filter does not filter.

    Answers up to `limit` of them, fewer when they have many details, and whether there are more.
    """
    key = _TABLE.c.id
    statement = _list_statement()
    if loan_external_id:
        loan = select(_LOANS.c.id).where(_LOANS.c.external_id == loan_external_id).scalar_subquery()
        key = _DETAILS.c.payment_id
        statement = statement.join(_DETAILS, _DETAILS.c.payment_id == _TABLE.c.id).where(_DETAILS.c.loan_id == loan)
    if customer_external_id:
        owner = select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.external_id == customer_external_id).scalar_subquery()
        statement = statement.where(_TABLE.c.customer_id == owner)
    if status:
        statement = statement.where(_TABLE.c.status == status)
    if before is not None:
        statement = statement.where(key < before)
    rows = await connection.execute(statement.order_by(key.desc()).limit(limit + 1))
    found = [Payment._make((*row, ())) for row in rows]
    page = await _with_details(connection, found[:limit], MAX_LISTED_DETAILS)
    return page, len(page) < len(found)


def _list_statement() -> Select[*tuple[Any, ...]]:
    names = Payment._fields[:-1]
    columns = [_TABLE.c[name] if name != "customer_external_id" else _CUSTOMERS.c.external_id for name in names]
    return select(*columns).select_from(_TABLE).join(_CUSTOMERS, _CUSTOMERS.c.id == _TABLE.c.customer_id)


async def create_payments(
    connection: AsyncConnection, commands: Sequence[NewPayment], locks: Locks
) -> list[Payment | ServiceError | Locked]:
    """Take payments, one command after the other, each spread over what those before it left of its customer's debt."""
    owners = await customers.lock(connection, (command.customer_external_id for command in commands), locks)
    loans: dict[int, dict[int, OpenLoan]] = {customer.id: {} for customer in owners.customers.values()}
    for customer_id, *loan in await connection.execute(_OPEN_LOANS, {"customer_ids": list(loans)}):
        loans[customer_id][loan[0]] = OpenLoan._make(loan)
    new_ids = [command.external_id for command in commands]
    prepared = await connection.execute(_PREPARE, {"external_ids": new_ids, "count": len(commands)})
    now, taken, ids = prepared.one()
    taken = set(taken)
    results = [
        _create(payment_id, command, owners, taken, loans, now) for payment_id, command in zip(ids, commands, strict=True)
    ]
    created = [result for result in results if isinstance(result, Payment)]
    if created:
        await connection.execute(_CREATE, _created_rows(created, loans))
    return results


def _create(
    payment_id: int,
    command: NewPayment,
    owners: customers.LockedCustomers,
    taken: set[str],
    loans: dict[int, dict[int, OpenLoan]],
    now: datetime,
) -> Payment | ServiceError | Locked:
    """Decide on one command; a payment takes its id, and what it pays of the loans, from those that follow."""
    customer = owners.customers.get(command.customer_external_id)
    if customer is None:
        return owners.missing(command.customer_external_id)
    if command.external_id in taken:
        return AlreadyExists(RESOURCE, command.external_id)
    taken.add(command.external_id)
    details = rules.spread(command.total_amount, loans[customer.id])
    completed = details is not None
    return Payment(
        id=payment_id,
        customer_id=customer.id,
        external_id=command.external_id,
        customer_external_id=customer.external_id,
        total_amount=command.total_amount,
        status=Status.COMPLETED if completed else Status.REJECTED,
        paid_at=now if completed else None,
        rejected_at=None if completed else now,
        rejection_kind=None if completed else RejectionKind.INSUFFICIENT_DEBT,
        rejection_reason=None if completed else rules.insufficient_debt(command.total_amount, loans[customer.id].values()),
        created_at=now,
        updated_at=now,
        details=details or (),
    )


def _created_rows(created: Sequence[Payment], left: dict[int, dict[int, OpenLoan]]) -> dict[str, object]:
    """The columns to write: the payments, their details, and what is `left` of each loan they touched."""
    details = [(payment, detail) for payment in created for detail in payment.details]
    touched = {detail.loan_id: payment.customer_id for payment, detail in details}
    open_loans = {loan_id: left[customer_id].get(loan_id) for loan_id, customer_id in touched.items()}
    return {
        "ids": [payment.id for payment in created],
        "customer_ids": [payment.customer_id for payment in created],
        "external_ids": [payment.external_id for payment in created],
        "total_amounts": [payment.total_amount for payment in created],
        "statuses": [int(payment.status) for payment in created],
        "paid_ats": [payment.paid_at for payment in created],
        "rejected_ats": [payment.rejected_at for payment in created],
        "rejection_kinds": [payment.rejection_kind for payment in created],
        "rejection_reasons": [payment.rejection_reason for payment in created],
        "created_ats": [payment.created_at for payment in created],
        "detail_payment_ids": [payment.id for payment, _ in details],
        "detail_loan_ids": [detail.loan_id for _, detail in details],
        "detail_customer_ids": [payment.customer_id for payment, _ in details],
        "detail_amounts": [detail.amount for _, detail in details],
        "loan_ids": list(open_loans),
        "outstandings": [loan.outstanding if loan else Decimal(0) for loan in open_loans.values()],
        "updated_ats": [created[0].created_at] * len(open_loans),
    }


async def bounce_payments(
    connection: AsyncConnection, commands: Sequence[PaymentRejection], locks: Locks
) -> list[Payment | ServiceError | Locked]:
    """Take payments back, one command after the other."""
    wanted = {"external_ids": sorted({command.external_id for command in commands})}
    rows = await connection.execute(_LOCK_FREE_OWNERS if locks is Locks.SKIP else _LOCK_ALL_OWNERS, wanted)
    owners = set(rows.scalars())
    found = await get_payments(connection, wanted["external_ids"])
    payments = {payment.external_id: payment for payment in found if isinstance(payment, Payment)}
    outstanding = await _outstanding(connection, payments.values())
    now = (await connection.execute(_NOW)).scalar_one()
    results: list[Payment | ServiceError | Locked] = []
    bounced: list[Payment] = []
    touched: set[int] = set()
    for command in commands:
        payment = payments.get(command.external_id)
        if payment is None or payment.customer_id not in owners:
            # The owner is locked elsewhere, or the payment was created after the lock: look again, patiently.
            unlocked = payment and locks is not Locks.WAIT
            results.append(Locked.LOCKED if unlocked else NotFound(RESOURCE, command.external_id))
            continue
        result = rules.bounce(payment, command.reason, now)
        if isinstance(result, ServiceError):
            results.append(result)
            continue
        payments[command.external_id] = result
        for detail in result.details:
            outstanding[detail.loan_id] += detail.amount
            touched.add(detail.loan_id)
        results.append(result)
        bounced.append(result)
    if bounced:
        await connection.execute(
            _BOUNCE,
            {
                "ids": [payment.id for payment in bounced],
                "rejected_ats": [payment.rejected_at for payment in bounced],
                "rejection_reasons": [payment.rejection_reason for payment in bounced],
                "loan_ids": list(touched),
                "outstandings": [outstanding[loan_id] for loan_id in touched],
                "now": now,
            },
        )
    return results


async def _outstanding(connection: AsyncConnection, payments: Iterable[Payment]) -> dict[int, Decimal]:
    """What is outstanding on the loans that these payments paid."""
    loan_ids = {detail.loan_id for payment in payments for detail in payment.details}
    rows = await connection.execute(_OUTSTANDING, {"loan_ids": sorted(loan_ids)})
    return {row[0]: row[1] for row in rows}
