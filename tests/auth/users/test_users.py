"""The command line's `users`."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import Doors, NewUser, opens, reason, refused, rows
from tests.conftest import Stack, run_cli, settings_environment
from tests.doors import Door, Json
from tests.secrets import PASSWORD
from tests.waiting import eventually

GOOD = "copper meadow 17"


def with_password(stack: Stack, password: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `mo-grpc users` with a password on standard input."""
    return stack.cli("users", *arguments, check=False, given=f"{password}\n")


def shown(stack: Stack, email: str) -> str:
    [line] = [line for line in stack.cli("users", "list").stdout.splitlines() if email in line]
    return line


def test_a_superuser_is_created_and_may_everything(stack: Stack, over_doors: Doors) -> None:
    names = ("--first-name", "Ana", "--last-name", "López")
    done = with_password(stack, GOOD, "create", "Root@Example.org", "--superuser", *names)
    assert (done.returncode, done.stdout) == (0, "Created root@example.org.\n"), done.stderr
    door = over_doors.bearer(over_doors.tokens("root@example.org", GOOD)["access_token"])
    assert reason(lambda: door("customers.CreateCustomer", customer={})) == "INVALID_FIELDS"
    line = shown(stack, "root@example.org")
    for text in ("Ana López", "administrator", "yes"):
        assert text in line
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)  # the login
    again = with_password(stack, GOOD, "create", "root@example.org")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr


@pytest.mark.parametrize(
    ("email", "password", "status"),
    [
        ("weak@example.org", "short", 1),
        ("weak@example.org", "", 1),
        ("no e-mail", GOOD, 2),
        ("a:b@example.org", GOOD, 2),
        ("x" * 250 + "@example.org", GOOD, 2),
    ],
)
def test_a_wrong_account_is_not_created(stack: Stack, email: str, password: str, status: int) -> None:
    done = with_password(stack, password, "create", email)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr
    assert not password or password not in done.stderr


def test_the_password_is_asked_for_and_not_shown(stack: Stack, over_doors: Doors) -> None:
    def answer(first: str, second: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "mo_grpc", "users", "create", "asked@example.org"]
        with subprocess.Popen(
            command, env=stack.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            seen = b""
            for typed in (first, second):
                asked = seen.count(b": ")
                while seen.count(b": ") == asked:
                    seen += os.read(ours, 1000)
                os.write(ours, typed.encode() + b"\n")
            try:
                while more := os.read(ours, 1000):
                    seen += more
            except OSError:  # the other end is closed
                pass
            os.close(ours)
            return process.wait(60), seen.decode()

    status, seen = answer(GOOD, "something else")
    assert (status, "not the same" in seen) == (1, True)
    status, seen = answer(GOOD, GOOD)
    assert (status, "Created" in seen) == (0, True)
    assert GOOD not in seen
    assert over_doors.tokens("asked@example.org", GOOD)


def test_lock_and_unlock(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    tokens = over_doors.tokens(user.email)
    door = over_doors.bearer(tokens["access_token"])
    assert opens(door)
    stack.cli("users", "lock", user.email)
    eventually(lambda: not opens(door), 1)
    assert reason(lambda: over_doors.login(user.email)) == "CREDENTIALS_INVALID"
    again = over_doors.open({})
    assert reason(lambda: again("auth.RefreshToken", refresh_token=tokens["refresh_token"])) == "TOKEN_INVALID"
    stack.cli("users", "unlock", user.email)
    eventually(lambda: opens(over_doors.user(user.email)), 1)
    assert not opens(door)  # what was ended stays ended


def test_locking_shows_the_keys_that_the_account_made_and_revokes_them(
    stack: Stack, over_doors: Doors, new_user: NewUser
) -> None:
    user, other = new_user(Role.ADMINISTRATOR), new_user(Role.ADMINISTRATOR)
    door, others = over_doors.user(user.email), over_doors.user(other.email)

    def make(maker: Door, name: str) -> Json:
        return maker("auth.CreateApiKey", api_key={"name": name, "scopes": ["keys:read", "keys:write"]})

    first, gone, stranger = make(door, "first"), make(door, "gone"), make(others, "stranger")
    second = make(over_doors.open({"x-api-key": first["key"]}), "second")
    others("auth.RevokeApiKey", id=gone["id"])
    assert (first["created_by"], second["created_by"]) == (f"user-{user.id}", first["id"])
    assert others("auth.GetApiKey", id=stranger["id"])["created_by"] == f"user-{other.id}"
    listed = stack.cli("keys", "list").stdout
    assert f"user-{user.id}" in listed
    assert "cli:" in listed
    told = stack.cli("users", "lock", user.email).stdout
    assert [key["id"] for key in (first, second, gone, stranger) if key["id"] in told] == [first["id"], second["id"]]
    assert not [key for key in (first, second) if "revoked_at" in others("auth.GetApiKey", id=key["id"])]
    told = stack.cli("users", "lock", user.email, "--revoke-keys").stdout
    assert "Revoked" in told
    revoked = [key for key in (first, second, stranger) if "revoked_at" in others("auth.GetApiKey", id=key["id"])]
    assert revoked == [first, second]
    assert "API keys" not in stack.cli("users", "lock", user.email).stdout
    events = rows(
        stack, "SELECT subject, data FROM events WHERE kind = 'api_key_revoked' AND data ->> 'locked' = %s", user.email
    )
    assert events == [(first["id"], {"locked": user.email}), (second["id"], {"locked": user.email})]


def test_another_role_is_felt_within_a_second(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = over_doors.user(user.email)
    assert reason(lambda: door("customers.CreateCustomer", customer={})) == "SCOPE_MISSING"
    stack.cli("users", "set-role", user.email, "operator")
    eventually(lambda: reason(lambda: door("customers.CreateCustomer", customer={})) == "INVALID_FIELDS", 1)


def test_set_password(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = over_doors.user(user.email)
    weak = with_password(stack, "password1234", "set-password", user.email)
    assert (weak.returncode, weak.stdout) == (1, "")
    assert opens(door)
    done = with_password(stack, GOOD, "set-password", user.email, "--must-change")
    assert done.returncode == 0, done.stderr
    eventually(lambda: not opens(door), 1)
    assert reason(lambda: over_doors.login(user.email)) == "CREDENTIALS_INVALID"
    assert refused(lambda: over_doors.login(user.email, GOOD)).reason == "PASSWORD_CHANGE_REQUIRED"
    assert over_doors.tokens(user.email, GOOD, new_password=PASSWORD)


@pytest.mark.parametrize("command", ["lock", "set-password"])
def test_an_unknown_account_is_named(stack: Stack, command: str) -> None:
    done = with_password(stack, GOOD, command, "nobody@example.org")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody@example.org" in done.stderr


def test_a_secret_key_that_others_can_read_is_not_used(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_text("x" * 40)
    (tmp_path / "secret.key").chmod(0o644)
    settings = settings_environment(tmp_path, MO_DATABASE_URL=stack.database_url)
    done = run_cli(settings, "tokens", "rotate-key", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "secret.key can be read by others" in done.stderr
