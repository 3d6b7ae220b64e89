"""Stored uploads that have no import: what a killed server leaves, or a call that was cancelled in the middle of its commit.

They cannot be told from uploads that still arrive but by their age; so each has the day on which it began in its name.
"""

import asyncio
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from mo_grpc.db.engine import Database
from mo_grpc.imports import store
from mo_grpc.objects.base import ObjectStore
from mo_grpc.process.tasks import outlast

log = structlog.get_logger()

FOLDER = "imports"

_DAYS = range(2, 33)
"""How many days ago uploads began that are looked at: none of them still arrives, and a month's pause is made up for."""


def new_name() -> str:
    """The name of an upload that begins now."""
    return f"{_folder(datetime.now(UTC))}/{uuid.uuid4()}.txt"


INTERVAL = 6 * 3600.0
"""Seconds between two looks, about."""


async def remove_for_ever(database: Database, objects: ObjectStore) -> None:
    """Look at the start, and now and then."""
    while True:
        await outlast("uploads without an import", partial(remove_orphans, database, objects))
        await asyncio.sleep(random.uniform(0.5, 1.5) * INTERVAL)  # noqa: S311 - not a secret


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
