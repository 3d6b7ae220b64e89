"""A file's bytes, made ready for COPY a chunk at a time: one line in, one line out, whatever is in it.

Nearly every line goes through as it is, at the speed of a few calls in C for all of a chunk; PostgreSQL takes it apart. Only
lines with quotes or with bytes that no text has are looked at one by one. A line that cannot be read becomes a mark, which
PostgreSQL takes for that line's error.
"""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

CHUNK = 1024 * 1024
"""Bytes that are imported in one transaction, about."""

MAX_LINE = 4096
"""Bytes of a line; the longest that can be right has some 120."""

BOM = b"\xef\xbb\xbf"
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")

MARK = "\x1e"
"""Begins a line that cannot be read: what is wrong with it, and its first value."""
SEPARATOR = "\x1f"
"""Begins a line that was taken apart here, and stands between its values."""

# Quotes, control characters but for tab and newline, and the backslash, since a lone `\.` would end the COPY.
_ODD = bytes({*range(9), *range(11, 32), 127} | set(b'"\\'))
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VALUE = re.compile(r'[ \t]*(?:"((?:[^"]|"")*)"[ \t]*|([^",]*))(,|$)')


class Chunk(NamedTuple):
    """Whole lines: ready for COPY, how many there are, and how many bytes of the file they were."""

    content: bytes
    lines: int
    size: int


class UnreadableError(Exception):
    """The file as a whole is not text; the message says what it looks like."""


async def chunks(blocks: AsyncIterator[bytes], *, beginning: bool) -> AsyncIterator[Chunk]:
    """Cut a file, read from the `beginning` of it or of some line, into chunks.

    Raises:
        UnreadableError: it is an archive, and its lines would only be noise.
    """
    rest, too_long = b"", 0
    async for block in blocks:
        rest += block
        if beginning and rest.startswith(ARCHIVES):
            raise UnreadableError("The file is an archive or compressed; upload the text itself.")
        if too_long:
            # Within a line that is too long: nothing of it is kept.
            end = rest.find(b"\n") + 1
            if not end:
                too_long, rest = too_long + len(rest), b""
                continue
            yield Chunk(_unreadable("long", b""), 1, too_long + end)
            too_long, rest, beginning = 0, rest[end:], False
        if len(rest) >= CHUNK:
            end = rest.rfind(b"\n") + 1
            if end:
                yield _chunk(rest[:end], beginning)
                rest, beginning = rest[end:], False
            else:
                too_long, rest = len(rest), b""
    if too_long:
        yield Chunk(_unreadable("long", b""), 1, too_long + len(rest))
    elif rest:
        yield _chunk(rest, beginning)


def _chunk(lines: bytes, beginning: bool) -> Chunk:
    size = len(lines)
    if beginning:
        lines = _without_header(lines.removeprefix(BOM))
    lines = lines.replace(b"\r\n", b"\n")
    if not lines.endswith(b"\n"):
        lines = lines.removesuffix(b"\r") + b"\n"
    count = lines.count(b"\n")
    if len(lines.translate(None, _ODD)) < len(lines) or not _is_text(lines):
        lines = b"".join(map(_line, lines.split(b"\n")[:-1]))
    return Chunk(lines, count, size)


def _without_header(lines: bytes) -> bytes:
    """Empty the first line that is not blank, if it is a header."""
    start = len(lines) - len(lines.lstrip(b" \t\r\n"))
    line, newline, rest = lines[start:].partition(b"\n")
    first = line.partition(b",")[0].strip(b' \t\r"').lower()
    return lines[:start] + newline + rest if first == b"external_id" else lines


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line(line: bytes) -> bytes:
    """One line, looked at by itself."""
    if len(line) > MAX_LINE:
        return _unreadable("long", line)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return _unreadable("text", line)
    if _CONTROL.search(text):
        return _unreadable("text", line)
    if text == r"\.":
        return _unreadable("line", line)
    if '"' not in text:
        return line + b"\n"
    values, at = [], 0
    while match := _VALUE.match(text, at):
        values.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if not match[3]:
            return (SEPARATOR + SEPARATOR.join(values) + "\n").encode()
        at = match.end()
    return _unreadable("line", line)


def _unreadable(fault: str, line: bytes) -> bytes:
    """The mark of a line, with what can be read of its first value."""
    first = line[:MAX_LINE].partition(b",")[0].decode(errors="replace")
    return f"{MARK}{fault}{SEPARATOR}{_CONTROL.sub('', first).strip()[:60]}\n".encode()
