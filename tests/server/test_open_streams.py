"""Whoever may not call any more is served no further, either: every streaming RPC, every way to lose the right to call."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import jwt
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from mo.journal.v1.journal_pb2 import WatchEventsRequest

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES
from mo_grpc.auth.users.rules import Role
from mo_grpc.imports.servicer import SMALL
from mo_grpc.rpc.access import ACCESS, BASIC, PUBLIC, SERVICES
from tests.auth.tokens.forging import header_of, payload_of, private_key
from tests.auth.users.conftest import Doors, NewUser, rows
from tests.conftest import Stack
from tests.doors import GrpcDoor, Json, method, refused
from tests.factories import new_id
from tests.imports.files import upload
from tests.waiting import eventually

SECONDS = 60
Metadata = tuple[tuple[str, str], ...]

STREAMS = [
    f"{service.split('.')[1]}.{rpc.name}"
    for service in SERVICES
    for rpc in descriptor_pool.Default().FindServiceByName(service).methods
    if (rpc.client_streaming or rpc.server_streaming) and ACCESS[f"/{service}/{rpc.name}"] not in (PUBLIC, BASIC)
]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.fixture
def done() -> Iterator[threading.Event]:
    """Set when nothing more is to be sent."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def endless_import(stack: Stack) -> Iterator[str]:
    """An import that does not end, because whoever holds its lease does nothing."""
    [(number,)] = rows(
        stack,
        """INSERT INTO imports (source, state, bytes_total, created_by, created_at, lease_owner, lease_until)
        VALUES ('imports/none.txt', 2, 1, 'test', now(), 'nobody', now() + interval '1 hour') RETURNING id""",
    )
    yield str(number)
    rows(stack, "UPDATE imports SET state = 5, finished_at = now() WHERE id = %s", number)


@pytest.fixture
def administrator(over_doors: Doors, new_user: NewUser) -> GrpcDoor:
    door = over_doors.user(new_user(Role.ADMINISTRATOR).email)
    assert isinstance(door, GrpcDoor)
    return door


def new_key(administrator: GrpcDoor) -> Json:
    return administrator("auth.CreateApiKey", api_key={"name": "test", "scopes": list(BUSINESS_SCOPES)})


def file_without_end(done: threading.Event) -> Iterator[bytes]:
    yield f"{new_id('c')},1\n".encode()
    done.wait(SECONDS)


def begin(channel: grpc.Channel, rpc: str, metadata: Metadata, endless_import: str, done: threading.Event) -> Iterator[Any]:
    """Start a call of a streaming RPC that does not end by itself; answers its messages. Each such RPC needs a line here."""
    requests: dict[str, Any] = {
        "imports.UploadCustomers": (HttpBody(content_type="text/csv", data=part) for part in file_without_end(done)),
        "imports.WatchImport": GetMessageClass(method("imports.WatchImport").input_type)(id=endless_import),
        "journal.WatchEvents": WatchEventsRequest(),
        "journal.StreamEvents": WatchEventsRequest(),
    }
    descriptor = method(rpc)
    kind = "_".join("stream" if streams else "unary" for streams in (descriptor.client_streaming, descriptor.server_streaming))
    call = getattr(channel, kind)(
        f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(descriptor.output_type).FromString,
    )
    if descriptor.server_streaming:
        return iter(call(requests[rpc], metadata=metadata, timeout=SECONDS))
    answer = call.future(requests[rpc], metadata=metadata, timeout=SECONDS)
    return (answer.result() for _ in range(1))


def outcome(answers: Iterator[Any]) -> str:
    """How a streaming call ends."""
    try:
        for _ in answers:
            pass
    except grpc.RpcError as error:
        return refused(error).reason
    return "OK"


@dataclass
class Loss:
    """A way to lose the right to call: who calls, how it comes about, and what the call ends with."""

    metadata: Metadata
    caller: str
    lose: Callable[[], object]
    reason: str


@pytest.fixture
def losses(stack: Stack, administrator: GrpcDoor, over_doors: Doors, new_user: NewUser) -> dict[str, Loss]:
    def with_key(lose: Callable[[str], object], reason: str = "API_KEY_INVALID") -> Loss:
        key = new_key(administrator)
        return Loss((("x-api-key", key["key"]),), key["id"], lambda: lose(key["id"]), reason)

    def with_token(lose: Callable[[str, str], object], reason: str = "TOKEN_INVALID", lifetime: int = 0) -> Loss:
        user = new_user(Role.OPERATOR)
        token = over_doors.tokens(user.email)["access_token"]
        if lifetime:
            header, payload = header_of(token), payload_of(token) | {"exp": int(time.time()) + lifetime}
            token = jwt.encode(payload, private_key(stack, header["kid"]), "EdDSA", headers=header)
        bearer = (("authorization", f"Bearer {token}"),)
        return Loss(bearer, f"user-{user.id}", lambda: lose(user.email, token), reason)

    def update(setting: str) -> Callable[[str], object]:
        return lambda key: rows(stack, f"UPDATE api_keys SET {setting} WHERE id = %s", key)

    def set_password(email: str, _: str) -> None:
        over_doors.login(email, new_password="a brand new passphrase")

    return {
        "a revoked key": with_key(lambda key: administrator("auth.RevokeApiKey", id=key)),
        "a key rotated out": with_key(lambda key: administrator("auth.RotateApiKey", id=key, overlap_seconds=0)),
        "an expired key": with_key(update("expires_at = now()")),
        "a key with other scopes": with_key(update("scopes = '{loans:read}'"), "SCOPE_MISSING"),
        "a key for other networks": with_key(update("allowed_networks = '{192.0.2.0/24}'"), "NETWORK_NOT_ALLOWED"),
        "a locked account": with_token(
            lambda email, _: rows(stack, "UPDATE users SET locked_at = now() WHERE email = %s", email)
        ),
        "another password": with_token(set_password),
        "an ended session": with_token(lambda _, token: over_doors.bearer(token)("auth.RevokeToken")),
        "an expired token": with_token(lambda *_: None, lifetime=5),
        "another role": with_token(
            lambda email, _: rows(stack, "UPDATE users SET role = 1 WHERE email = %s", email), "SCOPE_MISSING"
        ),
    }  # fmt: skip


def test_whoever_loses_the_right_to_call_loses_open_streams(
    stack: Stack,
    grpc_channel: grpc.Channel,
    losses: dict[str, Loss],
    endless_import: str,
    done: threading.Event,
    executor: ThreadPoolExecutor,
) -> None:
    streams = {
        (rpc, what): executor.submit(outcome, begin(grpc_channel, rpc, loss.metadata, endless_import, done))
        for rpc in STREAMS
        for what, loss in losses.items()
        if not (rpc.startswith("journal.") and what == "another role")  # who becomes a viewer may watch still, for ever
    }
    for loss in losses.values():
        loss.lose()
    # Who becomes a viewer may watch still.
    watched = streams.pop(("imports.WatchImport", "another role"))
    found = {where: stream.result(SECONDS / 2) for where, stream in streams.items()}
    assert found == {(rpc, what): losses[what].reason for rpc, what in streams}
    assert not watched.done()
    done.set()
    rows(stack, "UPDATE imports SET state = 5, finished_at = now() WHERE id = %s", endless_import)
    assert watched.result(SECONDS) == "OK"
    callers = [loss.caller for loss in losses.values()]
    assert rows(stack, "SELECT created_by FROM imports WHERE created_by = ANY(%s)", callers) == []


def test_rest_calls_end_alike(
    rest: httpx.Client,
    administrator: GrpcDoor,
    endless_import: str,
    done: threading.Event,
    executor: ThreadPoolExecutor,
) -> None:
    key = new_key(administrator)
    begun = threading.Event()

    def watch() -> list[str]:
        with rest.stream("GET", f"/v1/imports/{endless_import}:watch", headers={"x-api-key": key["key"]}) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            begun.set()
            return [first, *lines]

    def send() -> httpx.Response:
        headers = {"x-api-key": key["key"], "content-type": "text/csv"}
        return rest.post("/v1/imports/customers", content=file_without_end(done), headers=headers)

    watched, sent = executor.submit(watch), executor.submit(send)
    assert begun.wait(SECONDS)
    administrator("auth.RevokeApiKey", id=key["id"])
    # What has begun cannot become another answer: it ends before the import does.
    assert "RUNNING" in watched.result(SECONDS)[-1]
    done.set()
    answer = sent.result(SECONDS)
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (401, "API_KEY_INVALID")


def test_an_import_that_was_accepted_goes_on(
    stack: Stack, grpc_channel: grpc.Channel, administrator: GrpcDoor, over_grpc: GrpcDoor
) -> None:
    prefix, key = new_id("c"), new_key(administrator)
    lines = b"".join(f"{prefix}-{n},1\n".encode() for n in range(SMALL + 1))
    found = upload(GrpcDoor(grpc_channel, (("x-api-key", key["key"]),)), lines)
    administrator("auth.RevokeApiKey", id=key["id"])
    eventually(lambda: over_grpc("imports.GetImport", id=found["id"])["state"] == "SUCCEEDED", SECONDS)
    assert over_grpc("imports.GetImport", id=found["id"])["created_count"] == SMALL + 1
