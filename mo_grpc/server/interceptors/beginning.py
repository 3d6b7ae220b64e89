"""Begins to observe a call, and gives it the request id that every answer, every log and the journal have of it."""

import random

from mo_grpc.rpc.context import Context
from mo_grpc.rpc.metadata import REQUEST_ID, safe_id
from mo_grpc.telemetry.calls import Call


def begin_call(method: str, context: Context, *, streams: bool = False) -> Call:
    """Begin a call, whose answer has the request id in its trailing metadata.

    The id is that of the edge; for a direct call, the one that its caller gave, without what is not of `A-Z a-z 0-9 . _ : ~ -`,
    up to 64 characters, or else a new one.
    """
    given = ""
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID:
            given = safe_id(str(value))
            break
    call = Call(method, given or f"{random.getrandbits(128):032x}", streams=streams)
    context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
    return call
