"""Every RPC of every service against everything that must not open it; the RPCs come from the descriptors."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import httpx
import jwt
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.auth.users.rules import Role
from mo_grpc.rpc.access import ACCESS, ACCOUNT, BASIC, BINDABLE, BOUND, GRANTABLE, PUBLIC, SERVICES, Bound
from tests.auth.tokens.forging import header_of, payload_of, private_key, unsigned
from tests.auth.users.conftest import NewUser, basic
from tests.conftest import TLS, Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor
from tests.factories import new_id

RPCS: list[MethodDescriptor] = [
    rpc for service in SERVICES for rpc in descriptor_pool.Default().FindServiceByName(service).methods
]


def path(rpc: MethodDescriptor) -> str:
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


GUARDED = [rpc for rpc in RPCS if ACCESS.get(path(rpc)) not in (PUBLIC, BASIC)]


@dataclass
class Credentials:
    """What is presented, and how it is refused: by headers, the code, and the reason."""

    refused: dict[str, tuple[dict[str, str], int, str]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    """From a scope to a key that has every other one."""


@pytest.fixture
def credentials(stack: Stack, grpc_channel: grpc.Channel, new_user: NewUser) -> Credentials:
    anybody = GrpcDoor(grpc_channel)
    login = GrpcDoor(grpc_channel, (("authorization", basic(new_user(Role.ADMINISTRATOR).email)),))
    token = login("auth.CreateToken")["tokens"]["access_token"]
    administrator = GrpcDoor(grpc_channel, (("authorization", f"Bearer {token}"),))

    def new_key(*scopes: str) -> Json:
        return administrator("auth.CreateApiKey", api_key={"name": "test", "scopes": list(scopes)})

    good, revoked = Credential.parse(stack.api_key), new_key(*GRANTABLE)
    assert good
    administrator("auth.RevokeApiKey", id=revoked["id"])
    expired = stack.cli("keys", "create", "expired", "--expires", "2020-01-01").stdout.strip()
    header, payload, now = header_of(token), payload_of(token), int(time.time())

    def forged(**claims: object) -> str:
        return jwt.encode({**payload, **claims}, private_key(stack, header["kid"]), "EdDSA", headers=header)

    keys = {
        "a malformed key": "secret",
        "a wrong checksum": stack.api_key[:-1] + ("A" if stack.api_key[-1] != "A" else "B"),
        "an unknown key": str(Credential.generate()),
        "a wrong secret": str(Credential(good.id, Credential.generate().secret)),
        "a revoked key": revoked["key"],
        "an expired key": expired,
    }
    tokens = {
        "no token": "secret",
        "an expired token": forged(iat=now - 100, exp=now - 1),
        "alg none": unsigned(token),
        "another issuer": forged(iss="them"),
    }
    found = Credentials({"nothing": ({}, 16, "API_KEY_MISSING")})
    found.refused |= {what: ({"x-api-key": key}, 16, "API_KEY_INVALID") for what, key in keys.items()}
    found.refused |= {what: ({"authorization": f"Bearer {each}"}, 16, "TOKEN_INVALID") for what, each in tokens.items()}
    elsewhere = administrator(
        "auth.CreateApiKey", api_key={"name": "test", "scopes": list(GRANTABLE), "allowed_networks": ["192.0.2.0/24"]}
    )
    found.refused["a key from the wrong network"] = ({"x-api-key": elsewhere["key"]}, 7, "NETWORK_NOT_ALLOWED")
    found.without = {scope: new_key(*GRANTABLE - {scope})["key"] for scope in {*GRANTABLE, ACCOUNT}}
    assert opens(anybody, {"authorization": f"Bearer {forged()}"}), "or the others would be refused for another reason"
    return found


def opens(door: GrpcDoor, headers: dict[str, str]) -> bool:
    return bool(GrpcDoor(door.channel, tuple(headers.items()))("customers.ListCustomers"))


@pytest.fixture(params=["grpc", "rest"])
def new_door(request: pytest.FixtureRequest, stack: Stack, grpc_channel: grpc.Channel) -> Iterator["NewDoor"]:
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        yield NewDoor(grpc_channel if request.param == "grpc" else client)


@dataclass
class NewDoor:
    """Opens one of the public doors with headers of a test's choice."""

    way: grpc.Channel | httpx.Client

    def __call__(self, headers: dict[str, str]) -> Door:
        if isinstance(self.way, httpx.Client):
            return RestDoor(self.way, headers)
        return GrpcDoor(self.way, tuple(headers.items()))


def called(rpc: MethodDescriptor) -> str:
    """The RPC, as doors take it."""
    return f"{rpc.containing_service.full_name.split('.')[1]}.{rpc.name}"


def refusal(door: Door, rpc: MethodDescriptor) -> tuple[int, str]:
    """How a call is refused whose request says no more than its path needs."""
    request: Json = {}
    if rpc.name == "UpdateCustomer":
        request = {"customer": {"external_id": "nobody"}}
    if rpc.name == "UpdateWebhook":
        request = {"webhook": {"id": "1"}}
    for name in ("external_id", "customer_external_id", "id", "webhook_id"):
        if name in rpc.input_type.fields_by_name:
            request[name] = "1"
    with pytest.raises(Refused) as refused:
        door(called(rpc), **request)
    return refused.value.code, refused.value.reason


def test_every_rpc_has_a_place_in_the_table_of_access() -> None:
    assert {path(rpc) for rpc in RPCS} == {each for each in ACCESS if each.startswith("/mo.")}
    assert set(ACCESS.values()) - {PUBLIC, BASIC, ACCOUNT} == GRANTABLE


def test_what_opens_nothing_opens_no_rpc(new_door: NewDoor, credentials: Credentials) -> None:
    answers = {
        (path(rpc), what): (refusal(new_door(headers), rpc), (code, reason))
        for rpc in GUARDED
        for what, (headers, code, reason) in credentials.refused.items()
    }
    assert len(answers) > 300
    assert {where: found for where, (found, expected) in answers.items() if found != expected} == {}


def test_every_rpc_asks_for_its_scope_and_no_other_stands_in_for_it(new_door: NewDoor, credentials: Credentials) -> None:
    for rpc in GUARDED:
        door = new_door({"x-api-key": credentials.without[ACCESS[path(rpc)]]})
        assert refusal(door, rpc) == (7, "SCOPE_MISSING"), rpc.full_name


def test_the_rpcs_that_look_at_passwords_take_no_key_or_token_for_one(new_door: NewDoor, stack: Stack) -> None:
    for headers in ({}, {"x-api-key": stack.api_key}, {"authorization": "Bearer x"}):
        for rpc in (rpc for rpc in RPCS if ACCESS[path(rpc)] == BASIC):
            assert refusal(new_door(headers), rpc)[1] in ("CREDENTIALS_MISSING", "INVALID_FIELDS"), rpc.full_name


def test_every_rpc_says_how_it_serves_a_bound_key() -> None:
    assert BOUND.keys() == {path(rpc) for rpc in GUARDED if ACCESS[path(rpc)] in GRANTABLE}
    never = {ACCESS[method] for method, bound in BOUND.items() if bound is Bound.NEVER}
    assert never == GRANTABLE - BINDABLE, "a scope is for bound keys with all of its RPCs, or with none"


def test_what_is_not_for_bound_keys_refuses_them_whatever_their_scopes(new_door: NewDoor, stack: Stack) -> None:
    key = Credential.generate()
    with owner(stack.data_dir) as connection:  # nobody else gives a bound key these scopes
        connection.execute(
            """INSERT INTO api_keys (id, name, secret_hash, scopes, created_at, customer_external_id_prefix)
            VALUES (%s, 'bound', %s, %s, now(), %s)""",
            [key.id, key.secret_hash, list(GRANTABLE), new_id("bound")],
        )
    door = new_door({"x-api-key": str(key)})
    assert door("customers.ListCustomers")["customers"] == []
    for rpc in GUARDED:
        if BOUND.get(path(rpc)) is Bound.NEVER:
            assert refusal(door, rpc) == (7, "SCOPE_MISSING"), rpc.full_name
