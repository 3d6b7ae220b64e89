"""What is older than the journal gets its events by the migration (docs/rules.md, R84)."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import URL

from mo_grpc.db.migrate import alembic_config, upgrade
from mo_grpc.journal.rules import Kind
from tests.conftest import Stack, run_cli
from tests.databases import backfill, connect, fresh_database
from tests.integrity.test_audit import PORTFOLIO

BEFORE = "0013"

# One customer's morning. The times of the other one's rows contradict each other: each happened before what it needs.
MORNING = """
    INSERT INTO customers (external_id, status, score, preapproved_at, version, created_at, updated_at)
    VALUES ('dan', 2, 1000, '2024-12-31', 5, '2025-01-01 08:00', now()), ('eve', 1, 1000, NULL, 1, '2025-01-01 12:00', now());
    INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date, created_at,
        updated_at)
    SELECT customers.id, loan, amount, outstanding, loan_status, taken_at::timestamptz, now(), made_at::timestamptz,
        changed_at::timestamptz
    FROM (VALUES
        ('dan', 'first', 100, 60, 2, '2025-01-01 09:30', '2025-01-01 09:00', '2025-01-01 11:30'),
        ('dan', 'turned-down', 50, 50, 3, NULL, '2025-01-01 09:10', '2025-01-01 09:20'),
        ('dan', 'waiting', 30, 30, 1, NULL, '2025-01-01 11:00', '2025-01-01 11:00'),
        ('eve', 'odd', 100, 0, 4, '2025-01-01 10:00', '2025-01-01 11:00', '2025-01-01 11:00')
    ) AS new (customer, loan, amount, outstanding, loan_status, taken_at, made_at, changed_at)
    JOIN customers ON customers.external_id = customer ORDER BY loan;
    INSERT INTO payments (customer_id, external_id, total_amount, status, paid_at, rejected_at, rejection_kind,
        rejection_reason, created_at, updated_at)
    SELECT customers.id, payment, total, payment_status, paid_at::timestamptz, rejected_at::timestamptz, kind, reason, now(),
        now()
    FROM (VALUES
        ('dan', 'p-100', 100, 2, '2025-01-01 10:00', '2025-01-01 10:30', 2, 'bounced'),
        ('dan', 'p-5000', 5000, 2, NULL, '2025-01-01 10:10', 1, 'too much'),
        ('dan', 'p-40', 40, 1, '2025-01-01 11:30', NULL, NULL, NULL),
        ('eve', 'q-100', 100, 2, '2025-01-01 09:00', '2025-01-01 15:00', 2, 'bounced'),
        ('eve', 'q-again', 100, 1, '2025-01-01 14:00', NULL, NULL, NULL)
    ) AS new (customer, payment, total, payment_status, paid_at, rejected_at, kind, reason)
    JOIN customers ON customers.external_id = customer ORDER BY payment;
    INSERT INTO payment_details (payment_id, loan_id, customer_id, amount)
    SELECT payments.id, loans.id, loans.customer_id, new.amount
    FROM (VALUES ('p-100', 'first', 100), ('p-40', 'first', 40), ('q-100', 'odd', 100), ('q-again', 'odd', 100))
        AS new (payment, loan, amount)
    JOIN payments ON payments.external_id = payment JOIN loans ON loans.external_id = loan;
"""

EVENTS = """
    SELECT number, kind, to_char(recorded_at AT TIME ZONE 'UTC', 'HH24:MI'), payments.external_id, journal_events.amount::text,
        debt_before::text, debt_after::text, (SELECT string_agg(external_id, ' ') FROM loans WHERE id = ANY(loan_ids)),
        loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after
    FROM journal_events LEFT JOIN payments ON payments.id = payment_id
    WHERE journal_events.customer_id = (SELECT id FROM customers WHERE external_id = %s) ORDER BY number
"""


@pytest.fixture
def old(stack: Stack) -> Iterator[URL]:
    """A database of the version before the journal, with several customers."""
    with fresh_database(stack.data_dir) as url:
        upgrade(url, BEFORE)
        with connect(url) as connection:
            for number in range(3):
                connection.execute(PORTFOLIO.replace("~", str(number)))
            connection.execute("SET timezone = 'UTC'")
            connection.execute(MORNING)
        yield url


def audit(stack: Stack, url: URL) -> str:
    """What the audit says; it must find nothing."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return run_cli(stack.environment | {"MO_DATABASE_URL": plain}, "audit").stdout


def test_rows_of_before_the_journal_get_their_events(stack: Stack, old: URL) -> None:
    upgrade(old)
    audit(stack, old)
    with connect(old) as connection:
        assert connection.execute(EVENTS, ["dan"]).fetchall() == [
            (1, Kind.CUSTOMER_CREATED, "08:00", None, None, None, "0.00", None, [], [], [], []),
            (2, Kind.LOAN_CREATED, "09:00", None, "100.00", "0.00", "100.00", "first", [0], [1], [0], [100]),
            (3, Kind.LOAN_CREATED, "09:10", None, "50.00", "100.00", "150.00", "turned-down", [0], [1], [0], [50]),
            (4, Kind.LOAN_REJECTED, "09:20", None, "50.00", "150.00", "100.00", "turned-down", [1], [3], [50], [50]),
            (5, Kind.LOAN_ACTIVATED, "09:30", None, "100.00", "100.00", "100.00", "first", [1], [2], [100], [100]),
            (6, Kind.PAYMENT_COMPLETED, "10:00", "p-100", "100.00", "100.00", "0.00", "first", [2], [4], [100], [0]),
            (7, Kind.LOAN_PAID, "10:00", "p-100", "100.00", "0.00", "0.00", "first", [4], [4], [0], [0]),
            (8, Kind.PAYMENT_REFUSED, "10:10", "p-5000", "5000.00", "0.00", "0.00", None, [], [], [], []),
            (9, Kind.PAYMENT_BOUNCED, "10:30", "p-100", "100.00", "0.00", "100.00", "first", [4], [2], [0], [100]),
            (10, Kind.LOAN_CREATED, "11:00", None, "30.00", "100.00", "130.00", "waiting", [0], [1], [0], [30]),
            (11, Kind.PAYMENT_COMPLETED, "11:30", "p-40", "40.00", "130.00", "90.00", "first", [2], [2], [100], [60]),
        ]
        # Nothing was paid before it was lent, whatever the times say.
        odd = [(row[1], row[2], row[3]) for row in connection.execute(EVENTS, ["eve"])]
        assert odd == [
            (Kind.CUSTOMER_CREATED, "12:00", None),
            (Kind.LOAN_CREATED, "12:00", None),
            (Kind.LOAN_ACTIVATED, "12:00", None),
            (Kind.PAYMENT_COMPLETED, "12:00", "q-100"),
            (Kind.LOAN_PAID, "12:00", "q-100"),
            (Kind.PAYMENT_COMPLETED, "14:00", "q-again"),
            (Kind.PAYMENT_BOUNCED, "15:00", "q-100"),
        ]
        statement = "SELECT DISTINCT backfilled, actor, request_id FROM journal_events"
        assert connection.execute(statement).fetchall() == [(True, "", "")]
        statement = """
            SELECT score_after, status_after, preapproved_at::date::text, version FROM journal_events
            WHERE number = 1 AND customer_id = (SELECT id FROM customers WHERE external_id = 'dan')
        """
        assert connection.execute(statement).fetchall() == [(1000, 2, "2024-12-31", 5)]
    assert backfill(old) == 0


def test_a_migration_that_was_interrupted_continues(stack: Stack, old: URL) -> None:
    upgrade(old, "0014")
    migration: Any = ScriptDirectory.from_config(alembic_config(old)).get_revision("0040").module
    migration.CUSTOMERS_AT_ONCE = 2
    written = "SELECT count(DISTINCT customer_id) FROM journal_events"
    with connect(old, autocommit=True) as running, connect(old) as other:
        running.execute("SET timezone = 'UTC'")
        running.execute("SET lock_timeout = '1ms'")
        other.execute("SELECT FROM customers WHERE external_id = 'bo2' FOR NO KEY UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            migration.backfill(running)
        # What was written before stays, and nobody is locked any more.
        assert other.execute(written).fetchall() == [(4,)]
        other.execute("SELECT FROM customers FOR NO KEY UPDATE NOWAIT")
        other.rollback()
        migration.backfill(running)
        assert running.execute(written).fetchall() == [(8,)]
    upgrade(old)
    audit(stack, old)
