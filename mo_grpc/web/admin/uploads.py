"""A file from a form, passed on while it arrives: neither memory nor a disk here has to hold it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

MAX_FIELD = 1000
MAX_FIELDS = 20


class UploadError(Exception):
    """What was sent is not the form; the message says what is wrong."""


class Upload:
    """A `multipart/form-data` body with some short fields and then one file (RFC 7578: in the order of the form)."""

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise UploadError("Choose a file first.")
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
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type] # any subset will do
        except FormParserError as error:
            raise UploadError("The form is damaged.") from error
        self._stream = request.stream()
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
            UploadError: there is none.
        """
        while not self._in_file:
            if not await self._read():
                raise UploadError("Choose a file first.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file.

        Raises:
            UploadError: it ends before its end.
        """
        while True:
            if self._block:
                yield bytes(self._block)
                self._block.clear()
            if self._file_over:
                return
            if not await self._read():
                raise UploadError("The file did not arrive whole.")

    async def _read(self) -> bool:
        """Take the next piece of the body; False at its end."""
        try:
            async for piece in self._stream:
                self._parser.write(piece)
                if piece:
                    return True
        except FormParserError as error:
            raise UploadError("The form is damaged.") from error
        except ClientDisconnect as error:
            raise UploadError("The file did not arrive whole.") from error
        return False

    def _begin(self) -> None:
        self._field, self._headers = "", {}

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
        if b"filename" in options and not self._file_over:
            self.file_name = options[b"filename"].decode(errors="replace")
            self._in_file = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and not self._file_over:
            self._block += data[start:end]
        elif not self._in_file:
            if len(self.fields) > MAX_FIELDS:
                raise FormParserError("more fields than the form has")
            value = self.fields.get(self._field, "") + data[start:end].decode(errors="replace")
            self.fields[self._field] = value[:MAX_FIELD]

    def _end(self) -> None:
        self._file_over = self._in_file
