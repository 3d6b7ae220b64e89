"""The invariants of DESIGN §3 as SQL: each statement finds the rows that break one."""

from collections.abc import Iterable
from pathlib import Path

from tests.databases import owner

STATEMENTS = {
    "1: outstanding is between zero and the amount, and a loan that was active is PAID exactly when it is zero": """
        SELECT external_id FROM loans JOIN ours ON ours.id = customer_id
        WHERE outstanding NOT BETWEEN 0 AND amount
            OR (status = 4) <> (outstanding = 0 AND taken_at IS NOT NULL)
            OR (status IN (1, 3) AND outstanding <> amount)
    """,
    "2: the details of a COMPLETED payment sum up to it, and so do those of one that bounced; others have none": """
        SELECT external_id FROM payments JOIN ours ON ours.id = customer_id
        WHERE CASE WHEN rejection_kind = 1 THEN 0 ELSE total_amount END
            <> (SELECT coalesce(sum(amount), 0) FROM payment_details WHERE payment_id = payments.id)
    """,
    "3: what is paid of a loan is the sum of its details in COMPLETED payments": """
        SELECT external_id FROM loans JOIN ours ON ours.id = customer_id
        WHERE amount - outstanding <> (
            SELECT coalesce(sum(payment_details.amount), 0) FROM payment_details JOIN payments ON payments.id = payment_id
            WHERE loan_id = loans.id AND payments.status = 1
        )
    """,
    # The debt when a loan was created, from the history: all that was lent until then, less what had been rejected or paid
    # by then and had not bounced by then. Only for a credit line that has never changed.
    "4: no loan was created beyond the credit line": """
        SELECT external_id FROM loans AS new JOIN ours ON ours.id = customer_id AND version = 1
        WHERE score < (
            SELECT sum(amount) FROM loans
            WHERE customer_id = new.customer_id AND (created_at, id) <= (new.created_at, new.id)
                AND NOT (status = 3 AND updated_at <= new.created_at)
        ) - (
            SELECT coalesce(sum(payment_details.amount), 0) FROM payment_details JOIN payments ON payments.id = payment_id
            WHERE payments.customer_id = new.customer_id AND paid_at <= new.created_at
                AND (rejected_at IS NULL OR rejected_at > new.created_at)
        )
    """,
    "no detail pays a loan of another customer, or one not taken by then": """
        SELECT payments.external_id FROM payments JOIN ours ON ours.id = payments.customer_id
            JOIN payment_details ON payment_id = payments.id JOIN loans ON loans.id = loan_id
        WHERE loans.customer_id <> payments.customer_id OR taken_at IS NULL OR taken_at > paid_at
    """,
}


def broken(data_dir: Path, customers: Iterable[str], corruption: str | None = None) -> dict[str, list[str]]:
    """The invariants that these customers break, and where; with a `corruption`, once that statement were executed."""
    found: dict[str, list[str]] = {}
    names = list(customers)
    with owner(data_dir) as connection:
        if corruption:
            assert connection.execute(corruption.encode(), [names]).rowcount
        ours = "CREATE TEMPORARY TABLE ours AS SELECT id, version, score FROM customers WHERE external_id = ANY(%s)"
        connection.execute(ours, [names])
        for invariant, statement in STATEMENTS.items():
            if rows := connection.execute(statement.encode()).fetchall():
                found[invariant] = [row[0] for row in rows]
        connection.rollback()
    return found


def assert_sound(data_dir: Path, *customers: str) -> None:
    """Check that these customers break no invariant."""
    assert broken(data_dir, customers) == {}
