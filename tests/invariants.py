"""The invariants of docs/rules.md (R19, R70 to R73, R80) as SQL: each statement finds the rows that break one."""

from collections.abc import Iterable
from pathlib import Path

from tests.databases import owner

# Copies of what belongs to the customers in question, so that a large database costs nothing.
OURS = (
    "CREATE TEMPORARY TABLE our_customers AS SELECT * FROM customers WHERE external_id = ANY(%s)",
    "CREATE TEMPORARY TABLE our_loans AS SELECT * FROM loans WHERE customer_id IN (SELECT id FROM our_customers)",
    "CREATE TEMPORARY TABLE our_payments AS SELECT * FROM payments WHERE customer_id IN (SELECT id FROM our_customers)",
    "CREATE TEMPORARY TABLE our_details AS SELECT * FROM payment_details WHERE payment_id IN (SELECT id FROM our_payments)",
    "CREATE TEMPORARY TABLE our_events AS SELECT * FROM journal_events WHERE customer_id IN (SELECT id FROM our_customers)",
)

STATEMENTS = {
    "1: outstanding is between zero and the amount, and a loan that was active is PAID exactly when it is zero": """
        SELECT external_id FROM our_loans
        WHERE outstanding NOT BETWEEN 0 AND amount
            OR (status = 4) <> (outstanding = 0 AND taken_at IS NOT NULL)
            OR (status IN (1, 3) AND outstanding <> amount)
    """,
    "2: the details of a COMPLETED payment sum up to it, and so do those of one that bounced; others have none": """
        SELECT external_id FROM our_payments
        WHERE CASE WHEN rejection_kind = 1 THEN 0 ELSE total_amount END
            <> (SELECT coalesce(sum(amount), 0) FROM our_details WHERE payment_id = our_payments.id)
    """,
    "3: what is paid of a loan is the sum of its details in COMPLETED payments": """
        SELECT external_id FROM our_loans
        WHERE amount - outstanding <> (
            SELECT coalesce(sum(our_details.amount), 0) FROM our_details JOIN our_payments ON our_payments.id = payment_id
            WHERE loan_id = our_loans.id AND our_payments.status = 1
        )
    """,
    # The debt when a loan was created, from the history: all that was lent until then, less what had been rejected or paid
    # by then and had not bounced by then. Only for a credit line that has never changed.
    "4: no loan was created beyond the credit line": """
        SELECT new.external_id FROM our_loans AS new JOIN our_customers ON our_customers.id = customer_id
        WHERE version = 1 AND score < (
            SELECT sum(amount) FROM our_loans AS earlier
            WHERE earlier.customer_id = new.customer_id AND (created_at, id) <= (new.created_at, new.id)
                AND NOT (status = 3 AND updated_at <= new.created_at)
        ) - (
            SELECT coalesce(sum(our_details.amount), 0) FROM our_details JOIN our_payments ON our_payments.id = payment_id
            WHERE our_payments.customer_id = new.customer_id AND paid_at <= new.created_at
                AND (rejected_at IS NULL OR rejected_at > new.created_at)
        )
    """,
    "5: events are numbered 1, 2, 3 and so on, and each begins where the one before ended": """
        SELECT external_id FROM (
            SELECT customer_id, number, debt_before, score_before, lag(number, 1, 0::bigint) OVER journal AS last_number,
                lag(debt_after) OVER journal AS last_debt, lag(score_after) OVER journal AS last_score
            FROM our_events WINDOW journal AS (PARTITION BY customer_id ORDER BY number)
        ) AS events JOIN our_customers ON our_customers.id = customer_id
        WHERE number <> last_number + 1 OR (debt_before, score_before) IS DISTINCT FROM (last_debt, last_score)
    """,
    "6: the last event of a customer has the credit line and the debt, and the last one of a loan what it is": """
        SELECT external_id FROM our_customers WHERE NOT EXISTS (
            SELECT FROM our_events WHERE customer_id = our_customers.id AND score_after = score
                AND number = (SELECT max(number) FROM our_events WHERE customer_id = our_customers.id)
                AND debt_after = (
                    SELECT coalesce(sum(outstanding), 0) FROM our_loans
                    WHERE customer_id = our_customers.id AND our_loans.status IN (1, 2)
                )
        )
        UNION ALL
        SELECT external_id FROM our_loans LEFT JOIN LATERAL (
            SELECT loan_statuses_after[array_position(loan_ids, our_loans.id)] AS last_status,
                outstandings_after[array_position(loan_ids, our_loans.id)] AS last_outstanding
            FROM our_events WHERE our_loans.id = ANY(loan_ids) ORDER BY number DESC LIMIT 1
        ) AS last ON true
        WHERE (our_loans.status, outstanding) IS DISTINCT FROM (last_status, last_outstanding)
    """,
    "no detail pays a loan of another customer, or one not taken by then": """
        SELECT our_payments.external_id FROM our_payments JOIN our_details ON payment_id = our_payments.id
            JOIN loans ON loans.id = loan_id
        WHERE loans.customer_id <> our_payments.customer_id OR taken_at IS NULL OR taken_at > paid_at
    """,
}


def broken(data_dir: Path, customers: Iterable[str], corruption: str | None = None) -> dict[str, list[str]]:
    """The invariants that these customers break, and where; with a `corruption`, once that statement were executed."""
    found: dict[str, list[str]] = {}
    names = list(customers)
    with owner(data_dir) as connection:
        if corruption:
            assert connection.execute(corruption.encode(), [names]).rowcount
        connection.execute(OURS[0], [names])
        for copy in OURS[1:]:
            connection.execute(copy)
        for invariant, statement in STATEMENTS.items():
            if rows := connection.execute(statement.encode()).fetchall():
                found[invariant] = [row[0] for row in rows]
        connection.rollback()
    return found


def assert_sound(data_dir: Path, *customers: str) -> None:
    """Check that these customers break no invariant."""
    assert broken(data_dir, customers) == {}
