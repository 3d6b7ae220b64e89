"""Sends events in a Celery worker, beside what the broker hands it: what to send is in PostgreSQL, so it needs no messages."""

import asyncio
import os
import signal
import threading

import structlog

from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database, database_url
from mo_grpc.webhooks.deliverer import Deliverer
from mo_grpc.webhooks.sender import Sender

log = structlog.get_logger()

_CONNECTIONS = 2


def send_in_background(settings: Settings) -> None:
    """Send events in a thread, as long as the process lives; a fault ends the process, so that it is replaced."""
    threading.Thread(target=_run, args=(settings,), name="webhooks", daemon=True).start()


def _run(settings: Settings) -> None:
    try:
        asyncio.run(_follow(settings))
    except Exception:
        log.exception("background task failed", task="webhooks")
        os.kill(os.getpid(), signal.SIGTERM)


async def _follow(settings: Settings) -> None:
    database = Database(database_url(settings), _CONNECTIONS)
    sender = Sender(Vault(settings), allow_private=settings.mo_webhook_allow_private)
    await Deliverer(database, sender).follow()
