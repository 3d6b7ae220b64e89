"""Every SQL statement of the audit log."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import AuditEvent, End, NewAuditEvent, chain, faults
from mo_grpc.crypto import Vault

_READ_AT_ONCE = 10_000

_COLUMNS = "stream, number, at, kind, actor, subject, address, data, sealed_by, seal"

# The last that a transaction locks, and in order, so that there is no deadlock.
_LOCK = text("""
    SELECT name, last_number, last_seal FROM event_streams WHERE name = ANY(:names) ORDER BY name FOR NO KEY UPDATE
""")
_NOW = text("SELECT clock_timestamp()")
_APPEND = text(f"""
    WITH new AS (
        SELECT * FROM unnest(CAST(:streams AS text[]), CAST(:numbers AS bigint[]), CAST(:kinds AS text[]),
            CAST(:actors AS text[]), CAST(:subjects AS text[]), CAST(:addresses AS text[]), CAST(:data AS text[]),
            CAST(:seals AS bytea[]))
            AS new (stream, number, kind, actor, subject, address, data, seal)
    ), ended AS (
        UPDATE event_streams SET last_number = number, last_seal = seal
        FROM (SELECT DISTINCT ON (stream) stream, number, seal FROM new ORDER BY stream, number DESC) AS last
        WHERE name = stream
    )
    INSERT INTO events ({_COLUMNS})
    SELECT stream, number, :at, kind, actor, subject, address, CAST(data AS jsonb), :sealed_by, seal FROM new
""")  # noqa: S608 - constants
_LIST = text(f"""
    SELECT {_COLUMNS} FROM events WHERE stream = :stream AND number < coalesce(CAST(:before AS bigint), 9223372036854775807)
    ORDER BY number DESC LIMIT :limit
""")  # noqa: S608 - constants
_FOLLOWING = text(f"""
    SELECT {_COLUMNS} FROM events WHERE stream = :stream AND number > :after ORDER BY number LIMIT :limit
""")  # noqa: S608 - constants
_ENDS = text("SELECT name, last_number, last_seal FROM event_streams ORDER BY name")


class Chain(NamedTuple):
    """What was found about a stream: where it ends, and which numbers are wrong, and how."""

    end: End
    faults: list[tuple[int, str]]


async def append(connection: AsyncConnection, vault: Vault, events: Iterable[NewAuditEvent]) -> None:
    """Record events; call it last in the transaction of what they tell of, since it locks their streams until the end of it."""
    by_stream: dict[str, list[NewAuditEvent]] = defaultdict(list)
    for event in events:
        by_stream[event.kind.stream].append(event)
    ends = [End._make(row) for row in await connection.execute(_LOCK, {"names": list(by_stream)})]
    at = (await connection.execute(_NOW)).scalar_one()
    sealed = [event for end in ends for event in chain(vault, end, by_stream[end.stream], at)]
    columns = {
        "streams": [event.stream for event in sealed],
        "numbers": [event.number for event in sealed],
        "kinds": [event.kind for event in sealed],
        "actors": [event.actor for event in sealed],
        "subjects": [event.subject for event in sealed],
        "addresses": [event.address for event in sealed],
        "data": [json.dumps(event.data) for event in sealed],
        "seals": [event.seal for event in sealed],
    }
    await connection.execute(_APPEND, {**columns, "at": at, "sealed_by": vault.name})


async def list_events(connection: AsyncConnection, stream: str, before: int | None, limit: int) -> list[AuditEvent]:
    """List the events of a stream, newest first, from below the number `before`."""
    parameters = {"stream": stream, "before": before, "limit": limit}
    return [AuditEvent._make(row) for row in await connection.execute(_LIST, parameters)]


async def verify(connection: AsyncConnection, vaults: Mapping[str, Vault], known: Sequence[End]) -> list[Chain]:
    """Check every stream from its beginning, on one snapshot: that no event was changed, removed, added or moved.

    Whoever can write to the database might take a stream back to what it was: that its ends of earlier days, `known` from
    elsewhere, are still in it is checked, too.
    """
    ends = [End._make(row) for row in await connection.execute(_ENDS)]
    return [await _verify(connection, vaults, end, [each for each in known if each.stream == end.stream]) for end in ends]


async def _verify(connection: AsyncConnection, vaults: Mapping[str, Vault], end: End, known: Sequence[End]) -> Chain:
    found: list[tuple[int, str]] = []
    last = End(end.stream, 0, bytes(32))
    missing = set(known) - {last}
    while events := await _following(connection, last):
        found += faults(vaults, last, events)
        missing -= {End(event.stream, event.number, event.seal) for event in events}
        last = End(end.stream, events[-1].number, events[-1].seal)
    found += [(each.number, "is not the event that an earlier audit saw") for each in sorted(missing)]
    if last != end:
        found.append((end.number, f"the stream ended here, and the last event is {last.number}"))
    return Chain(end, found)


async def _following(connection: AsyncConnection, last: End) -> list[AuditEvent]:
    parameters = {"stream": last.stream, "after": last.number, "limit": _READ_AT_ONCE}
    return [AuditEvent._make(row) for row in await connection.execute(_FOLLOWING, parameters)]
