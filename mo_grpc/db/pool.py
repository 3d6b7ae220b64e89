"""The connections of batches. They are not SQLAlchemy's, because taking one from its pool costs as much as a statement."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from sqlalchemy import URL

from mo_grpc.db.connections import connect
from mo_grpc.db.pipeline import Pipeline
from mo_grpc.errors import Unavailable
from mo_grpc.telemetry.counts import Happening, count

POOL_TIMEOUT = 0.8
"""Seconds that work waits for a connection at most; after that the caller is told to retry."""

# read_only_sql_transaction: this PostgreSQL is a standby now; new connections find the primary.
DEMOTED = "25006"


class Disconnected(psycopg.OperationalError):
    """The connection broke, or leads to a PostgreSQL that is a standby now; nothing was committed on it."""


class PipelinePool:
    """Pipelines, which are opened when they are needed, and kept."""

    def __init__(self, url: URL, size: int) -> None:
        self._url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Pipeline] = []
        self._generation = 0

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Pipeline]:
        """Hold one; it is closed if it broke, or if what ran on it was cancelled.

        Raises:
            Disconnected: it broke.
            Unavailable: all are taken for too long.
            psycopg.OperationalError: none can be opened.
        """
        async with slot(self._slots):
            generation = self._generation
            pipeline = await self._take()
            usable = False
            try:
                yield pipeline
                usable = True
            except Exception as error:
                demoted = getattr(error, "sqlstate", None) == DEMOTED
                usable = not demoted and await pipeline.roll_back()
                if not usable and isinstance(error, psycopg.Error):
                    if generation == self._generation:
                        await self.renew()  # a restart of PostgreSQL breaks all connections
                    raise Disconnected from error
                raise
            finally:
                if usable and generation == self._generation:
                    self._idle.append(pipeline)
                else:
                    await pipeline.close()

    async def _take(self) -> Pipeline:
        while self._idle:
            pipeline = self._idle.pop()
            if not pipeline.broken:
                return pipeline
            await pipeline.close()
        return Pipeline(await connect(self._url))

    async def renew(self) -> None:
        """Use new connections from now on; what runs on these continues."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for pipeline in idle:
            await pipeline.close()

    close = renew


@asynccontextmanager
async def slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    """Hold one of the slots.

    Raises:
        Unavailable: all are taken for too long.
    """
    try:
        async with asyncio.timeout(POOL_TIMEOUT if slots.locked() else None):
            await slots.acquire()
    except TimeoutError as error:
        count(Happening.POOL_EXHAUSTED)
        raise Unavailable from error
    try:
        yield
    finally:
        slots.release()
