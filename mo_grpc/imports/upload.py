"""An upload while it arrives: its bytes, out of messages or a form, counted and limited."""

import hashlib
from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import FieldViolation, InvalidArgument, InvalidFields
from mo_grpc.imports import form
from mo_grpc.imports.rules import file_name

CONTENT_TYPES = ("text/plain", "text/csv", form.CONTENT_TYPE)

_FORM = 64 * 1024
"""Bytes of a form besides its file."""


class Upload:
    """A stream of HTTP bodies that is a file, or a form with one."""

    def __init__(self, bodies: AsyncIterator[HttpBody], max_bytes: int) -> None:
        self._bodies = bodies
        self._max_bytes = max_bytes
        self._feeds = self._returns = 0
        self._digest = hashlib.sha256()
        self.file_name = ""

    @property
    def lines(self) -> int:
        """About how many lines have arrived, whatever their line ends."""
        return max(self._feeds, self._returns)

    @property
    def content(self) -> HttpBody:
        """Represents the file when the requests of an idempotency key are compared."""
        return HttpBody(data=self._digest.digest())

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file.

        Raises:
            InvalidFields: it is said to be something else than text, or the form is none with a file.
            InvalidArgument: there are too many bytes.
        """
        body = await anext(aiter(self._bodies), HttpBody())
        kind = body.content_type.partition(";")[0].strip().lower()
        if kind not in CONTENT_TYPES:
            raise InvalidFields([FieldViolation("content_type", f"must be one of {', '.join(CONTENT_TYPES)}")])
        size = 0
        async for chunk in self._in_form(body) if kind == form.CONTENT_TYPE else self._received(body, self._max_bytes):
            size += len(chunk)
            self._bound(size, self._max_bytes)
            self._feeds += chunk.count(b"\n")
            self._returns += chunk.count(b"\r")
            self._digest.update(chunk)
            yield chunk

    async def skim(self) -> None:
        """Read the file without keeping it, for its `content` only."""
        async for _ in self.chunks():
            pass

    async def _received(self, first: HttpBody, limit: int) -> AsyncIterator[bytes]:
        size = len(first.data)
        self._bound(size, limit)
        yield first.data
        async for body in self._bodies:
            size += len(body.data)
            self._bound(size, limit)
            yield body.data

    async def _in_form(self, first: HttpBody) -> AsyncIterator[bytes]:
        try:
            found = form.Form(first.content_type, self._received(first, self._max_bytes + _FORM))
            await found.begin()
            self.file_name = file_name(found.file_name)
            async for chunk in found.chunks():
                yield chunk
        except form.FormError as error:
            raise InvalidFields([FieldViolation(form.FILE_FIELD, str(error))]) from error

    def _bound(self, size: int, limit: int) -> None:
        if size > limit:
            message = f"The file is over the limit of {self._max_bytes:,} bytes."
            raise InvalidArgument(ErrorReason.FILE_TOO_LARGE, message, metadata={"max_bytes": str(self._max_bytes)})
