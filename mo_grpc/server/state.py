"""What a server holds in memory beside its database, and the background tasks that keep it current."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from mo_grpc.audit_log.refusals import RefusedCalls
from mo_grpc.auth.api_keys.keyring import KeyRing
from mo_grpc.auth.api_keys.limits import Limits
from mo_grpc.auth.tokens.ring import TokenRing
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.db.schema import Schema
from mo_grpc.imports.celery import sender
from mo_grpc.imports.runner import Background, Runner
from mo_grpc.journal.feed import Feed
from mo_grpc.objects.store import open_store
from mo_grpc.process.tasks import Tasks, attempt
from mo_grpc.rpc.metadata import Addresses
from mo_grpc.webhooks.sender import Sender


class ServerState(NamedTuple):
    """What `make_server` hands to interceptors and servicers, each what it uses."""

    keys: KeyRing
    tokens: TokenRing
    limits: Limits
    refusals: RefusedCalls
    vault: Vault
    addresses: Addresses
    background: Background
    feed: Feed
    sender: Sender
    schema: Schema

    @property
    def missing(self) -> list[str]:
        """What calls need, and is not there; without anything missing, the server is ready."""
        parts = {"API keys": self.keys.is_current, "tokens": self.tokens.is_current, "schema": self.schema.is_current}
        return [name for name, there in parts.items() if not there]


@asynccontextmanager
async def server_state(settings: Settings, database: Database, tasks: Tasks | None = None) -> AsyncIterator[ServerState]:
    """Keep the state current while inside, and write at the end what is pending.

    Its tasks are among `tasks`, all of which end with it.
    """
    tasks = tasks or Tasks()
    vault = Vault(settings)
    runner = Runner(database, open_store(settings), settings.mo_import_lease_seconds)
    background = Background(database, runner, sender(settings))
    sending = Sender(vault, allow_private=settings.mo_webhook_allow_private)
    keys, tokens = KeyRing(database), TokenRing(settings, database, vault)
    limits, refusals, feed = Limits(database), RefusedCalls(database, vault), Feed(database)
    schema = Schema(database)
    # A quota that was used up before a restart is used up after it.
    await attempt("limits of API keys", limits.exchange)
    for part in (keys, tokens, limits, refusals, feed, schema):
        part.start(tasks)
    try:
        addresses = Addresses(settings.mo_trusted_edges)
        yield ServerState(keys, tokens, limits, refusals, vault, addresses, background, feed, sending, schema)
    finally:
        await tasks.stop()
