"""Gives each event its position among all, once it is visible to all.

An event is written in the transaction of its effect, but neither ids nor times follow the order of commits: a reader that went
by them would miss what commits late. So one process at a time, the sequencer, numbers what has become visible. All servers
compete for that by an advisory lock; when its holder ends, or is frozen, another takes over within seconds and continues where
it ended.
"""

import asyncio
from typing import Any

import psycopg
import structlog
from sqlalchemy import URL

from mo_grpc.db.connections import connect
from mo_grpc.db.listen import LONGEST_PAUSE, SILENCE
from mo_grpc.journal import positions
from mo_grpc.journal.rules import Kind
from mo_grpc.process.tasks import is_outage, pause
from mo_grpc.telemetry.counts import Happening, count

log = structlog.get_logger()

BUSY = 0.05
"""Seconds between two looks for new events while there are some."""

IDLE = 0.1
"""Seconds between two looks when there have been none for a while.

Writers do not notify the sequencer, because their commits would wait for each other.
"""

MOVES_MONEY = {Kind.LOAN_ACTIVATED, Kind.PAYMENT_COMPLETED, Kind.PAYMENT_BOUNCED}

ELECTION = 0.3
"""Seconds between two attempts to take over."""


async def sequence(url: URL) -> None:
    """Give positions whenever no other process does, for ever, through all outages.

    Raises:
        Exception: it failed, and not by an outage.
    """
    failures = 0
    while True:
        try:
            async with await connect(url) as connection:
                await _stand_for_election(connection)
                failures = 0
                log.info("sequencing the journal")
                await _assign_for_ever(connection)
        except Exception as error:
            if not is_outage(error):
                raise
            failures += 1
            seconds = pause(failures, LONGEST_PAUSE)
            cause = repr(error.__cause__ or error)
            log.warning("background task waits", task="positions of events", cause=cause, retry_in=round(seconds, 1))
            await asyncio.sleep(seconds)


async def _stand_for_election(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Return when elected."""
    async with asyncio.timeout(SILENCE):
        await positions.prepare(connection)
    while True:
        async with asyncio.timeout(SILENCE):
            if await positions.elect(connection):
                return
        await asyncio.sleep(ELECTION)


async def _assign_for_ever(connection: "psycopg.AsyncConnection[Any]") -> None:
    interval = BUSY
    while True:
        async with asyncio.timeout(positions.LONGEST_STATEMENT + SILENCE):
            found = await positions.assign(connection)
        for kind, events, money in found:
            count(Happening.EVENT, kind.name, events)
            if kind in MOVES_MONEY:
                count(Happening.MONEY, kind.name, float(money))
        interval = BUSY if found else min(2 * interval, IDLE)
        await asyncio.sleep(interval)
