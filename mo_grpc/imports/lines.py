"""A file's bytes, prepared for PostgreSQL a chunk at a time: one line in, one line out, whatever it contains.

Nearly every line is passed on unchanged, by a few calls in C for a whole chunk; PostgreSQL splits it. Only lines with quotes or
with bytes that are not text are looked at one by one. A line that cannot be read is replaced by a mark, which PostgreSQL turns
into the error of that line.
"""

import re
from collections.abc import AsyncIterator
from functools import cache
from typing import NamedTuple

from mo_grpc.imports.layout import HeaderError, Layout, read

CHUNK = 1024 * 1024
"""About how many bytes are imported in one transaction."""

MAX_LINE = 4096
"""Bytes of a line at most; the longest valid line has about 120."""

BOM = b"\xef\xbb\xbf"

_ARCHIVE = "an archive or compressed; upload the text itself"
_UTF_16 = 'UTF-16 ("Unicode text"); save it as UTF-8'
SIGNATURES = {
    # ZIP, and spreadsheets within one: with files, without any, and in several pieces.
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": _ARCHIVE,
    # gzip with its one method, RFC 1952, section 2.3.1.
    rb"\x1f\x8b\x08": _ARCHIVE,
    # bzip2: the block size, then the digits of pi before a block, or of its root where there is none.
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": _ARCHIVE,
    rb"\xfd7zXZ\x00": _ARCHIVE,
    rb"7z\xbc\xaf\x27\x1c": _ARCHIVE,
    # Zstandard, RFC 8878, section 3.1.1.
    rb"\x28\xb5\x2f\xfd": _ARCHIVE,
    rb"Rar!\x1a\x07": _ARCHIVE,
    # Spreadsheets before those in a ZIP (OLE2).
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a spreadsheet; save it as CSV, in UTF-8",
    rb"\xff\xfe|\xfe\xff": _UTF_16,
}
"""How files begin that are not text. The whole signature counts, because a customer may be called `BZh-1`, or `PK`."""

_NO_TEXT = [(re.compile(signature, re.DOTALL), what) for signature, what in SIGNATURES.items()]

MARK = "\x1e"
"""Begins a line that cannot be read; it is followed by the kind of error, and the id."""
SEPARATOR = "\x1f"
"""Begins a line that was split here, and separates its values."""

# Quotes, and control characters other than tab and line ends.
_ODD = bytes({*range(9), *range(11, 32), 127} | set(b'"'))
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Chunk(NamedTuple):
    """Whole lines: their text for PostgreSQL, their number, their size in the file in bytes, and their layout."""

    content: str
    lines: int
    size: int
    layout: Layout


class UnreadableError(Exception):
    """The file as a whole cannot be read; the message says why."""


async def chunks(blocks: AsyncIterator[bytes], layout: Layout | None) -> AsyncIterator[Chunk]:
    """Cut a file into chunks. With a layout, `blocks` begin at a later line; without, at the beginning of the file.

    Raises:
        UnreadableError: it is not text, so its lines mean nothing, or its header is wrong.
    """
    rest, too_long, beginning = b"", 0, layout is None
    async for block in blocks:
        rest += block
        if beginning:
            _refuse_what_is_no_text(rest)
        if too_long:
            # Inside a line that is too long, of which nothing is kept.
            end = _first_end(rest)
            if not end:
                too_long, rest = _skip(too_long, rest)
                continue
            layout = layout or Layout()
            yield Chunk(_unreadable("long", b"", layout), 1, too_long + end, layout)
            too_long, rest, beginning = 0, rest[end:], False
        if len(rest) >= CHUNK:
            end = _last_end(rest)
            if end:
                chunk = _chunk(rest[:end], layout)
                yield chunk
                rest, beginning, layout = rest[end:], False, chunk.layout
            else:
                too_long, rest = _skip(0, rest)
    if too_long:
        layout = layout or Layout()
        yield Chunk(_unreadable("long", b"", layout), 1, too_long + len(rest), layout)
    elif rest:
        yield _chunk(rest, layout)


def _refuse_what_is_no_text(beginning: bytes) -> None:
    for signature, what in _NO_TEXT:
        if signature.match(beginning):
            raise UnreadableError(f"The file is {what}.")


def _first_end(text: bytes) -> int:
    """Where the first line ends; 0 if that is not known yet, because LF may follow CR."""
    ends = [end + 1 for end in (text.find(b"\n"), text.find(b"\r", 0, -1)) if end >= 0]
    end = min(ends, default=0)
    return end + 1 if text[end - 1 : end + 1] == b"\r\n" else end


def _last_end(text: bytes) -> int:
    """Where the last complete line ends; 0 if there is none."""
    # The LF of a CR that is the last byte may still arrive.
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1


def _skip(skipped: int, text: bytes) -> tuple[int, bytes]:
    """Skip the inside of a line, except a CR that may be its end."""
    inside = text.removesuffix(b"\r")
    return skipped + len(inside), text[len(inside) :]


def _chunk(lines: bytes, layout: Layout | None) -> Chunk:
    size = len(lines)
    lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not lines.endswith(b"\n"):
        lines += b"\n"
    if layout is None:
        lines, layout = _without_header(lines.removeprefix(BOM))
    count = lines.count(b"\n")
    text = _decoded(lines)
    if text is None or len(lines.translate(None, _ODD)) < len(lines):
        text = "".join(_line(line, layout) for line in lines.split(b"\n")[:-1])
    return Chunk(text, count, size, layout)


def _without_header(lines: bytes) -> tuple[bytes, Layout]:
    """The layout, by the first line that is not blank. If that is a header, it is replaced by a blank line."""
    start = len(lines) - len(lines.lstrip(b" \t\n"))
    line, newline, rest = lines[start:].partition(b"\n")
    try:
        layout, is_header = read(line[:MAX_LINE])
    except HeaderError as error:
        raise UnreadableError(str(error)) from None
    return (lines[:start] + newline + rest if is_header else lines), layout


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


@cache
def _value(separator: str) -> re.Pattern[str]:
    """One value of a line, quoted or not, and what follows it."""
    return re.compile(rf'[ \t]*(?:"((?:[^"]|"")*)"[ \t]*|([^"{separator}]*))({separator}|$)')


def _line(line: bytes, layout: Layout) -> str:
    """Prepare one line by itself."""
    if len(line) > MAX_LINE:
        return _unreadable("long", line, layout)
    text = _decoded(line)
    if text is None or _CONTROL.search(text):
        return _unreadable("text", line, layout)
    if '"' not in text:
        return text + "\n"
    values, at = [], 0
    while match := _value(layout.separator).match(text, at):
        values.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if not match[3]:
            return SEPARATOR + SEPARATOR.join(values) + "\n"
        at = match.end()
    return _unreadable("line", line, layout)


def _unreadable(fault: str, line: bytes, layout: Layout) -> str:
    """The mark of a line that cannot be read, with its id as far as it can be read."""
    values = line[:MAX_LINE].split(layout.separator.encode())
    found = b"".join(values[layout.columns.index("external_id") :][:1]).decode(errors="replace")
    return f"{MARK}{fault}{SEPARATOR}{_CONTROL.sub('', found).strip()[:60]}\n"
