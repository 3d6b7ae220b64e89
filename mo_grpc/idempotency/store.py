"""Every SQL statement about idempotency, and the batch write that stores its answers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.cleaning import Cleaner
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array, bytes_array, text_array
from mo_grpc.errors import ServiceError
from mo_grpc.idempotency.rules import IdempotencyKey, Keyed, Record, Replay, in_flight, mismatch, passes

C = TypeVar("C")
R = TypeVar("R")

# A second insert of a key would wait for the first, and delay its batch; an advisory lock shows at once that a call runs. It is
# taken before the record is read, in another statement, so that the record of its last holder is seen.
_LOCK = Query("""
    SELECT owner, key FROM (
        SELECT owner, key, pg_try_advisory_xact_lock(hashtextextended(owner || ' ' || key, 0)) AS locked
        FROM unnest(CAST(:owners AS text[]), CAST(:keys AS text[])) AS wanted (owner, key)
    ) AS tried WHERE NOT locked
""")

_GET = Query("""
    SELECT owner, key, request_hash, refused, answer FROM idempotency_records
    JOIN unnest(CAST(:owners AS text[]), CAST(:keys AS text[])) AS wanted (owner, key) USING (owner, key)
""")

_GET_ONE = text("""
    SELECT owner, key, request_hash, refused, answer FROM idempotency_records WHERE owner = :owner AND key = :key
""")

_PUT = Query("""
    INSERT INTO idempotency_records (owner, key, request_hash, refused, answer, created_at)
    SELECT owner, key, request_hash, refused, answer, clock_timestamp()
    FROM unnest(CAST(:owners AS text[]), CAST(:keys AS text[]), CAST(:request_hashes AS bytea[]),
        CAST(:refused AS boolean[]), CAST(:answers AS bytea[])) AS new (owner, key, request_hash, refused, answer)
    ORDER BY owner, key
""")


def remembering(write: BatchWrite[C, R], to_message: Callable[[Any], Message]) -> BatchWrite[Keyed[C], R | Message | Replay]:
    """Extend a store's write so that commands with a key take effect once.

    Their answers and refusals are stored in the same transaction; for that, `to_message` turns answers into messages. A key
    with a record is answered from it.
    """

    def lock(keyed: Sequence[Keyed[C]], locks: Locks) -> list[Statement]:
        statements = write.lock([item.command for item in keyed], locks)
        pairs = sorted({item.idempotency[:2] for item in keyed if item.idempotency})
        if not pairs:
            return [*statements]
        wanted = {"owners": text_array(owner for owner, _ in pairs), "keys": text_array(key for _, key in pairs)}
        return [Statement(_LOCK, wanted), Statement(_GET, wanted), *statements]

    def decide(keyed: Sequence[Keyed[C]], rows: Iterator[Rows], locks: Locks) -> Decision[R | Message | Replay]:
        if not any(item.idempotency for item in keyed):
            return Decision(*write.decide([item.command for item in keyed], rows, locks))
        settled: dict[tuple[str, str], Replay | ServiceError] = {(owner, key): in_flight() for owner, key in next(rows)}
        settled |= {row[:2]: Replay(Record._make(row)) for row in next(rows)}
        first: dict[tuple[str, str], int] = {}
        fresh = [
            index
            for index, (_, key) in enumerate(keyed)
            if key is None or (key[:2] not in settled and first.setdefault(key[:2], index) == index)
        ]
        # A batch that came before has locked for its items' keys, too: decided on without it, rows would be taken for others.
        results, effects = write.decide([keyed[index].command for index in fresh], rows, locks) if fresh else Decision(())
        done: dict[int, R | Message | ServiceError | Locked] = {}
        records: list[Record] = []
        for index, result in zip(fresh, results, strict=True):
            key = keyed[index].idempotency
            done[index] = result
            if key and passes(result):
                settled[key[:2]] = in_flight()
            elif key and not isinstance(result, Locked):
                answer = done[index] = result if isinstance(result, ServiceError) else to_message(result)
                records.append(_record(key, answer))
        settled |= {(record.owner, record.key): Replay(record) for record in records}
        answers = [done[index] if index in done else _again(key, settled) for index, (_, key) in enumerate(keyed)]
        return Decision(answers, [*effects, _put(records)] if records else effects)

    return BatchWrite(lock, decide)


def in_batches(
    write: BatchWrite[Keyed[C], R],
) -> BatchWrite[tuple[Keyed[C] | ServiceError, ...], tuple[R | ServiceError, ...]]:
    """Turn a write into one whose commands are whole batches; items that are refused already stay refused."""

    def items(batches: Sequence[tuple[Keyed[C] | ServiceError, ...]]) -> list[Keyed[C]]:
        return [item for batch in batches for item in batch if isinstance(item, Keyed)]

    def decide(
        batches: Sequence[tuple[Keyed[C] | ServiceError, ...]], rows: Iterator[Rows], locks: Locks
    ) -> Decision[tuple[R | ServiceError, ...]]:
        done, effects = write.decide(items(batches), rows, locks)
        if Locked.LOCKED in done:
            return Decision([Locked.LOCKED] * len(batches))
        results = iter([result for result in done if not isinstance(result, Locked)])
        answers = [tuple(next(results) if isinstance(item, Keyed) else item for item in batch) for batch in batches]
        return Decision(answers, effects)

    return BatchWrite(lambda batches, locks: write.lock(items(batches), locks), decide)


def _again(key: IdempotencyKey | None, settled: dict[tuple[str, str], Replay | ServiceError]) -> Replay | ServiceError | Locked:
    """The answer to a key that has one already, or LOCKED if its first command in this batch has to wait for a lock."""
    known = settled.get(key[:2]) if key else None
    if key and isinstance(known, Replay) and known.record.request_hash != key.request_hash:
        return mismatch()
    return known or Locked.LOCKED


def _record(key: IdempotencyKey, answer: Message | ServiceError) -> Record:
    refused = isinstance(answer, ServiceError)
    message = answer.to_status() if isinstance(answer, ServiceError) else answer
    return Record(*key, refused=refused, answer=message.SerializeToString())


def _put(records: Sequence[Record]) -> Statement:
    new = {
        "owners": text_array(record.owner for record in records),
        "keys": text_array(record.key for record in records),
        "request_hashes": bytes_array(record.request_hash for record in records),
        "refused": array(record.refused for record in records),
        "answers": bytes_array(record.answer for record in records),
    }
    return Statement(_PUT, new)


async def get_record(connection: AsyncConnection, owner: str, key: str) -> Record | None:
    """Get the stored answer to a key, if there is one."""
    row = (await connection.execute(_GET_ONE, {"owner": owner, "key": key})).one_or_none()
    return Record._make(row) if row else None


clean_records = Cleaner("idempotency_records", "owner, key", "created_at")
"""Delete old records."""
