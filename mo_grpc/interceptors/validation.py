"""Checks every request against the rules of its protos, and names all that is wrong at once."""

from functools import cache

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message
from protovalidate import Validator, Violation

from mo_grpc.errors import FieldViolation, InvalidFields, MalformedRequest
from mo_grpc.interceptors.base import Context, Interceptor

_VALIDATOR = Validator()


class ValidationInterceptor(Interceptor):
    """Checks the requests of RPCs that take one message; a stream's messages are its servicer's to check."""

    async def before(self, method: str, request: Message | DecodeError | None, context: Context) -> None:
        """Refuse a request that breaks a rule, or that is no message at all."""
        if isinstance(request, DecodeError):
            raise MalformedRequest from request
        if request is not None:
            validate(request, strip=body_field(method))


def validate(message: Message, *, strip: str = "", prefix: str = "") -> None:
    """Check one message.

    Fields are named as the REST caller sent them: without `strip`, the field that the HTTP body stands for, and with
    `prefix`, for a message inside another.

    Raises:
        InvalidFields: with one violation a field.
    """
    found: dict[str, str] = {}
    for violation in _VALIDATOR.collect_violations(message):
        found.setdefault(prefix + _field(violation).removeprefix(f"{strip}."), violation.proto.message)
    if found:
        raise InvalidFields(FieldViolation(*item) for item in found.items())


def _field(violation: Violation) -> str:
    """The path of a wrong field.

    A rule named `x.required` stands on the message that ought to have the field `x`: that is how the protos say what a
    Create request needs of its resource.
    """
    proto = violation.proto
    path = ""
    for element in proto.field.elements if proto.field else ():
        path += f".{element.field_name}"
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    if proto.rule_id.endswith(".required"):
        path += "." + proto.rule_id.removesuffix(".required")
    return path.removeprefix(".")


@cache
def body_field(method: str) -> str:
    """The request field that an RPC's HTTP body stands for; empty when the body is the request itself."""
    rpc = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    body: str = rpc.GetOptions().Extensions[annotations_pb2.http].body
    return body.removesuffix("*")
