"""What single pages read: the user who is logged in, a customer with loans and payments, a loan, an import, an API key."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers.debt import OPEN
from mo_grpc.customers.rules import available_amount
from mo_grpc.journal.rules import Kind
from mo_grpc.loans.rules import Status
from mo_grpc.web.admin.rules import Person

Rows = Sequence[Mapping[str, Any]]

MAX_SHOWN = 40
"""Loans and payments in one chart; more would be too small to see."""
EVENTS_SHOWN = 20
"""Events on one page of a customer's."""

_PERSON = text("""
    SELECT users.id, email, first_name, last_name, role, otp_enabled_at IS NOT NULL
    FROM sessions JOIN users ON users.id = user_id
    WHERE sessions.id = :login AND revoked_at IS NULL AND expires_at > clock_timestamp() AND locked_at IS NULL AND staff
        AND NOT must_change_password
""")

_CUSTOMER = text(f"""
    SELECT customers.*, debt.pending, debt.active, debt.total
    FROM customers, LATERAL (
        SELECT coalesce(sum(outstanding) FILTER (WHERE status = {Status.PENDING}), 0.00) AS pending,
            coalesce(sum(outstanding) FILTER (WHERE status = {Status.ACTIVE}), 0.00) AS active,
            coalesce(sum(outstanding), 0.00) AS total
        FROM loans WHERE customer_id = customers.id AND {OPEN}
    ) AS debt
    WHERE external_id = :external_id
""")  # noqa: S608 - constants

_LOANS = text("""
    SELECT * FROM loans WHERE customer_id = :customer_id ORDER BY id DESC LIMIT :limit
""")
_LOANS_BY_ID = text("""
    SELECT * FROM loans WHERE id IN (SELECT loan_id FROM payment_details WHERE payment_id = :payment_id LIMIT :limit)
    ORDER BY taken_at, id
""")
_PAYMENTS = text("""
    SELECT * FROM payments WHERE customer_id = :customer_id ORDER BY id DESC LIMIT :limit
""")

_LOAN = text("""
    SELECT loans.*, customers.external_id AS customer FROM loans JOIN customers ON customers.id = customer_id
    WHERE loans.external_id = :external_id
""")
_PAYMENT = text("""
    SELECT payments.*, customers.external_id AS customer,
        (SELECT count(*) FROM payment_details WHERE payment_id = payments.id) AS details
    FROM payments JOIN customers ON customers.id = customer_id WHERE payments.external_id = :external_id
""")

# The payments that went to loans, oldest first, as the bars of the picture are filled.
_PARTS = text("""
    SELECT loan_id, payment_id, payments.external_id AS payment, payment_details.amount, payments.status, payments.paid_at,
        payments.rejected_at
    FROM payment_details JOIN payments ON payments.id = payment_id
    WHERE loan_id = ANY(:loan_ids) ORDER BY loan_id, payment_id LIMIT :limit
""")

_EVENTS = text(f"""
    SELECT number, recorded_at, kind, actor, backfilled, amount, score_before, score_after, debt_before, debt_after,
        status_before, status_after, (SELECT external_id FROM payments WHERE id = payment_id) AS payment,
        CASE WHEN kind BETWEEN {Kind.LOAN_CREATED} AND {Kind.LOAN_PAID}
            THEN (SELECT external_id FROM loans WHERE id = loan_ids[1]) END AS loan
    FROM journal_events WHERE customer_id = :customer_id AND number < :before ORDER BY number DESC LIMIT :limit
""")  # noqa: S608 - constants

_DETAILS = text("""
    SELECT payment_id, loans.external_id AS loan, payment_details.amount
    FROM unnest(CAST(:payment_ids AS bigint[])) AS wanted (id), LATERAL (
        SELECT * FROM payment_details WHERE payment_id = wanted.id ORDER BY loan_id LIMIT :each
    ) AS payment_details JOIN loans ON loans.id = loan_id
    ORDER BY payment_id, loan_id
""")

_IMPORT = text("SELECT * FROM imports WHERE id = :id")
_IMPORT_ERRORS = text(
    "SELECT * FROM import_errors WHERE import_id = :id AND line_number > :after ORDER BY line_number LIMIT :limit"
)

_KEY = text("""
    SELECT id, name, scopes, created_at, expires_at, revoked_at, last_used_at, previous_expires_at, allowed_networks,
        calls_per_second, calls_per_day, created_by, customer_external_ids, customer_external_id_prefix
    FROM api_keys WHERE id = :id
""")

# The subject of a user is a hash, which does not tell who was tried; that of an address is the address.
_FAILURES = text("""
    SELECT subject, failures, last_at FROM login_failures WHERE failures > 0 ORDER BY last_at DESC LIMIT :limit
""")


async def find_person(connection: AsyncConnection, login: str) -> Person | None:
    """Who is logged in; None if the login does not count any more, or not for these pages."""
    row = (await connection.execute(_PERSON, {"login": login})).one_or_none()
    return Person._make(row) if row else None


async def find_customer(connection: AsyncConnection, external_id: str) -> Mapping[str, Any] | None:
    """A customer and what is owed."""
    found = await _one(connection, _CUSTOMER, external_id=external_id)
    return {**found, "available": available_amount(found["score"], found["total"])} if found else None


async def find_loan(connection: AsyncConnection, external_id: str) -> Mapping[str, Any] | None:
    """A loan with its customer's external id."""
    return await _one(connection, _LOAN, external_id=external_id)


async def find_payment(connection: AsyncConnection, external_id: str) -> Mapping[str, Any] | None:
    """A payment with its customer's external id, and how many details it has."""
    return await _one(connection, _PAYMENT, external_id=external_id)


async def find_import(connection: AsyncConnection, import_id: int) -> Mapping[str, Any] | None:
    """An import."""
    return await _one(connection, _IMPORT, id=import_id)


async def find_key(connection: AsyncConnection, key_id: str) -> Mapping[str, Any] | None:
    """An API key, without any secret."""
    return await _one(connection, _KEY, id=key_id)


async def latest_loans(connection: AsyncConnection, customer_id: int) -> Rows:
    """A customer's newest loans."""
    return await _all(connection, _LOANS, customer_id=customer_id, limit=MAX_SHOWN)


async def latest_payments(connection: AsyncConnection, customer_id: int) -> Rows:
    """A customer's newest payments."""
    return await _all(connection, _PAYMENTS, customer_id=customer_id, limit=MAX_SHOWN)


async def loans_of_payment(connection: AsyncConnection, payment_id: int) -> Rows:
    """The loans that a payment went to, oldest first."""
    return await _all(connection, _LOANS_BY_ID, payment_id=payment_id, limit=MAX_SHOWN)


async def parts_of_loans(connection: AsyncConnection, loan_ids: Sequence[int]) -> Rows:
    """What went to loans, payment by payment."""
    return await _all(connection, _PARTS, loan_ids=list(loan_ids), limit=2000)


async def latest_events(connection: AsyncConnection, customer_id: int, before: int | None) -> Rows:
    """A page of what happened to a customer, the newest first, before an event of some number; and the event after it."""
    limit, newest = EVENTS_SHOWN + 1, 2**63 - 1
    return await _all(connection, _EVENTS, customer_id=customer_id, before=newest if before is None else before, limit=limit)


async def details_of_payments(connection: AsyncConnection, payment_ids: Sequence[int], each: int) -> Rows:
    """Some details of each payment."""
    return await _all(connection, _DETAILS, payment_ids=list(payment_ids), each=each)


async def import_errors(connection: AsyncConnection, import_id: int, after: int, limit: int) -> Rows:
    """What was wrong with lines, from behind one."""
    return await _all(connection, _IMPORT_ERRORS, id=import_id, after=after, limit=limit)


async def login_failures(connection: AsyncConnection) -> Rows:
    """Who failed to log in lately, and how often."""
    return await _all(connection, _FAILURES, limit=100)


async def _one(connection: AsyncConnection, statement: Any, **parameters: Any) -> Mapping[str, Any] | None:
    row = (await connection.execute(statement, parameters)).mappings().one_or_none()
    return dict(row) if row else None


async def _all(connection: AsyncConnection, statement: Any, **parameters: Any) -> Rows:
    return [dict(row) for row in (await connection.execute(statement, parameters)).mappings()]
