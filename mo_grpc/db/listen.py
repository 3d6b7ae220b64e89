"""PostgreSQL's notifications, on a separate connection."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.cache import Cache, Look
from mo_grpc.db.connections import connect
from mo_grpc.db.engine import Database
from mo_grpc.process.tasks import is_outage, pause

log = structlog.get_logger()

CHECK_INTERVAL = 2.0
"""Seconds between two checks whether the database answers, and whether a notification was lost."""

SILENCE = 5.0
"""Seconds without an answer after which the connections are replaced, even without an error."""

LONGEST_PAUSE = 2.0
"""About how many seconds pass between two attempts to connect; all calls are refused meanwhile."""


async def follow(database: Database, channel: str, cache: Cache) -> None:
    """Keep a cache current, for ever, through all outages.

    Raises:
        Exception: anything else failed; nothing in memory is current any more.
    """
    failures = 0
    while True:
        try:
            async with aclosing(_listen(database.url, channel)) as changes:
                async for change in changes:
                    async with asyncio.timeout(SILENCE):
                        await cache.load(change)
                    # A notification also shows that the database answers.
                    cache.note_contact(True)
                    failures = 0
        except Exception as error:
            # What changed meanwhile is read when the connection is back.
            cache.note_contact(False)
            if not is_outage(error):
                raise
            failures += 1
            seconds = pause(failures, LONGEST_PAUSE)
            cause = repr(error.__cause__ or error)
            log.warning("notifications cannot be followed", channel=channel, cause=cause, retry_in=round(seconds, 1))
            if isinstance(error, TimeoutError):
                await database.renew()
            await asyncio.sleep(seconds)


async def _listen(url: URL, channel: str) -> AsyncGenerator[str | Look]:
    """Yield what to read again: everything at first, then what each notification names, and regularly what changed lately."""
    async with await connect(url) as connection:
        async with asyncio.timeout(SILENCE):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield Look.ALL
        look_at = time.monotonic() + CHECK_INTERVAL
        while True:
            async for notification in connection.notifies(timeout=max(0.01, look_at - time.monotonic()), stop_after=1):
                yield notification.payload
            if time.monotonic() >= look_at:
                async with asyncio.timeout(SILENCE):
                    await connection.execute("SELECT 1")
                yield Look.LATELY
                look_at = time.monotonic() + CHECK_INTERVAL
