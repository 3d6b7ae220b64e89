"""The engine, and transactions that survive what a busy or restarted database does to them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import URL, ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mo_grpc.config import Settings
from mo_grpc.db.coalescing import MAX_SET, Coalescer, Locked, LockedError, Locks
from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from mo_grpc.errors import Conflict, ServiceError, Unavailable

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")

SetRead = Callable[[AsyncConnection, Sequence[C]], Awaitable[Sequence[R | ServiceError]]]
SetWrite = Callable[[AsyncConnection, Sequence[C], Locks], Awaitable[Sequence[R | ServiceError | Locked]]]
"""A store's calls: N commands in, N results out, refusals among them."""

ATTEMPTS = 6
"""How often a transaction is tried: a lost race costs one, and six in a row are a storm that the caller should see."""

# serialization_failure, deadlock_detected, and unique_violation: the stores look for taken ids under the customers' locks, so a
# unique violation means that another customer's call took the id in between. The next attempt sees it.
_RETRYABLE = {"40001", "40P01", "23505"}

# read_only_sql_transaction: this PostgreSQL follows another one now, and new connections find the one that leads.
_DEMOTED = "25006"

_LOCK_NOT_AVAILABLE = "55P03"

_WAIT_FOR_LOCKS = text("SET LOCAL lock_timeout = 0")
_SET_CLOCK = text("SELECT set_config('mo.clock', :now, true)")


def database_url(settings: Settings) -> URL:
    """The URL at which to serve: the external database's, or that of the embedded one in the data folder."""
    return settings.external_database_url or embedded_url(settings.mo_data_dir, SERVICE_ROLE)


def migration_url(settings: Settings) -> URL:
    """The URL of the schema's owner."""
    return settings.external_migration_database_url or embedded_url(settings.mo_data_dir)


def connect_args(role: str | None) -> dict[str, object]:
    """What psycopg is told at each connection."""
    options = [
        "-c timezone=UTC",
        "-c statement_timeout=30s",
        # A server that is paused or cut off in the middle of a transaction keeps its locks for as long as this.
        "-c idle_in_transaction_session_timeout=10s",
        # A killed server's statement that still runs, or waits, keeps them for as long as this.
        "-c client_connection_check_interval=1s",
    ]
    if role:
        # Every statement has an index that serves it, but a plan that was made, and kept, while the tables were small would
        # read them whole: 20 times slower for a batch of 500 payments.
        options += [f"-c role={role}", "-c enable_seqscan=off"]
        # See `Locks.TRY`: longer than any transaction of ours that is not itself held up.
        options.append("-c lock_timeout=50ms")
    return {
        "options": " ".join(options),
        "connect_timeout": 2,
        "application_name": "mo-grpc",
        "prepare_threshold": 0,
        # A peer that vanished is noticed within seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }


_AFFORDABLE = text("""
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
""")

SPARE_CONNECTIONS = 10
"""Connections that the workers leave to others: the command line, backups, whoever debugs."""


async def affordable_pool_size(url: URL, settings: Settings) -> int:
    """How many connections a worker may keep: as many as the settings say, if PostgreSQL has them for every worker.

    Each worker needs two more, to listen for notifications, and a successor may be there beside them. While PostgreSQL is out
    of reach, the settings are believed.
    """
    database = Database(url, 1)
    try:
        limit: int = await database.read(lambda connection: connection.scalar(_AFFORDABLE))
    except Unavailable:
        return settings.mo_database_pool_size
    finally:
        await database.close()
    return max(2, min(settings.mo_database_pool_size, (limit - SPARE_CONNECTIONS) // (settings.mo_workers + 1) - 2))


def _leave_demoted(context: ExceptionContext) -> None:
    """Treat a connection that cannot write any more as broken."""
    if getattr(context.original_exception, "sqlstate", None) == _DEMOTED:
        context.is_disconnect = True


class Database:
    """A pool of connections that act as the service's role.

    `clock`, when given, is the time that the stores see instead of the database's: the demo tells a year's story with it.
    """

    def __init__(self, url: URL, pool_size: int, clock: Callable[[], datetime] | None = None) -> None:
        self.url = url
        self._clock = clock
        self._engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=0.8,
            pool_use_lifo=True,
            # Errors are logged, and the values of a statement are nobody's to read there.
            hide_parameters=True,
            connect_args=connect_args(SERVICE_ROLE),
        )
        event.listen(self._engine.sync_engine, "handle_error", _leave_demoted)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        # One for all kinds of calls: those for a single locked customer may be of many, and shall leave connections to others.
        self._patience = asyncio.Semaphore(max(1, pool_size // 2))

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def renew(self) -> None:
        """Use other connections from now on, because nobody answers on these; what runs on them goes on."""
        await self._engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` without a transaction, each statement on a snapshot of its own.

        Rows that others have locked do not hold a read up, but a table that somebody changes does; then `work` runs again, and
        waits.

        Raises:
            Unavailable: the database cannot be reached, or the pool stays exhausted.
        """
        try:
            return await self._attempt(self._read, work)
        except LockedError:
            return await self._attempt(partial(self._write, Locks.WAIT), work)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]], locks: Locks = Locks.WAIT) -> T:
        """Run `work` in one transaction, again if it lost a race; so it must have no effect outside the database.

        Raises:
            Conflict: it lost a race each time.
            LockedError: a row is locked by others, and `locks` does not say to wait for it.
            Unavailable: the database cannot be reached, or the pool stays exhausted. The outcome is unknown if the connection
                broke while committing.
        """
        return await self._attempt(partial(self._write, locks), work)

    def reader(self, call: SetRead[C, R]) -> Coalescer[C, R]:
        """Coalesce the calls of a store's set-based read."""

        async def run(queries: Sequence[C], _: Locks) -> Sequence[R | ServiceError]:
            return await self.read(lambda connection: call(connection, queries))

        return Coalescer(run)

    def writer(self, call: SetWrite[C, R], key: Callable[[C], Hashable], max_set: int = MAX_SET) -> Coalescer[C, R]:
        """Coalesce the calls of a store's set-based write; those with the same `key` keep their order."""

        async def run(commands: Sequence[C], locks: Locks) -> Sequence[R | ServiceError | Locked]:
            return await self.write(lambda connection: call(connection, commands, locks), locks)

        return Coalescer(run, key, max_set, self._patience)

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._autocommit.connect() as connection:
            return await work(connection)

    async def _write(self, locks: Locks, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._engine.connect() as connection:
            if locks is Locks.WAIT:
                await connection.execute(_WAIT_FOR_LOCKS)
            if self._clock:
                await connection.execute(_SET_CLOCK, {"now": self._clock().isoformat()})
            result = await work(connection)
            try:
                await connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise Unavailable from error
                raise
            return result

    async def _attempt(
        self,
        run: Callable[[Callable[[AsyncConnection], Awaitable[T]]], Awaitable[T]],
        work: Callable[[AsyncConnection], Awaitable[T]],
    ) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return await run(work)
            except PoolTimeoutError as error:
                raise Unavailable from error
            except DBAPIError as error:
                # A pooled connection that a restart of PostgreSQL broke: the pool has dropped them all, so try a new one.
                sqlstate = getattr(error.orig, "sqlstate", None)
                if sqlstate == _LOCK_NOT_AVAILABLE:
                    raise LockedError from error
                if not error.connection_invalidated:
                    if sqlstate not in _RETRYABLE:
                        if isinstance(error, OperationalError):
                            raise Unavailable from error
                        raise
                elif attempt:
                    raise Unavailable from error
                failure = error
            # Jitter, so that those who collided do not collide again.
            await asyncio.sleep(random.uniform(0, 0.004 * 2**attempt))  # noqa: S311 - not a secret
        raise Conflict from failure


def once(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with a database of its own, for a command that is no server."""

    async def run() -> T:
        database = Database(database_url(settings), pool_size=1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
