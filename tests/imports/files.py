"""Uploads through the public doors, and what became of them."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from mo.imports.v1.imports_pb2 import Import

from tests.conftest import Stack
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor, refused, to_json
from tests.factories import new_id

UPLOAD = "/mo.imports.v1.ImportService/UploadCustomers"
CHUNK = 64 * 1024

LINES = 60_000
"""Those of a `large` file."""


def upload(door: Door, content: bytes, content_type: str = "text/csv", disposition: str = "") -> Json:
    """Upload a file through a door; answers the import."""
    said = {"content-disposition": disposition} if disposition else {}
    if isinstance(door, RestDoor):
        headers = door.headers | said | {"content-type": content_type}
        answer = door.client.post("/v1/imports/customers", content=content, headers=headers, timeout=60)
        door.replayed = answer.headers.get("idempotency-replayed") == "true"
        found: Json = answer.json()
        if answer.status_code != 200:
            raise Refused(**found)
        return found
    assert isinstance(door, GrpcDoor)
    named = GrpcDoor(door.channel, (*door.metadata, *said.items()), door.timeout)
    try:
        return over_grpc(named, bodies(content, content_type))
    finally:
        door.replayed = named.replayed


def over_grpc(door: GrpcDoor, messages: Iterator[HttpBody]) -> Json:
    call: grpc.StreamUnaryMultiCallable[Any, Any] = door.channel.stream_unary(
        UPLOAD, request_serializer=HttpBody.SerializeToString, response_deserializer=Import.FromString
    )
    try:
        answer, details = call.with_call(messages, metadata=door.metadata, timeout=60)
    except grpc.RpcError as error:
        raise refused(error) from error
    door.replayed = ("idempotency-replayed", "true") in details.initial_metadata()
    return to_json(answer)


def bodies(content: bytes, content_type: str = "text/csv") -> Iterator[HttpBody]:
    yield HttpBody(content_type=content_type, data=content[:CHUNK])
    for start in range(CHUNK, len(content), CHUNK):
        yield HttpBody(data=content[start : start + CHUNK])


def counts(found: Json) -> tuple[int, int, int]:
    """Lines, created, failed."""
    return found["lines_count"], found["created_count"], found["failed_count"]


def errors(door: Door, import_id: str, page_size: int = 1000) -> list[Json]:
    """All errors of an import, page by page."""
    found: list[Json] = []
    token = ""
    while True:
        page = door("imports.ListImportErrors", id=import_id, page_size=page_size, page_token=token)
        found += page["errors"]
        token = page["next_page_token"]
        if not token:
            return found


def stored(stack: Stack) -> set[str]:
    """The files of the store."""
    return {str(path) for path in (stack.data_dir / "objects").rglob("*") if path.is_file()}


def large(prefix: str = "") -> bytes:
    """A file of several chunks: every hundredth line is wrong."""
    prefix = prefix or new_id("c")
    wide = "0" * (40 - len(prefix))
    return b"".join(f"{prefix}-{wide}{n:08},{'x' if n % 100 == 0 else n}\n".encode() for n in range(LINES))
