"""Where a change comes from, for its event."""

from google.protobuf.message import Message

from mo_grpc.journal.previews import expected_number
from mo_grpc.journal.rules import Origin
from mo_grpc.rpc.caller import caller
from mo_grpc.telemetry.calls import current_call


def origin(request: Message) -> Origin:
    """The caller of the running call, its request id, and what a preview of it showed.

    Raises:
        InvalidArgument: the preview token is damaged, or was made for another request.
    """
    call = current_call()
    return Origin(caller().id, call.request_id if call else "", expected_number(request))
