"""Imports run by Celery workers. A message only says where to look; the row in PostgreSQL is the truth."""

import asyncio
from collections.abc import Callable
from typing import Any

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.errors import Unavailable
from mo_grpc.imports.runner import Runner
from mo_grpc.objects.store import open_store

TASK = "mo_grpc.imports.run"
_CONNECTIONS = 2


def make_app(settings: Settings) -> Any:
    """The Celery application, with its one task."""
    # Only here, since the extra `celery` need not be installed.
    from celery import Celery

    app = Celery("mo_grpc", broker=settings.celery_broker_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        # A message that is lost is sent again, because its import stays unclaimed; so it need not wait for the work.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # For ever, where Celery would give up for good after a hundred times.
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 5},
    )

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(import_id: int) -> None:
        asyncio.run(run_import(settings, import_id))

    return app


async def run_import(settings: Settings, import_id: int) -> None:
    """Run one import, with connections of its own."""
    database = Database(database_url(settings), _CONNECTIONS)
    try:
        await Runner(database, open_store(settings), settings.mo_import_lease_seconds).run(import_id)
    finally:
        await database.close()


def sender(settings: Settings) -> Callable[[int], None] | None:
    """What hands an import to Celery's workers, or raises `Unavailable`; None when the server itself runs imports."""
    if not settings.use_celery:
        return None
    from kombu.exceptions import KombuError

    app = make_app(settings)
    transport = app.connection_for_write()
    # Those of its library, too: which they are depends on the broker.
    failures = (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)

    def send(import_id: int) -> None:
        try:
            app.send_task(TASK, (import_id,), expires=60, retry=False)
        except failures as error:
            raise Unavailable from error

    return send


def work(settings: Settings) -> None:
    """Run a worker until it is told to stop; quietly, or Celery would end when its greeting cannot be printed."""
    make_app(settings).worker_main(
        ["--quiet", "worker", "--pool=solo", f"--loglevel={settings.mo_log_level}", "--without-mingle"]
    )
