"""Each constraint of the schema refuses a row that breaks it, and that alone."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL

from tests.conftest import Stack
from tests.databases import Connection, connect, migrated_database

NOW = "2026-01-01T00:00:00Z"
HASH = b"x" * 32
ROWS: dict[str, dict[str, Any]] = {
    "customers": {"id": 1, "external_id": "c", "score": 1000, "created_at": NOW, "updated_at": NOW},
    "loans": {
        "id": 1, "customer_id": 1, "external_id": "l", "amount": 100, "outstanding": 100, "status": 1,
        "maximum_payment_date": NOW, "created_at": NOW, "updated_at": NOW,
    },
    "payments": {
        "id": 1, "customer_id": 1, "external_id": "p", "total_amount": 10, "status": 1, "paid_at": NOW,
        "created_at": NOW, "updated_at": NOW,
    },
    "payment_details": {"payment_id": 1, "loan_id": 1, "customer_id": 1, "amount": 10},
    "api_keys": {"id": "k" * 12, "name": "k", "secret_hash": HASH, "scopes": [], "created_at": NOW},
    "idempotency_records": {
        "owner": "k", "key": "r", "request_hash": HASH, "refused": False, "answer": b"", "created_at": NOW,
    },
    "imports": {"id": 1, "source": "f", "bytes_total": 10, "created_by": "k", "created_at": NOW},
    "import_errors": {"import_id": 1, "line_number": 1, "external_id": "", "field": "", "reason": 1, "message": "m"},
    "users": {
        "id": 1, "email": "u@x", "first_name": "", "last_name": "", "role": 1, "staff": True, "password_hash": "h",
        "must_change_password": False, "password_changed_at": NOW, "created_at": NOW, "updated_at": NOW,
    },
    "recovery_codes": {"user_id": 1, "code_hash": HASH},
    "login_failures": {"subject": "s", "failures": 0, "last_at": NOW},
    "signing_keys": {"kid": "k", "public_key": HASH, "private_key": b"", "created_at": NOW},
    "sessions": {"id": "s" * 22, "user_id": 1, "created_at": NOW, "expires_at": NOW},
    "refresh_tokens": {"token_hash": HASH, "session_id": "s" * 22},
    "honeypot_attempts": {"id": 1, "at": NOW, "address": "", "user_agent": "", "path": "", "username": ""},
    "api_key_calls": {"day": NOW, "key_id": "k" * 12, "calls": 0},
    "event_streams": {"name": "s", "last_number": 0, "last_seal": HASH},
    "events": {
        "stream": "s", "number": 1, "at": NOW, "kind": "k", "actor": "", "subject": "", "address": "", "data": "{}",
        "sealed_by": "", "seal": HASH,
    },
    "journal_events": {
        "customer_id": 1, "number": 1, "kind": 1, "recorded_at": NOW, "actor": "", "request_id": "", "backfilled": False,
        "score_after": 1, "debt_after": 0, "loan_ids": [], "loan_statuses_before": [], "loan_statuses_after": [],
        "outstandings_before": [], "outstandings_after": [], "hash": HASH,
    },
    "journal_positions": {"position": 1, "customer_id": 1, "number": 1, "kind": 1},
    "journal_head": {"position": 0, "snapshot": ""},
    "webhooks": {
        "id": 1, "url": "u", "kinds": [], "customer_external_id": "", "description": "", "secret": HASH, "position": 0,
        "created_by": "", "created_at": NOW, "updated_at": NOW,
    },
    "webhook_deliveries": {"webhook_id": 1, "position": 1, "customer_id": 1},
    "webhook_attempts": {
        "id": 1, "webhook_id": 1, "event_id": "e", "position": 1, "number": 1, "attempted_at": NOW, "duration_ms": 0,
        "status_code": 0, "error": "", "response": "", "given_up": False,
    },
}  # fmt: skip
NEW: dict[str, dict[str, Any]] = {
    "customers": {"id": 2, "external_id": "c2"},
    "loans": {"id": 2, "external_id": "l2"},
    "payments": {"id": 2, "external_id": "p2"},
    "payment_details": {"payment_id": 2},
    "api_keys": {"id": "n" * 12},
    "idempotency_records": {"key": "r2"},
    "imports": {"id": 2},
    "import_errors": {"line_number": 2},
    "users": {"id": 2, "email": "v@x"},
    "recovery_codes": {"code_hash": b"y" * 32},
    "login_failures": {"subject": "t"},
    "signing_keys": {"kid": "l"},
    "sessions": {"id": "t" * 22},
    "refresh_tokens": {"token_hash": b"y" * 32},
    "honeypot_attempts": {"id": 2},
    "api_key_calls": {"day": "2001-01-01"},
    "event_streams": {"name": "t"},
    "events": {"number": 2},
    "journal_events": {"number": 2},
    "journal_positions": {"position": 2, "number": 2},
    "journal_head": {},
    "webhooks": {"id": 2},
    "webhook_deliveries": {"position": 2},
    "webhook_attempts": {"id": 2},
}
REJECTED = {"status": 2, "paid_at": None, "rejected_at": NOW, "rejection_kind": 1, "rejection_reason": "Too much."}
BOUNCED = REJECTED | {"paid_at": NOW, "rejection_kind": 2}
NOT_IDS = ["", "x" * 61, "a b", "a/b", ".a", "-a", "é", "a\n"]

BAD: list[tuple[str, dict[str, Any]]] = [
    ("customers_pkey", {"id": 1}),
    ("customers_external_id_key", {"external_id": "c"}),
    *[("customers_external_id_check", {"external_id": bad}) for bad in NOT_IDS],
    *[("customers_status_check", {"status": bad}) for bad in (0, 3, -1)],
    ("customers_score_check", {"score": "-0.01"}),
    ("loans_pkey", {"id": 1}),
    ("loans_external_id_key", {"external_id": "l"}),
    ("loans_customer_id_fkey", {"customer_id": 9}),
    *[("loans_external_id_check", {"external_id": bad}) for bad in NOT_IDS],
    *[("loans_amount_check", {"amount": bad, "outstanding": bad}) for bad in (0, -1)],
    *[("loans_outstanding_check", {"status": 2, "taken_at": NOW, "outstanding": bad}) for bad in ("100.01", "-0.01")],
    *[("loans_contract_version_check", {"contract_version": bad}) for bad in ("", "v" * 31)],
    *[("loans_status_check", {"status": bad}) for bad in (0, 5)],
    ("loans_status_check", {"status": 1, "taken_at": NOW}),
    ("loans_status_check", {"status": 1, "outstanding": 99}),
    ("loans_status_check", {"status": 2}),
    ("loans_status_check", {"status": 2, "taken_at": NOW, "outstanding": 0}),
    ("loans_status_check", {"status": 3, "taken_at": NOW}),
    ("loans_status_check", {"status": 3, "outstanding": 0}),
    ("loans_status_check", {"status": 4, "outstanding": 0}),
    ("loans_status_check", {"status": 4, "taken_at": NOW, "outstanding": "0.01"}),
    ("payments_pkey", {"id": 1}),
    ("payments_external_id_key", {"external_id": "p"}),
    ("payments_customer_id_fkey", {"customer_id": 9}),
    *[("payments_external_id_check", {"external_id": bad}) for bad in NOT_IDS],
    *[("payments_total_amount_check", {"total_amount": bad}) for bad in (0, -1)],
    *[("payments_status_check", {"status": bad}) for bad in (0, 3)],
    ("payments_status_check", {"paid_at": None}),
    ("payments_status_check", {"rejected_at": NOW}),
    ("payments_status_check", {"rejection_kind": 2}),
    ("payments_status_check", {"rejection_reason": "Why?"}),
    ("payments_status_check", REJECTED | {"rejected_at": None}),
    ("payments_status_check", REJECTED | {"rejection_kind": None}),
    ("payments_status_check", REJECTED | {"rejection_kind": 3}),
    *[("payments_status_check", REJECTED | {"rejection_reason": bad}) for bad in (None, "", "x" * 501)],
    ("payments_status_check", REJECTED | {"paid_at": NOW}),
    ("payments_status_check", BOUNCED | {"paid_at": None}),
    ("payment_details_pkey", {"payment_id": 1}),
    *[("payment_details_amount_check", {"amount": bad}) for bad in (0, -1)],
    ("payment_details_payment_id_customer_id_fkey", {"payment_id": 9}),
    ("payment_details_loan_id_customer_id_fkey", {"loan_id": 9}),
    # A payment of another customer, and a loan of another customer.
    ("payment_details_payment_id_customer_id_fkey", {"payment_id": 3}),
    ("payment_details_loan_id_customer_id_fkey", {"loan_id": 3}),
    ("journal_events_pkey", {"number": 1}),
    ("journal_events_number_check", {"number": 0}),
    *[("journal_events_kind_check", {"kind": bad}) for bad in (0, 10)],
    ("journal_events_hash_check", {"hash": HASH[1:]}),
    ("journal_positions_pkey", {"position": 1}),
    ("journal_positions_customer_id_number_key", {"number": 1}),
    ("journal_head_pkey", {}),
    ("journal_head_singleton_check", {"singleton": False}),
    ("webhooks_pkey", {"id": 1}),
    ("webhooks_customer_id_fkey", {"customer_id": 9, "customer_external_id": "c"}),
    *[("webhooks_url_check", {"url": bad}) for bad in ("", "x" * 2001)],
    ("webhooks_description_check", {"description": "x" * 201}),
    *[("webhooks_customer_check", bad) for bad in ({"customer_id": 1}, {"customer_external_id": "c"})],
    *[("webhooks_previous_check", bad) for bad in ({"previous_secret": HASH}, {"previous_expires_at": NOW})],
    ("webhooks_position_check", {"position": -1}),
    *[("webhooks_disabled_check", bad) for bad in ({"disabled_at": NOW}, {"disabled_reason": 1})],
    ("webhooks_disabled_check", {"disabled_at": NOW, "disabled_reason": 4}),
    ("webhook_deliveries_pkey", {"position": 1}),
    ("webhook_deliveries_webhook_id_fkey", {"webhook_id": 9}),
    *[("webhook_deliveries_state_check", {"state": bad, "finished_at": NOW}) for bad in (0, 1, 4)],
    ("webhook_deliveries_state_check", {"state": 2}),
    ("webhook_deliveries_state_check", {"state": 2, "finished_at": NOW, "next_at": NOW}),
    ("webhook_deliveries_attempts_check", {"attempts": -1}),
    ("webhook_attempts_pkey", {"id": 1}),
    ("webhook_attempts_webhook_id_fkey", {"webhook_id": 9}),
    ("webhook_attempts_number_check", {"number": 0}),
    ("webhook_attempts_duration_ms_check", {"duration_ms": -1}),
    ("api_keys_pkey", {"id": "k" * 12}),
    *[("api_keys_id_check", {"id": bad}) for bad in ("k" * 11, "k" * 13, "k" * 11 + "_")],
    *[("api_keys_name_check", {"name": bad}) for bad in ("", "x" * 101)],
    *[("api_keys_secret_hash_check", {"secret_hash": bad}) for bad in (b"", HASH + b"x")],
    *[("api_keys_previous_check", bad) for bad in ({"previous_secret_hash": HASH}, {"previous_expires_at": NOW})],
    ("api_keys_previous_check", {"previous_secret_hash": b"", "previous_expires_at": NOW}),
    ("idempotency_records_pkey", {"key": "r"}),
    *[("idempotency_records_key_check", {"key": bad}) for bad in ("", "x" * 256)],
    *[("idempotency_records_request_hash_check", {"request_hash": bad}) for bad in (b"", HASH + b"x")],
    ("imports_pkey", {"id": 1}),
    *[("imports_source_check", {"source": bad}) for bad in ("", "x" * 1025)],
    ("imports_file_name_check", {"file_name": "x" * 256}),
    *[("imports_state_check", {"state": bad}) for bad in (0, 6)],
    *[("imports_counts_check", {name: 1}) for name in ("lines_count", "created_count", "failed_count")],
    *[("imports_bytes_check", {"bytes_done": bad}) for bad in (-1, 11)],
    *[("imports_finished_at_check", {"state": state, "finished_at": NOW}) for state in (1, 2)],
    *[("imports_finished_at_check", {"state": state}) for state in (3, 5)],
    ("imports_failure_check", {"state": 4, "finished_at": NOW}),
    ("imports_failure_check", {"failure": "why"}),
    ("import_errors_pkey", {"line_number": 1}),
    ("import_errors_import_id_fkey", {"import_id": 9}),
    *[("import_errors_reason_check", {"reason": bad}) for bad in (0, 6)],
    ("users_pkey", {"id": 1}),
    ("users_email_key", {"email": "u@x"}),
    *[("users_email_check", {"email": bad}) for bad in ("", "ux", "@x", "u@" + "x" * 253)],
    ("users_first_name_check", {"first_name": "x" * 101}),
    ("users_last_name_check", {"last_name": "x" * 101}),
    *[("users_role_check", {"role": bad}) for bad in (0, 4)],
    ("users_otp_check", {"otp_enabled_at": NOW}),
    ("recovery_codes_pkey", {"code_hash": HASH}),
    ("recovery_codes_user_id_fkey", {"user_id": 9}),
    *[("recovery_codes_code_hash_check", {"code_hash": bad}) for bad in (b"", HASH + b"x")],
    ("login_failures_pkey", {"subject": "s"}),
    ("login_failures_failures_check", {"failures": -1}),
    ("signing_keys_pkey", {"kid": "k"}),
    *[("signing_keys_public_key_check", {"public_key": bad}) for bad in (b"", HASH + b"x")],
    ("sessions_pkey", {"id": "s" * 22}),
    ("sessions_user_id_fkey", {"user_id": 9}),
    *[("sessions_id_check", {"id": bad}) for bad in ("s" * 21, "s" * 23)],
    ("refresh_tokens_pkey", {"token_hash": HASH}),
    ("refresh_tokens_session_id_fkey", {"session_id": "n" * 22}),
    *[("refresh_tokens_token_hash_check", {"token_hash": bad}) for bad in (b"", HASH + b"x")],
    ("api_keys_allowed_networks_check", {"allowed_networks": [ip_network("192.0.2.0/24")] * 33}),
    ("api_keys_calls_per_second_check", {"calls_per_second": -1}),
    ("api_keys_customer_external_ids_check", {"customer_external_ids": ["c"] * 101}),
    *[("api_keys_customer_external_id_prefix_check", {"customer_external_id_prefix": bad}) for bad in NOT_IDS[1:]],
    ("api_keys_calls_per_day_check", {"calls_per_day": -1}),
    ("honeypot_attempts_pkey", {"id": 1}),
    ("honeypot_attempts_user_agent_check", {"user_agent": "x" * 301}),
    ("honeypot_attempts_path_check", {"path": "x" * 301}),
    ("honeypot_attempts_username_check", {"username": "x" * 151}),
    ("api_key_calls_pkey", {"day": NOW}),
    ("api_key_calls_key_id_fkey", {"key_id": "n" * 12}),
    ("api_key_calls_calls_check", {"calls": -1}),
    ("event_streams_pkey", {"name": "s"}),
    ("event_streams_last_number_check", {"last_number": -1}),
    *[("event_streams_last_seal_check", {"last_seal": bad}) for bad in (b"", HASH + b"x")],
    ("events_pkey", {"number": 1}),
    ("events_stream_fkey", {"stream": "t"}),
    ("events_number_check", {"number": 0}),
    *[("events_seal_check", {"seal": bad}) for bad in (b"", HASH + b"x")],
]
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("customers", {"score": 0, "status": 2, "external_id": "~".join("x" * 30)}),
    ("loans", {"status": 2, "taken_at": NOW, "outstanding": "0.01", "contract_version": "v" * 30}),
    ("loans", {"status": 3}),
    ("loans", {"status": 4, "taken_at": NOW, "outstanding": 0}),
    ("payments", {}),
    ("payments", REJECTED),
    ("payments", BOUNCED | {"rejection_reason": "x" * 500}),
    ("payment_details", {}),
    ("idempotency_records", {"owner": "another", "key": "r"}),
    ("imports", {"state": 4, "finished_at": NOW, "failure": "why", "lines_count": 3, "created_count": 1, "failed_count": 2}),
    ("import_errors", {"reason": 5}),
    ("api_keys", {"previous_secret_hash": HASH, "previous_expires_at": NOW}),
    ("api_keys", {"name": "x" * 100, "expires_at": NOW, "revoked_at": NOW, "last_used_at": NOW}),
]


@pytest.fixture(scope="module")
def migrated(stack: Stack) -> Iterator[URL]:
    with migrated_database(stack.data_dir) as url:
        yield url


@pytest.fixture
def rows(migrated: URL) -> Iterator[Connection]:
    """A connection that sees one good row in each table, and some to refer to; nothing of it stays."""
    with connect(migrated) as connection:
        for table in [table for table in ROWS if table != "journal_head"]:  # whose one row the migrations make
            insert(connection, table)
        insert(connection, "payments", {"id": 2, "external_id": "p2"})
        insert(connection, "customers", {"id": 3, "external_id": "other"})
        insert(connection, "loans", {"id": 3, "external_id": "others", "customer_id": 3})
        insert(connection, "payments", {"id": 3, "external_id": "others", "customer_id": 3})
        yield connection
        connection.rollback()


def insert(connection: Connection, table: str, changes: dict[str, Any] | None = None) -> None:
    row = ROWS[table] | (changes or {})
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    values = sql.SQL(", ").join(sql.Placeholder() * len(row))
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), columns, values), [*row.values()]
    )


def table_of(constraint: str) -> str:
    return max((table for table in ROWS if constraint.startswith(f"{table}_")), key=len)


def new_row(table: str) -> dict[str, Any]:
    """What sets a row apart from those that are there."""
    return NEW[table] if table != "payments" else {"id": 4, "external_id": "p4"}


@pytest.mark.parametrize(("constraint", "changes"), BAD)
def test_a_bad_row_is_refused(rows: Connection, constraint: str, changes: dict[str, Any]) -> None:
    table = table_of(constraint)
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        insert(rows, table, new_row(table) | changes)
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize(("table", "changes"), GOOD)
def test_a_good_row_is_taken(rows: Connection, table: str, changes: dict[str, Any]) -> None:
    insert(rows, table, new_row(table) | changes)


def test_no_row_with_a_history_goes(rows: Connection) -> None:
    for table in ("customers", "loans", "payments"):
        with pytest.raises(psycopg.errors.ForeignKeyViolation), rows.transaction():
            rows.execute(sql.SQL("DELETE FROM {} WHERE id = 1").format(sql.Identifier(table)))


def test_every_constraint_has_a_bad_row(migrated: URL) -> None:
    statement = """
        SELECT conname FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u')
            AND conrelid <> 'alembic_version'::regclass
    """
    with connect(migrated) as connection:
        constraints = {row[0] for row in connection.execute(statement)}
    # The composite keys are there to be referred to; the primary keys within them speak first. Nobody writes the numbers.
    # One is an index, which has the position besides.
    assert constraints | {"journal_positions_customer_id_number_key"} == {name for name, _ in BAD} | {
        "loans_id_customer_id_key",
        "payments_id_customer_id_key",
        "api_keys_number_key",
    }
