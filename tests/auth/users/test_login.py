import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest
from argon2 import PasswordHasher

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import Doors, NewUser, basic, opens, reason, refused, rows
from tests.conftest import TLS, Stack
from tests.doors import GrpcDoor, RestDoor
from tests.factories import new_id
from tests.secrets import PASSWORD
from tests.servers import a_server
from tests.waiting import eventually


def test_a_right_password_buys_tokens_that_open_rpcs(doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    tokens = doors.tokens(user.email)
    assert doors.bearer(tokens["access_token"])("customers.ListCustomers", page_size=1)["customers"] is not None
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["iss"], claims["aud"]) == (str(user.id), "mo", "mo")
    assert claims["exp"] - claims["iat"] in (899, 900)
    assert user.email not in str(claims)


def test_the_email_is_the_same_in_any_case(doors: Doors, new_user: NewUser) -> None:
    assert doors.tokens(f" {new_user().email.upper()} ")


def test_every_wrong_login_is_refused_alike(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user, locked = new_user(), new_user()
    stack.cli("users", "lock", locked.email)
    answers = {
        (refusal.code, refusal.message, str(refusal.details))
        for refusal in (
            refused(lambda: doors.login(user.email, "not the password")),
            refused(lambda: doors.login(user.email, "")),
            refused(lambda: doors.login(f"{new_id('nobody')}@example.org")),
            refused(lambda: doors.login("no e-mail\0")),
            refused(lambda: doors.login(locked.email)),
            refused(lambda: doors.open({"authorization": "Basic ???"})("auth.CreateToken")),
            refused(lambda: doors.open({})("auth.CreateToken", challenge="made.up.challenge", code="123456")),
        )
    }
    assert len(answers) == 1
    [(code, _, details)] = answers
    assert code == 16
    assert "CREDENTIALS_INVALID" in details


@pytest.mark.parametrize("header", [None, "Bearer x", "Digest x"])
def test_without_credentials(doors: Doors, header: str | None) -> None:
    refusal = refused(lambda: doors.open({"authorization": header} if header else {})("auth.CreateToken"))
    assert (refusal.code, refusal.reason) == (16, "CREDENTIALS_MISSING")
    assert refusal.info["metadata"] == {"header": "authorization"}


def test_failures_make_the_account_wait_and_more_of_them_longer(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    for _ in range(5):
        assert reason(lambda: over_doors.login(user.email, "wrong password")) == "CREDENTIALS_INVALID"
    refusal = refused(lambda: over_doors.login(user.email))  # the right one, but too late
    assert (refusal.code, refusal.reason) == (8, "TOO_MANY_ATTEMPTS")
    [retry] = [detail for detail in refusal.details if detail["@type"].endswith("RetryInfo")]
    assert 0 < float(retry["retry_delay"].removesuffix("s")) <= 1
    # The wait doubles with each failure, up to a quarter of an hour; an hour forgives one.
    waits = []
    for failures in (6, 10, 40):
        rows(stack, "UPDATE login_failures SET failures = %s, last_at = now() WHERE failures >= 5", failures)
        refusal = refused(lambda: over_doors.login(user.email))
        [retry] = [detail for detail in refusal.details if detail["@type"].endswith("RetryInfo")]
        waits.append(float(retry["retry_delay"].removesuffix("s")))
    assert waits == pytest.approx([2, 32, 900], abs=1)
    rows(stack, "UPDATE login_failures SET failures = 6, last_at = now() - interval '2 hours' WHERE failures >= 5")
    assert over_doors.tokens(user.email)


def test_an_unknown_email_is_made_to_wait_alike(over_doors: Doors) -> None:
    email = f"nobody-{time.monotonic_ns()}@example.org"
    reasons = [reason(lambda: over_doors.login(email)) for _ in range(6)]
    assert reasons == ["CREDENTIALS_INVALID"] * 5 + ["TOO_MANY_ATTEMPTS"]


def test_guesses_at_once_do_not_all_count_as_the_first(over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    with ThreadPoolExecutor(20) as threads:
        reasons = list(threads.map(lambda _: reason(lambda: over_doors.login(user.email, "wrong password")), range(20)))
    assert reasons.count("CREDENTIALS_INVALID") == 5


def test_a_login_forgives_and_unlock_does_too(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    for _ in range(3):
        for _ in range(4):
            assert reason(lambda: over_doors.login(user.email, "wrong password")) == "CREDENTIALS_INVALID"
        assert over_doors.tokens(user.email)
    for _ in range(6):
        refused(lambda: over_doors.login(user.email, "wrong password"))
    stack.cli("users", "unlock", user.email)
    assert over_doors.tokens(user.email)


def test_an_address_waits_after_failures_with_many_accounts(stack: Stack, new_user: NewUser) -> None:
    user = new_user()
    transport = httpx.HTTPTransport(local_address="127.0.0.9", verify=TLS)
    with httpx.Client(base_url=stack.http_url, transport=transport, timeout=30) as client:

        def login(email: str, password: str = PASSWORD) -> str:
            # What the caller says of its address counts for nothing.
            headers = {"authorization": basic(email, password), "x-forwarded-for": f"203.0.113.{hash(email) % 250}"}
            client.headers.update(headers)
            return reason(lambda: RestDoor(client)("auth.CreateToken"))

        reasons = [login(f"a{number}@example.org") for number in range(102)]
        assert reasons.index("TOO_MANY_ATTEMPTS") in (100, 101)  # one is forgiven every ten seconds
        assert login(user.email) == "TOO_MANY_ATTEMPTS"
    # Other addresses are not concerned.
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS, headers={"authorization": basic(user.email)}) as other:
        assert RestDoor(other)("auth.CreateToken")["tokens"]


def test_a_password_that_must_change_buys_nothing_until_it_did(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user(must_change_password=True)
    refusal = refused(lambda: doors.login(user.email))
    assert (refusal.code, refusal.reason) == (9, "PASSWORD_CHANGE_REQUIRED")
    assert reason(lambda: doors.login(user.email, "wrong password", new_password="copper meadow 17")) == "CREDENTIALS_INVALID"
    assert doors.tokens(user.email, new_password="copper meadow 17")
    assert reason(lambda: doors.login(user.email)) == "CREDENTIALS_INVALID"
    assert doors.tokens(user.email, "copper meadow 17")


@pytest.mark.parametrize(
    "password",
    ["short", "x" * 129, "aaaaaaaaaaaabbb", "Password2024!", "qwertyuiopasdf", "123456789012", "{email}", PASSWORD],
)
def test_a_weak_new_password_is_refused(over_doors: Doors, new_user: NewUser, password: str) -> None:
    user = new_user()
    refusal = refused(lambda: over_doors.login(user.email, new_password=password.format(email=user.email.upper())))
    assert refusal.reason == "INVALID_FIELDS"
    assert list(refusal.fields) == ["new_password"]
    assert over_doors.tokens(user.email)  # and nothing has changed


def test_a_new_password_ends_the_other_sessions(over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    before = over_doors.tokens(user.email)
    after = over_doors.tokens(user.email, new_password="copper meadow 17")
    assert reason(lambda: over_doors.open({})("auth.RefreshToken", refresh_token=before["refresh_token"])) == "TOKEN_INVALID"
    door = over_doors.bearer(before["access_token"])
    eventually(lambda: not opens(door), 1)
    assert opens(over_doors.bearer(after["access_token"]))


@pytest.mark.parametrize("role", list(Role))
def test_a_role_opens_what_it_may(doors: Doors, new_user: NewUser, role: Role) -> None:
    door = doors.user(new_user(role).email)
    assert "customers" in door("customers.ListCustomers", page_size=1)
    refusal = refused(lambda: door("customers.CreateCustomer", customer={}))
    if role is Role.VIEWER:
        assert (refusal.code, refusal.reason) == (7, "SCOPE_MISSING")
        assert refusal.info["metadata"] == {"scope": "customers:write"}
    else:
        assert refusal.reason == "INVALID_FIELDS"


def test_an_old_hash_is_renewed_at_the_cost_of_now(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    with a_server(stack.environment, MO_PASSWORD_PASSES="2") as server:
        door = GrpcDoor(server.channel, (("authorization", basic(user.email)),))
        assert door("auth.CreateToken")
    [(renewed,)] = rows(stack, "SELECT password_hash FROM users WHERE id = %s", user.id)
    assert "t=2" in renewed
    assert over_doors.tokens(user.email)


def test_an_unknown_email_takes_as_long_as_a_wrong_password(stack: Stack, new_user: NewUser) -> None:
    """At a cost like that of real life: without the hash of nobody's password, one would take a fraction of the other."""
    cost = {"MO_PASSWORD_MEMORY_KIB": "65536", "MO_PASSWORD_PASSES": "3"}
    costly = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1).hash(PASSWORD)
    wrong: list[float] = []
    unknown: list[float] = []
    with a_server(stack.environment, **cost) as server:
        for number in range(7):
            user = new_user(password_hash=costly)
            for times, email in ((wrong, user.email), (unknown, f"nobody-{time.monotonic_ns()}-{number}@example.org")):
                door = GrpcDoor(server.channel, (("authorization", basic(email, "wrong password")),))
                started = time.perf_counter()
                assert reason(lambda door=door: door("auth.CreateToken")) == "CREDENTIALS_INVALID"  # type: ignore[misc]
                times.append(time.perf_counter() - started)
    ratio = statistics.median(unknown) / statistics.median(wrong)
    assert 0.5 < ratio < 2, (unknown, wrong)
