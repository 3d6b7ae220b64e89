"""The engine, and transactions that are repeated after conflicts and restarts of the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import psycopg
from psycopg.errors import Diagnostic
from sqlalchemy import URL, ExceptionContext, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine  # noqa: TID251 - of `db`
from sqlalchemy.pool import ConnectionPoolEntry

from mo_grpc.config import Settings
from mo_grpc.db.batches import Batches, BatchRead, BatchWrite, confirm
from mo_grpc.db.coalescing import CONFIRMATION, MAX_BATCH, Batch, Coalescer
from mo_grpc.db.connections import connect_args
from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from mo_grpc.db.locks import Locked, LockedError, Locks
from mo_grpc.db.pipeline import gather_warnings
from mo_grpc.db.pool import DEMOTED, POOL_TIMEOUT, Disconnected, PipelinePool
from mo_grpc.db.sentences import LOCK_NOT_AVAILABLE
from mo_grpc.errors import Conflict, OutcomeUnknown, ServiceError, Unavailable
from mo_grpc.telemetry.calls import Work, current_work, working
from mo_grpc.telemetry.counts import Happening, count

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")

ATTEMPTS = 6
"""How often a transaction is tried; after six conflicts in a row, the caller is told."""

NOTICE = 0.2
"""Seconds in which PostgreSQL notices that a connection has broken, and frees what its transaction had locked."""

# serialization_failure, deadlock_detected, and unique_violation: the stores look for taken ids under the customers' locks, so a
# unique violation means that another customer's call took the id in between. The next attempt sees it.
_RETRYABLE = {"40001": "serialization", "40P01": "deadlock", "23505": "id taken meanwhile"}

_WAIT_FOR_LOCKS = text("SET LOCAL lock_timeout = 0")
_SET_CLOCK = text("SELECT set_config('mo.clock', :now, true)")


def database_url(settings: Settings) -> URL:
    """The URL for the service: the external database's, or that of the embedded one in the data folder."""
    return settings.external_database_url or embedded_url(settings.mo_data_dir, SERVICE_ROLE)


def migration_url(settings: Settings) -> URL:
    """The URL of the schema's owner."""
    return settings.external_migration_database_url or embedded_url(settings.mo_data_dir)


_AFFORDABLE = text("""
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
""")

SPARE_CONNECTIONS = 10
"""Connections that the workers leave to others: the command line, backups, debugging."""


async def affordable_pool_size(url: URL, settings: Settings) -> int:
    """How many connections a worker may keep: as many as the settings say, if PostgreSQL has them for every worker.

    Each worker needs four more, to listen for notifications and to sequence the journal, and a successor may run at the
    same time. If PostgreSQL is out of reach, the number of the settings is used.
    """
    database = Database(url, 1)
    try:
        limit: int = await database.read(lambda connection: connection.scalar(_AFFORDABLE))
    except Unavailable:
        return settings.mo_database_pool_size
    finally:
        await database.close()
    return max(2, min(settings.mo_database_pool_size, (limit - SPARE_CONNECTIONS) // (settings.mo_workers + 1) - 4))


_WARNINGS = "warnings"
"""The key of a connection's warnings in its `info` in SQLAlchemy."""


def _gather_warnings(_: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info[_WARNINGS] = gather_warnings(cast("psycopg.AsyncConnection[Any]", record.driver_connection))


def _begin_trip(*_: object) -> None:
    if work := current_work():
        work.begin_trip(1)


def _end_trip(connection: object, cursor: object, sql: str, *_: object) -> None:
    if (work := current_work()) and work.riders:
        work.end_trip([sql])


def _leave_demoted(context: ExceptionContext) -> None:
    """Treat a connection that cannot write any more as broken."""
    if getattr(context.original_exception, "sqlstate", None) == DEMOTED:
        context.is_disconnect = True


class Database:
    """A pool of connections that act as the service's role.

    `clock`, when given, is the time of the stores instead of the database's; the demo creates a whole year with it.
    `pool_sizes` are how many connections there may be: for batches, and for single statements.
    """

    def __init__(self, url: URL, pool_size: int, clock: Callable[[], datetime] | None = None) -> None:
        self.url = url
        self._clock = clock
        shared = max(1, pool_size // 2)
        self._engine = create_async_engine(
            url,
            # What needs a transaction begins it, in a round trip that it needs anyway.
            isolation_level="AUTOCOMMIT",
            pool_size=shared,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT,
            pool_use_lifo=True,
            # Errors are logged, and the log must not contain the values of a statement.
            hide_parameters=True,
            connect_args=connect_args(SERVICE_ROLE),
        )
        event.listen(self._engine.sync_engine, "handle_error", _leave_demoted)
        event.listen(self._engine.sync_engine, "connect", _gather_warnings)
        event.listen(self._engine.sync_engine, "before_cursor_execute", _begin_trip)
        event.listen(self._engine.sync_engine, "after_cursor_execute", _end_trip)
        # Two at least, so that reads continue while a write waits for a lock.
        for_batches = max(2, pool_size - shared)
        self._pool = PipelinePool(url, for_batches)
        self._batches = Batches(self._pool, max(1, for_batches - 1), clock)
        self.pool_sizes = {"batches": for_batches, "statements": shared}
        # One for all kinds of calls: those for one locked customer may be of many kinds, and must leave connections to others.
        self._lock_wait_slots = asyncio.Semaphore(max(1, for_batches // 2))

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()
        await self._engine.dispose()

    async def renew(self) -> None:
        """Use new connections from now on, because these do not answer; what runs on them continues."""
        await self._pool.renew()
        await self._engine.dispose()

    def reader(self, read: BatchRead[C, R]) -> Coalescer[C, R]:
        """Coalesce the calls of a store's read."""

        async def run(queries: Sequence[C], _: Locks, batch: Batch[C, R]) -> Sequence[R | ServiceError]:
            try:
                return await attempt(lambda: self._batches.read(read, queries, Locks.TRY, batch))
            except LockedError:
                batch.work.phase = "lock"  # what it was doing was to wait for one
                return await attempt(lambda: self._batches.read(read, queries, Locks.WAIT, batch))

        return Coalescer(run)

    def writer(
        self, write: BatchWrite[C, R], key: Callable[[C], Hashable] | None, max_batch: int = MAX_BATCH
    ) -> Coalescer[C, R]:
        """Coalesce the calls of a store's write; those with the same `key` keep their order."""

        async def run(commands: Sequence[C], locks: Locks, batch: Batch[C, R]) -> Sequence[R | ServiceError | Locked]:
            return await attempt(lambda: self._batches.write(write, commands, locks, batch))

        return Coalescer(run, key, max_batch, self._lock_wait_slots)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` without a transaction, each statement on a snapshot of its own.

        Locked rows do not delay a read, but a table that is being altered does; then `work` runs again, and waits.

        Raises:
            Unavailable: the database cannot be reached, or the pool stays exhausted.
        """
        try:
            return await attempt(lambda: self._read(work))
        except LockedError:
            return await attempt(lambda: self._write(Locks.WAIT, work))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]], locks: Locks = Locks.WAIT) -> T:
        """Run `work` in one transaction, again if it lost a race; so it must not have effects outside the database.

        Raises:
            Conflict: it lost a race each time.
            LockedError: a row is locked by others, and `locks` does not say to wait for it.
            Unavailable: the database cannot be reached, or the pool stays exhausted.
            OutcomeUnknown: the database did not confirm the commit.
        """
        return await attempt(lambda: self._write(locks, work))

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        with working() as observed:
            async with self._engine.connect() as connection:
                observed.begin("statements")
                return await work(connection)

    async def _write(self, locks: Locks, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        with working() as observed:
            return await self._transact(locks, work, observed)

    async def _transact(self, locks: Locks, work: Callable[[AsyncConnection], Awaitable[T]], observed: Work) -> T:
        async with self._engine.connect() as connection:
            observed.begin("statements")
            # Not as an option of the engine, which would wait here while it connects, and lose the connection if that is
            # cancelled.
            await connection.execution_options(isolation_level="READ COMMITTED")
            if locks is Locks.WAIT:
                await connection.execute(_WAIT_FOR_LOCKS)
            if self._clock:
                await connection.execute(_SET_CLOCK, {"now": self._clock().isoformat()})
            result = await work(connection)
            observed.begin("commit")
            commit = asyncio.ensure_future(_commit(connection))
            try:
                await _confirmed(commit)
            finally:
                if not commit.done():
                    await connection.invalidate()  # PostgreSQL is not told, and continues
            return result


async def _commit(connection: AsyncConnection) -> None:
    warnings: list[Diagnostic] = (await connection.get_raw_connection()).info[_WARNINGS]
    warnings.clear()
    try:
        await connection.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutcomeUnknown from error
        raise
    confirm(warnings)


async def _confirmed(commit: "asyncio.Future[None]") -> None:
    """Wait for a commit, and be cancelled only after it, because PostgreSQL commits all the same (see `Batch.committing`).

    Raises:
        OutcomeUnknown: the commit takes longer than `CONFIRMATION`, and is still under way.
    """
    try:
        async with asyncio.timeout(CONFIRMATION):
            await asyncio.shield(commit)
    except TimeoutError as error:
        raise OutcomeUnknown from error
    except asyncio.CancelledError:
        await asyncio.wait([commit], timeout=CONFIRMATION)
        if commit.done() and not commit.cancelled():
            commit.exception()  # no caller is left
        raise


async def attempt(run: Callable[[], Awaitable[T]]) -> T:
    """Run something in the database, again if it lost a race or its connection had broken before.

    Raises:
        Conflict: it lost a race each time.
        LockedError: it waited for a lock for longer than it may.
        Unavailable: the database cannot be reached, or the pool stays exhausted.
    """
    for attempts in range(ATTEMPTS):
        try:
            return await run()
        except PoolTimeoutError as error:
            count(Happening.POOL_EXHAUSTED)
            raise Unavailable from error
        except (DBAPIError, psycopg.Error) as error:
            sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
            if sqlstate == LOCK_NOT_AVAILABLE:
                raise LockedError from error
            if isinstance(error, Disconnected) or getattr(error, "connection_invalidated", False):
                # A restart of PostgreSQL broke it: the pool has closed all connections, so try a new one.
                if attempts:
                    raise Unavailable from error
                count(Happening.RETRY, "disconnected")
                await asyncio.sleep(NOTICE)
            elif sqlstate not in _RETRYABLE:
                if isinstance(error, OperationalError | psycopg.OperationalError):
                    raise Unavailable from error
                raise
            else:
                count(Happening.RETRY, _RETRYABLE[sqlstate])
            failure = error
        # Jitter, so that transactions that conflicted do not conflict again.
        await asyncio.sleep(random.uniform(0, 0.004 * 2**attempts))  # noqa: S311 - not a secret
    raise Conflict from failure


def once(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with a database of its own, for a command that is not a server."""

    async def run() -> T:
        database = Database(database_url(settings), pool_size=1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
