"""What streams of events share, and what they do when nothing happens or a notification is lost."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.cache import Look
from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from mo_grpc.db.engine import Database
from mo_grpc.journal import feed as feeds
from mo_grpc.journal.events import EventFilter, Found, Window, find_events
from mo_grpc.journal.feed import Feed, Step
from tests.conftest import Stack
from tests.doors import GrpcDoor
from tests.factories import a_customer
from tests.journal.reading import settle

EVERYTHING = EventFilter()


def with_feed(stack: Stack, work: Callable[[Feed], Awaitable[None]]) -> None:
    """Do some work with a feed that gets no notifications."""

    async def run() -> None:
        database = Database(embedded_url(stack.data_dir, SERVICE_ROLE), 4)
        try:
            async with asyncio.timeout(60):
                await work(Feed(database))
        finally:
            await database.close()

    asyncio.run(run())


async def take(stream: AsyncGenerator[Step], count: int) -> list[int]:
    """The positions of the next events of a stream."""
    found: list[int] = []
    while len(found) < count:
        position, entry = await anext(stream)
        if entry:
            assert entry.event.position == position
            found.append(position)
    return found


def test_many_streams_cost_as_many_queries_as_one(stack: Stack, over_grpc: GrpcDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[Window] = []

    async def counted(connection: AsyncConnection, filters: EventFilter, window: Window) -> Found:
        windows.append(window)
        return await find_events(connection, filters, window)

    async def work(feed: Feed) -> None:
        last = await feed.last()
        streams = [feed.follow(EVERYTHING, last) for _ in range(50)]
        readers = [asyncio.create_task(take(stream, 3)) for stream in streams]
        await asyncio.to_thread(lambda: [a_customer(over_grpc) for _ in range(3)])
        await asyncio.to_thread(settle, stack)
        await feed.load(str(last + 3))
        assert await asyncio.gather(*readers) == [[last + 1, last + 2, last + 3]] * 50
        assert len(windows) == 1

    settle(stack)
    monkeypatch.setattr(feeds, "find_events", counted)
    with_feed(stack, work)


def test_streams_go_on_wherever_memory_begins(stack: Stack, over_grpc: GrpcDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream far behind, one in between that stops reading for a while, and one at the end, with a memory of few events."""
    monkeypatch.setattr(feeds, "PAGE", 2)
    monkeypatch.setattr(feeds, "KEPT", 3)
    for _ in range(12):
        a_customer(over_grpc)
    last = settle(stack)

    async def work(feed: Feed) -> None:
        await feed.last()
        begins = [last - 12, last - 9, last - 5, last - 1]
        streams = [feed.follow(EVERYTHING, begin) for begin in begins]
        found: list[list[int]] = [[] for _ in begins]
        for _ in range(12):  # in turn, so that each finds the memory where another left it
            for stream, begin, events in zip(streams, begins, found, strict=True):
                if begin + len(events) < last:
                    events += await take(stream, 1)
        assert found == [list(range(begin + 1, last + 1)) for begin in begins]

    with_feed(stack, work)


def test_a_silent_stream_tells_its_position_and_a_lost_notification_delays_it_only(
    stack: Stack, over_grpc: GrpcDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT", 0.05)

    async def work(feed: Feed) -> None:
        last = await feed.last()
        nothing = EventFilter(customer_external_id="nobody")
        async with aclosing(feed.follow(EVERYTHING, last)) as all_events, aclosing(feed.follow(nothing, last)) as none:
            assert [await anext(all_events) for _ in range(3)] == [Step(last)] * 3
            await asyncio.to_thread(a_customer, over_grpc)
            await asyncio.to_thread(settle, stack)
            assert await anext(all_events) == Step(last)
            await feed.load(Look.LATELY)
            assert await take(all_events, 1) == [last + 1]
            # A filter that leaves nothing does not hold the position back.
            while (await anext(none)).position != last + 1:
                pass

    settle(stack)
    with_feed(stack, work)


def test_a_stream_ends_before_the_edge_ends_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LIFETIME", 0.05)

    async def work(feed: Feed) -> None:
        last = await feed.last()
        assert [step async for step in feed.follow(EVERYTHING, last)] == [Step(last)]

    with_feed(stack, work)
