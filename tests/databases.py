"""The stack's PostgreSQL, for preparing and verifying what no public door shows."""

import itertools
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.embedded import embedded_url
from mo_grpc.db.migrate import upgrade

_run = uuid.uuid4().hex[:8]
_count = itertools.count(1)

Connection = psycopg.Connection[Any]


def connect(url: URL, *, autocommit: bool = False) -> Connection:
    """A connection of the tests' own; used as a context manager, it commits at the end."""
    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=autocommit)


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


@contextmanager
def locked(data_dir: Path, customer: str) -> Iterator[Connection]:
    """Hold a customer's row, so that every call that changes it waits."""
    with owner(data_dir) as connection:
        connection.execute("SELECT FROM customers WHERE external_id = %s FOR UPDATE", [customer])
        yield connection
        connection.rollback()


def waiting(connection: Connection) -> int:
    """How many others wait for what this connection holds."""
    connection.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction would see who was there when it first looked
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ).fetchone()
    assert row is not None
    return int(row[0])


def many_loans(data_dir: Path, customer: str, count: int) -> None:
    """Give a customer PENDING loans of 1.00, sooner than by as many calls."""
    statement = """
        INSERT INTO loans (customer_id, external_id, amount, outstanding, maximum_payment_date, created_at, updated_at)
        SELECT id, external_id || '-' || number, 1, 1, now, now, now
        FROM customers, generate_series(1, %s) AS number, clock_timestamp() AS now WHERE external_id = %s
    """
    with owner(data_dir) as connection:
        assert connection.execute(statement, [count, customer]).rowcount == count
