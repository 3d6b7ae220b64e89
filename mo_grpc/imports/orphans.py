"""Stored uploads without an import: a killed server leaves them, or a call that was cancelled while it committed.

Only their age distinguishes them from uploads that are still arriving; so each name has the day on which the upload began.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from mo_grpc.db.engine import Database
from mo_grpc.imports import store
from mo_grpc.objects.base import ObjectStore
from mo_grpc.process.tasks import outlast, repeat

log = structlog.get_logger()

FOLDER = "imports"

_DAYS = range(2, 33)
"""The ages, in days, of the uploads that are checked: old enough to have arrived, and a month to make up for pauses."""


def new_name() -> str:
    """The name of an upload that begins now."""
    return f"{_folder(datetime.now(UTC))}/{uuid.uuid4()}.txt"


INTERVAL = 6 * 3600.0
"""About how many seconds pass between two checks."""


async def remove_for_ever(database: Database, objects: ObjectStore) -> None:
    """Check at the start, and then from time to time."""
    name, work = "uploads without an import", partial(remove_orphans, database, objects)
    await outlast(name, work)
    await repeat(name, work, INTERVAL, spread=0.5)


async def remove_orphans(database: Database, objects: ObjectStore) -> None:
    """Delete the uploads of some days ago that have no import.

    Raises:
        ServiceError: the database or the stored files are out of reach.
    """
    now = datetime.now(UTC)
    for days in _DAYS:
        async for names in objects.names(_folder(now - timedelta(days=days))):
            await _remove(database, objects, names)


async def _remove(database: Database, objects: ObjectStore, names: Sequence[str]) -> None:
    known = await database.read(lambda c: store.list_known_sources(c, names))
    for name in names:
        if name not in known:
            await objects.delete(name)
            log.info("upload without an import deleted", name=name)


def _folder(day: datetime) -> str:
    return f"{FOLDER}/{day:%Y-%m-%d}"
