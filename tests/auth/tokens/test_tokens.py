import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pool

from mo_grpc.auth.tokens.rules import new_key_pair, sealed_for
from mo_grpc.auth.users.rules import ROLE_SCOPES, Role
from mo_grpc.db.embedded import embedded_url
from mo_grpc.rpc.access import ACCESS, ACCOUNT, BASIC, PUBLIC
from tests.auth.tokens.forging import header_of, payload_of, private_key, unsigned, vault
from tests.auth.users.conftest import Doors, NewUser, basic, opens, reason, refused, rows
from tests.conftest import TLS, Stack
from tests.databases import connect, owner
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor
from tests.servers import a_server
from tests.waiting import eventually


def jwks(stack: Stack) -> Json:
    answer: Json = httpx.get(f"{stack.http_url}/v1/auth/jwks", verify=TLS).json()
    return answer


def test_every_forged_token_is_refused_alike(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    token = doors.tokens(new_user(Role.ADMINISTRATOR).email)["access_token"]
    header, payload = header_of(token), payload_of(token)
    ours = private_key(stack, header["kid"])
    [public] = [key for key in jwks(stack)["keys"] if key["kid"] == header["kid"]]

    def forged(key: Any = ours, alg: str = "EdDSA", typ: str = "at+jwt", kid: str = header["kid"], **claims: Any) -> str:
        return jwt.encode({**payload, **claims}, key, alg, headers={"kid": kid, "typ": typ})

    assert opens(doors.bearer(forged())), "or the others would be refused for another reason"
    now = int(time.time())
    bad = {
        "a word": "secret",
        "cut short": token[:-1],
        "another payload": ".".join([*token.split(".")[:1], forged(sub="1000000").split(".")[1], token.split(".")[2]]),
        "alg none": unsigned(token),
        "HS256 with the public key as the secret": forged(public["x"].encode() * 2, "HS256"),
        "another's key": forged(Ed25519PrivateKey.generate()),
        "an unknown kid": forged(kid="unknown"),
        "no kid": jwt.encode(payload, ours, "EdDSA", headers={"typ": "at+jwt"}),
        "another issuer": forged(iss="them"),
        "another audience": forged(aud="them"),
        "audience of challenges": forged(aud="mo-otp"),
        "another kind": forged(typ="otp+jwt"),
        "expired": forged(iat=now - 100, exp=now - 1),
        "older than tokens get": forged(iat=now - 901, exp=now + 900),
        "for ever": forged(iat=now - 1000, exp=2**62),
        "from the future": forged(iat=now + 500, exp=now + 600),
        "no subject": jwt.encode({k: v for k, v in payload.items() if k != "sub"}, ours, "EdDSA", headers=header),
        "no expiry": jwt.encode({k: v for k, v in payload.items() if k != "exp"}, ours, "EdDSA", headers=header),
        "a subject that is no number": forged(sub="ana"),
        "nobody": forged(sub="999999999"),
        "too long": forged(more="x" * 3000),
    }
    answers = {}
    for what, presented in bad.items():
        door = doors.bearer(presented)
        refusal = refused(lambda door=door: door("customers.ListCustomers"))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == (16, "TOKEN_INVALID"), what
        answers[refusal.message, str(refusal.info)] = what
    assert len(answers) == 1


def test_the_jwks_verify_the_tokens(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    token = doors.tokens(new_user().email)["access_token"]
    keys = jwks(stack)
    assert keys == doors.open({})("auth.GetJwks")
    key = jwt.PyJWKSet.from_dict(keys)[header_of(token)["kid"]]
    assert jwt.decode(token, key, algorithms=["EdDSA"], audience="mo", issuer="mo")
    assert "d" not in keys["keys"][0]


def test_each_rpc_asks_for_its_scope_of_each_role(over_doors: Doors, new_user: NewUser) -> None:
    users = {role: over_doors.user(new_user(role).email) for role in Role}
    for method, scope in ACCESS.items():
        if scope in (PUBLIC, BASIC) or not method.startswith("/mo."):
            continue
        service, name = method[1:].split("/")
        assert descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        for role, door in users.items():
            if scope in ROLE_SCOPES[role]:
                continue
            refusal = refused(lambda door=door, m=method: door(f"{m.split('.')[1]}.{m.rpartition('/')[2]}"))  # type: ignore[misc]
            assert (refusal.code, refusal.reason) == (7, "SCOPE_MISSING"), (method, role)
    assert ROLE_SCOPES[Role.VIEWER] < ROLE_SCOPES[Role.OPERATOR] <= ROLE_SCOPES[Role.ADMINISTRATOR]


def test_one_s_own_account_is_for_users_alone(door: Door) -> None:
    for rpc, request in {"RevokeToken": {}, "EnrollOtp": {"password": "x"}, "ConfirmOtp": {"code": "1"}}.items():
        refusal = refused(lambda rpc=rpc, request=request: door(f"auth.{rpc}", **request))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == (7, "SCOPE_MISSING")
        assert refusal.info["metadata"] == {"scope": ACCOUNT}


def test_no_key_is_given_the_scope_of_users(stack: Stack) -> None:
    done = stack.cli("keys", "create", "x", "--scope", ACCOUNT, check=False)
    assert done.returncode == 2


def test_where_a_call_has_both_the_key_counts(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    token = over_doors.tokens(new_user(Role.VIEWER).email)["access_token"]
    both = over_doors.open({"authorization": f"Bearer {token}", "x-api-key": stack.api_key})
    assert reason(lambda: both("customers.CreateCustomer", customer={})) == "INVALID_FIELDS"
    wrong = over_doors.open({"authorization": f"Bearer {token}", "x-api-key": "wrong"})
    assert reason(lambda: wrong("customers.ListCustomers")) == "API_KEY_INVALID"


def test_an_idempotency_key_belongs_to_the_user(over_doors: Doors, new_user: NewUser) -> None:
    user, other = new_user(Role.OPERATOR), new_user(Role.OPERATOR)
    customer = {"external_id": f"c-{user.id}", "score": "1.00"}
    first, second, third = (over_doors.user(each.email).keyed("one") for each in (user, user, other))
    assert first("customers.CreateCustomer", customer=customer) == second("customers.CreateCustomer", customer=customer)
    assert second.replayed
    assert reason(lambda: third("customers.CreateCustomer", customer=customer)) == "CUSTOMER_ALREADY_EXISTS"


def refresh(doors: Doors, token: str) -> Json:
    return doors.open({})("auth.RefreshToken", refresh_token=token)


def test_a_refresh_token_buys_the_next_pair(doors: Doors, new_user: NewUser) -> None:
    first = doors.tokens(new_user().email)
    second = refresh(doors, first["refresh_token"])
    third = refresh(doors, second["refresh_token"])
    assert len({each["refresh_token"] for each in (first, second, third)}) == 3
    assert first["session_expires_at"] == third["session_expires_at"]
    assert opens(doors.bearer(third["access_token"]))


def test_a_refresh_token_that_comes_again_ends_the_session(over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    first, another = over_doors.tokens(user.email), over_doors.tokens(user.email)
    second = refresh(over_doors, first["refresh_token"])
    assert opens(over_doors.bearer(second["access_token"]))
    assert reason(lambda: refresh(over_doors, first["refresh_token"])) == "TOKEN_INVALID"
    assert reason(lambda: refresh(over_doors, second["refresh_token"])) == "TOKEN_INVALID"
    eventually(lambda: not opens(over_doors.bearer(second["access_token"])), 1)
    assert opens(over_doors.bearer(another["access_token"]))


@pytest.mark.parametrize("token", ["wrong", "mor_" + "A" * 43])
def test_an_unknown_refresh_token_is_refused(doors: Doors, token: str) -> None:
    refusal = refused(lambda: refresh(doors, token))
    assert (refusal.code, refusal.reason) == (16, "TOKEN_INVALID")


def test_of_two_refreshes_at_once_one_wins(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    tokens = over_doors.tokens(new_user().email)
    session = payload_of(tokens["access_token"])["sid"]
    held_up = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%refresh_tokens%'"
    with ThreadPoolExecutor(2) as threads:
        with owner(stack.data_dir) as connection:
            # Both wait for the same row, and are let go at the same moment.
            connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [session])
            running = [threads.submit(refresh, over_doors, tokens["refresh_token"]) for _ in range(2)]
            eventually(lambda: rows(stack, held_up) == [(2,)], 10)
            connection.rollback()
        done = [each.exception() or each.result() for each in running]
    [winner] = [each for each in done if isinstance(each, dict)]
    [loser] = [each for each in done if isinstance(each, Refused)]
    assert loser.reason == "TOKEN_INVALID"
    # They were one impatient client's, so the session lives.
    assert refresh(over_doors, winner["refresh_token"])


def test_a_session_ends_when_its_time_is_over(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    tokens = over_doors.tokens(new_user().email)
    session = payload_of(tokens["access_token"])["sid"]
    rows(stack, "UPDATE sessions SET expires_at = now() - interval '1 second' WHERE id = %s", session)
    assert reason(lambda: refresh(over_doors, tokens["refresh_token"])) == "TOKEN_INVALID"


@pytest.mark.parametrize("all_sessions", [False, True])
def test_a_revoked_session_is_refused_by_every_worker_within_a_second(
    doors: Doors, new_user: NewUser, stack: Stack, all_sessions: bool
) -> None:
    user = new_user()
    here, there = doors.tokens(user.email), doors.tokens(user.email)
    with a_server(stack.environment) as other:
        elsewhere = GrpcDoor(other.channel, (("authorization", f"Bearer {here['access_token']}"),))
        assert opens(elsewhere)
        assert opens(doors.bearer(here["access_token"]))
        doors.bearer(here["access_token"])("auth.RevokeToken", all_sessions=all_sessions)
        eventually(lambda: not opens(elsewhere), 1)
        eventually(lambda: not opens(doors.bearer(here["access_token"])), 1)
    assert reason(lambda: refresh(doors, here["refresh_token"])) == "TOKEN_INVALID"
    if all_sessions:
        eventually(lambda: not opens(doors.bearer(there["access_token"])), 1)
    else:
        assert opens(doors.bearer(there["access_token"]))


def test_a_server_that_starts_later_knows_of_the_revocation(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    tokens = over_doors.tokens(new_user().email)
    over_doors.bearer(tokens["access_token"])("auth.RevokeToken")
    with a_server(stack.environment) as other:
        door = GrpcDoor(other.channel, (("authorization", f"Bearer {tokens['access_token']}"),))
        assert not opens(door)


@pytest.fixture
def hasty(stack: Stack) -> Iterator[GrpcDoor]:
    """A server whose tokens end in a second, and which travel behind Basic."""
    settings = {
        "TOKEN_EXPIRED_AFTER_SECONDS": "1",
        "OTP_TOKEN_EXPIRATION_TIME": "1",
        "AUTH_JWT_BEHIND_BASIC": "true",
    }
    # It has to read what the stack's workers encrypt.
    secret = (stack.data_dir / "secret.key").read_text()
    with a_server(stack.environment, SECRET_KEY=secret, **settings) as server:
        yield GrpcDoor(server.channel)


def test_behind_basic_and_soon_expired(hasty: GrpcDoor, new_user: NewUser, over_doors: Doors) -> None:
    user = new_user()
    earlier = over_doors.tokens(user.email)["access_token"]
    proxy = ("authorization", basic("proxy", "of somebody else"))

    def open_door(value: str) -> GrpcDoor:
        return GrpcDoor(hasty.channel, (proxy, ("x-authorization", value)))

    tokens = open_door(basic(user.email))("auth.CreateToken")["tokens"]
    door = open_door(f"Bearer {tokens['access_token']}")
    assert opens(door)
    eventually(lambda: not opens(door), 3)
    # A lifetime that was shortened holds for tokens of before.
    eventually(lambda: not opens(open_door(f"Bearer {earlier}")), 3)
    # The proxy's own header counts for nothing here.
    refusal = refused(lambda: GrpcDoor(hasty.channel, (proxy,))("auth.CreateToken"))
    assert refusal.info["metadata"] == {"header": "x-authorization"}
    bearer = GrpcDoor(hasty.channel, (("authorization", f"Bearer {tokens['access_token']}"),))
    assert reason(lambda: bearer("customers.ListCustomers")) == "API_KEY_MISSING"


def test_a_rotated_key_signs_and_the_old_one_still_counts(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    before = over_doors.tokens(user.email)
    stack.cli("tokens", "rotate-key")
    old = header_of(before["access_token"])["kid"]
    eventually(lambda: header_of(over_doors.tokens(user.email)["access_token"])["kid"] != old, 1)
    assert opens(over_doors.bearer(before["access_token"]))
    assert opens(over_doors.bearer(over_doors.tokens(user.email)["access_token"]))
    new, *older = (key["kid"] for key in jwks(stack)["keys"])
    assert new != old
    assert old in older
    # Until what it signed has expired.
    [(until,)] = rows(stack, "SELECT valid_until FROM signing_keys WHERE kid = %s", old)
    assert abs(until - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=60)
    assert rows(stack, "SELECT count(*) FROM signing_keys WHERE valid_until IS NULL") == [(1,)]


def test_what_a_compromised_key_signed_is_refused_at_once(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    before = over_doors.tokens(user.email)
    door = over_doors.bearer(before["access_token"])
    assert opens(door)  # and its signature is remembered
    stack.cli("tokens", "rotate-key", "--compromised")
    eventually(lambda: not opens(door), 1)
    assert len(jwks(stack)["keys"]) == 1
    assert opens(over_doors.bearer(refresh(over_doors, before["refresh_token"])["access_token"]))


def test_answers_with_secrets_are_for_no_cache(stack: Stack, new_user: NewUser) -> None:
    with httpx.Client(base_url=stack.http_url, verify=TLS) as client:
        answer = client.post("/v1/auth/tokens", json={}, headers={"authorization": basic(new_user().email)})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        token = answer.json()["tokens"]["refresh_token"]
        assert RestDoor(client)("auth.RefreshToken", refresh_token=token)["refresh_token"] != token


def test_an_idempotency_key_keeps_no_token(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    door = over_doors.open({"authorization": basic(new_user().email)}).keyed("tokens")
    assert door("auth.CreateToken") != door("auth.CreateToken")
    assert rows(stack, "SELECT count(*) FROM idempotency_records WHERE key = 'tokens'") == [(0,)]


def test_no_secret_is_stored_as_it_is_nor_logged(stack: Stack, over_doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    tokens = over_doors.tokens(user.email)
    stored = str(rows(stack, "SELECT * FROM refresh_tokens")) + str(rows(stack, "SELECT * FROM sessions"))
    assert tokens["refresh_token"] not in stored
    logged = "".join(path.read_text() for path in (stack.data_dir / "log").iterdir())
    for secret in (tokens["refresh_token"], tokens["access_token"], basic(user.email).split()[1]):
        assert secret not in logged


def test_an_unknown_user_or_key_is_looked_up_when_its_notification_is_late(
    stack: Stack, over_doors: Doors, new_user: NewUser, grpc_channel: grpc.Channel
) -> None:
    """Both are made without a notification: the signature is right, or the key's id is unknown, so the database is asked."""
    kid, public, private = new_key_pair()
    token = over_doors.tokens(new_user().email)["access_token"]
    header, payload = header_of(token), payload_of(token)
    with connect(embedded_url(stack.data_dir, "postgres")) as superuser:
        superuser.execute("SET session_replication_role = replica")  # no trigger, and so no notification
        row = superuser.execute(
            """INSERT INTO users (email, first_name, last_name, role, staff, password_hash, must_change_password,
            password_changed_at, created_at, updated_at)
            VALUES (%s, '', '', 1, true, '', false, now(), now(), now()) RETURNING id""",
            [f"quiet-{payload['sid']}@example.org"],
        ).fetchone()
        superuser.execute(
            "INSERT INTO signing_keys VALUES (%s, %s, %s, now(), now() + interval '1 minute')",
            [kid, public, vault(stack).encrypt(private, sealed_for(kid))],
        )
    assert row
    by_new_key = jwt.encode(payload, Ed25519PrivateKey.from_private_bytes(private), "EdDSA", headers={**header, "kid": kid})
    of_new_user = jwt.encode({**payload, "sub": str(row[0])}, private_key(stack, header["kid"]), "EdDSA", headers=header)
    for forged in (by_new_key, of_new_user):
        assert opens(GrpcDoor(grpc_channel, (("authorization", f"Bearer {forged}"),)))
