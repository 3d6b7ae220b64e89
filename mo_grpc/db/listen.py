"""PostgreSQL's notifications, on a connection of their own."""

from collections.abc import AsyncIterator

import psycopg
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.engine import SERVICE_ROLE, connect_args
from mo_grpc.errors import Unavailable


async def listen(url: URL, channel: str, patience: float) -> AsyncIterator[str | None]:
    """Yield None once listening, then the payload of each notification, and None whenever `patience` seconds bring none.

    Each silence is followed by a query, so that a connection that died quietly is noticed.

    Raises:
        Unavailable: the connection could not be made, or broke.
    """
    # As SQLAlchemy does it, so that whatever a URL may hold is read alike.
    _, parameters = url.get_dialect()().create_connect_args(url)
    try:
        connection = await psycopg.AsyncConnection.connect(**{**parameters, **connect_args(SERVICE_ROLE)}, autocommit=True)
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield None
            while True:
                silent = True
                async for notification in connection.notifies(timeout=patience, stop_after=1):
                    silent = False
                    yield notification.payload
                if silent:
                    await connection.execute("SELECT 1")
                    yield None
    except psycopg.Error as error:
        raise Unavailable from error
