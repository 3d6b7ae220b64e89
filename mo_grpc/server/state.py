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
from mo_grpc.imports.celery import sender
from mo_grpc.imports.runner import Background, Runner
from mo_grpc.objects.store import open_store
from mo_grpc.process.tasks import Tasks, attempt
from mo_grpc.rpc.metadata import Addresses


class ServerState(NamedTuple):
    """What `make_server` hands to interceptors and servicers, each what it uses."""

    keys: KeyRing
    tokens: TokenRing
    limits: Limits
    refusals: RefusedCalls
    vault: Vault
    addresses: Addresses
    background: Background


@asynccontextmanager
async def server_state(settings: Settings, database: Database, tasks: Tasks | None = None) -> AsyncIterator[ServerState]:
    """Keep the state current while inside, and write at the end what is pending.

    Its tasks are among `tasks`, all of which end with it.
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
        yield ServerState(keys, tokens, limits, refusals, vault, Addresses(settings.mo_trusted_edges), background)
    finally:
        await tasks.stop()
