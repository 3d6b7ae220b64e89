"""A file from a form, passed on while it arrives, so that it is held neither in memory nor on disk."""

from collections.abc import AsyncIterator
from email.message import Message
from urllib.parse import quote

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

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
    try:
        return message.get_filename("") or ""
    except (TypeError, ValueError):  # from inside the library, about parameters that contradict each other
        return ""


class Form:
    """A `multipart/form-data` body with some short fields and one file (RFC 7578), whose field may have any name."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != CONTENT_TYPE or not options.get("boundary"):
            raise FormError("Choose a file first.")
        try:
            # Latin-1 takes any bytes in a file's name, which some programs send in another encoding than UTF-8.
            self._parser = PushMultipartParser(options["boundary"], max_segment_count=MAX_FIELDS + 1, header_charset="latin1")
        except MultipartError as error:
            raise FormError("The form is damaged.") from error
        self._events = self._parse(body)
        self._arrived = self._in_file = False
        self.file_name = ""
        self.fields: dict[str, str] = {}

    async def begin(self) -> None:
        """Read up to the file.

        Raises:
            FormError: there is none.
        """
        field = ""
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                if _is_file(event):
                    self._in_file = True
                    self.file_name = _text(event.filename or "")
                    return
                field = _text(event.name or "")
            elif event:
                value = self.fields.get(field, "") + event.decode(errors="replace")
                self.fields[field] = value[:MAX_FIELD]
        raise FormError("Choose a file first.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file; what follows it in the form is read, too.

        Raises:
            FormError: it ends before its end, or there is another file.
        """
        whole = False
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                if _is_file(event):
                    raise FormError("Send one file at a time.")
            elif event is None:
                whole = True
            elif not whole:
                yield event
        if not whole:
            raise FormError("The file did not arrive whole.")

    async def _parse(self, body: AsyncIterator[bytes]) -> AsyncIterator[MultipartSegment | bytes | None]:
        """The heads of parts, pieces of their contents, and None at each part's end."""
        try:
            async for piece in body:
                # An empty piece would tell the parser that the form ends.
                for event in self._parser.parse(piece) if piece else ():
                    yield event
                self._arrived = self._arrived or bool(piece)
            if self._arrived and not self._in_file:
                self._parser.close()
        except ParserLimitReached as error:
            raise FormError("The form has too many fields, or a field's head is too long.") from error
        except MultipartError as error:
            raise FormError("The form is damaged.") from error


def _is_file(part: MultipartSegment) -> bool:
    return part.filename is not None or part.name == FILE_FIELD


def _text(header: str) -> str:
    return header.encode("latin1").decode(errors="replace")
