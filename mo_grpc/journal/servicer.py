"""JournalService over the events that are stored."""

import re
from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from mo.errors.v1.error_reason_pb2 import ErrorReason
from mo.journal.v1 import journal_pb2, journal_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidFields, OutOfRange
from mo_grpc.journal.events import EventFilter, Window, find_events, last_position
from mo_grpc.journal.feed import Feed, Step
from mo_grpc.journal.messages import to_message
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment
from mo_grpc.rpc.pages import PageRequest

LAST_EVENT_ID = "last-event-id"
"""The header of a browser that connects again (HTML, 9.2.4)."""

NOT_BUFFERED = (("x-accel-buffering", "no"),)
"""For nginx, which would collect the answer."""

RECONNECT = 1000
"""Milliseconds after which a browser connects again."""

_POSITION = re.compile("[0-9]{1,18}")


class JournalServicer(journal_pb2_grpc.JournalServiceServicer):
    """See `mo/journal/v1/journal.proto`."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed

    async def ListEvents(self, request: journal_pb2.ListEventsRequest, context: Context) -> journal_pb2.ListEventsResponse:
        page = PageRequest(request)
        after, before = request.after_position, None
        if request.newest_first:
            before = page.after
        else:
            after = max(after, page.after or 0)
        filters = EventFilter(
            request.customer_external_id,
            request.loan_external_id,
            request.payment_external_id,
            set(request.kinds),
            moment(request.start_time, "start_time") if request.HasField("start_time") else None,
            moment(request.end_time, "end_time") if request.HasField("end_time") else None,
            caller().customers,
        )
        window = Window(after, page.size, before, request.newest_first)
        found = await self._database.read(lambda c: find_events(c, filters, window))
        if request.after_position and not found.events:
            require_reached(request.after_position, await self._database.read(last_position))
        token = page.next_token(found.events[-1].position) if found.more else ""
        return journal_pb2.ListEventsResponse(events=map(to_message, found.events), next_page_token=token)

    async def WatchEvents(
        self, request: journal_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[journal_pb2.WatchEventsResponse]:
        after = request.after_position if request.HasField("after_position") else None
        async for position, entry in self._follow(request, after, "after_position"):
            yield journal_pb2.WatchEventsResponse(event=entry.message if entry else None, position=position)

    async def StreamEvents(self, request: journal_pb2.WatchEventsRequest, context: Context) -> AsyncIterator[HttpBody]:
        after, field = last_event_id(context), LAST_EVENT_ID
        if after is None:
            after, field = request.after_position if request.HasField("after_position") else None, "after_position"
        head = f"retry: {RECONNECT}\n"
        async for position, entry in self._follow(request, after, field):
            # An id alone is no event for a browser, but the place to go on from.
            if head:
                await context.send_initial_metadata(NOT_BUFFERED)
            data = entry.server_sent if entry else f"{head}: heartbeat\nid: {position}\n\n".encode()
            yield HttpBody(content_type="text/event-stream", data=data)
            head = ""

    async def _follow(self, request: journal_pb2.WatchEventsRequest, after: int | None, field: str) -> AsyncIterator[Step]:
        last = await self._feed.last()
        if after is None:
            after = last
        require_reached(after, last, field)
        filters = EventFilter(
            request.customer_external_id, request.loan_external_id, kinds=set(request.kinds), customers=caller().customers
        )
        async for step in self._feed.follow(filters, after):
            yield step


def last_event_id(context: Context) -> int | None:
    """The position that a browser wants to go on from; None if it does not say.

    Raises:
        InvalidFields: it is no position.
    """
    for name, value in context.invocation_metadata() or ():
        if name == LAST_EVENT_ID and value:
            if not _POSITION.fullmatch(str(value)):
                raise InvalidFields([FieldViolation(LAST_EVENT_ID, "must be the id of an event of this stream, a position")])
            return int(value)
    return None


def require_reached(position: int, last: int, field: str = "after_position") -> None:
    """Refuse a position that no event has yet.

    Raises:
        OutOfRange: it is above the last one.
    """
    if position > last:
        raise OutOfRange(
            ErrorReason.POSITION_IN_FUTURE,
            f"{field}: the journal's last position is {last}.",
            metadata={"field": field, "last_position": str(last)},
        )
