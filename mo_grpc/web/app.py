"""The application that serves the pages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.web import reference
from mo_grpc.web.headers import SecurityHeaders
from mo_grpc.web.honeypot import pages as honeypot

CONNECTIONS = 4


def make_app(settings: Settings) -> Starlette:
    """Put the pages together; they have the database while the application runs."""
    database = Database(database_url(settings), CONNECTIONS)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await database.close()

    routes = [*reference.routes(settings), *honeypot.routes(settings, database)]
    return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)], lifespan=lifespan)
