"""PostgreSQL's notifications, on a connection of their own."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import psycopg
import structlog
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.embedded import SERVICE_ROLE
from mo_grpc.db.engine import Database, connect_args

log = structlog.get_logger()

PATIENCE = 2.0
"""Seconds without a notification after which the database is asked whether it is there, in case one was lost."""

SILENCE = 5.0
"""Seconds without an answer after which the connections are given up, though nothing says that they are broken."""


async def follow(
    database: Database, channel: str, load: Callable[[str | None], Awaitable[None]], note: Callable[[bool], None]
) -> None:
    """Keep what a server holds in memory current, for ever: `load` what each notification names, all of it for None.

    `note` is told True whenever all is current, and False when the database is away, until it is back. Nothing ends this: a
    server that did not try again would refuse all calls until it is restarted.
    """
    while True:
        try:
            async with aclosing(_listen(database.url, channel)) as names:
                async for name in names:
                    async with asyncio.timeout(SILENCE):
                        await load(name)
                    # A notification, too, is contact: where things change all the time, silence never comes.
                    note(True)
        except Exception as error:
            # Whatever was missed meanwhile is read when the connection is back.
            note(False)
            log.warning("notifications cannot be followed", channel=channel, cause=repr(error.__cause__ or error), retry_in=0.2)
            if isinstance(error, TimeoutError):
                await database.renew()
            await asyncio.sleep(0.2)


async def _listen(url: URL, channel: str) -> AsyncGenerator[str | None]:
    """Yield None once listening, then the payload of each notification, and None after each silence."""
    # As SQLAlchemy does it, so that whatever a URL may hold is read alike.
    _, parameters = url.get_dialect()().create_connect_args(url)
    connection = await psycopg.AsyncConnection.connect(**{**parameters, **connect_args(SERVICE_ROLE)}, autocommit=True)
    async with connection:
        async with asyncio.timeout(SILENCE):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield None
        while True:
            silent = True
            async for notification in connection.notifies(timeout=PATIENCE, stop_after=1):
                silent = False
                yield notification.payload
            if silent:
                async with asyncio.timeout(SILENCE):
                    await connection.execute("SELECT 1")
                yield None
