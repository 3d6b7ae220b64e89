"""Whoever changes the record, but lacks the secret key, is found by `mo-grpc audit`."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.embedded import SERVICE_ROLE
from tests.conftest import Stack, run_cli, settings_environment
from tests.databases import connect, migrated_database

SECRET = "the-key-of-these-tests-which-is-long-enough"


@dataclass
class Record:
    """A database with some events in the stream `changes`."""

    url: URL
    environment: dict[str, str]

    def audit(self, *arguments: str, **settings: str) -> tuple[int, str]:
        done = run_cli(self.environment | settings, "audit", *arguments, check=False)
        return done.returncode, done.stdout

    def execute(self, *statements: str) -> None:
        with connect(self.url) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture(scope="module")
def made(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with migrated_database(stack.data_dir) as url:
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = settings_environment(tmp_path_factory.mktemp("record"), MO_DATABASE_URL=text, SECRET_KEY=SECRET)
        for name in ("one", "two", "three", "four"):
            run_cli(environment, "keys", "create", name)
        record = Record(url, environment)
        record.execute("CREATE TABLE kept AS SELECT * FROM events", "CREATE TABLE kept_streams AS SELECT * FROM event_streams")
        yield record


@pytest.fixture
def record(made: Record) -> Iterator[Record]:
    """The record as it was made."""
    yield made
    made.execute(
        "DELETE FROM events",
        "DELETE FROM event_streams",
        "INSERT INTO event_streams SELECT * FROM kept_streams",
        "INSERT INTO events SELECT * FROM kept",
    )


def test_a_whole_audit_log_passes(record: Record) -> None:
    status, shown = record.audit()
    assert status == 0
    assert "The audit log of changes is complete" in shown


COPIED = "stream, number, at, kind, actor, subject, address, data, sealed_by, seal"

TAMPERINGS = {
    "another time": ["UPDATE events SET at = at + interval '1 microsecond' WHERE number = 2"],
    "another kind": ["UPDATE events SET kind = 'api_key_revoked' WHERE number = 2"],
    "another actor": ["UPDATE events SET actor = 'cli:somebody' WHERE number = 2"],
    "another subject": ["UPDATE events SET subject = 'x' WHERE number = 2"],
    "another address": ["UPDATE events SET address = '192.0.2.1' WHERE number = 2"],
    "other data": ["""UPDATE events SET data = data || '{"name": "none"}' WHERE number = 2"""],
    "removed": ["DELETE FROM events WHERE number = 2"],
    "the first removed": ["DELETE FROM events WHERE number = 1"],
    "the last removed": ["DELETE FROM events WHERE number = 4"],
    "all removed": ["DELETE FROM events"],
    "removed and renumbered": [
        "DELETE FROM events WHERE number = 2",
        "UPDATE events SET number = 2 WHERE number = 3",
        "UPDATE events SET number = 3 WHERE number = 4",
    ],
    "swapped": [
        "UPDATE events SET number = 9 WHERE number = 2",
        "UPDATE events SET number = 2 WHERE number = 3",
        "UPDATE events SET number = 3 WHERE number = 9",
    ],
    "added": [f"INSERT INTO events SELECT {COPIED.replace('number', 'number + 1')} FROM events WHERE number = 4"],
    "moved to another stream": ["UPDATE events SET stream = 'logins' WHERE number = 1"],
    "the end moved": ["UPDATE event_streams SET last_number = 3 WHERE name = 'changes'"],
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_changed_event_is_found(record: Record, tampering: str) -> None:
    record.execute(*TAMPERINGS[tampering])
    status, shown = record.audit()
    assert status == 1
    assert "events changes" in shown


def test_an_audit_log_restored_to_an_older_state_is_found_by_whoever_kept_its_end(record: Record) -> None:
    _, shown = record.audit()
    ends = shown.splitlines()[-1].partition(": ")[2].split()
    assert record.audit(*ends)[0] == 0
    record.execute(
        "DELETE FROM events WHERE number = 4",
        """UPDATE event_streams SET last_number = 3, last_seal = (SELECT seal FROM events WHERE number = 3)
        WHERE name = 'changes'""",
    )
    assert record.audit()[0] == 0
    status, shown = record.audit(*ends)
    assert status == 1
    assert "events changes 4: is not the event that an earlier audit saw" in shown


def test_another_secret_key_seals_on_and_the_old_one_still_proves(record: Record) -> None:
    another = {"SECRET_KEY": "another-key-of-these-tests-which-is-long-too"}
    run_cli(record.environment | another, "keys", "create", "five")
    status, shown = record.audit(**another)
    assert status == 1
    assert "sealed under another SECRET_KEY" in shown
    assert record.audit(**another, SECRET_KEY_FALLBACKS=SECRET)[0] == 0


def test_the_service_itself_can_neither_change_nor_remove_an_event(record: Record) -> None:
    with connect(record.url) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(SERVICE_ROLE)))
        for statement in ("UPDATE events SET actor = ''", "DELETE FROM events", "DELETE FROM event_streams"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement)


def test_what_is_no_end_is_said(record: Record) -> None:
    done = run_cli(record.environment, "audit", "--known", "changes:x", check=False)
    assert done.returncode == 2
    assert "changes:x is no end of a stream" in done.stderr


def test_the_same_folder_has_the_same_key_without_a_setting(stack: Stack) -> None:
    environment = stack.environment | {"SECRET_KEY": ""}
    assert "sealed under another" not in run_cli(environment, "audit", check=False).stdout
