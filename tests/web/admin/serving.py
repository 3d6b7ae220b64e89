"""The admin on a port of its own, over a running service."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.web.admin.app import make_admin
from tests.conftest import free_port
from tests.waiting import eventually


@contextmanager
def serving(settings: Settings, grpc_address: str) -> Iterator[str]:
    """Serve it; answers the address of its first page."""
    port = free_port()
    box: list[uvicorn.Server] = []

    async def run() -> None:
        database = Database(database_url(settings), 5)
        async with grpc.aio.insecure_channel(grpc_address) as channel:
            app = Starlette(routes=[Mount(settings.admin_url.rstrip("/"), make_admin(settings, database, channel))])
            config = uvicorn.Config(app, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
            server = uvicorn.Server(config)
            box.append(server)
            await server.serve()
        await database.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        eventually(lambda: bool(box) and box[0].started, 20)
        yield f"http://127.0.0.1:{port}{settings.admin_url}"
    finally:
        box[0].should_exit = True
        thread.join(20)
