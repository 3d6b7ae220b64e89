"""Every SQL statement about idempotency, and the set-based write that remembers its answers."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.coalescing import Locked, Locks
from mo_grpc.db.engine import SetWrite
from mo_grpc.errors import ServiceError
from mo_grpc.idempotency.rules import IdempotencyKey, Keyed, Record, Replay, in_flight, mismatch

CLEANED_AT_ONCE = 1000

C = TypeVar("C")
R = TypeVar("R")

# A second insert of a key would wait for the first and take its set along; an advisory lock says at once that one runs. It is
# taken before the record is read, in a statement of its own, so that the record of whoever held it before is seen.
_LOCK = text("""
    SELECT owner, key FROM (
        SELECT owner, key, pg_try_advisory_xact_lock(hashtextextended(owner || ' ' || key, 0)) AS locked
        FROM unnest(CAST(:owners AS text[]), CAST(:keys AS text[])) AS wanted (owner, key)
    ) AS tried WHERE NOT locked
""")

_GET = text("""
    SELECT owner, key, request_hash, refused, answer FROM idempotency_records
    JOIN unnest(CAST(:owners AS text[]), CAST(:keys AS text[])) AS wanted (owner, key) USING (owner, key)
""")

_PUT = text("""
    INSERT INTO idempotency_records (owner, key, request_hash, refused, answer, created_at)
    SELECT owner, key, request_hash, refused, answer, clock_timestamp()
    FROM unnest(CAST(:owners AS text[]), CAST(:keys AS text[]), CAST(:request_hashes AS bytea[]), CAST(:refused AS boolean[]),
        CAST(:answers AS bytea[])) AS new (owner, key, request_hash, refused, answer)
    ORDER BY owner, key
""")

# In bites, each a transaction of its own, so that no lock is held for long; workers that clean at the same time share the work.
_CLEAN = text("""
    WITH old AS (
        SELECT owner, key FROM idempotency_records WHERE created_at < clock_timestamp() - CAST(:age AS interval)
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM idempotency_records USING old
    WHERE idempotency_records.owner = old.owner AND idempotency_records.key = old.key
""")


def remembering(call: SetWrite[C, R], to_message: Callable[[Any], Message]) -> SetWrite[Keyed[C], R | Replay]:
    """Make a store's set-based write one whose keyed commands take effect once.

    The answers, refusals included, are records of the same transaction. A key that came before is answered from its record.
    `to_message` takes the write's results that are no refusals.
    """

    async def run(
        connection: AsyncConnection, keyed: Sequence[Keyed[C]], locks: Locks
    ) -> list[R | Replay | ServiceError | Locked]:
        wanted = [item.idempotency for item in keyed if item.idempotency]
        settled = await _settled(connection, wanted) if wanted else {}
        first: dict[tuple[str, str], int] = {}
        fresh: list[int] = []
        for index, (_, key) in enumerate(keyed):
            if key is None or (key[:2] not in settled and first.setdefault(key[:2], index) == index):
                fresh.append(index)
        results = await call(connection, [keyed[index].command for index in fresh], locks) if fresh else []
        done = dict(zip(fresh, results, strict=True))
        records = {}
        for index in fresh:
            key, result = keyed[index].idempotency, done[index]
            if key and not isinstance(result, Locked):
                records[key[:2]] = _record(key, result, to_message)
        if records:
            await _put(connection, list(records.values()))
        settled |= {known: Replay(record) for known, record in records.items()}
        answers: list[R | Replay | ServiceError | Locked] = []
        for index, (_, key) in enumerate(keyed):
            if index in done:
                answers.append(done[index])
            elif key:
                answers.append(_again(key, settled.get(key[:2], Locked.LOCKED)))
        return answers

    return run


def in_batches(
    call: SetWrite[Keyed[C], R | Replay],
) -> SetWrite[tuple[Keyed[C] | ServiceError, ...], tuple[R | Replay | ServiceError, ...]]:
    """Make a set-based write one of whole batches, each a command of its own; items that are refused already stay so."""

    async def run(
        connection: AsyncConnection, batches: Sequence[tuple[Keyed[C] | ServiceError, ...]], locks: Locks
    ) -> list[tuple[R | Replay | ServiceError, ...] | ServiceError | Locked]:
        items = [item for batch in batches for item in batch if isinstance(item, Keyed)]
        done = await call(connection, items, locks)
        if Locked.LOCKED in done:
            return [Locked.LOCKED] * len(batches)
        results = iter(result for result in done if not isinstance(result, Locked))
        return [tuple(next(results) if isinstance(item, Keyed) else item for item in batch) for batch in batches]

    return run


def _again(key: IdempotencyKey, known: Replay | ServiceError | Locked) -> Replay | ServiceError | Locked:
    """Answer a key that is known already."""
    if isinstance(known, Replay) and known.record.request_hash != key.request_hash:
        return mismatch()
    return known


def _record(key: IdempotencyKey, result: object, to_message: Callable[[Any], Message]) -> Record:
    refused = isinstance(result, ServiceError)
    message = result.to_status() if isinstance(result, ServiceError) else to_message(result)
    return Record(*key, refused=refused, answer=message.SerializeToString())


async def _settled(
    connection: AsyncConnection, wanted: Sequence[IdempotencyKey]
) -> dict[tuple[str, str], Replay | ServiceError]:
    """Lock the keys, in order, and answer those that need not run: in flight elsewhere, or with a record."""
    pairs = sorted({key[:2] for key in wanted})
    columns = {"owners": [owner for owner, _ in pairs], "keys": [key for _, key in pairs]}
    settled: dict[tuple[str, str], Replay | ServiceError] = {}
    for owner, key in await connection.execute(_LOCK, columns):
        settled[owner, key] = in_flight()
    for row in await connection.execute(_GET, columns):
        settled[row.owner, row.key] = Replay(Record._make(row))
    return settled


async def _put(connection: AsyncConnection, records: Sequence[Record]) -> None:
    await connection.execute(
        _PUT,
        {
            "owners": [record.owner for record in records],
            "keys": [record.key for record in records],
            "request_hashes": [record.request_hash for record in records],
            "refused": [record.refused for record in records],
            "answers": [record.answer for record in records],
        },
    )


async def get_record(connection: AsyncConnection, owner: str, key: str) -> Record | None:
    """Get what a key was answered, if it was."""
    row = (await connection.execute(_GET, {"owners": [owner], "keys": [key]})).one_or_none()
    return Record._make(row) if row else None


async def clean_records(connection: AsyncConnection, age: timedelta) -> int:
    """Delete some of the records that are older than `age`, `CLEANED_AT_ONCE` at most; answer how many."""
    return (await connection.execute(_CLEAN, {"age": age, "limit": CLEANED_AT_ONCE})).rowcount
