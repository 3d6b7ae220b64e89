"""Uploads that go: those without an import, and those that have been kept for long enough.

A killed server leaves uploads without an import, or a call that was cancelled while it committed. Only their age distinguishes
them from uploads that are still arriving; so each name has the day on which the upload began.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.engine import Database
from mo_grpc.imports import store
from mo_grpc.objects.base import ObjectStore
from mo_grpc.process.tasks import outlast, repeat

log = structlog.get_logger()

FOLDER = "imports"

YOUNGEST = 2
"""The age, in days, of the youngest uploads that are checked: old enough to have arrived."""

WINDOW = 31
"""For how many days more they are checked: a month, to make up for pauses."""


def new_name() -> str:
    """The name of an upload that begins now."""
    return f"{_folder(datetime.now(UTC))}/{uuid.uuid4()}.txt"


INTERVAL = 6 * 3600.0
"""About how many seconds pass between two checks."""


async def remove_for_ever(database: Database, objects: ObjectStore, retention_days: int) -> None:
    """Check at the start, and then from time to time."""
    name, work = "old uploads", partial(remove_old, database, objects, retention_days)
    await outlast(name, work)
    await repeat(name, work, INTERVAL, spread=0.5)


async def remove_old(database: Database, objects: ObjectStore, retention_days: int) -> None:
    """Delete the uploads of some days ago that have no import, and those of `retention_days` ago; 0 keeps them for ever.

    Raises:
        ServiceError: the database or the stored files are out of reach.
    """
    remover = _Remover(database, objects)
    await remover.remove("upload without an import deleted", range(YOUNGEST, YOUNGEST + WINDOW), store.list_known_sources)
    if retention_days:
        days = range(retention_days, retention_days + WINDOW)
        await remover.remove("old upload deleted", days, store.list_open_sources)


class _Remover:
    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects

    async def remove(
        self, event: str, ages: Iterable[int], needed: Callable[[AsyncConnection, Sequence[str]], Awaitable[set[str]]]
    ) -> None:
        """Delete the uploads that are so many days old and not needed, with a line in the log for each."""
        now = datetime.now(UTC)
        for days in ages:
            async for names in self._objects.names(_folder(now - timedelta(days=days))):
                kept = await self._database.read(lambda c: needed(c, names))  # noqa: B023 - called at once
                for name in names:
                    if name not in kept:
                        await self._objects.delete(name)
                        log.info(event, name=name)


def _folder(day: datetime) -> str:
    return f"{FOLDER}/{day:%Y-%m-%d}"
