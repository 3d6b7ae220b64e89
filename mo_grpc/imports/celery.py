"""Imports run by Celery workers. A message only has the import's id; its state is in PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Any

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.errors import Unavailable
from mo_grpc.imports.runner import Runner
from mo_grpc.objects.store import open_store
from mo_grpc.telemetry.folder import CELERY
from mo_grpc.telemetry.metrics import measured

TASK = "mo_grpc.imports.run"
_CONNECTIONS = 2


def make_app(settings: Settings) -> Any:
    """The Celery application, with its one task."""
    # Imported here, because the extra `celery` is optional.
    from celery import Celery

    app = Celery("mo_grpc", broker=settings.celery_broker_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        # A lost message is sent again, because its import stays unclaimed. So it can be acknowledged before the work is done.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # Without a limit: by default Celery gives up after a hundred attempts.
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
    """A function that hands an import to Celery's workers, or raises `Unavailable`; None if the server itself runs imports."""
    if not settings.use_celery:
        return None
    from kombu.exceptions import KombuError

    app = make_app(settings)
    transport = app.connection_for_write()
    # The client library's own exceptions, too; they depend on the kind of broker.
    failures = (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)

    def send(import_id: int) -> None:
        try:
            app.send_task(TASK, (import_id,), expires=60, retry=False)
        except failures as error:
            raise Unavailable from error

    return send


def work(settings: Settings) -> None:
    """Run a worker until it is told to stop. Quiet, because Celery ends when it cannot print its banner."""
    with measured(settings, CELERY):
        make_app(settings).worker_main(
            ["--quiet", "worker", "--pool=solo", f"--loglevel={settings.mo_log_level}", "--without-mingle"]
        )
