"""Batches: the reads or writes of many calls, in one round trip to read and one more to write.

This is the hot path. It uses pipelines on connections of its own; lists, models and migrations use SQLAlchemy.

A store returns the statements that lock and read, and decides with a pure function over the rows, which waits for nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

import psycopg
from psycopg.errors import Diagnostic

from mo_grpc.db.coalescing import Batch
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Pipeline, Query, Rows, Statement
from mo_grpc.db.pool import PipelinePool, slot
from mo_grpc.errors import OutcomeUnknown, ServiceError

# idle_in_transaction_session_timeout: this server was paused, and PostgreSQL ended its transaction before it could commit.
IDLE_TOO_LONG = "25P03"

C = TypeVar("C")
R = TypeVar("R")


class BatchRead(NamedTuple, Generic[C, R]):
    """A store's read of many things at once: N queries, N results."""

    statements: Callable[[Sequence[C]], Sequence[Statement]]
    results: Callable[[Sequence[C], Iterator[Rows]], Sequence[R | ServiceError]]


class Decision(NamedTuple, Generic[R]):
    """The results of N commands, in order, refusals included, and the statements that write their effects."""

    results: Sequence[R | ServiceError | Locked]
    effects: Sequence[Statement] = ()


class BatchWrite(NamedTuple, Generic[C, R]):
    """A store's write of many things at once.

    The statements of `lock` come first, each with a snapshot of its own, so that the statements after a lock see what its last
    holder wrote. `decide` takes their rows, in order.
    """

    lock: Callable[[Sequence[C], Locks], Sequence[Statement]]
    decide: Callable[[Sequence[C], Iterator[Rows], Locks], Decision[R]]


_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_COMMIT = b"COMMIT"
_WAIT_FOR_LOCKS = Statement(Query("SET LOCAL lock_timeout = 0"))
_SET_CLOCK = Query("SELECT set_config('mo.clock', :now, true)")

# COMMIT does not wait for the standby when its transaction wrote nothing. But an answer without an effect of its own (a stored
# answer, or that something exists already) depends on what others wrote, perhaps while a synchronous standby was away, and must
# be as durable. With this statement, COMMIT waits for all of the write-ahead log up to here.
_BARRIER = Statement(Query("SELECT pg_logical_emit_message(true, 'mo', '')"))


class Batches:
    """Runs batches on the connections of a pool."""

    def __init__(self, pool: PipelinePool, slots: int, clock: Callable[[], datetime] | None = None) -> None:
        """Take the pool, how many connections writes may hold at a time, and a clock like that of `Database`."""
        self._pool = pool
        self._clock = clock
        self._slots = asyncio.Semaphore(slots)

    async def read(
        self, read: BatchRead[C, R], queries: Sequence[C], locks: Locks, batch: Batch[C, R]
    ) -> Sequence[R | ServiceError]:
        """Run a read. Only one that waits for a table's lock needs a transaction, for its setting."""
        statements = read.statements(queries)
        batch.work.begin("pool")
        async with self._pool.pipeline() as pipeline:
            batch.work.begin("lock" if locks is Locks.WAIT else "read")
            if locks is Locks.WAIT:
                _, *rows = await pipeline.run([_WAIT_FOR_LOCKS, *statements], first=_BEGIN, last=_COMMIT)
            else:
                rows = await pipeline.run(statements)
        return read.results(queries, iter(rows))

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
        # So that reads find a connection while writes wait for a standby.
        work = batch.work
        work.begin("pool")
        async with slot(self._slots), self._pool.pipeline() as pipeline:
            work.begin("lock" if locks is Locks.WAIT else "read")
            rows = await pipeline.run(statements, first=_BEGIN)
            work.begin("decide")
            results, effects = write.decide(commands, iter(rows[len(settings) :]), locks)
            work.begin("write")
            with batch.committing():
                await _commit(pipeline, effects or [_BARRIER])
        return results


async def _commit(pipeline: Pipeline, effects: Sequence[Statement]) -> None:
    """Write the effects and commit, in one round trip. Must not be cancelled, because PostgreSQL commits all the same."""
    pipeline.warnings.clear()
    try:
        await pipeline.run(effects, last=_COMMIT)
    except psycopg.Error as error:
        if pipeline.broken and error.sqlstate != IDLE_TOO_LONG:
            raise OutcomeUnknown from error
        raise
    confirm(pipeline.warnings)


def confirm(warnings: Sequence[Diagnostic]) -> None:
    """Check the warnings that came with a COMMIT: one says that a synchronous standby has not received it.

    Raises:
        OutcomeUnknown: there is one; the transaction is committed here, but is lost if the standby takes over.
    """
    if warnings:
        raise OutcomeUnknown
