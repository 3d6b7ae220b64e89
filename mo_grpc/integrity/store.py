"""Every SQL statement of the audit: each finds the rows that break one invariant."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers.debt import debts
from mo_grpc.imports.rules import State
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus

SHOWN = 20
"""How many broken rows of an invariant are named."""


class Invariant(NamedTuple):
    """What must hold, of which table, and the statement that finds the rows that break it, with a remark on each."""

    name: str
    table: str
    broken: str


class Finding(NamedTuple):
    """What the audit found about one invariant."""

    invariant: Invariant
    checked: int
    broken: int
    rows: Sequence[tuple[str, str]]


INVARIANTS = (
    Invariant(
        "A loan's outstanding is between 0 and its amount, and 0 just when it is PAID",
        "loans",
        f"""
        SELECT external_id, format('status %s, amount %s, outstanding %s', status, amount, outstanding) AS remark FROM loans
        WHERE NOT (outstanding BETWEEN 0 AND amount)
            OR (status = {LoanStatus.PAID}) <> (outstanding = 0)
            OR (status IN ({LoanStatus.ACTIVE}, {LoanStatus.PAID})) <> (taken_at IS NOT NULL)
            OR (status IN ({LoanStatus.PENDING}, {LoanStatus.REJECTED}) AND outstanding <> amount)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A payment that was spread has details that sum up to it; one that never was has none",
        "payments",
        """
        SELECT external_id, format('total %s, details %s', total_amount, coalesce(spread, 0)) AS remark
        FROM payments LEFT JOIN (
            SELECT payment_id AS id, sum(amount) AS spread FROM payment_details GROUP BY payment_id
        ) AS details USING (id)
        WHERE coalesce(spread, 0) <> CASE WHEN paid_at IS NULL THEN 0 ELSE total_amount END
        """,
    ),
    Invariant(
        "What COMPLETED payments paid of a loan is what is missing of its outstanding",
        "loans",
        f"""
        SELECT external_id, format('amount %s, outstanding %s, paid %s', amount, outstanding, coalesce(paid, 0)) AS remark
        FROM loans LEFT JOIN (
            SELECT loan_id AS id, sum(amount) AS paid FROM payment_details
            JOIN payments ON payments.id = payment_id WHERE status = {PaymentStatus.COMPLETED} GROUP BY loan_id
        ) AS payments USING (id)
        WHERE amount - outstanding <> coalesce(paid, 0)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A payment pays loans of its own customer",
        "payment_details",
        """
        SELECT payments.external_id, format('loan %s', loans.external_id) AS remark
        FROM payment_details JOIN payments ON payments.id = payment_id JOIN loans ON loans.id = loan_id
        WHERE payments.customer_id <> loans.customer_id OR payment_details.customer_id <> loans.customer_id
        """,
    ),
    # The rows do not remember older scores: a customer whose score was changed, or to whom a bounce gave debt back, may owe
    # more than the line. All others may not.
    Invariant(
        "Nobody owes more than the credit line, unless it was changed or a payment bounced",
        "customers",
        f"""
        SELECT external_id, format('score %s, debt %s', score, debt) AS remark
        FROM customers JOIN ({debts()}) AS debts ON debts.customer_id = customers.id
        WHERE debt > score AND version = 1 AND NOT EXISTS (
            SELECT FROM payments WHERE customer_id = customers.id AND rejection_kind = {RejectionKind.BOUNCED}
        )
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "An import has an error for each line that failed, and has read a file that SUCCEEDED to its end",
        "imports",
        f"""
        SELECT format('%s (%s)', id, source) AS external_id,
            format('failed %s, errors %s, bytes %s of %s', failed_count, coalesce(errors, 0), bytes_done, bytes_total) AS remark
        FROM imports LEFT JOIN (
            SELECT import_id AS id, count(*) AS errors FROM import_errors GROUP BY import_id
        ) AS reported USING (id)
        WHERE failed_count <> coalesce(errors, 0) OR (state = {State.SUCCEEDED} AND bytes_done <> bytes_total)
        """,  # noqa: S608 - constants
    ),
)

_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
# Unlike the service's statements, these read whole tables, and take their time; for a lock they wait longer than a call does.
_SETTINGS = text("""
    SELECT set_config('statement_timeout', '0', true), set_config('enable_seqscan', 'on', true),
        set_config('lock_timeout', '3s', true)
""")


def _statement(invariant: Invariant) -> TextClause:
    return text(f"""
        WITH broken AS MATERIALIZED ({invariant.broken})
        SELECT (SELECT count(*) FROM {invariant.table}), (SELECT count(*) FROM broken),
            ARRAY(SELECT ARRAY[external_id, remark] FROM broken ORDER BY external_id LIMIT {SHOWN})
    """)  # noqa: S608 - constants


_STATEMENTS = [(invariant, _statement(invariant)) for invariant in INVARIANTS]


async def audit(connection: AsyncConnection) -> list[Finding]:
    """Check every invariant on one snapshot of the database, which hinders nobody from writing."""
    await connection.execute(_SNAPSHOT)
    await connection.execute(_SETTINGS)
    findings = []
    for invariant, statement in _STATEMENTS:
        checked, broken, rows = (await connection.execute(statement)).one()
        findings.append(Finding(invariant, checked, broken, [(row[0], row[1]) for row in rows]))
    return findings
