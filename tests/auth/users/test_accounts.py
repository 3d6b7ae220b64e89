"""What the web's pages use: a login that knows nothing of gRPC; and what is cleaned away."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from mo_grpc.auth.tokens.store import clean_sessions
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.rules import OtpRequired
from mo_grpc.auth.users.store import clean_failures
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.embedded import embedded_url
from mo_grpc.db.engine import Database
from mo_grpc.errors import Unauthenticated
from tests.auth.users.conftest import Doors, NewPerson, reason, rows, totp
from tests.conftest import Stack
from tests.secrets import PASSWORD

T = TypeVar("T")


def with_database(stack: Stack, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = Database(embedded_url(stack.data_dir), 1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def test_authenticate(stack: Stack, new_person: NewPerson, over_doors: Doors) -> None:
    settings = Settings.model_construct(mo_data_dir=stack.data_dir, mo_password_memory_kib=1024, mo_password_passes=1)
    person, enrolled = new_person(), new_person()
    door = over_doors.person(enrolled.email)
    secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    door("auth.ConfirmOtp", code=totp(secret, -1))

    async def work(database: Database) -> None:
        accounts = Accounts(settings, database, Vault(settings))
        found = await accounts.authenticate(person.email, PASSWORD, "", "192.0.2.1")
        assert (found.id, found.email, found.staff) == (person.id, person.email, True)
        with pytest.raises(Unauthenticated):
            await accounts.authenticate(person.email, "wrong password", "", "192.0.2.1")
        with pytest.raises(OtpRequired):
            await accounts.authenticate(enrolled.email, PASSWORD, "", "192.0.2.1")
        assert (await accounts.authenticate(enrolled.email, PASSWORD, totp(secret), "192.0.2.1")).id == enrolled.id

    with_database(stack, work)


def test_what_ended_a_day_ago_is_cleaned_away(stack: Stack, new_person: NewPerson, over_doors: Doors) -> None:
    old, young = new_person(), new_person()
    kept = [over_doors.tokens(person.email)["refresh_token"] for person in (old, young)][1]
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
