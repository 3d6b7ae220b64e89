"""Checks the requests of RPCs that take one message, before their handlers see them."""

from functools import cache

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message

from mo_grpc.errors import MalformedRequest
from mo_grpc.rpc.validation import validate


def check(method: str, request: Message | DecodeError) -> None:
    """Check the one request of an RPC.

    Raises:
        InvalidFields: it breaks a rule of its proto.
        MalformedRequest: it is no message at all.
    """
    if isinstance(request, DecodeError):
        raise MalformedRequest from request
    validate(request, strip=body_field(method))


@cache
def body_field(method: str) -> str:
    """The request field that an RPC's HTTP body stands for; empty when the body is the request itself."""
    rpc = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    body: str = rpc.GetOptions().Extensions[annotations_pb2.http].body
    return body.removesuffix("*")
