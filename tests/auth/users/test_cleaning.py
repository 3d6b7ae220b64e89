import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from mo_grpc.auth.api_keys.store import clean_calls
from mo_grpc.auth.users.sessions import clean_sessions
from mo_grpc.auth.users.store import clean_failures
from mo_grpc.db.embedded import embedded_url
from mo_grpc.db.engine import Database
from tests.auth.users.conftest import Doors, NewUser, reason, rows
from tests.conftest import Stack

T = TypeVar("T")


def with_database(stack: Stack, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = Database(embedded_url(stack.data_dir), 1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def test_what_ended_a_day_ago_is_cleaned_away(stack: Stack, new_user: NewUser, over_doors: Doors) -> None:
    old, young = new_user(), new_user()
    kept = [over_doors.tokens(user.email)["refresh_token"] for user in (old, young)][1]
    rows(stack, "UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE user_id = %s", old.id)
    rows(stack, "DELETE FROM login_failures")
    reason(lambda: over_doors.login(old.email, "wrong password"))
    rows(stack, "UPDATE login_failures SET last_at = now() - interval '25 hours'")
    reason(lambda: over_doors.login(young.email, "wrong password"))

    async def work(database: Database) -> tuple[int, int]:
        day = timedelta(days=1)
        failures = await database.write(lambda c: clean_failures(c, day))
        return failures, await database.write(lambda c: clean_sessions(c, day))

    failures, sessions = with_database(stack, work)
    assert (failures, sessions) == (1, 1)
    assert rows(stack, "SELECT count(*) FROM sessions WHERE user_id = %s", old.id) == [(0,)]
    assert rows(stack, "SELECT count(*) FROM login_failures") == [(2,)]  # the account, and the address of both
    assert over_doors.open({})("auth.RefreshToken", refresh_token=kept)


def test_the_counts_of_days_long_ago_are_cleaned_away(stack: Stack) -> None:
    counted = "INSERT INTO api_key_calls (day, key_id, calls) SELECT CAST(now() AS date) - CAST(%s AS int), id, 1 FROM api_keys"
    for days in (89, 90, 91, 92):
        rows(stack, counted, days)
    [(keys,)] = rows(stack, "SELECT count(*) FROM api_keys")

    async def work(database: Database) -> int:
        return await database.write(lambda c: clean_calls(c, timedelta(days=90)))

    assert with_database(stack, work) == 2 * keys
    assert rows(stack, "SELECT count(*) FROM api_key_calls WHERE day < CAST(now() AS date) - 80") == [(2 * keys,)]
