"""The command line, where the database does not let it do its work: a sentence and an exit status, never a traceback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.migrate import upgrade
from tests.conftest import Stack, settings_environment
from tests.databases import connect, fresh_database, owner, waiting
from tests.waiting import eventually

Command = tuple[str, ...]

# Each command that needs the database, and its exit status when that is of no use to it.
COMMANDS: dict[Command, int] = {
    ("audit",): 2,
    ("events", "changes"): 1,
    ("keys", "create", "test"): 1,
    ("keys", "list"): 1,
    ("keys", "limit", "abc"): 1,
    ("keys", "rotate", "abc"): 1,
    ("keys", "revoke", "abc"): 1,
    ("users", "create", "ana@example.org"): 1,
    ("users", "list"): 1,
    ("users", "lock", "ana@example.org"): 1,
    ("users", "unlock", "ana@example.org"): 1,
    ("users", "set-role", "ana@example.org", "viewer"): 1,
    ("users", "set-password", "ana@example.org"): 1,
    ("users", "disable-otp", "ana@example.org"): 1,
    ("tokens", "rotate-key"): 1,
    ("demo",): 1,
    ("import", __file__): 1,
    ("migrate",): 1,
}

# Runs commands one after the other, as the shell would; a new Python for each would take a second. What they log goes to the
# descriptor of standard error, past `sys.stderr`.
RUN = """
import contextlib, io, json, os, sys, tempfile, traceback
from mo_grpc.cli.app import main
done = []
for command in json.load(sys.stdin):
    sys.argv, sys.stdin = ["mo-grpc", *command], io.StringIO("correct horse battery staple")
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryFile("w+") as errors:
        os.dup2(errors.fileno(), 2)
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = -1
        errors.seek(0)
        done.append((command, status, errors.read()))
print(json.dumps(done))
"""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    errors: str


def run(environment: dict[str, str], commands: list[Command]) -> dict[Command, Done]:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return {tuple(command): Done(status, errors) for command, status, errors in json.loads(done.stdout)}


def assert_told(environment: dict[str, str], sentence: str, commands: list[Command]) -> None:
    """Each ends with its status and says that sentence, in a line."""
    for command, done in run(environment, commands).items():
        assert done.status == COMMANDS[command], (command, done)
        assert sentence in done.errors, (command, done)
        assert len(done.errors.splitlines()) == 1, (command, done)
        assert "hush-hush" not in done.errors


@pytest.fixture
def empty(stack: Stack) -> Iterator[URL]:
    """A database without a schema."""
    with fresh_database(stack.data_dir) as url:
        yield url


def over(url: URL, stack: Stack, data_dir: Path) -> dict[str, str]:
    """The settings of somebody who uses that database."""
    text = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return settings_environment(data_dir, MO_DATABASE_URL=text, SECRET_KEY=stack.environment["SECRET_KEY"])


def test_a_dead_database(tmp_path: Path) -> None:
    environment = settings_environment(tmp_path, MO_DATABASE_URL="postgresql://mo:hush-hush@127.0.0.1:1/mo")
    assert_told(environment, "The database cannot be reached", list(COMMANDS))


def test_a_data_folder_in_which_nothing_runs(tmp_path: Path) -> None:
    assert_told(settings_environment(tmp_path, MO_DATABASE_URL=""), "Start one with `mo-grpc up`", list(COMMANDS))


def test_a_database_without_a_schema(stack: Stack, empty: URL, tmp_path: Path) -> None:
    assert_told(over(empty, stack, tmp_path), "run `mo-grpc migrate`", [each for each in COMMANDS if each != ("migrate",)])


def test_a_schema_of_a_newer_version(stack: Stack, empty: URL, tmp_path: Path) -> None:
    upgrade(empty)
    with connect(empty) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert_told(over(empty, stack, tmp_path), "newer than this version", [("migrate",)])


def test_a_database_that_is_read_only(stack: Stack, empty: URL, tmp_path: Path) -> None:
    upgrade(empty)
    with connect(empty, autocommit=True) as connection:
        connection.execute("INSERT INTO customers (external_id, score, created_at, updated_at) VALUES ('ana', 1, now(), now())")
        read_only = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
        connection.execute(read_only.format(sql.Identifier(str(empty.database))))
    changes = [("keys", "create", "test"), ("users", "create", "ana@example.org"), ("tokens", "rotate-key"), ("demo",)]
    assert_told(over(empty, stack, tmp_path), "The database is read-only", [*changes, ("import", __file__)])


def test_the_audit_of_a_table_that_is_locked(stack: Stack) -> None:
    with owner(stack.data_dir) as migration:
        migration.execute("LOCK loans IN ACCESS EXCLUSIVE MODE")
        assert_told(stack.environment, "Another session holds a lock", [("audit",)])
        migration.rollback()


def test_a_statement_that_waited_too_long_for_a_lock(stack: Stack, empty: URL, tmp_path: Path) -> None:
    """PostgreSQL's limit of 30 seconds and an operator's `pg_cancel_backend` end a statement in the same way."""
    upgrade(empty)
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    with ThreadPoolExecutor(1) as pool, connect(empty) as migration:
        migration.execute("LOCK users IN ACCESS EXCLUSIVE MODE")
        told = pool.submit(assert_told, over(empty, stack, tmp_path), "Another session holds a lock", [("users", "list")])
        eventually(lambda: waiting(migration) == 1, 30)
        migration.execute(cancel.encode())
        told.result(30)
        migration.rollback()
