"""What is recorded: logins, changes of keys and users, refused calls; and what never is."""

import getpass
from typing import Any

import grpc
import httpx
import pytest

from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import Doors, NewUser, basic, reason, refused, rows, totp
from tests.conftest import TLS, Stack
from tests.doors import GrpcDoor, Refused
from tests.secrets import PASSWORD
from tests.waiting import eventually

Row = tuple[Any, ...]


def recorded(stack: Stack, subject: str, *, stream: str = "changes") -> list[Row]:
    """What there is of a subject: what happened, who did it, where, and more of it."""
    statement = "SELECT kind, actor, address, data FROM events WHERE stream = %s AND subject = %s ORDER BY number"
    return rows(stack, statement, stream, subject)


def test_logins_are_recorded_however_they_end(stack: Stack, doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    assert reason(lambda: doors.login(user.email, "wrong password")) == "CREDENTIALS_INVALID"
    doors.tokens(user.email)
    assert recorded(stack, user.email, stream="logins") == [
        ("login_refused", "", "127.0.0.1", {"reason": "CREDENTIALS_INVALID"}),
        ("logged_in", f"user-{user.id}", "127.0.0.1", {}),
    ]


def test_a_login_with_an_unknown_email_is_recorded_and_what_is_no_email_is_not_kept(stack: Stack, over_doors: Doors) -> None:
    """Some type their password where the e-mail belongs."""
    assert reason(lambda: over_doors.login("nobody-here@example.org")) == "CREDENTIALS_INVALID"
    assert [row[0] for row in recorded(stack, "nobody-here@example.org", stream="logins")] == ["login_refused"]
    before = len(recorded(stack, "", stream="logins"))
    assert reason(lambda: over_doors.login("my secret password", "x")) == "CREDENTIALS_INVALID"
    assert len(recorded(stack, "", stream="logins")) == before + 1
    assert not rows(stack, "SELECT FROM events WHERE subject LIKE '%%secret password%%' OR %s", False)


def test_a_login_that_wants_another_password_is_recorded(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user(must_change_password=True)
    assert reason(lambda: over_doors.login(user.email)) == "PASSWORD_CHANGE_REQUIRED"
    over_doors.tokens(user.email, new_password="orchard compass 77")
    kinds = [(row[0], row[3].get("reason")) for row in recorded(stack, user.email, stream="logins")]
    assert kinds == [("login_refused", "PASSWORD_CHANGE_REQUIRED"), ("logged_in", None)]
    assert recorded(stack, user.email) == [("password_changed", f"user-{user.id}", "127.0.0.1", {})]


def test_one_time_codes_turned_on_and_off_are_recorded(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = over_doors.user(user.email)
    secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    codes = door("auth.ConfirmOtp", code=totp(secret, -1))["recovery_codes"]
    assert refused(lambda: door("auth.DisableOtp", password=PASSWORD, code="000000")).reason == "CREDENTIALS_INVALID"
    door("auth.DisableOtp", password=PASSWORD, code=codes[0])
    by: Row = (f"user-{user.id}", "127.0.0.1", {})
    assert recorded(stack, user.email) == [("otp_enabled", *by), ("otp_disabled", *by)]
    assert [row[0] for row in recorded(stack, user.email, stream="logins")] == ["logged_in", "login_refused"]


def test_logging_out_and_a_stolen_refresh_token_are_recorded(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    tokens = over_doors.tokens(user.email)
    over_doors.bearer(tokens["access_token"])("auth.RevokeToken")
    [(kind, actor, address, data)] = recorded(stack, f"user-{user.id}", stream="logins")
    assert (kind, actor, address) == ("logged_out", f"user-{user.id}", "127.0.0.1")
    assert len(data["session"]) == 22
    anybody = over_doors.open({})
    spent = over_doors.tokens(user.email)["refresh_token"]
    anybody("auth.RefreshToken", refresh_token=spent)
    assert reason(lambda: anybody("auth.RefreshToken", refresh_token=spent)) == "TOKEN_INVALID"
    assert [row[:3] for row in recorded(stack, f"user-{user.id}", stream="logins")][1:] == [
        ("refresh_token_reused", "", "127.0.0.1")
    ]


def test_what_administrators_do_to_accounts_is_recorded(stack: Stack) -> None:
    email = "recorded@example.org"

    def users(*arguments: str, password: str = PASSWORD) -> None:
        stack.cli("users", *arguments, given=f"{password}\n")

    users("create", email, "--role", "operator")
    users("set-role", email, "viewer")
    users("lock", email)
    users("unlock", email)
    users("set-password", email, password="orchard compass 77")
    by = (f"cli:{getpass.getuser()}", "")
    assert recorded(stack, email) == [
        ("user_created", *by, {"role": "OPERATOR"}),
        ("role_changed", *by, {"role": "VIEWER"}),
        ("user_locked", *by, {}),
        ("user_unlocked", *by, {}),
        ("password_changed", *by, {}),
    ]


def test_what_becomes_of_keys_is_recorded(stack: Stack, doors: Doors, new_user: NewUser) -> None:
    user = new_user(Role.ADMINISTRATOR)
    door = doors.user(user.email)
    key = door("auth.CreateApiKey", api_key={"name": "shop", "scopes": ["loans:read", "customers:read"]})["id"]
    door("auth.RotateApiKey", id=key, overlap_seconds=60)
    door("auth.RevokeApiKey", id=key)
    by = (f"user-{user.id}", "127.0.0.1")
    assert recorded(stack, key) == [
        ("api_key_created", *by, {"name": "shop", "scopes": "customers:read loans:read"}),
        ("api_key_rotated", *by, {"overlap_seconds": "60"}),
        ("api_key_revoked", *by, {}),
    ]
    assert refused(lambda: door("auth.RotateApiKey", id=key)).reason == "API_KEY_REVOKED"
    assert len(recorded(stack, key)) == 3


def test_keys_of_the_command_line_and_the_keys_that_sign_are_recorded(stack: Stack) -> None:
    key = stack.cli("keys", "create", "by hand", "--scope", "loans:read").stdout.split("_")[1]
    kid = stack.cli("tokens", "rotate-key").stdout.split()[-1].rstrip(".")
    by = (f"cli:{getpass.getuser()}", "")
    assert recorded(stack, key) == [("api_key_created", *by, {"name": "by hand", "scopes": "loans:read"})]
    assert recorded(stack, kid) == [("signing_key_rotated", *by, {})]


def refusals(stack: Stack, actor: str, reason: str) -> list[Row]:
    statement = """
        SELECT address, subject, (data ->> 'count')::integer FROM events
        WHERE stream = 'refusals' AND actor = %s AND data ->> 'reason' = %s
    """
    return rows(stack, statement, actor, reason)


def test_refused_calls_are_recorded_by_key_and_address_in_few_events(stack: Stack, grpc_channel: grpc.Channel) -> None:
    key = stack.cli("keys", "create", "curious", "--scope", "loans:read").stdout.strip()
    key_id = key.split("_")[1]
    door = GrpcDoor(grpc_channel, (("x-api-key", key),))
    for _ in range(300):
        with pytest.raises(Refused):
            door("customers.GetCustomer", external_id="ana")
    eventually(lambda: sum(row[2] for row in refusals(stack, key_id, "SCOPE_MISSING")) == 300, 20)
    found = refusals(stack, key_id, "SCOPE_MISSING")
    assert {row[:2] for row in found} == {("127.0.0.1", "/mo.customers.v1.CustomerService/GetCustomer")}
    assert len(found) <= 8  # a few seconds, two workers


def test_a_wrong_secret_of_a_real_key_names_the_key_and_an_invented_id_is_not_kept(stack: Stack) -> None:
    key_id = stack.api_key.split("_")[1]
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        wrong, invented = Credential.generate()._replace(id=key_id), Credential.generate()
        before = sum(row[2] for row in refusals(stack, key_id, "API_KEY_INVALID"))
        for credential in (wrong, invented):
            assert client.get("/v1/customers", headers={"x-api-key": str(credential)}).status_code == 401
    eventually(lambda: sum(row[2] for row in refusals(stack, key_id, "API_KEY_INVALID")) == before + 1, 20)
    assert not rows(stack, "SELECT FROM events WHERE events::text LIKE %s", f"%{invented.id}%")


def test_the_address_is_not_the_callers_to_choose(stack: Stack, new_user: NewUser) -> None:
    user = new_user()
    headers = {"authorization": basic(user.email), "x-forwarded-for": "203.0.113.9"}
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        assert client.post("/v1/auth/tokens", headers=headers, json={}).status_code == 200
    assert [row[2] for row in recorded(stack, user.email, stream="logins")] == ["127.0.0.1"]


def test_the_audit_log_is_shown_newest_first(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    over_doors.tokens(user.email)
    shown = stack.cli("events", "logins", "--limit", "1").stdout
    assert user.email in shown
    assert "logged_in" in shown
    assert len([line for line in shown.splitlines() if "127.0.0.1" in line]) == 1
