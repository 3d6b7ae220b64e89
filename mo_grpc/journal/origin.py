"""Where a change comes from, for its event."""

from mo_grpc.journal.rules import Origin, safe_text
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context

REQUEST_ID = "x-request-id"


def origin(context: Context) -> Origin:
    """The caller of the running call, and the request id in its metadata."""
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID:
            return Origin(caller().id, safe_text(str(value)))
    return Origin(caller().id)
