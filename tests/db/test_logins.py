"""Two logins: the owner, who migrates, and the one that serves, which cannot become the owner."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.config import Settings
from mo_grpc.db.embedded import ROLE, SERVICE_ROLE, EmbeddedPostgres, embedded_url
from mo_grpc.db.migrate import migrate
from tests.conftest import Stack, run_cli, settings_environment
from tests.databases import Connection, connect, fresh_database

SUPERUSER = "postgres"


@pytest.fixture
def service(stack: Stack) -> Iterator[Connection]:
    """A session with a worker's own credentials, which is not told to act as another role."""
    with connect(embedded_url(stack.data_dir, SERVICE_ROLE), autocommit=True) as connection:
        yield connection


def test_every_session_of_the_service_is_that_logins(stack: Stack) -> None:
    stack.cli("keys", "list")
    with connect(embedded_url(stack.data_dir, SUPERUSER)) as superuser:
        sessions = superuser.execute("SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'mo-grpc'")
        assert sessions.fetchall() == [(SERVICE_ROLE,)]


@pytest.mark.parametrize(
    "statement",
    [
        f"SET ROLE {ROLE}",
        f"SET ROLE {SUPERUSER}",
        f"SET SESSION AUTHORIZATION {ROLE}",
        f"SET SESSION AUTHORIZATION {SUPERUSER}",
        f"GRANT {ROLE} TO {SERVICE_ROLE}",
        f"ALTER ROLE {SERVICE_ROLE} SUPERUSER",
        f"ALTER ROLE {SERVICE_ROLE} CREATEROLE",
        f"ALTER ROLE {ROLE} PASSWORD 'mine'",
        "CREATE ROLE another",
        "CREATE DATABASE another",
        f"ALTER TABLE loans OWNER TO {SERVICE_ROLE}",
        f"REASSIGN OWNED BY {ROLE} TO {SERVICE_ROLE}",
        "DROP TABLE loans CASCADE",
        "ALTER TABLE loans DISABLE TRIGGER ALL",
        "DELETE FROM loans",
        "UPDATE events SET actor = ''",
        "CREATE TABLE mine ()",
        "COPY loans TO PROGRAM 'true'",
        "SET session_replication_role = replica",
    ],
)
def test_it_cannot_become_the_owner_nor_do_what_the_owner_may(service: Connection, statement: str) -> None:
    service.execute("RESET ROLE")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement.encode())
    assert service.execute("SELECT session_user, current_user").fetchone() == (SERVICE_ROLE, SERVICE_ROLE)


def test_each_has_a_password_of_its_own(stack: Stack) -> None:
    urls = [embedded_url(stack.data_dir, role) for role in (ROLE, SERVICE_ROLE, SUPERUSER)]
    for mine, other in itertools.permutations(urls, 2):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(mine.set(password=other.password))


def test_what_serves_reads_no_other_password(stack: Stack) -> None:
    hidden = [stack.data_dir / f"{role}.password" for role in (ROLE, SUPERUSER)]
    for file in hidden:
        file.rename(file.with_suffix(".hidden"))
    try:
        assert "id" in stack.cli("keys", "list").stdout
        assert stack.cli("migrate", check=False).returncode == 1
    finally:
        for file in hidden:
            file.with_suffix(".hidden").rename(file)


def test_a_data_folder_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    settings = Settings(mo_data_dir=tmp_path, mo_database_url=None)
    with EmbeddedPostgres(tmp_path):
        migrate(settings)
        superuser = embedded_url(tmp_path, SUPERUSER)
        # As it was: the owner served, with the superuser's password.
        with connect(superuser, autocommit=True) as connection:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(change.format(sql.Identifier(ROLE), sql.Literal(str(superuser.password))))
            connection.execute(f"ALTER ROLE {SERVICE_ROLE} NOLOGIN PASSWORD NULL".encode())
        with connect(superuser.set(username=ROLE)) as owner:
            owner.execute("INSERT INTO customers (external_id, score, created_at, updated_at) VALUES ('a', 1, now(), now())")
        for role in (ROLE, SERVICE_ROLE):
            (tmp_path / f"{role}.password").unlink()
    with EmbeddedPostgres(tmp_path):
        migrate(settings)
        with connect(embedded_url(tmp_path, SERVICE_ROLE)) as service:
            assert service.execute("SELECT external_id FROM customers").fetchall() == [("a",)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(embedded_url(tmp_path, SUPERUSER).set(username=ROLE))


@pytest.fixture
def external(stack: Stack) -> Iterator[URL]:
    """An empty database of one's own, for its owner."""
    with fresh_database(stack.data_dir) as url:
        yield url


def migrated(owner: URL, service: URL, data_dir: Path) -> list[str]:
    """Run `mo-grpc migrate` with two logins; answer what it warned of."""
    urls = {"MO_DATABASE_URL": service, "MO_MIGRATION_DATABASE_URL": owner}
    texts = {name: url.set(drivername="postgresql").render_as_string(hide_password=False) for name, url in urls.items()}
    done = run_cli(settings_environment(data_dir, **texts), "migrate")
    assert str(service.password) not in done.stderr + done.stdout
    return [json.loads(line)["event"] for line in done.stderr.splitlines()]


def test_migrating_lets_the_service_in_and_follows_its_password(stack: Stack, external: URL, tmp_path: Path) -> None:
    try:
        for password in ("first-of-its-kind", "second-of-its-kind"):
            service = external.set(username="mo_app", password=password)
            assert migrated(external, service, tmp_path) == []
            with connect(service) as connection:
                connection.execute(f"SET ROLE {SERVICE_ROLE}".encode())
                assert connection.execute("SELECT FROM customers").rowcount == 0
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SET ROLE {ROLE}".encode())
    finally:
        with connect(embedded_url(stack.data_dir, SUPERUSER)) as superuser:
            superuser.execute("DROP ROLE IF EXISTS mo_app")


def test_where_the_owner_may_not_let_it_in_a_warning_says_so(stack: Stack, external: URL, tmp_path: Path) -> None:
    """An administrator keeps the logins: the service's is a member of what the owner may only grant to."""
    service = external.set(username=SUPERUSER, password="a-guess-that-is-wrong")
    [warning] = migrated(external, service, tmp_path)
    assert "cannot log in" in warning
