from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL

from tests.conftest import Stack, run_cli
from tests.databases import backfill, connect, migrated_database
from tests.doors import Door
from tests.factories import a_customer, a_loan, pay

# Two customers; a loan that is half paid, one that is paid, one whose payment bounced, one that is pending; and a payment that
# was more than the debt. `~` stands for a number, so that there can be several of these.
PORTFOLIO = """
    INSERT INTO customers (external_id, score, created_at, updated_at)
    VALUES ('ana~', 1000, now(), now()), ('bo~', 500, now(), now());
    INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date, created_at,
        updated_at)
    SELECT customers.id, loan, amount, outstanding, loan_status, taken_at, now(), now(), now()
    FROM (VALUES ('ana~', 'half~', 100, 50, 2, now()), ('ana~', 'paid~', 30, 0, 4, now() - interval '1 hour'),
        ('bo~', 'back~', 70, 70, 2, now()),
        ('bo~', 'asked~', 10, 10, 1, NULL)) AS new (customer, loan, amount, outstanding, loan_status, taken_at)
    JOIN customers ON customers.external_id = customer;
    INSERT INTO payments (customer_id, external_id, total_amount, status, paid_at, rejected_at, rejection_kind,
        rejection_reason, created_at, updated_at)
    SELECT customers.id, payment, total, payment_status, paid_at, rejected_at, kind, reason, now(), now()
    FROM (VALUES ('ana~', 'p-80~', 80, 1, now(), NULL, NULL, NULL), ('bo~', 'p-70~', 70, 2, now(), now(), 2, 'bounced'),
        ('bo~', 'p-999~', 999, 2, NULL, now(), 1, 'too much'))
        AS new (customer, payment, total, payment_status, paid_at, rejected_at, kind, reason)
    JOIN customers ON customers.external_id = customer;
    INSERT INTO payment_details (payment_id, loan_id, customer_id, amount)
    SELECT payments.id, loans.id, loans.customer_id, new.amount
    FROM (VALUES ('p-80~', 'paid~', 30), ('p-80~', 'half~', 50), ('p-70~', 'back~', 70)) AS new (payment, loan, amount)
    JOIN payments ON payments.external_id = payment JOIN loans ON loans.external_id = loan;
    WITH new AS (
        INSERT INTO imports (source, state, lines_count, created_count, failed_count, bytes_done, bytes_total, created_by,
            created_at, finished_at)
        VALUES ('file~', 3, 2, 1, 1, 10, 10, 'key', now(), now()) RETURNING id
    )
    INSERT INTO import_errors (import_id, line_number, external_id, field, reason, message)
    SELECT id, 1, 'x', 'score', 4, 'wrong' FROM new;
"""

# What the database's own constraints forbid is done without them.
UNGUARD = """
    ALTER TABLE loans DROP CONSTRAINT loans_status_check, DROP CONSTRAINT loans_outstanding_check;
    ALTER TABLE payment_details DROP CONSTRAINT payment_details_loan_id_customer_id_fkey,
        DROP CONSTRAINT payment_details_payment_id_customer_id_fkey;
"""

DETAIL = "loan_id = (SELECT id FROM loans WHERE external_id = '{}~')"

# How each portfolio is broken, and what the audit then says.
BREAKS = [
    ("UPDATE loans SET outstanding = 50.01 WHERE external_id = 'half~'", "loans half~: amount 100.00, outstanding 50.01, paid"),
    ("UPDATE loans SET outstanding = amount + 1 WHERE external_id = 'asked~'", "loans asked~: status 1"),
    ("UPDATE loans SET outstanding = -1 WHERE external_id = 'paid~'", "loans paid~: status 4"),
    ("UPDATE loans SET status = 2 WHERE external_id = 'paid~'", "loans paid~: status 2"),
    ("UPDATE loans SET status = 4 WHERE external_id = 'half~'", "loans half~: status 4"),
    ("UPDATE loans SET taken_at = now() WHERE external_id = 'asked~'", "loans asked~: status 1"),
    (f"UPDATE payment_details SET amount = 30.01 WHERE {DETAIL.format('paid')}", "payments p-80~: total 80.00, details 80.01"),
    (f"DELETE FROM payment_details WHERE {DETAIL.format('half')}", "payments p-80~: total 80.00, details 30.00"),
    (f"DELETE FROM payment_details WHERE {DETAIL.format('back')}", "payments p-70~: total 70.00, details 0"),
    ("UPDATE payments SET total_amount = 80.01 WHERE external_id = 'p-80~'", "payments p-80~: total 80.01, details 80.00"),
    (
        """INSERT INTO payment_details SELECT p.id, l.id, l.customer_id, 1 FROM payments p, loans l
        WHERE p.external_id = 'p-999~' AND l.external_id = 'back~'""",
        "payments p-999~: total 999.00, details 1.00",
    ),
    ("UPDATE loans SET outstanding = 69 WHERE external_id = 'back~'", "loans back~: amount 70.00, outstanding 69.00, paid 0"),
    (
        """UPDATE payments SET status = 1, rejected_at = NULL, rejection_kind = NULL, rejection_reason = NULL
        WHERE external_id = 'p-70~'""",
        "loans back~: amount 70.00, outstanding 70.00, paid 70.00",
    ),
    (
        """UPDATE payments SET customer_id = (SELECT id FROM customers WHERE external_id = 'bo~')
        WHERE external_id = 'p-80~'""",
        "payment_details p-80~: loan half~",
    ),
    (
        "DELETE FROM import_errors WHERE import_id = (SELECT id FROM imports WHERE source = 'file~')",
        "file~): failed 1, errors 0",
    ),
    ("UPDATE imports SET bytes_done = 9 WHERE source = 'file~'", "file~): failed 1, errors 1, bytes 9 of 10"),
    ("UPDATE customers SET score = 49.99 WHERE external_id = 'ana~'", "customers ana~: score 49.99, debt 50.00"),
]


@contextmanager
def a_database(stack: Stack, portfolios: int, *, journal: bool = True) -> Iterator[tuple[URL, dict[str, str]]]:
    """A database of its own with correct rows and perhaps their events, and the settings to reach it."""
    with migrated_database(stack.data_dir) as url:
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = stack.environment | {"MO_DATABASE_URL": plain}
        with connect(url) as connection:
            for number in range(portfolios):
                connection.execute(PORTFOLIO.replace("~", str(number)))
        if journal:
            backfill(url)
        yield url, environment


def test_what_adds_up_passes(stack: Stack) -> None:
    with a_database(stack, 2) as (_, environment):
        done = run_cli(environment, "audit", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("│")[2:4] for line in done.stdout.splitlines() if "│" in line]
    assert [(int(checked), int(broken)) for checked, broken in rows] == [
        *[(8, 0), (6, 0), (8, 0), (6, 0), (4, 0), (2, 0)],
        *[(0, 0), (30, 0), (0, 0)],
        *[(30, 0), (30, 0), (30, 0), (30, 0), (30, 0), (4, 0), (8, 0), (6, 0), (6, 0), (30, 0)],
        *[(6, 0)],
        *[(0, 0), (0, 0), (0, 0)],
    ]


def test_each_broken_invariant_is_found_and_its_row_named(stack: Stack) -> None:
    with a_database(stack, len(BREAKS) + 1) as (url, environment):
        with connect(url) as connection:
            connection.execute(UNGUARD)
            for number, (break_it, _) in enumerate(BREAKS):
                assert connection.execute(break_it.replace("~", str(number))).rowcount == 1
        done = run_cli(environment, "audit", check=False)
    assert done.returncode == 1
    for number, (_, finding) in enumerate(BREAKS):
        assert finding.replace("~", str(number)) in done.stdout
    # The last portfolio is as it should be.
    for word in ("ana", "bo", "half", "paid", "back", "asked", "p-80", "p-70", "p-999"):
        assert f" {word}{len(BREAKS)}:" not in done.stdout


def test_more_than_can_be_shown_are_counted(stack: Stack) -> None:
    with a_database(stack, 1) as (url, environment), connect(url) as connection:
        connection.execute("""
            INSERT INTO loans
                (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date, created_at, updated_at)
            SELECT customers.id, 'wrong-' || n, 2, 1, 2, now(), now(), now(), now()
            FROM customers, generate_series(1, 25) AS n WHERE external_id = 'ana0'
        """)
        connection.commit()
        done = run_cli(environment, "audit", check=False)
    assert done.returncode == 1
    # Neither what is outstanding nor the journal agrees.
    assert done.stdout.count("loans wrong-") == 2 * 20
    assert done.stdout.count("… and 5 more in loans.") == 2


@pytest.mark.parametrize("break_line", [True, False])
def test_debt_above_the_line_is_fine_when_the_line_was_lowered(stack: Stack, over_grpc: Door, break_line: bool) -> None:
    customer = a_customer(over_grpc, "100")
    a_loan(over_grpc, customer, "80")
    if break_line:
        over_grpc("customers.UpdateCustomer", customer={"external_id": customer, "score": "50"})
    else:
        paid = pay(over_grpc, customer, "80")["external_id"]
        a_loan(over_grpc, customer, "90")
        over_grpc("payments.RejectPayment", external_id=paid, reason="bounced")
    assert over_grpc("customers.GetCustomerBalance", external_id=customer)["available_amount"].startswith("-")
    assert customer not in stack.cli("audit", check=False).stdout
