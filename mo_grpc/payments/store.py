"""Every SQL statement about payments. Commands come in batches, and each has a result of its own, in order."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models as customer_models
from mo_grpc.customers import store as customers
from mo_grpc.customers.accounts import Accounts
from mo_grpc.customers.rules import Customer
from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array, text_array
from mo_grpc.db.rows import NewRows, get_by_id, not_locked
from mo_grpc.errors import AlreadyExists, NotFound, ServiceError
from mo_grpc.journal import past
from mo_grpc.journal.rules import Kind, LoanChange
from mo_grpc.loans import models as loan_models
from mo_grpc.loans import store as loans
from mo_grpc.loans.rules import ActiveLoan
from mo_grpc.payments import models, rules
from mo_grpc.payments.rules import (
    RESOURCE,
    Detail,
    NewPayment,
    Payment,
    PaymentRejection,
    RejectionKind,
    Status,
)
from mo_grpc.rpc.binding import BoundCustomers

_TABLE = models.Payment.__table__
_DETAILS = models.PaymentDetail.__table__
_CUSTOMERS = customer_models.Customer.__table__
_LOANS = loan_models.Loan.__table__

# The details of a page are limited, so that it fits the 4 MiB that a gRPC client accepts; one payment has up to 10,000.
MAX_LISTED_DETAILS = 20_000

_COLUMNS = [
    _TABLE.c[name] if name != "customer_external_id" else _CUSTOMERS.c.external_id
    for name in Payment._fields
    if name not in ("details", "recorded")
]

_GET = Query(f"""
    SELECT {", ".join(map(str, _COLUMNS))} FROM payments JOIN customers ON customers.id = customer_id
    WHERE payments.external_id = ANY(:external_ids)
""")  # noqa: S608 - constants

_GET_DETAILS = Query("""
    SELECT payment_id, loan_id, loans.external_id, payment_details.amount, loans.outstanding
    FROM payment_details JOIN loans ON loans.id = loan_id
    WHERE payment_id = ANY(ARRAY(SELECT id FROM payments WHERE external_id = ANY(:external_ids)))
    ORDER BY payment_id, taken_at, loan_id
""")

_LIST_DETAILS = text("""
    SELECT payment_id, loan_id, loans.external_id, payment_details.amount
    FROM payment_details JOIN loans ON loans.id = loan_id
    WHERE payment_id = ANY(:payment_ids) ORDER BY payment_id DESC, taken_at, loan_id LIMIT :limit
""")

_NEW = NewRows(_TABLE, ["id", "customer_id", "external_id", "total_amount", "rejection_reason"])

# One statement for the payments, their details and the loans they pay, whatever their numbers. Only a refusal has a reason.
_CREATE = Query(f"""
    WITH new_payments AS (
        INSERT INTO payments ({_NEW.columns}, status, paid_at, rejected_at, rejection_kind, created_at, updated_at)
        SELECT {_NEW.columns},
            CASE WHEN rejection_reason IS NULL THEN {Status.COMPLETED} ELSE {Status.REJECTED} END,
            CASE WHEN rejection_reason IS NULL THEN now END, CASE WHEN rejection_reason IS NOT NULL THEN now END,
            CASE WHEN rejection_reason IS NOT NULL THEN {RejectionKind.INSUFFICIENT_DEBT} END, now, now
        FROM {_NEW.source}, CAST(:now AS timestamptz) AS now
        ORDER BY external_id
    ), new_details AS (
        INSERT INTO payment_details (payment_id, loan_id, customer_id, amount)
        SELECT * FROM unnest(CAST(:detail_payment_ids AS bigint[]), CAST(:detail_loan_ids AS bigint[]),
            CAST(:detail_customer_ids AS bigint[]), CAST(:detail_amounts AS numeric[]))
    )
    {loans.SET_OUTSTANDING}
""")  # noqa: S608 - constants

_LOCK = customers.owner_lock("payments")
_ACCOUNTS = customers.owner_accounts("payments")

_BOUNCE = Query(f"""
    WITH bounced AS (
        UPDATE payments SET status = {Status.REJECTED}, rejected_at = :now, rejection_kind = {RejectionKind.BOUNCED},
            rejection_reason = new.rejection_reason, updated_at = :now
        FROM unnest(CAST(:ids AS bigint[]), CAST(:rejection_reasons AS text[])) AS new (id, rejection_reason)
        WHERE payments.id = new.id
    )
    {loans.SET_OUTSTANDING}
""")  # noqa: S608 - constants


def _found(rows: Iterator[Rows]) -> tuple[dict[str, Payment], dict[int, Decimal]]:
    """The payments by id, and what is outstanding on the loans that they paid."""
    payments = next(rows)
    details: dict[int, list[Detail]] = defaultdict(list)
    outstanding: dict[int, Decimal] = {}
    for payment_id, loan_id, loan_external_id, amount, left in next(rows):
        details[payment_id].append(Detail(loan_id, loan_external_id, amount))
        outstanding[loan_id] = left
    return {row[2]: Payment._make((*row, tuple(details.get(row[0], ())), None)) for row in payments}, outstanding


get_payments = get_by_id(RESOURCE, [_GET, _GET_DETAILS], lambda rows: _found(rows)[0])
"""Get payments by id, with their details."""


async def _with_details(connection: AsyncConnection, payments: Sequence[Payment], limit: int) -> list[Payment]:
    """Add the details, which never change; the payments whose details do not fit in the `limit` are left out."""
    rows = await connection.execute(_LIST_DETAILS, {"payment_ids": [payment.id for payment in payments], "limit": limit + 1})
    details: dict[int, list[Detail]] = defaultdict(list)
    count = 0
    for payment_id, *detail in rows:
        details[payment_id].append(Detail._make(detail))
        count += 1
    if count > limit:
        # The details of the last payment may be incomplete, and those of older ones are missing.
        last = min(details)
        payments = [payment for payment in payments if payment.id > last]
    return [payment._replace(details=tuple(details.get(payment.id, ()))) for payment in payments]


async def one_payment(connection: AsyncConnection, external_id: str) -> Payment:
    """A payment with its details, on the transaction's snapshot.

    Raises:
        NotFound: there is none.
    """
    row = (await connection.execute(_list_statement().where(_TABLE.c.external_id == external_id))).one_or_none()
    if row is None:
        raise NotFound(RESOURCE, external_id)
    [payment] = await _with_details(connection, [Payment(*row)], MAX_LISTED_DETAILS)
    return payment


async def payment_as_of(connection: AsyncConnection, payment: Payment, instant: past.Instant) -> Payment:
    """A payment as of an instant.

    Raises:
        OutOfRange: the instant is in the future.
        PreconditionFailed: the payment did not exist yet.
    """
    standing = await past.standing(connection, payment.customer_id, instant)
    events = await past.payment_events(connection, payment.id, standing.number) if standing else []
    if not events:
        raise past.not_yet_created(RESOURCE, payment.external_id)
    return payment if len(events) > 1 else rules.before_its_bounce(payment, events[0].recorded_at)


async def list_payments(
    connection: AsyncConnection,
    customer_external_id: str,
    loan_external_id: str,
    status: int,
    before: int | None,
    limit: int,
    bound: BoundCustomers | None = None,
) -> tuple[list[Payment], bool]:
    """List payments, newest first, with ids below `before`; of a bound key, those of its customers alone.

    An empty or zero filter does not filter. Returns up to `limit` of them, fewer if they have many details, and whether there
    are more.
    """
    key = _TABLE.c.id
    statement = _list_statement()
    if bound is not None:
        statement = statement.where(customers.among(bound))
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
    found = [Payment(*row) for row in rows]
    page = await _with_details(connection, found[:limit], MAX_LISTED_DETAILS)
    return page, len(page) < len(found)


def _list_statement() -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS).select_from(_TABLE).join(_CUSTOMERS, _CUSTOMERS.c.id == _TABLE.c.customer_id)


def _lock_payers(commands: Sequence[NewPayment], locks: Locks) -> list[Statement]:
    payers = {command.customer_external_id for command in commands}
    return [
        *customers.lock(payers, locks),
        customers.read_accounts(payers),
        loans.active_loans(payers),
        _NEW.statement([command.external_id for command in commands]),
    ]


def _create_payments(commands: Sequence[NewPayment], rows: Iterator[Rows], locks: Locks) -> Decision[Payment]:
    payers = customers.locked(rows, locks)
    accounts = Accounts.read(rows)
    active = loans.found_active(rows)
    _, taken, ids = NewRows.prepared(rows)
    results = [
        _create(payment_id, command, payers, taken, active, accounts)
        for payment_id, command in zip(ids, commands, strict=False)
    ]
    created = [result for result in results if isinstance(result, Payment)]
    if not created:
        return Decision(results)
    return Decision(results, [Statement(_CREATE, _created(created, active, accounts.now)), *accounts.events()])


def _create(
    payment_id: int,
    command: NewPayment,
    payers: customers.LockedCustomers,
    taken: set[str],
    active: Mapping[int, dict[int, ActiveLoan]],
    accounts: Accounts,
) -> Payment | ServiceError | Locked:
    """Decide on one command; a payment's id is taken, and what it pays reduces the loans, for the commands after it."""
    customer = payers.customers.get(command.customer_external_id)
    if customer is None:
        return payers.missing(command.customer_external_id)
    if command.external_id in taken:
        return AlreadyExists(RESOURCE, command.external_id)
    if stale := accounts.stale(customer.id, command.origin):
        return stale
    taken.add(command.external_id)
    now = accounts.now
    details = rules.spread(command.total_amount, active[customer.id])
    completed = details is not None
    payment = Payment(
        id=payment_id,
        customer_id=customer.id,
        external_id=command.external_id,
        customer_external_id=customer.external_id,
        total_amount=command.total_amount,
        status=Status.COMPLETED if completed else Status.REJECTED,
        paid_at=now if completed else None,
        rejected_at=None if completed else now,
        rejection_kind=None if completed else RejectionKind.INSUFFICIENT_DEBT,
        rejection_reason=None if completed else rules.insufficient_debt(command.total_amount, active[customer.id].values()),
        created_at=now,
        updated_at=now,
        details=details or (),
    )
    return _recorded(payment, customer, command, accounts, active[customer.id])


def _recorded(
    payment: Payment, customer: Customer, command: NewPayment, accounts: Accounts, active: Mapping[int, ActiveLoan]
) -> Payment:
    """Record a new payment and the loans that it paid in full, and add what was recorded of it."""
    debt = accounts.debt(customer.id)
    if payment.status == Status.REJECTED:
        kind, changes, left = Kind.PAYMENT_REFUSED, [], debt
    else:
        lefts = [active[detail.loan_id].outstanding if detail.loan_id in active else Decimal(0) for detail in payment.details]
        changes = [rules.paid(detail, rest) for detail, rest in zip(payment.details, lefts, strict=True)]
        kind, left = Kind.PAYMENT_COMPLETED, debt._replace(total=debt.total - payment.total_amount)
    about = payment.id, payment.external_id
    recorded = accounts.record(kind, customer, command.origin, left, changes, payment.total_amount, *about)
    for detail, change in zip(payment.details, changes, strict=True):
        if not change.outstanding_after:
            accounts.record(Kind.LOAN_PAID, customer, command.origin, left, [rules.settled(change)], detail.amount, *about)
    return payment._replace(recorded=recorded)


def _created(created: Sequence[Payment], left: Mapping[int, dict[int, ActiveLoan]], now: datetime) -> dict[str, object]:
    """What to write: the payments, their details, and what is `left` of each loan that they paid."""
    details = [(payment, detail) for payment in created for detail in payment.details]
    outstanding: dict[int, Decimal] = {}
    for payment, detail in details:
        loan = left[payment.customer_id].get(detail.loan_id)
        outstanding[detail.loan_id] = loan.outstanding if loan else Decimal(0)
    return {
        "now": now,
        **_NEW.parameters(created),
        "detail_payment_ids": array(payment.id for payment, _ in details),
        "detail_loan_ids": array(detail.loan_id for _, detail in details),
        "detail_customer_ids": array(payment.customer_id for payment, _ in details),
        "detail_amounts": array(detail.amount for _, detail in details),
        **loans.outstanding_parameters(outstanding),
    }


create_payments = BatchWrite(_lock_payers, _create_payments)
"""Take payments, one command after the other, each spread over the debt that is left after those before it."""


def _lock_owners(commands: Sequence[PaymentRejection], locks: Locks) -> list[Statement]:
    wanted = {"external_ids": array(sorted({command.external_id for command in commands}))}
    return [
        _LOCK.statement(wanted, locks),
        Statement(_GET, wanted),
        Statement(_GET_DETAILS, wanted),
        Statement(_ACCOUNTS, wanted),
    ]


def _bounce_payments(commands: Sequence[PaymentRejection], rows: Iterator[Rows], locks: Locks) -> Decision[Payment]:
    owners = customers.locked_owners(rows)
    payments, outstanding = _found(rows)
    accounts = Accounts.read(rows)
    now = accounts.now
    results: list[Payment | ServiceError | Locked] = []
    bounced: list[Payment] = []
    for command in commands:
        payment = payments.get(command.external_id)
        if payment is None or payment.customer_id not in owners:
            results.append(not_locked(RESOURCE, command.external_id, locks, exists=payment is not None))
            continue
        owner = owners[payment.customer_id]
        result = rules.bounce(payment, command.reason, now)
        if isinstance(result, Payment) and (stale := accounts.stale(owner.id, command.origin)):
            result = stale
        elif isinstance(result, Payment):
            debt = accounts.debt(owner.id)
            more = debt._replace(total=debt.total + result.total_amount)
            changes = _restore(outstanding, result)
            about = result.id, result.external_id
            recorded = accounts.record(Kind.PAYMENT_BOUNCED, owner, command.origin, more, changes, result.total_amount, *about)
            payments[command.external_id] = result = result._replace(recorded=recorded)
            bounced.append(result)
        results.append(result)
    if not bounced:
        return Decision(results)
    touched = {detail.loan_id for payment in bounced for detail in payment.details}
    new = {
        "now": now,
        "ids": array(payment.id for payment in bounced),
        "rejection_reasons": text_array(payment.rejection_reason for payment in bounced),
        **loans.outstanding_parameters({loan_id: outstanding[loan_id] for loan_id in touched}),
    }
    return Decision(results, [Statement(_BOUNCE, new), *accounts.events()])


def _restore(outstanding: dict[int, Decimal], bounced: Payment) -> list[LoanChange]:
    """Add to `outstanding` what the payment had paid; return what that changes."""
    changes = [rules.restored(detail, outstanding[detail.loan_id]) for detail in bounced.details]
    for change in changes:
        outstanding[change.loan_id] = change.outstanding_after
    return changes


bounce_payments = BatchWrite(_lock_owners, _bounce_payments)
"""Reject payments that bounced, one command after the other."""
