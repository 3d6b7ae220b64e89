"""What a server is made of beside its database: what it knows of keys and people, and what it does behind the calls."""

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
from mo_grpc.imports.celery import sender
from mo_grpc.imports.runner import Background, Runner
from mo_grpc.objects.store import open_store
from mo_grpc.process.tasks import Tasks, attempt
from mo_grpc.rpc.metadata import Addresses


class Parts(NamedTuple):
    """The parts of a running server."""

    keys: KeyRing
    tokens: TokenRing
    limits: Limits
    refusals: RefusedCalls
    vault: Vault
    addresses: Addresses
    background: Background


@asynccontextmanager
async def running(settings: Settings, database: Database, tasks: Tasks | None = None) -> AsyncIterator[Parts]:
    """The parts, which follow the database while inside, and tell it at the end what is still to be told.

    Their tasks are among `tasks`, all of which end with them.
    """
    tasks = tasks or Tasks()
    vault = Vault(settings)
    runner = Runner(database, open_store(settings), settings.mo_import_lease_seconds)
    background = Background(database, runner, sender(settings))
    keys, tokens = KeyRing(database), TokenRing(settings, database, vault)
    limits, refusals = Limits(database), RefusedCalls(database, vault)
    # A quota that was used up before a restart is used up after it.
    await attempt("limits of API keys", limits.exchange)
    for part in (keys, tokens, limits, refusals):
        part.start(tasks)
    try:
        yield Parts(keys, tokens, limits, refusals, vault, Addresses(settings.mo_trusted_edges), background)
    finally:
        await tasks.stop()
        await attempt("last use of API keys", keys.flush)
        await attempt("limits of API keys", limits.exchange)
        await attempt("refused calls", refusals.flush)
