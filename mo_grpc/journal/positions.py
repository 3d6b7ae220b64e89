"""Every SQL statement that gives events their positions."""

from decimal import Decimal
from typing import Any, Final, NamedTuple

import psycopg

from mo_grpc.journal.rules import Kind

CHANNEL: Final = "mo_journal"
"""The channel that is notified of each new last position."""

AT_ONCE: Final = 1_000_000
"""How many events a statement gives positions at most, so that none takes long."""

LONGEST_STATEMENT: Final = 300
"""Seconds that it may take."""

# Two numbers, because the locks of idempotency keys have one.
_ELECT = "SELECT pg_try_advisory_lock(14, 1)"

# The holder of the lock speaks every 0.1 s, so one that does not is frozen: its session ends, which frees the lock. Compiling
# the statement would cost more than running it.
_PREPARE = f"""
    SELECT set_config('idle_session_timeout', '3s', false), set_config('statement_timeout', '{LONGEST_STATEMENT}s', false),
        set_config('lock_timeout', '0', false), set_config('jit', 'off', false)
"""

# The amount of a payment, or of the loan that is paid out.
_MONEY = f"CASE WHEN kind = {Kind.LOAN_ACTIVATED} THEN outstandings_after[1] ELSE coalesce(amount, 0) END"

# What is new has become visible since the last snapshot: its transaction began after that, or was still running. Neither the
# ids of transactions nor times follow the order of commits. `pg_current_snapshot()` is the snapshot with which this statement
# reads.
#
# A customer's events become visible in the order of their numbers, because each is written under the customer's lock, and
# their times never decrease. So the first of what is new, by time, are the next of each customer.
#
# A snapshot from the future is of another PostgreSQL, from which the tables were copied here: then all events are looked at.
# Some of them have transactions of the future, too, and are found again later. So each is looked up, by a subquery, because a
# join might read whole tables.
_ASSIGN = f"""
    WITH head AS MATERIALIZED (
        SELECT position, snapshot::pg_snapshot AS seen,
            pg_snapshot_xmax(snapshot::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) AS is_past
        FROM journal_head WHERE singleton
    ), unseen AS MATERIALIZED (
        SELECT
            CASE WHEN is_past THEN pg_snapshot_xmax(seen)::text::bigint ELSE 0 END AS first,
            CASE WHEN is_past THEN pg_snapshot_xmax(pg_current_snapshot())::text::bigint ELSE {2**63 - 1} END AS behind_last,
            CASE WHEN is_past THEN ARRAY(SELECT pg_snapshot_xip(seen)::text::bigint) ELSE '{{}}' END AS late
        FROM head
    ), found AS MATERIALIZED (
        SELECT customer_id, number, kind, recorded_at, {_MONEY} AS money FROM journal_events
        WHERE xid >= (SELECT first FROM unseen) AND xid < (SELECT behind_last FROM unseen)
        UNION ALL
        SELECT customer_id, number, kind, recorded_at, {_MONEY} FROM journal_events
        WHERE xid = ANY ((SELECT late FROM unseen)::bigint[])
    ), new AS MATERIALIZED (
        SELECT customer_id, number, kind, recorded_at, money FROM found
        WHERE (
            SELECT position FROM journal_positions AS given
            WHERE given.customer_id = found.customer_id AND given.number = found.number
        ) IS NULL
        ORDER BY recorded_at, customer_id, number LIMIT {AT_ONCE}
    ), assigned AS (
        INSERT INTO journal_positions (position, customer_id, number, kind)
        SELECT position + row_number() OVER (ORDER BY recorded_at, customer_id, number), customer_id, number, kind
        FROM head, new
    ), moved AS (
        UPDATE journal_head SET position = journal_head.position + new.count,
            snapshot = CASE WHEN new.count < {AT_ONCE} THEN pg_current_snapshot()::text ELSE snapshot END
        FROM (SELECT count(*) FROM new) AS new
        WHERE singleton AND EXISTS (SELECT FROM found)
    )
    SELECT kind, count(*), sum(money), pg_notify('{CHANNEL}', ((SELECT position FROM head) + (SELECT count(*) FROM new))::text)
    FROM new GROUP BY kind
"""  # noqa: S608 - constants


async def elect(connection: "psycopg.AsyncConnection[Any]") -> bool:
    """Whether this connection, and so no other, gives positions from now on, until it ends."""
    cursor = await connection.execute(_ELECT)
    row = await cursor.fetchone()
    return bool(row and row[0])


async def prepare(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Prepare a connection for the election; it must then speak every three seconds."""
    await connection.execute(_PREPARE)


class Assigned(NamedTuple):
    """Events of one kind that have got their positions: how many, and the sum of the money that they move."""

    kind: Kind
    events: int
    money: Decimal


async def assign(connection: "psycopg.AsyncConnection[Any]") -> list[Assigned]:
    """Give positions to the events that have become visible, and notify `CHANNEL`; return how many there were of each kind.

    The connection must have been elected. An event has its position for ever (docs/rules.md, R82).
    """
    cursor = await connection.execute(_ASSIGN)
    return [Assigned(Kind(kind), events, money) for kind, events, money, _ in await cursor.fetchall()]
