"""Structured logs on stderr: JSON for machines, coloured lines for people. No line that cannot be written raises anything."""

import logging
import os
import sys
import traceback
from typing import Any, TextIO

import structlog

STDERR = 2


class Lines(logging.Handler):
    """Writes each record as a line to a file descriptor, whole and at once.

    Where a line cannot be written, as on a full disk, it is lost, and whoever logged it goes on. The next one that can be
    written is preceded by how many were.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = 0
        self._cut = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost."""
        try:
            if self._lost:
                self._write(self._line(_lost(self._lost)))
                self._lost = 0
            self._write(self._line(record))
        # A value whose repr() raises is no reason, either, to end what is logged about.
        except Exception:
            self._lost += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _write(self, line: bytes) -> None:
        rest = b"\n" + line if self._cut else line
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
            self._cut = bool(rest)


def _lost(lines: int) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log lines lost: %d", (lines,), None)


# Tracebacks never have the values of local variables, among which are keys and what customers owe. And they have the first line
# of an exception's text alone: in the others, PostgreSQL shows the row that it refused.


class _Tracebacks(structlog.tracebacks.ExceptionDictTransformer):
    """A traceback for machines."""

    def __init__(self) -> None:
        super().__init__(show_locals=False)

    def __call__(self, exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
        return _shortened(super().__call__(exc_info))


def _shortened(stacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for stack in stacks:
        stack["exc_value"] = stack["exc_value"].partition("\n")[0]
        stack["exc_notes"] = []
        for group in stack["exceptions"]:
            _shortened(group)
    return stacks


def _write_traceback(file: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write a traceback for people."""
    parts = traceback.format_exception(*exc_info)
    # Frames are indented, and what leads from one exception to another begins with an empty line.
    file.writelines(part if part[0] in " \n" else part.partition("\n")[0] + "\n" for part in parts)


def configure(level_name: str, log_format: str) -> None:
    """Set up structlog for this process, as MO_LOG_LEVEL and MO_LOG_FORMAT say, and pass the libraries' warnings through it."""
    level = getattr(logging, level_name.upper())
    as_json = log_format == "json"
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    tracebacks: list[structlog.typing.Processor] = [structlog.processors.ExceptionRenderer(_Tracebacks())] if as_json else []
    structlog.configure(
        # All that may fail happens in the handler.
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: logging.getLogger("mo_grpc"),
        cache_logger_on_first_use=True,
    )
    if as_json:
        # gRPC's C core writes lines of its own, which are no JSON, and which any caller can provoke with a malformed header.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251 - written, not read
    handler = Lines(STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tracebacks, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("mo_grpc").setLevel(level)
