"""The stack's PostgreSQL, for preparing and verifying what no public door shows."""

import itertools
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.customers import models
from mo_grpc.customers.accounts import Accounts, accounts
from mo_grpc.customers.rules import Customer, Debt
from mo_grpc.db.embedded import embedded_url
from mo_grpc.db.migrate import alembic_config, upgrade
from mo_grpc.journal.rules import Kind, LoanChange, Origin

_run = uuid.uuid4().hex[:8]
_count = itertools.count(1)

Connection = psycopg.Connection[Any]


def connect(url: URL, *, autocommit: bool = False) -> Connection:
    """A connection of the tests' own; used as a context manager, it commits at the end."""
    return psycopg.connect(as_text(url), autocommit=autocommit)


def as_text(url: URL) -> str:
    """A URL as settings have it, with its password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def owner(data_dir: Path) -> Connection:
    """A connection to a data folder's database, as the owner of the schema."""
    return connect(embedded_url(data_dir))


@cache
def _template(data_dir: Path) -> str:
    """A database with the schema and without rows, to be copied, which is sooner done than migrating."""
    url = embedded_url(data_dir)
    name = f"template_{_run}"
    with connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    upgrade(url.set(database=name))
    return name


def migrated_database(data_dir: Path) -> AbstractContextManager[URL]:
    """A database with the schema in a data folder's PostgreSQL, gone afterwards."""
    return fresh_database(data_dir, _template(data_dir))


@contextmanager
def fresh_database(data_dir: Path, template: str = "template1") -> Iterator[URL]:
    """An empty database in a data folder's PostgreSQL, or a copy of another one, gone afterwards."""
    url = embedded_url(data_dir)
    name = f"fresh_{_run}_{next(_count)}"
    with connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield url.set(database=name)
        finally:
            open_to_all(connection, name, to_all=False)
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def open_to_all(connection: Connection, database: str | None, *, to_all: bool) -> None:
    """Let others connect to a database, or nobody, and end those that are; not an autovacuum, which is a superuser's."""
    name = sql.Identifier(database or "")
    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, to_all))
    if not to_all:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
        connection.execute(others, [database])


def backfill(url: URL) -> int:
    """Write the events of customers whose rows were written by SQL, as the migration does; return how many."""
    migration = ScriptDirectory.from_config(alembic_config(url)).get_revision("0040")
    with connect(url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        return int(migration.module.backfill(connection))


@contextmanager
def locked(data_dir: Path, customer: str) -> Iterator[Connection]:
    """Hold a customer's row, so that every call that changes it waits."""
    with owner(data_dir) as connection:
        connection.execute("SELECT FROM customers WHERE external_id = %s FOR UPDATE", [customer])
        yield connection
        connection.rollback()


@contextmanager
def unwelcome(connection: Connection, customer: str) -> Iterator[None]:
    """Let PostgreSQL refuse a customer for a reason that the service does not know; it shows the row that it refused."""
    check = sql.SQL("ALTER TABLE customers ADD CONSTRAINT unwelcome CHECK (external_id <> {}) NOT VALID").format(customer)
    connection.execute(check)
    connection.commit()
    try:
        yield
    finally:
        connection.execute("ALTER TABLE customers DROP CONSTRAINT unwelcome")
        connection.commit()


def waiting(connection: Connection) -> int:
    """How many others wait for what this connection holds."""
    connection.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction would see who was there when it first looked
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ).fetchone()
    assert row is not None
    return int(row[0])


def many_loans(data_dir: Path, customer: str, count: int, amount: str = "1.00", *, active: bool = False) -> None:
    """Give a customer PENDING or ACTIVE loans, sooner than by as many calls; with their events, as the stores write them."""
    statement = """
        INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date, created_at,
            updated_at)
        SELECT %(id)s, %(external_id)s || '-' || number, %(amount)s, %(amount)s, %(status)s,
            CASE WHEN %(status)s = 2 THEN now END, now, now, now
        FROM generate_series(1, %(count)s) AS number, CAST(%(now)s AS timestamptz) AS now
        RETURNING id, external_id
    """
    with owner(data_dir) as connection:
        connection.execute("SET timezone = 'UTC'")
        columns = sql.SQL(", ").join(map(sql.Identifier, models.Customer.__table__.c.keys()))
        lock = sql.SQL("SELECT {} FROM customers WHERE external_id = %s FOR NO KEY UPDATE").format(columns)
        found = Customer(*connection.execute(lock, [customer]).fetchall()[0])
        books = Accounts.read(iter([connection.execute(accounts(f"SELECT {found.id}").sql).fetchall()]))
        new = {"id": found.id, "external_id": customer, "amount": amount, "status": 2 if active else 1, "count": count}
        lent, origin = Decimal(amount), Origin("test")
        for loan_id, external_id in connection.execute(statement, new | {"now": books.now}).fetchall():
            debt = books.debt(found.id)
            created = LoanChange(loan_id, external_id, None, 1, None, lent)
            debt = Debt(debt.total + lent, debt.open_loans + 1)
            books.record(Kind.LOAN_CREATED, found, origin, debt, [created], lent)
            if active:
                taken = LoanChange(loan_id, external_id, 1, 2, lent, lent)
                books.record(Kind.LOAN_ACTIVATED, found, origin, debt, [taken], lent)
        for query, parameters in books.events():
            connection.execute(query.sql.replace(b"$1", b"%s"), list(parameters.values()))
