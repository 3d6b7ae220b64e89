"""JournalService over the events that are stored."""

from mo.errors.v1.error_reason_pb2 import ErrorReason
from mo.journal.v1 import journal_pb2, journal_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.errors import OutOfRange
from mo_grpc.journal.events import EventFilter, Window, find_events, last_position
from mo_grpc.journal.messages import to_message
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment
from mo_grpc.rpc.pages import PageRequest


class JournalServicer(journal_pb2_grpc.JournalServiceServicer):
    """See `mo/journal/v1/journal.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database

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


def require_reached(position: int, last: int) -> None:
    """Refuse a position that no event has yet.

    Raises:
        OutOfRange: it is above the last one.
    """
    if position > last:
        raise OutOfRange(
            ErrorReason.POSITION_IN_FUTURE,
            f"after_position: the journal's last position is {last}.",
            metadata={"field": "after_position", "last_position": str(last)},
        )
