"""The journal for scripts in a browser: `EventSource` sends no header, but the cookie of whoever is logged in."""

from google.protobuf.json_format import ParseDict, ParseError
from mo.journal.v1 import journal_pb2
from starlette.responses import Response, StreamingResponse

from mo_grpc.web.admin.context import BadFormError, RequestContext
from mo_grpc.web.admin.site import Site


class EventStream:
    """StreamEvents, with the rights of the session's user."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def follow(self, context: RequestContext) -> Response:
        """Send the events as they happen, with the parameters of StreamEvents."""
        asked = context.request.query_params
        fields = {name: asked.getlist(name) if name == "kinds" else value for name, value in asked.items()}
        try:
            request = ParseDict(fields, journal_pb2.WatchEventsRequest())
        except ParseError as error:
            raise BadFormError(str(error)) from error
        last_event_id = context.request.headers.get("last-event-id", "")
        events = await self._site.client.stream_events(request, last_event_id, context)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
