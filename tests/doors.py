"""The two public doors of the service, gRPC and REST, behind one face, so that a test walks through both."""

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

import google.rpc.error_details_pb2  # noqa: F401 - so that the details of errors are known
import grpc
import httpx
import mo.auth.v1.api_keys_pb2
import mo.auth.v1.otp_pb2
import mo.auth.v1.tokens_pb2
import mo.customers.v1.customers_pb2
import mo.imports.v1.imports_pb2
import mo.journal.v1.journal_pb2
import mo.loans.v1.loans_pb2
import mo.payments.v1.payments_pb2
import mo.statements.v1.statements_pb2
import mo.webhooks.v1.webhooks_pb2  # noqa: F401 - so that the methods are known
from google.api import annotations_pb2
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from tests import secrets

# HTTP's answer for each status code that the service gives, as Envoy translates it.
HTTP_STATUS = {3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 13: 500, 14: 503, 16: 401}

Json = dict[str, Any]


@dataclass
class Refused(Exception):
    """A call ended with an error."""

    code: int
    message: str
    details: list[Json] = field(default_factory=list)
    request_id: str = field(default="", compare=False)

    @property
    def info(self) -> Json:
        """The one ErrorInfo that every error carries."""
        [info] = [d for d in self.details if d["@type"].endswith("google.rpc.ErrorInfo")]
        assert info["domain"] == "mo"
        return info

    @property
    def reason(self) -> str:
        return str(self.info["reason"])

    @property
    def fields(self) -> dict[str, str]:
        """The wrong fields, and why."""
        [bad] = [d for d in self.details if d["@type"].endswith("google.rpc.BadRequest")]
        return {violation["field"]: violation["description"] for violation in bad["field_violations"]}


class Door(Protocol):
    """Calls an RPC, such as `customers.GetCustomer`, with a JSON request in the proto's names."""

    replayed: bool
    request_id: str

    def keyed(self, key: str) -> "Door": ...

    def __call__(self, rpc: str, **request: Any) -> Json: ...


def method(rpc: str) -> MethodDescriptor:
    package, name = rpc.split(".")
    files = {"auth": ("api_keys", "tokens", "otp")}.get(package, (package,))
    found = [descriptor_pool.Default().FindFileByName(f"mo/{package}/v1/{file}.proto") for file in files]
    [method] = [
        service.methods_by_name[name]
        for file in found
        for service in file.services_by_name.values()
        if name in service.methods_by_name
    ]
    return method


def to_json(message: Message) -> Json:
    """A message as the REST door shows it."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@dataclass
class GrpcDoor:
    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...] = ()
    timeout: float = 30
    replayed: bool = False
    """Whether the last answer was one given before."""
    request_id: str = ""
    """That of the last answer."""

    def keyed(self, key: str) -> "GrpcDoor":
        """The same door, with an idempotency key on every call."""
        return GrpcDoor(self.channel, (*self.metadata, ("idempotency-key", key)), self.timeout)

    def __call__(self, rpc: str, **request: Any) -> Json:
        descriptor = method(rpc)
        call: grpc.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            f"/{descriptor.containing_service.full_name}/{descriptor.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        # A field mask's JSON would want camel case, which is nobody's name for a field here.
        mask = request.pop("update_mask", None)
        message: Any = json_format.ParseDict(request, GetMessageClass(descriptor.input_type)())
        if mask:
            message.update_mask.paths.extend(mask.split(","))
        try:
            answer, details = call.with_call(message, metadata=self.metadata, timeout=self.timeout)
            self.replayed = ("idempotency-replayed", "true") in details.initial_metadata()
            self.request_id = str(dict(details.trailing_metadata())["x-request-id"])
            content = to_json(answer)
            secrets.answered(content)
            return content
        except grpc.RpcError as error:
            self.replayed = isinstance(error, grpc.Call) and ("idempotency-replayed", "true") in (
                error.initial_metadata() or ()
            )
            refusal = refused(error)
            self.request_id = refusal.request_id
            raise refusal from error


def refused(error: grpc.RpcError) -> Refused:
    """The status that a gRPC call ended with; checks that its parts agree."""
    assert isinstance(error, grpc.Call)
    code = error.code().value[0]
    trailing = dict(error.trailing_metadata() or ())
    if details := trailing.get("grpc-status-details-bin"):
        status = Status.FromString(details)
        assert (status.code, status.message) == (code, error.details())
        return Refused(code, status.message, to_json(status)["details"], trailing["x-request-id"])
    # The client itself, or the library, says so.
    return Refused(code, error.details() or "")


@dataclass
class RestDoor:
    client: httpx.Client
    headers: dict[str, str] = field(default_factory=dict)
    replayed: bool = False
    """Whether the last answer was one given before."""
    request_id: str = ""
    """That of the last answer."""

    def keyed(self, key: str) -> "RestDoor":
        """The same door, with an idempotency key on every call."""
        return RestDoor(self.client, {"Idempotency-Key": key})

    def __call__(self, rpc: str, **request: Any) -> Json:
        rule = method(rpc).GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        query = dict(request)
        if "as_of" in query:
            query |= {f"as_of.{name}": value for name, value in query.pop("as_of").items()}
        path = re.sub(r"\{([a-z_.]+)\}", lambda m: str(take(query, m[1].split("."))), getattr(rule, verb))
        body: Any = None
        if rule.body == "*":
            body, query = query, {}
        elif rule.body:
            body = query.pop(rule.body, {})
        answer = self.client.request(verb.upper(), path, json=body, params=query, headers=self.headers)
        self.replayed = answer.headers.get("idempotency-replayed") == "true"
        self.request_id = answer.headers["x-request-id"]
        assert answer.headers["content-type"] == "application/json"
        assert not [name for name in answer.headers if name.startswith("grpc-")]
        content: Json = answer.json()
        secrets.answered(content)
        if answer.status_code == 200:
            return content
        assert answer.status_code == HTTP_STATUS[content["code"]]
        raise Refused(**content, request_id=self.request_id)


def take(request: Json, path: list[str]) -> Any:
    """Take the value at `path` out of a request, without changing the caller's dictionaries."""
    head, *rest = path
    if not rest:
        return request.pop(head)
    request[head] = dict(request[head])
    return take(request[head], rest)


def opens(door: Door, invalid: str = "API_KEY_INVALID") -> bool:
    """Whether the door's key is taken, or is refused as `invalid`."""
    try:
        door("customers.ListCustomers", page_size=1)
    except Refused as refusal:
        if refusal.reason != invalid:
            raise
        return False
    return True
