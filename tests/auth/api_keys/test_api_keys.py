import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES, Credential
from mo_grpc.db.embedded import embedded_url
from mo_grpc.rpc.access import ACCESS, ACCOUNT, BASIC, PUBLIC, SERVICES
from tests.conftest import KEY, Stack
from tests.databases import connect, owner
from tests.doors import Door, GrpcDoor, Refused, RestDoor, method, opens
from tests.servers import a_server
from tests.waiting import eventually

NewKey = Callable[..., str]
OpenDoor = Callable[[str | None], Door]

RPCS = [
    f"{service.split('.')[1]}.{rpc.name}"
    for service in SERVICES
    for rpc in descriptor_pool.Default().FindServiceByName(service).methods
    if not service.startswith("mo.auth.")
]
NOBODY, NOTHING = "nobody", "999999999"
"""Ids that nothing has."""
READS = ("Get", "List", "Watch", "Stream", "Explain")


@pytest.fixture(scope="module", autouse=True)
def chatter(stack: Stack) -> Iterator[None]:
    """Somebody's keys change all the time, in ever so small intervals, while these tests run."""
    done = threading.Event()

    def notify() -> None:
        with owner(stack.data_dir) as connection:
            connection.autocommit = True
            while not done.wait(0.2):
                connection.execute("SELECT pg_notify('mo_api_keys', 'somebody')")

    with ThreadPoolExecutor(1) as thread:
        chatting = thread.submit(notify)
        yield
        done.set()
        chatting.result()


@pytest.fixture(params=["grpc", "rest"])
def door_of(request: pytest.FixtureRequest, stack: Stack, grpc_channel: grpc.Channel) -> Iterator[OpenDoor]:
    """Opens each of the public doors with a key, or with none."""
    with ExitStack() as cleanup:

        def open_door(key: str | None) -> Door:
            headers = {"x-api-key": key} if key is not None else {}
            if request.param == "grpc":
                return GrpcDoor(grpc_channel, tuple(headers.items()))
            return RestDoor(cleanup.enter_context(httpx.Client(base_url=stack.http_url, headers=headers, timeout=30)))

        yield open_door


# Each RPC is open to one of these two keys alone, so that no scope stands in for another.
SCOPES = {
    "a": ("customers:read", "loans:write", "payments:read", "imports:write", "events:read", "webhooks:read"),
    "b": ("customers:write", "loans:read", "payments:write", "imports:read", "webhooks:write"),
}


def scope_of(package: str, *, reads: bool) -> str:
    """What the RPCs of a package ask for."""
    return f"{'events' if package in ('journal', 'statements') else package}:{'read' if reads else 'write'}"


@pytest.fixture(scope="module")
def keys(stack: Stack) -> dict[str, str]:
    """Some keys, made two at a time."""
    some = {name: [argument for scope in scopes for argument in ("--scope", scope)] for name, scopes in SCOPES.items()}
    some |= {"expired": ["--expires", "2020-01-01"], "expires": ["--expires", "2100-01-01T00:00:00"]}
    with ThreadPoolExecutor(2) as threads:
        made = threads.map(lambda options: stack.cli("keys", "create", "test", *options).stdout.strip(), some.values())
        return dict(zip(some, made, strict=True))


def refusal(door: Door, rpc: str = "customers.ListCustomers") -> Refused:
    """How a call is refused whose request has what its path needs, and nothing else."""
    request: dict[str, Any] = {}
    for place in named_in_path(rpc):
        *message, name = place.split(".")
        (request.setdefault(message[0], {}) if message else request)[name] = NOBODY if "external" in name else NOTHING
    if rpc in ("journal.WatchEvents", "journal.StreamEvents"):  # without a position, they would not end
        request = {"after_position": 10**15}
    with pytest.raises(Refused) as refused:
        door(rpc, **request)
    return refused.value


def named_in_path(rpc: str) -> list[str]:
    """The fields of the request that the path over REST has."""
    return re.findall(r"{([\w.]+)}", str(method(rpc).GetOptions()))


def altered(text: str, place: int) -> str:
    """The text with another character at a place."""
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


def test_without_a_key(door_of: OpenDoor) -> None:
    for rpc in RPCS:
        refused = refusal(door_of(None), rpc)
        assert (refused.code, refused.reason) == (16, "API_KEY_MISSING"), rpc
        assert refused.info["metadata"] == {"header": "x-api-key"}


def test_every_bad_key_is_refused_alike(door_of: OpenDoor, stack: Stack, keys: dict[str, str]) -> None:
    good = Credential.parse(stack.api_key)
    assert good is not None
    bad = {
        "empty": "",
        "a word": "secret",
        "cut short": stack.api_key[:-1],
        "too long": stack.api_key + "A",
        "in capitals": stack.api_key.upper(),
        "mistyped secret": altered(stack.api_key, 20),
        "wrong checksum": altered(stack.api_key, len(stack.api_key) - 1),
        "unknown, checksum right": str(Credential.generate()),
        "wrong secret, checksum right": str(Credential(good.id, Credential.generate().secret)),
        "expired": keys["expired"],
        "two keys": f"{stack.api_key}, {stack.api_key}",
    }
    answers = {}
    for what, key in bad.items():
        refused = refusal(door_of(key))
        assert (refused.code, refused.reason) == (16, "API_KEY_INVALID"), what
        answers[refused.message, str(refused.info)] = what
    assert len(answers) == 1  # nobody learns which it was


def test_a_key_that_does_not_expire_yet(door_of: OpenDoor, keys: dict[str, str]) -> None:
    assert opens(door_of(keys["expires"]))


def test_a_key_works_at_once_and_until_a_second_after_its_revocation(
    stack: Stack, over_grpc: GrpcDoor, rest: httpx.Client, new_key: NewKey
) -> None:
    key = new_key()
    door = GrpcDoor(over_grpc.channel, (("x-api-key", key),))
    assert opens(door)
    rest.headers["x-api-key"] = key
    assert opens(RestDoor(rest))
    stack.cli("keys", "revoke", key.split("_")[1])
    eventually(lambda: not opens(door), 1)
    assert not opens(RestDoor(rest))
    assert shown_line(stack, key).count(":") > 4  # the scopes, and the times of its creation and its revocation


def test_a_key_whose_notification_is_late_is_looked_up(stack: Stack, over_grpc: GrpcDoor) -> None:
    credential = Credential.generate()
    with connect(embedded_url(stack.data_dir, "postgres")) as superuser:
        superuser.execute("SET session_replication_role = replica")  # no trigger, and so no notification
        superuser.execute(
            "INSERT INTO api_keys (id, name, secret_hash, scopes, created_at) VALUES (%s, 'quiet', %s, %s, now())",
            [credential.id, credential.secret_hash, list(BUSINESS_SCOPES)],
        )
    door = GrpcDoor(over_grpc.channel, (("x-api-key", str(credential)),))
    eventually(lambda: opens(door), 1)


def test_revoking_an_unknown_key_fails(stack: Stack) -> None:
    done = stack.cli("keys", "revoke", "x" * 12, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "x" * 12 in done.stderr


def test_every_rpc_has_one_scope_and_no_entry_is_stale() -> None:
    rpcs = {
        f"/{service}/{rpc.name}" for service in SERVICES for rpc in descriptor_pool.Default().FindServiceByName(service).methods
    }
    assert rpcs <= ACCESS.keys()
    ours = {rpc for rpc in rpcs if rpc.startswith("/mo.auth.")}
    assert {rpc for rpc in ours if ACCESS[rpc] == PUBLIC} == {"/mo.auth.v1.TokenService/GetJwks"}
    assert {rpc.rpartition("/")[2] for rpc in ours if ACCESS[rpc] == BASIC} == {"CreateToken", "RefreshToken"}
    keys = {rpc for rpc in ours if "ApiKeyService" in rpc}
    assert {ACCESS[rpc] for rpc in keys} == {"keys:read", "keys:write"}
    for rpc in keys:
        assert ACCESS[rpc] == f"keys:{'read' if rpc.rpartition('/')[2].startswith(READS) else 'write'}"
    scoped = {rpc for rpc, scope in ACCESS.items() if scope not in (PUBLIC, BASIC, ACCOUNT)} - keys
    assert scoped == rpcs - ours
    assert {ACCESS[rpc] for rpc in scoped} == {*BUSINESS_SCOPES, "webhooks:read", "webhooks:write"}
    for rpc in scoped:
        reads = rpc.rpartition("/")[2].startswith(READS)
        assert ACCESS[rpc] == scope_of(rpc.split(".")[1], reads=reads)
    for rpc in ACCESS.keys() - rpcs:
        service, name = rpc.removeprefix("/").split("/")
        assert service.startswith("grpc.")
        if service != "grpc.reflection.v1.ServerReflection":  # served from the descriptors of v1alpha
            assert name in descriptor_pool.Default().FindServiceByName(service).methods_by_name


def test_an_rpc_asks_for_its_scope_before_anything_else(door_of: OpenDoor, keys: dict[str, str]) -> None:
    for rpc in RPCS:
        package, name = rpc.split(".")
        needed = scope_of(package, reads=name.startswith(READS))
        right, wrong = ("a", "b") if needed in SCOPES["a"] else ("b", "a")
        # The request names nothing that exists, and lacks what is required.
        refused = refusal(door_of(keys[wrong]), rpc)
        assert (refused.code, refused.reason) == (7, "SCOPE_MISSING"), rpc
        assert refused.info["metadata"] == {"scope": needed}
        if name.startswith("List") and not named_in_path(rpc):
            door_of(keys[right])(rpc)
        else:
            assert refusal(door_of(keys[right]), rpc).code in (3, 5, 11)


def test_health_and_reflection_need_no_key(grpc_channel: grpc.Channel) -> None:
    check = health_pb2_grpc.HealthStub(grpc_channel).Check(health_pb2.HealthCheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    for version in ("v1", "v1alpha"):
        call = grpc_channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert answer.list_services_response.service


def shown_line(stack: Stack, key: str) -> str:
    """What `keys list` shows of a key."""
    [line] = [line for line in stack.cli("keys", "list").stdout.splitlines() if key.split("_")[1] in line]
    return line


def test_create_prints_the_key_alone_and_list_all_but_its_secret(stack: Stack, over_grpc: GrpcDoor) -> None:
    options = ("--scope", "loans:read", "--scope", "customers:read", "--expires", "2099-12-31")
    made = stack.cli("keys", "create", "Ana's shop", *options)
    key = made.stdout.removesuffix("\n")
    assert KEY.fullmatch(key)
    credential = Credential.parse(key)
    assert credential is not None
    assert credential.secret not in made.stderr
    shown = shown_line(stack, key)
    for text in (credential.id, "Ana's shop", "customers:read loans:read", "2099-12-31 00:00:00"):
        assert text in shown
    assert credential.secret not in shown
    assert credential.secret_hash.hex() not in shown
    assert opens(GrpcDoor(over_grpc.channel, (("x-api-key", key),)))
    eventually(lambda: used(stack, credential.id), 10)
    assert len(shown_line(stack, key).split()) == len(shown.split()) + 2  # a day and a time


def used(stack: Stack, key_id: str) -> bool:
    """Whether it is written down that a key was used; sooner told than by `keys list`."""
    with owner(stack.data_dir) as connection:
        return bool(connection.execute("SELECT FROM api_keys WHERE id = %s AND last_used_at IS NOT NULL", [key_id]).rowcount)


def test_a_wrong_key_is_not_made(stack: Stack) -> None:
    wrong = [("wrong", "--scope", "loans:frobnicate"), ("",), ("x" * 101,)]
    with ThreadPoolExecutor(2) as threads:
        for done in threads.map(lambda arguments: stack.cli("keys", "create", *arguments, check=False), wrong):
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr
    with owner(stack.data_dir) as connection:
        made = "SELECT FROM api_keys WHERE name IN ('wrong', '') OR length(name) > 100"
        assert connection.execute(made).rowcount == 0


def test_the_name_of_the_header_is_a_setting(stack: Stack) -> None:
    with a_server(stack.environment, API_KEY_CUSTOM_HEADER="HTTP_X_PARTNER_KEY") as server:
        assert opens(GrpcDoor(server.channel, (("x-partner-key", stack.api_key),)))
        refused = refusal(GrpcDoor(server.channel, (("x-api-key", stack.api_key),)))
        assert (refused.code, refused.reason) == (16, "API_KEY_MISSING")
        assert refused.info["metadata"] == {"header": "x-partner-key"}


def test_fake_keys_cost_no_query(stack: Stack, door_of: OpenDoor) -> None:
    """While nobody can read the table of keys, they are refused all the same, and the real one is let in."""
    good = Credential.parse(stack.api_key)
    assert good is not None
    wrong_secrets = [str(Credential(good.id, Credential.generate().secret)) for _ in range(10)]
    wrong_checksums = [key[:-1] + ("A" if key[-1] != "A" else "B") for key in wrong_secrets]
    assert opens(door_of(stack.api_key))
    with owner(stack.data_dir) as connection:
        connection.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        for key in (*wrong_secrets, *wrong_checksums):
            assert not opens(door_of(key))
        assert opens(door_of(stack.api_key))
        connection.rollback()
