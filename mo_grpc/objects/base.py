"""What every store of files can do."""

import re
from collections.abc import AsyncIterator
from typing import Protocol

from google.rpc import code_pb2
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import NotFound, Resource, ServiceError, retry_after

RESOURCE = Resource(
    "stored file", "mo.imports.v1.Import.source", ErrorReason.SOURCE_NOT_FOUND, ErrorReason.ERROR_REASON_UNSPECIFIED
)

BLOCK = 256 * 1024
"""Bytes read at a time."""

LISTED = 1000
"""Names listed at a time."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""The names of stored files: no part of the path is `.` or `..`, or hidden."""


class ObjectNotFound(NotFound):
    """There is no such stored file, or its name is invalid."""

    def __init__(self, source: str) -> None:
        super().__init__(RESOURCE, source)


class ObjectsUnavailable(ServiceError):
    """Stored files cannot be read or written."""

    code = code_pb2.UNAVAILABLE

    def __init__(self) -> None:
        message = "The service cannot reach its stored files; please retry."
        super().__init__(ErrorReason.OBJECTS_UNAVAILABLE, message, [retry_after(500)])


class ObjectStore(Protocol):
    """Files by name; each method raises `ObjectsUnavailable` when the store is out of reach."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a file durably, and return its size in bytes. If `chunks` raises, nothing is stored."""

    async def size(self, source: str) -> int:
        """How many bytes a file has.

        Raises:
            ObjectNotFound: there is none.
        """

    def read(self, source: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The file's bytes from `offset` on, block by block.

        Raises:
            ObjectNotFound: there is none.
        """

    def names(self, folder: str) -> AsyncIterator[list[str]]:
        """The names of the files in a folder, `LISTED` at a time; unfinished uploads are deleted meanwhile."""

    async def delete(self, name: str) -> None:
        """Delete a file; it is no error if it does not exist."""
