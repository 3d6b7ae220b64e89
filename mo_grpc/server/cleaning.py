"""Deletes what is no longer needed, such as old idempotency keys, ended sessions, and what was sent to webhooks."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.api_keys.store import clean_calls
from mo_grpc.auth.users.sessions import clean_sessions
from mo_grpc.auth.users.store import clean_failures
from mo_grpc.config import Settings
from mo_grpc.db.cleaning import CLEANED_AT_ONCE, Cleaner
from mo_grpc.db.engine import Database
from mo_grpc.idempotency.store import clean_records
from mo_grpc.imports.retention import clean_errors
from mo_grpc.process.tasks import repeat
from mo_grpc.webhooks.deliveries import clean_attempts, clean_deliveries

INTERVAL = 600.0
"""Seconds between two cleanings, about."""

_DAY = timedelta(days=1)

# The honeypot is the web server's, which may run many times, or not at all.
clean_honeypot = Cleaner("honeypot_attempts", "id", "at")


async def clean_up(database: Database, settings: Settings) -> None:
    """Delete what is older than the settings say, and what else is so old that nobody needs it, again and again."""
    cleaners = (
        (clean_records, timedelta(hours=settings.mo_idempotency_retention_hours)),
        (clean_failures, _DAY),
        (clean_sessions, _DAY),
        (clean_calls, timedelta(days=settings.mo_call_count_retention_days)),
        (clean_attempts, timedelta(days=settings.mo_webhook_retention_days)),
        (clean_deliveries, timedelta(days=settings.mo_webhook_retention_days)),
        (clean_errors, timedelta(days=settings.mo_import_error_retention_days)),
        (clean_honeypot, timedelta(days=settings.mo_honeypot_retention_days)),
    )

    async def clean_all() -> None:
        for clean, age in cleaners:
            await _clean(database, partial(clean, age=age))

    # Each worker at a moment of its own.
    await repeat("cleaning up", clean_all, INTERVAL, spread=0.5)


async def _clean(database: Database, clean: Callable[[AsyncConnection], Awaitable[int]]) -> None:
    while await database.write(clean) == CLEANED_AT_ONCE:
        pass
