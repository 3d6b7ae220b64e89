"""Deletes what is no longer needed, such as old idempotency keys, ended sessions, and what was sent to webhooks."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.api_keys.store import clean_calls
from mo_grpc.auth.users.sessions import clean_sessions
from mo_grpc.auth.users.store import clean_failures
from mo_grpc.db.cleaning import CLEANED_AT_ONCE
from mo_grpc.db.engine import Database
from mo_grpc.idempotency.store import clean_records
from mo_grpc.process.tasks import repeat
from mo_grpc.webhooks.deliveries import clean_attempts, clean_deliveries

INTERVAL = 600.0
"""Seconds between two cleanings, about."""

_DAY = timedelta(days=1)
_CALLS = timedelta(days=90)
_WEBHOOKS = timedelta(days=30)


async def clean_up(database: Database, retention: timedelta) -> None:
    """Delete idempotency keys older than `retention`, and what else is so old that nobody needs it, again and again."""
    cleaners = (
        (clean_records, retention),
        (clean_failures, _DAY),
        (clean_sessions, _DAY),
        (clean_calls, _CALLS),
        (clean_attempts, _WEBHOOKS),
        (clean_deliveries, _WEBHOOKS),
    )

    async def clean_all() -> None:
        for clean, age in cleaners:
            await _clean(database, partial(clean, age=age))

    # Each worker at a moment of its own.
    await repeat("cleaning up", clean_all, INTERVAL, spread=0.5)


async def _clean(database: Database, clean: Callable[[AsyncConnection], Awaitable[int]]) -> None:
    while await database.write(clean) == CLEANED_AT_ONCE:
        pass
