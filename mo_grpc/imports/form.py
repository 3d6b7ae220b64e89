"""A file from a form, passed on while it arrives, so that it is held neither in memory nor on disk."""

from collections.abc import AsyncIterator, Callable
from email.message import Message
from typing import Any
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

DISPOSITION = "content-disposition"
"""The header, or the metadata, in which an upload may have the file's name."""

CONTENT_TYPE = "multipart/form-data"

MAX_FIELD = 1000
"""Characters that are kept of a field that is not a file."""

MAX_FIELDS = 20
"""How many such fields a form may have."""

FILE_FIELD = "file"
"""The field that is read as a file even without a file name."""


class FormError(Exception):
    """What was sent is not a form with one file; the message says what is wrong."""


def disposition(name: str) -> tuple[str, str]:
    """The header with a file's name, in any script (RFC 6266, section 4.3)."""
    return DISPOSITION, f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def sent_name(disposition: str) -> str:
    """The file's name in the value of such a header; empty if there is none."""
    message = Message()
    message[DISPOSITION] = disposition
    return message.get_filename("") or ""


class Form:
    """A `multipart/form-data` body with some short fields and one file (RFC 7578), whose field may have any name."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != CONTENT_TYPE.encode() or b"boundary" not in options:
            raise FormError("Choose a file first.")
        callbacks: dict[str, Callable[..., Any]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type] # any subset is allowed
        except FormParserError as error:
            raise FormError("The form is damaged.") from error
        self._body = body
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._in_file = self._file_over = False
        self._block = bytearray()
        self.file_name = ""
        self.fields: dict[str, str] = {}

    async def begin(self) -> None:
        """Read up to the file.

        Raises:
            FormError: there is none.
        """
        while not self._in_file:
            if not await self._read():
                raise FormError("Choose a file first.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file; what follows it in the form is read, too.

        Raises:
            FormError: the form is incomplete, or has another file.
        """
        arrives = True
        while arrives:
            if self._block:
                yield bytes(self._block)
                self._block.clear()
            arrives = await self._read()
        if not self._file_over:
            raise FormError("The file did not arrive whole.")

    async def _read(self) -> bool:
        """Take the next piece of the body; False at its end."""
        async for piece in self._body:
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise FormError("The form is damaged.") from error
            if piece:
                return True
        return False

    def _begin(self) -> None:
        self._field, self._headers = "", {}
        if len(self.fields) > MAX_FIELDS:
            raise FormError("The form has too many fields.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options or self._field == FILE_FIELD:
            if self._in_file:
                raise FormError("Send one file at a time.")
            self.file_name = options.get(b"filename", b"").decode(errors="replace")
            self._in_file = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and not self._file_over:
            self._block += data[start:end]
        elif not self._in_file:
            value = self.fields.get(self._field, "") + data[start:end].decode(errors="replace")
            self.fields[self._field] = value[:MAX_FIELD]

    def _end(self) -> None:
        self._file_over = self._in_file
