"""API keys for commands that have the database at hand: made for one run, and revoked after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES, Credential, NewApiKey


@asynccontextmanager
async def temporary_key(administration: ApiKeyAdministration, name: str, lifetime: timedelta) -> AsyncIterator[Credential]:
    """A key with every business scope while inside; it ends after its `lifetime` even if nobody comes to revoke it."""
    command = NewApiKey(Credential.generate(), name, frozenset(BUSINESS_SCOPES), datetime.now(UTC) + lifetime)
    try:
        # An interrupt may come when the key is there already, and before this knows it.
        await administration.create(command)
        yield command.credential
    finally:
        await administration.revoke(command.credential.id)
