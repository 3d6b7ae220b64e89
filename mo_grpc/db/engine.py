"""The engine, and transactions that survive what a busy or restarted database does to them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mo_grpc.config import Settings
from mo_grpc.db.embedded import embedded_url
from mo_grpc.errors import Conflict, ServiceError, Unavailable

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")

SetCall = Callable[[AsyncConnection, Sequence[C]], Awaitable[Sequence[R | ServiceError]]]
"""A store's call: N commands in, N results out, refusals among them."""

# The role that serves; the first migration makes it, and it cannot rewrite history.
SERVICE_ROLE = "mo_service"

ATTEMPTS = 6
"""How often a transaction is tried: a lost race costs one, and six in a row are a storm that the caller should see."""

# serialization_failure, deadlock_detected, and unique_violation: the stores look for taken ids under the customers' locks, so a
# unique violation means that another customer's call took the id in between. The next attempt sees it.
_RETRYABLE = {"40001", "40P01", "23505"}

_SET_CLOCK = text("SELECT set_config('mo.clock', :now, true)")


def database_url(settings: Settings) -> URL:
    """The URL at which to serve: the external database's, or that of the embedded one in the data folder."""
    return settings.external_database_url or embedded_url(settings.mo_data_dir)


def migration_url(settings: Settings) -> URL:
    """The URL of the schema's owner."""
    return settings.external_migration_database_url or embedded_url(settings.mo_data_dir)


def connect_args(role: str | None) -> dict[str, object]:
    """What psycopg is told at each connection."""
    options = ["-c timezone=UTC", "-c statement_timeout=30s", "-c idle_in_transaction_session_timeout=30s"]
    if role:
        options.append(f"-c role={role}")
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
            connect_args=connect_args(SERVICE_ROLE),
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` without a transaction, each statement on a snapshot of its own.

        Raises:
            Unavailable: the database cannot be reached, or the pool stays exhausted.
        """
        return await self._attempt(self._read, work)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction, again if it lost a race; so it must have no effect outside the database.

        Raises:
            Conflict: it lost a race each time.
            Unavailable: the database cannot be reached, or the pool stays exhausted. The outcome is unknown if the connection
                broke while committing.
        """
        return await self._attempt(self._write, work)

    async def read_one(self, call: SetCall[C, R], query: C) -> R:
        """Run a store's set-based read for one query.

        Raises:
            ServiceError: the query's result, when it is a refusal; or as `read`.
        """
        [result] = await self.read(lambda connection: call(connection, [query]))
        return _unwrap(result)

    async def write_one(self, call: SetCall[C, R], command: C) -> R:
        """Run a store's set-based write for one command.

        Raises:
            ServiceError: the command's result, when it is a refusal; or as `write`.
        """
        [result] = await self.write(lambda connection: call(connection, [command]))
        return _unwrap(result)

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._autocommit.connect() as connection:
            return await work(connection)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._engine.connect() as connection:
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
                if not error.connection_invalidated:
                    if getattr(error.orig, "sqlstate", None) not in _RETRYABLE:
                        if isinstance(error, OperationalError):
                            raise Unavailable from error
                        raise
                elif attempt:
                    raise Unavailable from error
                failure = error
            # Jitter, so that those who collided do not collide again.
            await asyncio.sleep(random.uniform(0, 0.004 * 2**attempt))  # noqa: S311 - not a secret
        raise Conflict from failure


def _unwrap(result: R | ServiceError) -> R:
    if isinstance(result, ServiceError):
        raise result
    return result


def once(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with a database of its own, for a command that is no server."""

    async def run() -> T:
        database = Database(database_url(settings), pool_size=1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
