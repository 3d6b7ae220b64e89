"""The values of an import, and the decisions about one, without any SQL (docs/rules.md, R62 to R69)."""

import re
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import PreconditionFailed, Resource

RESOURCE = Resource("import", "mo.imports.v1.Import", ErrorReason.IMPORT_NOT_FOUND, ErrorReason.ERROR_REASON_UNSPECIFIED)


class State(IntEnum):
    """The state of an import; the numbers are those of the protos and of the database."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5


OPEN = (State.PENDING, State.RUNNING)


class Import(NamedTuple):
    """An import as stored."""

    id: int
    source: str
    state: int
    lines_count: int
    created_count: int
    failed_count: int
    bytes_done: int
    bytes_total: int
    line_number: int
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    failure: str
    file_name: str
    layout: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state not in OPEN


class LineError(NamedTuple):
    """What was wrong with one line."""

    line_number: int
    external_id: str
    field: str
    reason: int
    message: str


class NewImport(NamedTuple):
    """The command to import a file."""

    source: str
    bytes_total: int
    created_by: str
    file_name: str


MAX_FILE_NAME = 255
"""Characters of a file's name that are kept; common file systems allow no more."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def file_name(sent: str) -> str:
    """A file's name from what was sent: without folders (RFC 6266, section 4.3) and without invisible characters."""
    return _UNPRINTABLE.sub("", re.split(r"[/\\]", sent)[-1]).strip()[:MAX_FILE_NAME]


def new_import(import_id: int, command: NewImport, now: datetime) -> Import:
    """A PENDING import, not started yet."""
    return Import(
        id=import_id,
        source=command.source,
        state=State.PENDING,
        lines_count=0,
        created_count=0,
        failed_count=0,
        bytes_done=0,
        bytes_total=command.bytes_total,
        line_number=0,
        created_by=command.created_by,
        created_at=now,
        started_at=None,
        finished_at=None,
        failure="",
        file_name=command.file_name,
        layout=None,
    )


def over(found: Import) -> PreconditionFailed:
    """Refuse to cancel an import that is over."""
    state = State(found.state).name
    return PreconditionFailed(
        ErrorReason.IMPORT_OVER,
        f"Import {found.id} is {state}; only one that is PENDING or RUNNING can be cancelled.",
        str(found.id),
        {"id": str(found.id), "state": state},
    )
