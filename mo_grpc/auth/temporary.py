"""API keys for commands that have the database at hand: made for one run, and revoked after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from mo_grpc.auth import store
from mo_grpc.auth.rules import BUSINESS_SCOPES, Credential, NewApiKey
from mo_grpc.db.engine import Database


@asynccontextmanager
async def temporary_key(database: Database, name: str, lifetime: timedelta) -> AsyncIterator[Credential]:
    """A key with every business scope while inside; it ends after its `lifetime` even if nobody comes to revoke it."""
    command = NewApiKey(Credential.generate(), name, frozenset(BUSINESS_SCOPES), datetime.now(UTC) + lifetime)
    await database.write(lambda connection: store.create_api_keys(connection, [command]))
    try:
        yield command.credential
    finally:
        await database.write(lambda connection: store.revoke_api_keys(connection, [command.credential.id]))
