"""The newest events in memory, so that many streams that follow the journal cost as many queries as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from google.protobuf import json_format
from mo.journal.v1 import journal_pb2

from mo_grpc.db.cache import Cache, Look
from mo_grpc.db.engine import Database
from mo_grpc.db.listen import follow
from mo_grpc.journal.events import EventFilter, StoredEvent, Window, find_events, last_position
from mo_grpc.journal.messages import to_message
from mo_grpc.journal.positions import CHANNEL
from mo_grpc.process.tasks import Tasks

PAGE: Final = 500
"""How many events a stream has in hand at most, and a query reads."""

KEPT: Final = 10_000
"""How many events, and loans of events, are kept in memory."""

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a stream says how far it has come; sooner than proxies close what is idle."""

LIFETIME: Final = 3000.0
"""Seconds after which a stream ends, before the edge ends it after an hour (`long_call` in envoy/envoy.yaml.j2)."""


class Entry:
    """An event in the forms in which streams send it, each made once for all of them."""

    def __init__(self, event: StoredEvent) -> None:
        self.event = event

    @cached_property
    def message(self) -> journal_pb2.Event:
        """The event as a message, which nobody may change."""
        return to_message(self.event)

    @cached_property
    def server_sent(self) -> bytes:
        """The event as a Server-Sent Event."""
        data = json_format.MessageToJson(
            self.message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )
        kind = journal_pb2.Event.Kind.Name(self.message.kind)
        return f"id: {self.event.position}\nevent: {kind}\ndata: {data}\n\n".encode()


class Step(NamedTuple):
    """What a stream sends next: an event, or else only the position that it has come to."""

    position: int
    entry: Entry | None = None


class Feed(Cache):
    """The last position, as notifications tell it, and the newest events, as far as streams have read them."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._last = 0
        self._grown = asyncio.Event()
        # Those behind position `_begin`, without a gap.
        self._begin = 0
        self._entries: list[Entry] = []
        self._weight = 0
        self._reading = asyncio.Lock()

    def start(self, tasks: Tasks) -> None:
        """Follow the notifications of new positions."""
        tasks.start("journal", follow(self._database, CHANNEL, self))

    async def load(self, change: str | Look) -> None:
        """Take the last position of a notification, or read it, in case a notification was lost."""
        self._reach(int(change) if isinstance(change, str) else await self._database.read(last_position))

    async def last(self) -> int:
        """The last position, right now."""
        self._reach(await self._database.read(last_position))
        return self._last

    async def follow(self, filters: EventFilter, after: int) -> AsyncGenerator[Step]:
        """The events behind a position that pass the filters; the position alone at the start, and in every `HEARTBEAT`.

        It ends after `LIFETIME`. Only what the reader asks for is read.

        Raises:
            Unavailable: the database cannot be reached.
        """
        now = asyncio.get_running_loop().time
        end, position = now() + LIFETIME, after
        yield Step(position)
        silent_since = now()
        while now() < end:
            if position < self._last:
                found, position = await self._read(filters, position)
                for entry in found:
                    yield Step(entry.event.position, entry)
                if found:
                    silent_since = now()
            else:
                await self._growth(min(silent_since + HEARTBEAT, end) - now())
            if now() - silent_since >= HEARTBEAT:
                yield Step(position)
                silent_since = now()

    def _reach(self, position: int) -> None:
        if position > self._last:
            self._last = position
            self._grown.set()
            self._grown = asyncio.Event()

    async def _growth(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._grown.wait()
        except TimeoutError:
            pass

    async def _read(self, filters: EventFilter, position: int) -> tuple[Sequence[Entry], int]:
        """The next events behind a position, and the position up to which they are all."""
        if position < self._begin:
            return await self._read_past(filters, position)
        async with self._reading:
            if position >= self._end:
                await self._read_newest(position)
        # While it waited, the events behind the position may have gone from memory.
        if position < self._begin:
            return await self._read_past(filters, position)
        entries = self._entries[position - self._begin :][:PAGE]
        return [entry for entry in entries if filters.passes(entry.event)], position + len(entries)

    async def _read_past(self, filters: EventFilter, position: int) -> tuple[Sequence[Entry], int]:
        """For a stream that is behind what is in memory."""
        last = self._last
        window = Window(position, PAGE, last + 1)
        found = await self._database.read(lambda connection: find_events(connection, filters, window))
        return [Entry(event) for event in found.events], found.events[-1].position if found.more else last

    async def _read_newest(self, position: int) -> None:
        """Add the next events to those in memory, or begin anew behind a position that has none of them behind it."""
        found = await self._database.read(lambda connection: find_events(connection, EventFilter(), Window(position, PAGE)))
        if position > self._end:
            self._begin, self._entries, self._weight = position, [], 0
        self._entries += map(Entry, found.events)
        self._weight += sum(map(_weight, found.events))
        surplus = 0
        while self._weight > KEPT and surplus < len(self._entries) - PAGE:
            self._weight -= _weight(self._entries[surplus].event)
            surplus += 1
        del self._entries[:surplus]
        self._begin += surplus

    @property
    def _end(self) -> int:
        return self._begin + len(self._entries)


def _weight(event: StoredEvent) -> int:
    return 1 + len(event.loan_external_ids)
