"""The application that serves the pages."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.process.sockets import serving_socket
from mo_grpc.web import health
from mo_grpc.web.admin.app import make_admin
from mo_grpc.web.headers import SecurityHeaders
from mo_grpc.web.honeypot import pages as honeypot
from mo_grpc.web.reference import pages as reference

CONNECTIONS = 4

# A worker that ends is replaced soon; by default, gRPC would try again only after a second.
_BACKOFF = [(f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "min", "max")]


def make_app(settings: Settings) -> Starlette:
    """Build the application; its database and its channel to the gRPC server are open while it runs."""
    database = Database(database_url(settings), CONNECTIONS)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # A channel belongs to the event loop in which it is created.
        async with grpc.aio.insecure_channel(_grpc_address(settings), options=_BACKOFF) as channel:
            app.state.channel = channel
            app.router.routes.append(Mount(settings.admin_url.rstrip("/"), make_admin(settings, database, channel)))
            yield
        await database.close()

    routes = [
        *reference.routes(settings),
        *honeypot.routes(settings, database),
        *health.routes(database),
    ]
    apart = (settings.admin_honeypot_url, honeypot.STATIC_URL)
    return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders, apart=apart)], lifespan=lifespan)


def _grpc_address(settings: Settings) -> str:
    """Where the gRPC server is: a private socket on this machine, or the hosts that the edge uses.

    gRPC takes one name or several addresses, so several names are resolved here.
    """
    hosts, port = settings.mo_edge_upstream_host, settings.mo_grpc_port
    if not hosts:
        return f"unix:{serving_socket(settings)}"
    if len(hosts) == 1:
        return f"[{hosts[0]}]:{port}" if ":" in hosts[0] else f"{hosts[0]}:{port}"
    found = [socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4] for host in hosts]
    return "ipv4:" + ",".join(f"{address}:{port}" for address, *_ in found)
