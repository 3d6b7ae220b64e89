"""SECRET_KEY: what serves has the one that encrypted the database's secrets, or says what to do; a change loses nothing."""

from pathlib import Path

import pytest

from tests.auth.users.conftest import Doors, NewUser, basic, totp
from tests.auth.users.test_otp import enroll
from tests.cli.test_commands import over, run
from tests.conftest import Stack, run_cli, settings_environment
from tests.databases import fresh_database
from tests.doors import GrpcDoor
from tests.servers import a_server

ANOTHER = "another-key-of-these-tests-which-is-long-too"
SERVING = [("serve",), ("web",), ("worker",), ("up",)]


@pytest.mark.parametrize("key", ["", ANOTHER])
def test_nothing_is_served_with_a_key_that_does_not_read_the_databases_secrets(
    stack: Stack, over_doors: Doors, new_user: NewUser, tmp_path: Path, key: str
) -> None:
    """A container that was made anew: a fresh data folder, the same database."""
    user = enroll(over_doors, new_user())
    environment = settings_environment(tmp_path, MO_DATABASE_URL=stack.database_url, SECRET_KEY=key, MO_WORKERS="2")
    for command, done in run(environment, [*SERVING]).items():
        assert done.status == 1, (command, done)
        [line] = done.errors.splitlines()
        assert "encrypted with another key" in line
        assert ("as SECRET_KEY is not set" in line) is (not key)
        assert all(way in line for way in ("SECRET_KEY_FALLBACKS", "tokens rotate-key", "users disable-otp"))
        assert "@example.org" in line
    assert over_doors.tokens(user.email, code=totp(user.secret))


def test_what_the_key_of_before_has_encrypted_is_still_read(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = enroll(over_doors, new_user())
    changed = {"SECRET_KEY": ANOTHER, "SECRET_KEY_FALLBACKS": stack.environment["SECRET_KEY"]}
    with a_server(stack.environment, **changed) as server:
        door = GrpcDoor(server.channel, (("authorization", basic(user.email)),))
        for code in (totp(user.secret), user.recovery_codes[0]):
            token = door("auth.CreateToken", code=code)["tokens"]["access_token"]
            bearer = GrpcDoor(server.channel, (("authorization", f"Bearer {token}"),))
            assert "customers" in bearer("customers.ListCustomers", page_size=1)
            assert over_doors.bearer(token)("customers.ListCustomers", page_size=1)


def test_without_a_login_the_audit_log_of_changes_tells_whose_key_it_was_and_a_lost_one_can_be_left_behind(
    stack: Stack, tmp_path: Path
) -> None:
    with fresh_database(stack.data_dir) as url:
        before = over(url, stack, tmp_path / "before")
        run_cli(before, "migrate")
        run_cli(before, "keys", "create", "first")
        after = over(url, stack, tmp_path / "after") | {"SECRET_KEY": ""}
        refused = run(after, [("web",)])["web",]
        assert refused.status == 1
        assert "encrypted with another key" in refused.errors
        run_cli(after, "tokens", "rotate-key", "--compromised")
        # The port is of no use, so it ends when it has looked.
        started = run(after | {"MO_WEB_HOST": "192.0.2.1"}, [("web",)])["web",]
        assert "encrypted with another key" not in started.errors
        assert "192.0.2.1" in started.errors


def test_a_database_that_cannot_be_asked_does_not_hinder_the_start(tmp_path: Path) -> None:
    environment = settings_environment(tmp_path, MO_DATABASE_URL="postgresql://mo@127.0.0.1:1/mo", MO_WEB_HOST="192.0.2.1")
    started = run(environment, [("web",)])["web",]
    assert "the key was not compared" in started.errors
    assert "192.0.2.1" in started.errors
