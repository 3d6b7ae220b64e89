"""Batches: what many calls ask for at once, in one round trip to read and one more to write.

This is the hot path. It goes by pipelines over the connections of the engine's pool; lists, models and migrations stay with
SQLAlchemy.

A store says what to lock and read, as statements, and decides with a pure function over the rows; nothing of it waits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar, cast

import psycopg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn

from mo_grpc.db.coalescing import Batch, Locked, Locks
from mo_grpc.db.pipeline import Pipeline, Query, Rows, Statement
from mo_grpc.errors import OutcomeUnknown, ServiceError, Unavailable

# idle_in_transaction_session_timeout: this server was paused, and its transaction is over, before it could commit.
IDLE_TOO_LONG = "25P03"

C = TypeVar("C")
R = TypeVar("R")

POOL_TIMEOUT = 0.8
"""Seconds that work waits for a connection at most; after that the caller had better come back."""

PIPELINE = "pipeline"
"""Where the `info` of a pooled connection has its pipeline."""

# read_only_sql_transaction: this PostgreSQL follows another one now, and new connections find the one that leads.
DEMOTED = "25006"


class BatchRead(NamedTuple, Generic[C, R]):
    """A store's read of many things at once: N queries, N results."""

    statements: Callable[[Sequence[C]], Sequence[Statement]]
    results: Callable[[Sequence[C], Iterator[Rows]], Sequence[R | ServiceError]]


class Decision(NamedTuple, Generic[R]):
    """What becomes of N commands, in order, refusals among them, and the statements that make it so."""

    results: Sequence[R | ServiceError | Locked]
    effects: Sequence[Statement] = ()


class BatchWrite(NamedTuple, Generic[C, R]):
    """A store's write of many things at once.

    The statements of `lock` come first, each with a snapshot of its own, so that whatever follows a lock sees what its last
    holder wrote. `decide` takes their rows, in order.
    """

    lock: Callable[[Sequence[C], Locks], Sequence[Statement]]
    decide: Callable[[Sequence[C], Iterator[Rows], Locks], Decision[R]]


class Disconnected(psycopg.OperationalError):
    """The connection broke, or leads to a PostgreSQL that only follows now; nothing was committed on it."""


_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_COMMIT = b"COMMIT"
_WAIT_FOR_LOCKS = Statement(Query("SET LOCAL lock_timeout = 0"))
_SET_CLOCK = Query("SELECT set_config('mo.clock', :now, true)")

# COMMIT waits for nobody when its transaction wrote nothing. But what a write answers without an effect of its own (an earlier
# answer, or that something exists already) rests on what others wrote, perhaps while a synchronous standby was away, and shall
# be as durable. After this, COMMIT waits for all of the log up to here.
_BARRIER = Statement(Query("SELECT pg_logical_emit_message(true, 'mo', '')"))


class Batches:
    """Runs batches on the connections of an engine, which are in autocommit mode."""

    def __init__(self, engine: AsyncEngine, slots: int, clock: Callable[[], datetime] | None = None) -> None:
        """Take the engine, how many connections writes may hold at a time, and a clock as that of `Database`."""
        self._engine = engine
        self._clock = clock
        self._slots = asyncio.Semaphore(slots)
        self._generation = 0
        event.listen(engine.sync_engine, "connect", _add_pipeline)

    async def read(self, batch: BatchRead[C, R], queries: Sequence[C], locks: Locks) -> Sequence[R | ServiceError]:
        """Run a read; only one that waits for a table's lock needs a transaction, to say so."""
        statements = batch.statements(queries)
        async with self._pipeline() as pipeline:
            if locks is Locks.WAIT:
                _, *rows = await pipeline.run([_WAIT_FOR_LOCKS, *statements], first=_BEGIN, last=_COMMIT)
            else:
                rows = await pipeline.run(statements)
        return batch.results(queries, iter(rows))

    async def write(
        self, write: BatchWrite[C, R], commands: Sequence[C], locks: Locks, batch: Batch[C, R]
    ) -> Sequence[R | ServiceError | Locked]:
        """Run a write in one transaction of two round trips.

        Raises:
            OutcomeUnknown: the database did not confirm the commit.
        """
        settings = [_WAIT_FOR_LOCKS] if locks is Locks.WAIT else []
        if self._clock:
            settings.append(Statement(_SET_CLOCK, {"now": self._clock().isoformat()}))
        statements = [*settings, *write.lock(commands, locks)]
        async with self._slot(), self._pipeline() as pipeline:
            rows = await pipeline.run(statements, first=_BEGIN)
            results, effects = write.decide(commands, iter(rows[len(settings) :]), locks)
            with batch.committing():
                await _commit(pipeline, effects or [_BARRIER])
        return results

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold one of the places of writes: while they wait for a standby, reads find a connection."""
        try:
            async with asyncio.timeout(POOL_TIMEOUT if self._slots.locked() else None):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Unavailable from error
        try:
            yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Pipeline]:
        """Take the pipeline of a connection from the pool; a broken one does not go back."""
        generation = self._generation
        pooled = await self._engine.raw_connection()
        pipeline: Pipeline = pooled.info[PIPELINE]
        try:
            yield pipeline
        except BaseException as error:
            broken = pipeline.broken or getattr(error, "sqlstate", None) == DEMOTED
            if broken or not isinstance(error, Exception):  # what is cancelled leaves it in the middle of something
                await greenlet_spawn(pooled.invalidate)
            if broken and generation == self._generation:
                # A restart of PostgreSQL breaks them all.
                self._generation += 1
                await self._engine.dispose()
            if broken and isinstance(error, psycopg.Error):
                raise Disconnected from error
            raise
        finally:
            await greenlet_spawn(pooled.close)


async def _commit(pipeline: Pipeline, effects: Sequence[Statement]) -> None:
    """Write the effects and commit, in one round trip; nothing may cancel this, since PostgreSQL commits what is cancelled."""
    pipeline.warnings.clear()
    try:
        await pipeline.run(effects, last=_COMMIT)
    except psycopg.Error as error:
        if pipeline.broken and error.sqlstate != IDLE_TOO_LONG:
            raise OutcomeUnknown from error
        raise
    confirm(pipeline)


def confirm(pipeline: Pipeline) -> None:
    """Look at the warnings that came with a COMMIT: one says that a synchronous standby has not got it.

    Raises:
        OutcomeUnknown: there is one; the transaction counts here, and is lost if the standby takes over.
    """
    if pipeline.warnings:
        raise OutcomeUnknown


def _add_pipeline(_: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info[PIPELINE] = Pipeline(cast("psycopg.AsyncConnection[Any]", record.driver_connection))
