"""The values of an import, without any SQL (DESIGN §3, "Import file")."""

from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import PreconditionFailed, Resource

RESOURCE = Resource("import", "mo.imports.v1.Import", ErrorReason.IMPORT_NOT_FOUND, ErrorReason.ERROR_REASON_UNSPECIFIED)


class State(IntEnum):
    """How far an import is; the numbers are those of the wire and of the database."""

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

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
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


def over(found: Import) -> PreconditionFailed:
    """Refuse to cancel an import that is over."""
    state = State(found.state).name
    return PreconditionFailed(
        ErrorReason.IMPORT_OVER,
        f"Import {found.id} is {state}; only one that is PENDING or RUNNING can be cancelled.",
        str(found.id),
        {"id": str(found.id), "state": state},
    )
