"""Begins to observe a call, and says what its answer tells of it: its id, and, if asked, where its time went."""

import random
from contextlib import suppress

import grpc

from mo_grpc.rpc.context import Context
from mo_grpc.rpc.metadata import REQUEST_ID, safe_id
from mo_grpc.telemetry.calls import Call
from mo_grpc.telemetry.timing import server_timing

TIMING = "server-timing"

TIMING_WANTED = "x-server-timing"
"""The metadata, with any value, by which a caller asks where the time went."""


def begin_call(method: str, context: Context, *, streams: bool = False) -> Call:
    """Begin a call, whose answer has the request id in its trailing metadata.

    The id is that of the edge; for a direct call, the one that its caller gave, without what is not of `A-Z a-z 0-9 . _ : ~ -`,
    up to 64 characters, or else a new one.
    """
    given, timed = "", False
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID:
            given = safe_id(str(value))
        elif name == TIMING_WANTED:
            timed = True
    call = Call(method, given or f"{random.getrandbits(128):032x}", context, streams=streams, timed=timed)
    context.set_trailing_metadata(ending(call))
    return call


def ending(call: Call) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of every answer."""
    if call.timed and not call.runs:
        return ((REQUEST_ID, call.request_id), (TIMING, server_timing(call)))
    return ((REQUEST_ID, call.request_id),)


async def tell_timing(call: Call, context: Context) -> None:
    """Say where the time of a call went that has ended well: in trailing metadata, and in initial metadata, for REST's header.

    A replay, and an answer with a secret, have sent theirs already.
    """
    context.set_trailing_metadata(ending(call))
    with suppress(grpc.aio.UsageError):
        await context.send_initial_metadata(((TIMING, server_timing(call)),))
