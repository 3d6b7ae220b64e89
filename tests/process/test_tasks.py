"""The work behind the calls: it outlasts every outage, and no fault of it stays unnoticed."""

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from mo.customers.v1 import customers_pb2, customers_pb2_grpc
from sqlalchemy import Engine, event
from structlog.testing import capture_logs
from structlog.typing import EventDict

from mo_grpc.audit_log.refusals import RefusedCall
from mo_grpc.audit_log.rules import Actor
from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.db.engine import _confirmed
from mo_grpc.errors import Unauthenticated
from mo_grpc.process.tasks import Tasks, repeat
from mo_grpc.server.state import ServerState
from tests.conftest import KEY, Stack, free_port, run_cli
from tests.databases import Connection, connect, open_to_all, waiting
from tests.doors import GrpcDoor, Refused
from tests.process.conftest import Own, run
from tests.run.test_workers import a_server as supervised
from tests.servers import NOT_SERVING, SERVING, a_server
from tests.waiting import eventually, until

UNAVAILABLE = 14


async def use(state: ServerState, api_key: str) -> None:
    """Give every task something to write."""
    await until(lambda: state.keys.is_current and state.tokens.is_current)
    key = await state.keys.authenticate(api_key)
    state.limits.charge(key)
    state.refusals.note(RefusedCall("API_KEY_INVALID", Actor("")), "/mo.Test/Call")


RIGHTS = {
    "API keys": "SELECT ON api_keys",
    "last use of API keys": "UPDATE (last_used_at) ON api_keys",
    "limits of API keys": "INSERT ON api_key_calls",
    "tokens": "SELECT ON users",
    "refused calls": "INSERT ON events",
    "imports": "SELECT ON imports",
    "cleaning up": "DELETE ON login_failures",
    "webhooks": "SELECT ON webhooks",
    "positions of events": "INSERT ON journal_positions",
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("task", RIGHTS)
def test_a_task_that_fails_is_told_with_its_traceback(own: Own, tmp_path: Path, task: str) -> None:
    async def work(state: ServerState, tasks: Tasks) -> None:
        if task not in ("API keys", "tokens"):
            await use(state, own.api_key)
        await until(lambda: tasks.failed)

    own.execute(f"REVOKE {RIGHTS[task]} FROM mo_service")
    try:
        with capture_logs() as logs:
            run(own, tmp_path, work)
    finally:
        own.execute(f"GRANT {RIGHTS[task]} TO mo_service")
    failed = [line for line in logs if line["event"] == "background task failed"]
    assert [line["task"] for line in failed] == [task]
    assert "permission denied" in str(failed[0]["exc_info"])


def waits(logs: list[EventDict]) -> set[str]:
    return {line["task"] for line in logs if line["event"] == "background task waits"} | {
        line["channel"] for line in logs if line["event"] == "notifications cannot be followed"
    }


@pytest.mark.usefixtures("at_once")
def test_every_task_outlasts_an_absent_database(own: Own, stack: Stack, tmp_path: Path) -> None:
    everybody = {*RIGHTS, "mo_api_keys", "mo_people", "mo_journal"} - {"API keys", "tokens"}

    async def work(state: ServerState, tasks: Tasks) -> None:
        await use(state, own.api_key)
        open_to_all(admin, own.url.database, to_all=False)
        # Before anybody notices, so that each has something to write.
        await state.keys.authenticate(own.api_key)
        state.refusals.note(RefusedCall("API_KEY_MISSING", Actor("")), "/mo.Test/Call")
        await until(lambda: waits(logs) == everybody)
        assert not any((state.keys.is_current, state.tokens.is_current, tasks.failed))
        open_to_all(admin, own.url.database, to_all=True)
        await until(lambda: state.keys.is_current and state.tokens.is_current)
        await until(lambda: recorded() == 1)
        assert not tasks.failed

    def recorded() -> int:
        with connect(own.url) as connection:
            row = connection.execute("SELECT count(*) FROM events WHERE data->>'reason' = 'API_KEY_MISSING'").fetchone()
        return int(row[0]) if row else 0

    with connect(own.url.set(database="postgres"), autocommit=True) as admin, capture_logs() as logs:
        try:
            run(own, tmp_path, work)
        finally:
            open_to_all(admin, own.url.database, to_all=True)


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
def test_no_task_ends_by_itself_unnoticed(end: str) -> None:
    async def ends() -> None:
        if end == "raises":
            raise KeyError(end)
        if end == "is cancelled":
            raise asyncio.CancelledError

    async def main() -> None:
        failed = asyncio.Event()
        tasks = Tasks(on_failure=failed.set)
        tasks.start("short", ends())
        async with asyncio.timeout(10):
            await failed.wait()
        assert tasks.failed

    with capture_logs() as logs:
        asyncio.run(main())
    assert [(line["event"], line["task"]) for line in logs] == [("background task failed", "short")]


def test_a_task_that_fails_while_it_is_stopped_is_told_too() -> None:
    async def main() -> None:
        async def stubborn() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                raise KeyError

        tasks = Tasks()
        tasks.start("stubborn", stubborn())
        await asyncio.sleep(0)
        await tasks.stop()
        assert not tasks.failed

    with capture_logs() as logs:
        asyncio.run(main())
    assert [line["event"] for line in logs] == ["background task failed"]


def test_a_task_that_is_stopped_as_its_commit_is_confirmed_stops() -> None:
    """Else it goes on for ever, and whoever stops it waits for ever."""

    async def main() -> None:
        commit = asyncio.get_running_loop().create_future()
        tasks = Tasks()
        tasks.start("writes", repeat("writes", partial(_confirmed, commit), 0))
        for _ in range(3):
            await asyncio.sleep(0)
        commit.set_result(None)
        async with asyncio.timeout(10):
            await tasks.stop()

    asyncio.run(main())


def test_a_worker_ends_when_a_task_fails(own: Own, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("wb") as stderr,
        a_server(own.environment, stderr, MO_DATABASE_URL=own.environment["MO_DATABASE_URL"]) as worker,
    ):
        own.execute("REVOKE SELECT ON users FROM mo_service")
        try:
            assert worker.process.wait(30) == 70
        finally:
            own.execute("GRANT SELECT ON users TO mo_service")
    [failed] = [line for line in log.read_text().splitlines() if "background task failed" in line]
    assert '"task": "tokens"' in failed
    assert "InsufficientPrivilege" in failed


def test_health_counts_what_users_calls_need(own: Own) -> None:
    with a_server(own.environment, MO_DATABASE_URL=own.environment["MO_DATABASE_URL"]) as worker:
        user = GrpcDoor(worker.channel, (("authorization", "Bearer x"),))

        def code() -> int:
            with pytest.raises(Refused) as refused:
                user("customers.ListCustomers", page_size=1)
            return refused.value.code

        assert code() == 16
        with connect(own.url) as connection:
            connection.execute("LOCK TABLE users")
            eventually(lambda: worker.health() == NOT_SERVING, 30)
            assert code() == UNAVAILABLE
            assert worker.health("readiness") == NOT_SERVING
            assert worker.health("startup") == worker.health("liveness") == SERVING
            connection.rollback()
        eventually(lambda: worker.health() == SERVING, 30)
        assert code() == 16


def test_a_worker_that_starts_takes_no_call_before_it_knows_the_keys(own: Own, stack: Stack, tmp_path: Path) -> None:
    port = str(free_port())
    options = [("grpc.max_reconnect_backoff_ms", 100)]
    settings = {"MO_DATABASE_URL": own.environment["MO_DATABASE_URL"], "MO_GRPC_PORT": port, "MO_WORKERS": "1"}
    with connect(own.url) as holder, grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        holder.execute("LOCK TABLE api_keys")
        with supervised(stack, tmp_path, **settings):
            list_customers = customers_pb2_grpc.CustomerServiceStub(channel).ListCustomers
            key = (("x-api-key", own.api_key),)
            call = list_customers.future(customers_pb2.ListCustomersRequest(), metadata=key, wait_for_ready=True, timeout=60)
            eventually(lambda: waiting(holder) > 0, 60)
            with pytest.raises(grpc.FutureTimeoutError):
                call.result(1)
            holder.rollback()
            call.result(30)


def test_many_keys_cost_nothing_while_nothing_changes_and_no_change_is_missed(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one whose notification is lost; and a key that is known already is not looked at again."""
    looks: list[int] = []
    parsed: list[str] = []

    def executed(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if "FROM api_keys" in statement:
            looks.append(cursor.rowcount)

    def parse(presented: str) -> Credential | None:
        parsed.append(presented)
        return genuine(presented)

    genuine = Credential.parse
    monkeypatch.setattr(Credential, "parse", parse)

    async def refused(state: ServerState) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    await state.keys.authenticate(api_key)
                except Unauthenticated:
                    return
                await asyncio.sleep(0.05)

    async def work(state: ServerState, tasks: Tasks) -> None:
        await until(lambda: state.keys.is_current)
        assert max(looks) > 10_000
        await state.keys.authenticate(api_key)
        await state.keys.flush()
        count = len(looks)
        await until(lambda: len(looks) >= count + 2)
        assert sum(looks[count:]) == 0
        # The connection breaks, and all are read again.
        own.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN \"mo_api_keys\"%' OR "
            "(datname = current_database() AND query = 'SELECT 1')"
        )
        await until(lambda: max(looks[count:]) > 10_000)
        await until(lambda: state.keys.is_current)
        await state.keys.authenticate(api_key)
        assert parsed == [api_key]
        own.execute("ALTER TABLE api_keys DISABLE TRIGGER api_keys_notify")
        own.execute(f"UPDATE api_keys SET revoked_at = now() WHERE id = '{key_id}'")
        await refused(state)
        own.execute("ALTER TABLE api_keys ENABLE TRIGGER api_keys_notify")
        own.execute(f"UPDATE api_keys SET revoked_at = NULL WHERE id = '{key_id}'")
        await until(lambda: state.keys._keys[key_id].revoked_at is None)
        await state.keys.authenticate(api_key)
        own.execute(f"DELETE FROM api_keys WHERE id = '{key_id}'")
        await refused(state)

    own.execute("""
        INSERT INTO api_keys (id, name, secret_hash, scopes, created_at, changed_at)
        SELECT 'many' || to_char(n, 'FM00000000'), 'many', sha256(n::text::bytea), '{}', now(), now() - interval '1 day'
        FROM generate_series(1, 10000) AS n
    """)
    [api_key] = KEY.findall(run_cli(own.environment, "keys", "create", "one of many").stdout)
    key_id = api_key.split("_")[1]
    own.execute(f"UPDATE api_keys SET changed_at = now() - interval '1 day' WHERE id = '{key_id}' OR name = 'tasks'")
    event.listen(Engine, "after_cursor_execute", executed)
    try:
        run(own, tmp_path, work)
    finally:
        event.remove(Engine, "after_cursor_execute", executed)
        own.execute("DELETE FROM api_keys WHERE name = 'many'")


def waiters(connection: Connection) -> set[int]:
    """The sessions that wait for what this connection holds."""
    connection.execute("SELECT pg_stat_clear_snapshot()")
    return {pid for (pid,) in connection.execute("SELECT pid FROM pg_locks WHERE NOT granted").fetchall()}


def test_a_server_that_stops_while_it_reports_a_keys_calls_loses_none(own: Own) -> None:
    [key] = KEY.findall(run_cli(own.environment, "keys", "create", "limited", "--per-day", "100").stdout)
    with connect(own.url) as holder, a_server(own.environment, MO_DATABASE_URL=own.environment["MO_DATABASE_URL"]) as server:
        holder.execute("LOCK TABLE api_key_calls IN EXCLUSIVE MODE")
        door = GrpcDoor(server.channel, (("x-api-key", key),))
        for _ in range(3):
            door("customers.ListCustomers", page_size=1)
        eventually(lambda: len(waiters(holder)) == 1, 10)
        reporting = waiters(holder)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: waiters(holder) != reporting, 10)
        holder.rollback()
        assert server.process.wait(30) == 0
    with connect(own.url) as connection:
        told = connection.execute("SELECT sum(calls) FROM api_key_calls WHERE key_id = %s", [key.split("_")[1]]).fetchall()
    assert told == [(3,)]
