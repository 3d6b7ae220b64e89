import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import URL, create_engine

import mo_grpc.audit_log.models
import mo_grpc.auth.api_keys.models
import mo_grpc.auth.tokens.models
import mo_grpc.auth.users.models
import mo_grpc.customers.models
import mo_grpc.loans.models
import mo_grpc.payments.models
import mo_grpc.web.honeypot.models
import mo_grpc.webhooks.models  # noqa: F401 - each import registers its tables
from mo_grpc.db.base import Base
from mo_grpc.db.embedded import SERVICE_ROLE
from mo_grpc.db.migrate import alembic_config, downgrade, upgrade
from mo_grpc.imports.models import Import
from tests.conftest import Stack, run_cli
from tests.databases import Connection, connect, fresh_database, owner
from tests.waiting import eventually

# What the service may change of a row; all else is history.
CHANGEABLE = {
    "customers": {"status", "score", "preapproved_at", "version", "updated_at"},
    "loans": {"outstanding", "status", "taken_at", "updated_at"},
    "payments": {"status", "rejected_at", "rejection_kind", "rejection_reason", "updated_at"},
    "payment_details": set(),
    "api_keys": {
        "secret_hash",
        "previous_secret_hash",
        "previous_expires_at",
        "revoked_at",
        "last_used_at",
        "allowed_networks",
        "calls_per_second",
        "calls_per_day",
    },
    "api_key_calls": {"calls"},
    "idempotency_records": {"created_at"},
    "users": {
        "role",
        "staff",
        "password_hash",
        "must_change_password",
        "locked_at",
        "otp_secret",
        "otp_enabled_at",
        "otp_last_step",
        "last_login_at",
        "password_changed_at",
        "updated_at",
    },
    "journal_events": set(),
    "journal_positions": set(),
    "journal_head": {"position", "snapshot"},
    "webhooks": {
        "url",
        "kinds",
        "description",
        "secret",
        "previous_secret",
        "previous_expires_at",
        "position",
        "disabled_reason",
        "disabled_at",
        "failing_since",
        "updated_at",
        "deleted_at",
    },
    "webhook_deliveries": {"state", "attempts", "next_at", "claim", "finished_at"},
    "webhook_attempts": {"attempted_at"},
    "recovery_codes": {"used_at"},
    "login_failures": {"failures", "last_at"},
    "signing_keys": {"valid_until"},
    "sessions": {"revoked_at"},
    "refresh_tokens": {"used_at"},
    "imports": set(Import.__table__.columns.keys()) - {"id", "source", "file_name", "bytes_total", "created_by", "created_at"},
    "import_errors": set(),
    "honeypot_attempts": {"at"},
    "event_streams": {"last_number", "last_seal"},
    "events": set(),
    "alembic_version": set(),
}

CATALOG = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
        collation_.collname, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation AS collation_ ON collation_.oid = a.attcollation
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND c.relname <> 'alembic_version'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, NULL, NULL, NULL
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND conrelid::regclass::text <> 'alembic_version'
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef, true, NULL, NULL, NULL
    FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""

LEFTOVERS = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ '^alembic_version'
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname !~ 'alembic_version$'
"""


@pytest.fixture
def empty(stack: Stack) -> Iterator[URL]:
    with fresh_database(stack.data_dir) as url:
        yield url


@pytest.fixture(scope="module")
def migrated(stack: Stack) -> Iterator[URL]:
    with fresh_database(stack.data_dir) as url:
        upgrade(url)
        yield url


def catalog(url: URL) -> set[tuple[object, ...]]:
    with connect(url) as connection:
        rows = connection.execute(CATALOG.encode()).fetchall()
    assert len(rows) == len(set(rows)) > 50
    return set(rows)


def leftovers(url: URL) -> list[str]:
    with connect(url) as connection:
        return [row[0] for row in connection.execute(LEFTOVERS.encode())]


def revision(url: URL) -> list[str]:
    with connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]


def test_up_from_nothing_down_to_nothing_and_up_again(empty: URL) -> None:
    assert leftovers(empty) == []
    upgrade(empty)
    first = catalog(empty)
    downgrade(empty)
    assert leftovers(empty) == []
    assert revision(empty) == []
    upgrade(empty)
    assert catalog(empty) == first


def test_down_does_not_disturb_another_database_of_the_cluster(empty: URL, stack: Stack) -> None:
    upgrade(empty)
    downgrade(empty)
    # The role that serves the stack is there still, with its rights.
    with owner(stack.data_dir) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(SERVICE_ROLE)))
        assert connection.execute("SELECT FROM api_keys").rowcount


def test_the_migrations_and_the_models_agree(migrated: URL, empty: URL) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        command.check(alembic_config(migrated))
    engine = create_engine(empty)
    Base.metadata.create_all(engine)
    engine.dispose()
    assert catalog(migrated) == catalog(empty)


def test_two_migrations_at_once_both_succeed(empty: URL, stack: Stack, migrated: URL) -> None:
    upgrade(empty)
    downgrade(empty)
    settings = stack.environment | {"MO_DATABASE_URL": empty.set(drivername="postgresql").render_as_string(hide_password=False)}
    with ThreadPoolExecutor(2) as threads:
        with connect(empty) as connection:
            # The first is held up at its start, and the second by the first.
            connection.execute("LOCK TABLE alembic_version")
            running = [threads.submit(run_cli, settings, "migrate", check=False) for _ in range(2)]
            eventually(lambda: migrating(empty) == 2, 60)
        done = [each.result() for each in running]
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert catalog(empty) == catalog(migrated)
    assert len(revision(empty)) == 1


def migrating(url: URL) -> int:
    with connect(url) as connection:
        statement = "SELECT FROM pg_stat_activity WHERE application_name = 'mo-grpc migrate' AND datname = current_database()"
        return connection.execute(statement).rowcount


@pytest.fixture
def service(migrated: URL) -> Iterator[Connection]:
    """A connection that acts as the role that serves."""
    with connect(migrated, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(SERVICE_ROLE)))
        yield connection


def test_the_service_changes_what_it_may_and_nothing_else(service: Connection) -> None:
    columns = service.execute("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
    found = columns.fetchall()
    assert {table for table, _ in found} == CHANGEABLE.keys()
    changed: dict[str, set[str]] = {table: set() for table in CHANGEABLE}
    for table, column in found:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            statement = sql.SQL("UPDATE {} SET {column} = {column} WHERE false")
            service.execute(statement.format(sql.Identifier(table), column=sql.Identifier(column)))
            changed[table].add(column)
    assert changed == CHANGEABLE


# What is cleaned away when it has served its time.
PASSING = {
    "api_key_calls",
    "honeypot_attempts",
    "idempotency_records",
    "import_errors",
    "login_failures",
    "recovery_codes",
    "sessions",
    "webhook_attempts",
    "webhook_deliveries",
}


@pytest.mark.parametrize("table", sorted(CHANGEABLE.keys() - PASSING))
def test_the_service_removes_nothing_but_what_passes(service: Connection, table: str) -> None:
    for statement in (sql.SQL("DELETE FROM {} WHERE false"), sql.SQL("TRUNCATE {} CASCADE"), sql.SQL("DROP TABLE {} CASCADE")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(statement.format(sql.Identifier(table)))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine ()",
        "ALTER TABLE loans DROP CONSTRAINT loans_amount_check",
        "ALTER TABLE api_keys DISABLE TRIGGER ALL",
        "DROP FUNCTION mo_clock CASCADE",
        "INSERT INTO alembic_version VALUES ('9999')",
    ],
)
def test_the_service_does_not_change_the_schema(service: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement.encode())
