"""Where a change comes from, for its event."""

from google.protobuf.message import Message

from mo_grpc.journal.previews import expected_number
from mo_grpc.journal.rules import Origin, safe_text
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context

REQUEST_ID = "x-request-id"


def origin(request: Message, context: Context) -> Origin:
    """The caller of the running call, the request id in its metadata, and what a preview of it showed.

    Raises:
        InvalidArgument: the preview token is damaged, or was made for another request.
    """
    expected = expected_number(request)
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID:
            return Origin(caller().id, safe_text(str(value)), expected)
    return Origin(caller().id, "", expected)
