"""Every SQL statement of the audit: each finds the rows that break one invariant."""

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers.debt import debts
from mo_grpc.imports.rules import State
from mo_grpc.integrity.hashes import verify_hashes
from mo_grpc.integrity.journal import JOURNAL
from mo_grpc.integrity.rules import SHOWN, Finding, Invariant
from mo_grpc.integrity.spreading import verify_spreading
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus

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
        "An import has an error for each line that failed, while they are kept, and has read a file that SUCCEEDED to its end",
        "imports",
        f"""
        SELECT format('%s (%s)', id, source) AS external_id,
            format('failed %s, errors %s, bytes %s of %s', failed_count, coalesce(errors, 0), bytes_done, bytes_total) AS remark
        FROM imports LEFT JOIN (
            SELECT import_id AS id, count(*) AS errors FROM import_errors GROUP BY import_id
        ) AS reported USING (id)
        WHERE (failed_count <> coalesce(errors, 0) AND errors_removed_at IS NULL)
            OR (state = {State.SUCCEEDED} AND bytes_done <> bytes_total)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "Positions are 1, 2, 3 … up to the head of the journal, and each is of an event",
        "journal_positions",
        """
        SELECT position::text AS external_id, format('after %s', previous) AS remark
        FROM (SELECT position, lag(position, 1, 0::bigint) OVER (ORDER BY position) AS previous FROM journal_positions) AS given
        WHERE position <> previous + 1
        UNION ALL
        SELECT 'head', format('at %s, the last position is %s', position, last)
        FROM journal_head, (SELECT coalesce(max(position), 0) AS last FROM journal_positions) AS given WHERE position <> last
        UNION ALL
        SELECT position::text, format('customer id %s, number %s: no such event of kind %s', customer_id, number, given.kind)
        FROM journal_positions AS given LEFT JOIN journal_events AS event USING (customer_id, number)
        WHERE event.kind IS DISTINCT FROM given.kind
        """,
    ),
    Invariant(
        "An event has a position once the head of the journal has seen its transaction",
        "journal_events",
        """
        SELECT coalesce(external_id, customer_id::text) AS external_id, format('number %s has no position', number) AS remark
        FROM journal_events JOIN journal_head ON pg_visible_in_snapshot(xid::text::xid8, snapshot::pg_snapshot)
            LEFT JOIN journal_positions AS given USING (customer_id, number) LEFT JOIN customers ON customers.id = customer_id
        WHERE given.position IS NULL
        """,
    ),
    Invariant(
        "A customer's events have positions in the order of their numbers",
        "journal_positions",
        """
        SELECT coalesce(external_id, customer_id::text) AS external_id,
            format('number %s at %s, after number %s at %s', number, position, last, behind) AS remark
        FROM (
            SELECT customer_id, number, position, lag(number, 1, 0::bigint) OVER customer AS last,
                lag(position, 1, 0::bigint) OVER customer AS behind
            FROM journal_positions WINDOW customer AS (PARTITION BY customer_id ORDER BY number)
        ) AS given LEFT JOIN customers ON customers.id = customer_id
        WHERE number <> last + 1 OR position < behind
        """,
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


_STATEMENTS = [(invariant, _statement(invariant)) for invariant in (*INVARIANTS, *JOURNAL)]


async def audit(connection: AsyncConnection) -> list[Finding]:
    """Check every invariant on one snapshot of the database, which hinders nobody from writing."""
    await connection.execute(_SNAPSHOT)
    await connection.execute(_SETTINGS)
    findings = []
    for invariant, statement in _STATEMENTS:
        checked, broken, rows = (await connection.execute(statement)).one()
        findings.append(Finding(invariant.name, invariant.table, checked, broken, [(row[0], row[1]) for row in rows]))
    return [*findings, await verify_hashes(connection), await verify_spreading(connection)]
